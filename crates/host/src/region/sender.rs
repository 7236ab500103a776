//! The sending side of a socket: to whom, and what they say.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, SocketAddrV4};
use std::os::fd::{AsFd, BorrowedFd};

use stateplane_base::Time;
use stateplane_region::sync::{Export, Outgoing, Sealed, Timing};
use stateplane_wire::envelope::OVERHEAD;

use super::{Copy, DATAGRAM, ENOUGH, Heard, Loss, count};
use crate::udp::BatchSocket;

/// Routers that what is sent to a group may pass: a site's, not the world's.
const ROUTERS: u8 = 7;

/// Sends versions of a region to other machines, wherever it has them from.
#[derive(Debug)]
pub struct Sender {
    socket: BatchSocket,
    sealed: Sealed,
    export: Export,
    scope: BTreeMap<u16, SocketAddr>,
    group: Option<SocketAddr>,
    grouped: u64,
    heard: Heard,
    loss: Loss,
}

impl Sender {
    /// A sender of a region, known as `region` on the wire, to the nodes of `scope`: their
    /// numbers in the cluster and where they listen.
    pub fn new(
        socket: BatchSocket,
        sealed: Sealed,
        region: u64,
        scope: BTreeMap<u16, SocketAddr>,
        timing: Timing,
    ) -> Self {
        Self {
            socket,
            sealed,
            export: Export::new(region, timing, DATAGRAM - OVERHEAD),
            scope,
            group: None,
            grouped: 0,
            heard: Heard::default(),
            loss: Loss::default(),
        }
    }

    /// Sends what several receivers need once, to a group that they hear; what one of them
    /// lacks still goes to that one. Who hears the group is for the network: scope bounds
    /// who is served, and the key who understands.
    pub fn send_to(&mut self, group: SocketAddrV4) -> io::Result<()> {
        self.socket.reach_groups(ROUTERS)?;
        self.export.send_once();
        self.group = Some(group.into());
        Ok(())
    }

    /// Loses one in `one_in` of what arrives (0: none).
    pub fn lose(&mut self, one_in: u32, seed: u64) {
        self.loss = Loss { one_in, draw: seed };
    }

    /// Everything there is to do now for a relay: passes on what `copy` has, if there is one,
    /// and answers for what it had, if there is none. When to call it next, if nothing
    /// arrives before, here or there.
    ///
    /// # Errors
    /// The socket's.
    pub fn pass_on(&mut self, now: Time, copy: Option<&Copy>) -> io::Result<Time> {
        self.turn(now, |export| {
            if let Some(copy) = copy {
                export.pass_on(now, copy.import(), copy.copy().bytes());
            }
            Ok(())
        })
    }

    /// Hears receivers, has `take_up` look for a newer version, sends what is due.
    pub(super) fn turn(
        &mut self,
        now: Time,
        take_up: impl FnOnce(&mut Export) -> io::Result<()>,
    ) -> io::Result<Time> {
        self.hear(now)?;
        let taken_up = take_up(&mut self.export);
        self.export.on_time(now);
        let mut datagram = Vec::new();
        while let Some(Outgoing { to, body }) = self.export.poll(now) {
            datagram.clear();
            self.sealed.seal(&body, &mut datagram);
            let write = |out: &mut Vec<u8>| out.extend_from_slice(&datagram);
            if let Some(group) = self.group.filter(|_| to.len() > 1) {
                self.socket.compose(&[group], write);
                self.grouped += 1;
                continue;
            }
            let known = to.iter().filter_map(|n| self.scope.get(n));
            let to: Vec<SocketAddr> = known.copied().collect();
            self.socket.compose(&to, write);
        }
        self.socket.flush();
        taken_up?;
        Ok(self.export.next_timer())
    }

    fn hear(&mut self, now: Time) -> io::Result<()> {
        let Self {
            socket,
            sealed,
            export,
            scope,
            heard,
            loss,
            ..
        } = self;
        socket.receive(ENOUGH, |_, datagram| {
            if loss.strikes() {
                heard.lost += 1;
                return;
            }
            let known = sealed
                .open(datagram)
                .filter(|(from, _)| scope.contains_key(&from.sender));
            let taken =
                known.is_some_and(|(from, body)| export.on_message(now, from.sender, body).is_ok());
            count(heard, taken);
        })?;
        Ok(())
    }

    /// Datagrams sent to the group.
    pub fn grouped(&self) -> u64 {
        self.grouped
    }

    /// What receivers have said they have.
    pub fn export(&self) -> &Export {
        &self.export
    }

    /// Datagrams so far.
    pub fn heard(&self) -> Heard {
        self.heard
    }
}

impl AsFd for Sender {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
