//! The client of a replicated store.

use std::io;
use std::os::fd::BorrowedFd;

use stateplane_base::{ClientId, Ring, Time};
use stateplane_functions::Ticket;
use stateplane_group::{Busy, Client, Effect, Mark, Peer, RequestId};
use stateplane_wire::envelope::Kind;
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
    /// By request id.
    tickets: Ring<Ticket>,
    /// Refused at once; told by the next poll.
    refused: Vec<Ticket>,
    /// A broken socket is reported once.
    broken: bool,
    /// Operations do not share datagrams.
    alone: bool,
    greeting: Greeting,
}

/// Replicas are to know every life of a client, see [`stateplane_wire::refusal`].
#[derive(Debug)]
enum Greeting {
    /// So many requests had been repeated when it was said last.
    Said(u64),
    /// A replica has answered this life.
    Heard,
}

impl GroupClient {
    /// The client `id` at `node`, which speaks through `channel`.
    pub fn new(config: &Config, node: &str, id: ClientId, channel: Channel) -> Self {
        let peers = Peers::new(config, node, Role::Function);
        let core = Client::new(peers.group_config(), id, random());
        let mut client = Self {
            core,
            id,
            peers,
            channel,
            tickets: Ring::default(),
            refused: Vec::new(),
            broken: false,
            alone: false,
            greeting: Greeting::Said(0),
        };
        client.greet();
        client
    }

    fn greet(&mut self) {
        let replicas = self.peers.others();
        self.channel.multicast(replicas, Kind::Hello, |_| ());
    }

    /// Says hello again if nobody has answered since.
    fn greet_again(&mut self) {
        let repeated = self.core.marks().get(Mark::Retransmitted);
        if let Greeting::Said(before) = self.greeting
            && repeated > before
        {
            self.greeting = Greeting::Said(repeated);
            self.greet();
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
                self.tickets.insert(request.0, ticket);
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
                Effect::Send { to, msg } => {
                    self.peers.send(&mut self.channel, to, &msg);
                    self.core.take_back(msg);
                }
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
            self.greet_again();
        }
        self.flush(now);
        while let Some((request, result)) = self.core.poll_done() {
            if let Some(ticket) = self.tickets.remove(&request.0) {
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
        self.greeting = Greeting::Said(0);
        self.greet();
        let tickets = std::mem::take(&mut self.tickets);
        done.extend(tickets.into_values().map(|t| (t, Err(Missed::Unknown))));
    }

    fn receive(&mut self, now: Time) -> io::Result<()> {
        let Self {
            core,
            peers,
            channel,
            greeting,
            ..
        } = self;
        channel.receive(BATCH, |heard| {
            if let Some((peer, message)) = peers.hear(heard) {
                if matches!(peer, Peer::Replica(_)) {
                    *greeting = Greeting::Heard;
                }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::{Heard, Identity};
    use stateplane_base::Incarnation;
    use stateplane_host::clock;
    use std::net::SocketAddrV4;
    use std::path::Path;
    use std::time::Duration;

    /// A group on addresses of the loopback that nobody uses.
    fn config() -> Config {
        let net = 1 + random() % 250;
        let node = |name: &str, role: &str, n: u8| {
            format!(
                "[node.{name}]\nroles = [\"{role}\"]\ncontrol = \"127.{net}.{}.{n}:7400\"\n",
                std::process::id() % 250
            )
        };
        let mut text = String::from(
            "[cluster]\nname = \"t\"\nkey = \"000102030405060708090a0b0c0d0e0f\"\n[state]\n\
             backend = \"group\"\nsequencer = \"seq\"\nreplicas = [\"r1\", \"r2\", \"r3\"]\n",
        );
        text += &node("seq", "sequencer", 9);
        for n in 1..=3 {
            text += &node(&format!("r{n}"), "replica", n);
        }
        text += &node("c", "function", 8);
        text += "inside = \"a\"\noutside = \"b\"\n[nat]\ninside-prefixes = [\"10.0.0.0/16\"]\n\
                 outside-addresses = [\"198.51.100.1\"]\n";
        let (config, _) = Config::parse("t.toml", &text, Path::new("/tmp")).expect("right");
        config
    }

    fn channel(config: &Config, node: &str, role: Role, life: u64) -> Channel {
        let found = config.node(node).expect("it is there");
        let address: SocketAddrV4 = found.control[&role];
        let identity = Identity::new(config, node, role, Incarnation(life));
        Channel::bind(address, identity).expect("nobody else is there")
    }

    fn client(config: &Config, life: u64) -> GroupClient {
        let channel = channel(config, "c", Role::Function, life);
        GroupClient::new(config, "c", channel.client_id(), channel)
    }

    /// Turns the client until `until`, with what listens; what ended.
    fn turn(
        client: &mut GroupClient,
        listens: &mut [&mut Channel],
        mut until: impl FnMut(&GroupClient, u32) -> bool,
    ) -> Vec<Done> {
        let (mut done, mut requests) = (Vec::new(), 0);
        for _ in 0..2_000 {
            client.poll(clock::now(), &mut done);
            for channel in &mut *listens {
                let count = |heard: Heard<'_>| {
                    requests += u32::from(matches!(heard, Heard::Request(_)));
                };
                channel.receive(64, count).expect("it works");
            }
            if until(client, requests) {
                return done;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        panic!("{client:?} waits in vain");
    }

    #[test]
    fn a_client_whose_clock_went_back_begins_anew_and_is_heard() {
        let config = config();
        let mut sequencer = channel(&config, "seq", Role::Sequencer, 1);
        let mut former = client(&config, 7_000);
        former.submit(clock::now(), Ticket(1), b"work".to_vec());
        turn(&mut former, &mut [&mut sequencer], |_, requests| {
            requests > 0
        });
        drop(former);
        let mut present = client(&config, 6);
        present.submit(clock::now(), Ticket(2), b"work".to_vec());
        let mine = present.id;
        let told = |client: &GroupClient, _| client.id != mine;
        let done = turn(&mut present, &mut [&mut sequencer], told);
        assert_eq!(
            done,
            [(Ticket(2), Err(Missed::Unknown))],
            "perhaps it happened"
        );
        present.submit(clock::now(), Ticket(3), b"work".to_vec());
        turn(&mut present, &mut [&mut sequencer], |_, requests| {
            requests > 0
        });
    }

    #[test]
    fn it_learns_so_from_replicas_if_its_sequencer_says_nothing() {
        let config = config();
        let mut replica = channel(&config, "r2", Role::Replica, 1);
        let mut former = client(&config, 7_000);
        former.flush(clock::now());
        turn(&mut former, &mut [&mut replica], |_, _| true);
        drop(former);
        let mut present = client(&config, 6);
        present.submit(clock::now(), Ticket(2), b"work".to_vec());
        let mine = present.id;
        let told = |client: &GroupClient, _| client.id != mine;
        let done = turn(&mut present, &mut [&mut replica], told);
        assert_eq!(done, [(Ticket(2), Err(Missed::Unknown))]);
    }
}
