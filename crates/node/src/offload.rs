//! Stamping in the network: the XDP program beside the sequencer's agent.
//!
//! The agent keeps the sequencer's core: it asks for sessions and tells tails. While it has
//! a session, and most replicas can be reached so, the program stamps. What the program leaves
//! to the kernel (a request in fragments, or of this machine) the agent hands to it all the
//! same, so that one counter numbers everything. At all other times the program leaves
//! everything to the kernel, and the agent stamps: it goes on from the program's numbers, and
//! the program from its. The program leaves its interface when the agent ends, however it
//! ends.

use std::io;
use std::net::{SocketAddr, SocketAddrV4};
use std::time::Duration;

use serde::Serialize;
use stateplane_base::{LogTime, Time};
use stateplane_group::Sequencer as Core;
use stateplane_host::bpf::sequencer::{Grant, Identity, Mode, Sequencer, Target};
use stateplane_host::bpf::{AttachMode, Attachment, BpfError};
use stateplane_host::neigh::{Neighbours, NextHop, Reader};
use stateplane_host::netdev;
use tracing::info;

use crate::failure::Failure;
use crate::peers::GROUP;

/// How often the agent looks how far the program has stamped.
pub(crate) const LOOK: Duration = Duration::from_millis(1);

/// How often it asks the kernel whether interfaces still send copies.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Bytes of the headers before a packet: Ethernet, IPv4 without options, UDP.
const HEADERS: usize = 42;

/// What the program does, for people.
#[derive(Clone, Debug, Default, Serialize)]
pub struct OffloadStatus {
    /// Where requests come in.
    pub interface: String,
    /// Where in the kernel it runs.
    pub mode: String,
    /// Replicas it knows the way to.
    pub replicas: u64,
    /// Stamped and sent to all replicas.
    pub stamped: u64,
    /// Left to the kernel.
    pub passed: u64,
    /// Dropped: not as long as it says, another version, or absurd groups.
    pub malformed: u64,
    /// Dropped: another key, or damaged.
    pub unauthentic: u64,
    /// Dropped: of nobody that is a client of the group.
    pub stranger: u64,
    /// Dropped: seen before.
    pub replayed: u64,
    /// Dropped: there was no number for its groups.
    pub unstamped: u64,
}

/// The program, and what it was told.
pub(crate) struct Offload {
    program: Sequencer,
    here: SocketAddrV4,
    replicas: Vec<SocketAddrV4>,
    routes: Reader,
    targets: Vec<Target>,
    /// Why the program's copies would not reach a replica, and when that was found.
    obstacle: Option<String>,
    looked: Time,
    /// Formation and session; zeros: none.
    session: (u64, u64),
}

impl Offload {
    /// Attaches the program to `interface`.
    pub(crate) fn new(
        interface: &str,
        me: &Identity,
        clients: &[u16],
        replicas: &[SocketAddr],
    ) -> Result<Self, Failure> {
        let no_xdp = |error: BpfError| {
            let help = "`mode = \"auto\"` stamps in user space where XDP does not work";
            Failure::missing(format!("no stamping in the network: {error}"), help)
        };
        let mut program = Sequencer::load(me, clients, Mode::Authentic).map_err(no_xdp)?;
        let routes = Neighbours::follow()
            .map_err(|error| Failure::running(format!("cannot read routes: {error}")))?;
        program.attach(interface).map_err(no_xdp)?;
        let ipv4 = replicas.iter().filter_map(|replica| match replica {
            SocketAddr::V4(replica) => Some(*replica),
            SocketAddr::V6(_) => None,
        });
        Ok(Self {
            program,
            here: me.address,
            replicas: ipv4.collect(),
            routes: routes.reader(),
            targets: Vec::new(),
            obstacle: None,
            looked: Time::ZERO,
            session: (0, 0),
        })
    }

    /// Keeps program and core at the same session, and the core informed of the numbers
    /// that the program gave.
    pub(crate) fn follow(&mut self, now: Time, wall: LogTime, core: &mut Core) -> io::Result<()> {
        self.find_replicas(now)?;
        let seen = core.inspect();
        let wanted = if seen.session == 0 || !self.reaches_most() {
            (0, 0)
        } else {
            (seen.formation, seen.session)
        };
        if wanted != self.session {
            self.change(now, wall, core, wanted)
                .map_err(io::Error::other)?;
        }
        if self.stamps() {
            core.clock(now, wall);
            core.gave(
                now,
                GROUP,
                self.program.last(GROUP).map_err(io::Error::other)?,
            );
        }
        Ok(())
    }

    /// Whether the program numbers requests now; else the core does.
    pub(crate) fn stamps(&self) -> bool {
        self.session != (0, 0)
    }

    /// Whether the program's copies get to most replicas. (One that is down has no hardware
    /// address for long.)
    fn reaches_most(&self) -> bool {
        self.obstacle.is_none() && self.targets.len() * 2 > self.replicas.len()
    }

    fn change(
        &mut self,
        now: Time,
        wall: LogTime,
        core: &mut Core,
        (formation, session): (u64, u64),
    ) -> Result<(), BpfError> {
        if self.stamps() {
            let given = self.program.end()?;
            let seen = core.inspect();
            if self.session == (seen.formation, seen.session) {
                (0..)
                    .zip(given)
                    .for_each(|(group, last)| core.gave(now, group, last));
            }
        }
        self.session = (0, 0);
        if session != 0 {
            // The program adds it to the kernel's monotonic clock, which is also ours.
            let time = core.clock(now, wall);
            self.program.begin(&Grant {
                formation,
                session,
                ahead_ns: time.as_nanos().wrapping_sub(now.as_nanos()),
                not_before: time,
                last: core.sequences(),
            })?;
        }
        self.session = (formation, session);
        Ok(())
    }

    /// Learns from the kernel's routes and neighbours how replicas are reached.
    fn find_replicas(&mut self, now: Time) -> io::Result<()> {
        let changed = self.routes.refresh();
        let again = changed || now >= self.looked + LOOK_AGAIN;
        if !again && self.targets.len() == self.replicas.len() {
            return Ok(());
        }
        let (mut targets, mut local) = (Vec::new(), None);
        for address in &self.replicas {
            match self.routes.next_hop(*address.ip()) {
                NextHop::Neighbour {
                    ifindex,
                    mac,
                    source,
                    ..
                } => targets.push(Target {
                    address: *address,
                    ifindex,
                    from: source.0,
                    mac: mac.0,
                }),
                NextHop::Unresolved { ifindex, gateway } => {
                    self.routes.request(now, ifindex, gateway);
                }
                NextHop::Local => local = Some(format!("replica {address} is on this machine")),
                NextHop::NoRoute => {}
            }
        }
        if targets != self.targets || again {
            self.looked = now;
            self.obstacle = match local {
                None if self.is_native() => mute_interface(&targets)?,
                local => local,
            };
        }
        if targets != self.targets {
            let (found, all) = (targets.len(), self.replicas.len());
            info!("the way to {found} of {all} replicas is known");
            self.program
                .set_targets(&targets)
                .map_err(io::Error::other)?;
            self.targets = targets;
        }
        Ok(())
    }

    /// Has the program stamp a request that the kernel delivered to the agent.
    pub(crate) fn stamp(&self, packet: &[u8]) -> Option<Vec<u8>> {
        const REDIRECT: u32 = 4; // XDP_REDIRECT
        let length = u16::try_from(packet.len() + HEADERS - 14).ok()?;
        let mut frame = vec![0; HEADERS];
        frame[12..16].copy_from_slice(&[8, 0, 0x45, 0]);
        frame[16..18].copy_from_slice(&length.to_be_bytes());
        frame[23] = 17; // UDP
        frame[30..34].copy_from_slice(&self.here.ip().octets());
        frame[36..38].copy_from_slice(&self.here.port().to_be_bytes());
        frame[38..40].copy_from_slice(&(length - 20).to_be_bytes());
        frame.extend_from_slice(packet);
        let done = self.program.try_frame(&frame).ok()?;
        (done.action == REDIRECT).then(|| done.frame[HEADERS..].to_vec())
    }

    /// In the network stack (generic mode) every interface sends copies.
    fn is_native(&self) -> bool {
        let mode = self.program.attachment().map(Attachment::mode);
        mode == Some(AttachMode::Native)
    }

    /// Who stamps, in words.
    pub(crate) fn describe(&self) -> String {
        let Some(attachment) = self.program.attachment() else {
            return "in user space".to_owned();
        };
        let (mode, interface) = (attachment.mode(), attachment.interface());
        match &self.obstacle {
            Some(obstacle) => format!("in user space: {obstacle}"),
            None if !self.reaches_most() => {
                "in user space, until the way to most replicas is known".to_owned()
            }
            None => format!("in the network: {mode} XDP at {interface}"),
        }
    }

    /// What the program has done.
    pub(crate) fn status(&self) -> OffloadStatus {
        let counters = self.program.counters().unwrap_or_default();
        let attachment = self.program.attachment();
        OffloadStatus {
            interface: attachment.map_or_else(String::new, |a| a.interface().to_owned()),
            mode: attachment.map_or_else(String::new, |a| a.mode().to_string()),
            replicas: self.targets.len() as u64,
            stamped: counters.stamped,
            passed: counters.passed,
            malformed: counters.malformed,
            unauthentic: counters.unauthentic,
            stranger: counters.stranger,
            replayed: counters.replayed,
            unstamped: counters.unstamped,
        }
    }
}

/// What is wrong with an interface towards replicas that does not send what XDP programs
/// redirect to it: the kernel would drop the copies and say nothing.
fn mute_interface(targets: &[Target]) -> io::Result<Option<String>> {
    for target in targets {
        if netdev::sends_redirected(target.ifindex)? == Some(false) {
            let address = target.address;
            return Ok(Some(format!(
                "the interface towards {address} sends nothing for XDP (a veth does when its \
                 other end has GRO on, or an XDP program)"
            )));
        }
    }
    Ok(None)
}
