//! The client of a replicated store.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::BorrowedFd;

use stateplane_base::{ClientId, Time};
use stateplane_functions::Ticket;
use stateplane_group::{Busy, Client, Effect, RequestId};
use stateplane_wire::group::leader_of;
use tracing::warn;

use super::{Bounds, Done, Missed};
use crate::channel::{Channel, Counters};
use crate::config::{Config, Role};
use crate::peers::Peers;
use crate::sequencer::random;

/// Datagrams handled in one [`GroupClient::poll`].
const BATCH: usize = 256;

/// A client core with its socket.
#[derive(Debug)]
pub struct GroupClient {
    core: Client,
    id: ClientId,
    peers: Peers,
    channel: Channel,
    tickets: BTreeMap<RequestId, Ticket>,
    /// Refused at once; told by the next poll.
    refused: Vec<Ticket>,
    /// A broken socket is reported once.
    broken: bool,
    /// Operations do not share datagrams.
    alone: bool,
}

impl GroupClient {
    /// The client `id` at `node`, which speaks through `channel`.
    pub fn new(config: &Config, node: &str, id: ClientId, channel: Channel) -> Self {
        let peers = Peers::new(config, node, Role::Function);
        let core = Client::new(peers.group_config(), id, random());
        Self {
            core,
            id,
            peers,
            channel,
            tickets: BTreeMap::new(),
            refused: Vec::new(),
            broken: false,
            alone: false,
        }
    }

    /// From now on each operation travels in a datagram of its own: for measuring what
    /// one costs.
    pub fn send_each_alone(&mut self) {
        self.alone = true;
    }

    pub(super) fn submit(&mut self, now: Time, ticket: Ticket, op: Vec<u8>) {
        let taken = self.core.submit(now, op);
        self.await_end(ticket, taken);
        if self.alone {
            self.carry_out();
        }
    }

    pub(super) fn read(&mut self, now: Time, ticket: Ticket, op: Vec<u8>) {
        let taken = self.core.submit_read(now, op);
        self.await_end(ticket, taken);
    }

    fn await_end(&mut self, ticket: Ticket, taken: Result<RequestId, Busy>) {
        match taken {
            Ok(request) => {
                self.tickets.insert(request, ticket);
            }
            Err(_) => self.refused.push(ticket),
        }
    }

    pub(super) fn flush(&mut self, _now: Time) {
        self.carry_out();
        self.channel.flush();
    }

    /// Queues what the core wants sent.
    fn carry_out(&mut self) {
        while let Some(effect) = self.core.poll_effect() {
            match effect {
                Effect::Send { to, msg } => self.peers.send(&mut self.channel, to, &msg),
                Effect::Alarm(alarm) => warn!(?alarm, "store client"),
                Effect::Persist(_) | Effect::Reconfigured { .. } => {
                    unreachable!("only replicas have disks and members")
                }
            }
        }
    }

    pub(super) fn poll(&mut self, now: Time, done: &mut Vec<Done>) {
        done.extend(
            self.refused
                .drain(..)
                .map(|ticket| (ticket, Err(Missed::NotAsked))),
        );
        if let Err(error) = self.receive(now)
            && !self.broken
        {
            warn!(%error, "the store client's socket failed");
            self.broken = true;
        }
        if self.channel.client_id() != self.id {
            self.begin_anew(done);
        }
        if self.core.next_timer().is_some_and(|due| due <= now) {
            self.core.on_timer(now);
        }
        self.flush(now);
        while let Some((request, result)) = self.core.poll_done() {
            if let Some(ticket) = self.tickets.remove(&request) {
                let reply = result.map(|committed| committed.reply);
                done.push((ticket, reply.map_err(|_| Missed::Unknown)));
            }
        }
    }

    /// A client is one life of its node, and ours turned out to be a former one. What was
    /// asked in it may have been executed where it was not known to be.
    fn begin_anew(&mut self, done: &mut Vec<Done>) {
        self.id = self.channel.client_id();
        self.core = Client::new(self.peers.group_config(), self.id, random());
        let tickets = std::mem::take(&mut self.tickets);
        done.extend(tickets.into_values().map(|t| (t, Err(Missed::Unknown))));
    }

    fn receive(&mut self, now: Time) -> io::Result<()> {
        let Self {
            core,
            peers,
            channel,
            ..
        } = self;
        channel.receive(BATCH, |heard| {
            if let Some((peer, message)) = peers.hear(heard) {
                core.on_message(now, peer, message);
            }
        })?;
        Ok(())
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.channel.fd()
    }

    pub(super) fn next_timer(&self) -> Option<Time> {
        if self.refused.is_empty() {
            self.core.next_timer()
        } else {
            Some(Time::ZERO)
        }
    }

    pub(super) fn pending(&self) -> usize {
        self.tickets.len() + self.refused.len()
    }

    pub(super) fn bounds(&self) -> Bounds {
        let limits = self.peers.group_config().limits;
        Bounds {
            operation: limits.operation,
            datagram: limits.batch_bytes,
        }
    }

    pub(super) fn room(&self) -> u64 {
        self.core.room()
    }

    pub(super) fn view(&self) -> (u64, usize) {
        let view = self.core.inspect().view;
        (view, leader_of(view).into())
    }

    /// Datagrams.
    pub fn counters(&self) -> Counters {
        self.channel.counters()
    }
}
