//! The sequencer's loop: requests in, stamped requests out.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::os::fd::BorrowedFd;

use serde::Serialize;
use stateplane_base::Time;
use stateplane_group::Effect;
use stateplane_host::bpf::sequencer::Identity;
use tracing::{info, warn};

use crate::channel::{self, Channel, Heard};
use crate::config::{Config, Io, Role, Stamping};
use crate::failure::Failure;
use crate::logclock::LogClock;
use crate::offload::{self, Offload, OffloadStatus};
use crate::peers::Peers;
use crate::regions::telemetry::Sheet;
use crate::status::{Publisher, RoleStatus};
use crate::stop::Stop;
use crate::turn::{self, Turn};

/// Requests stamped before they are sent on.
const BATCH: usize = 32;

/// What a sequencer publishes.
#[derive(Clone, Debug, Default, Serialize)]
pub struct SequencerStatus {
    /// The life of the group (0: not known yet).
    pub formation: u64,
    /// Its session (0: waiting for one).
    pub session: u64,
    /// It has none and asks for none, because another sequencer serves.
    pub stands_by: bool,
    /// The last number given in the session.
    pub sequence: u64,
    /// The last time stamped, nanoseconds since 1970.
    pub log_time_ns: u64,
    /// Rare events, by name.
    pub marks: BTreeMap<&'static str, u64>,
    /// Authentic datagrams that are not the sequencer's business.
    pub ignored: u64,
    /// Datagrams.
    pub datagrams: channel::Counters,
    /// Who stamps, and why it is not an XDP program if it is not.
    pub stamping: String,
    /// What the XDP program does, if there is one.
    pub offload: Option<OffloadStatus>,
}

impl RoleStatus for SequencerStatus {
    fn readiness(&self) -> Result<(), String> {
        if self.session != 0 || self.stands_by {
            Ok(())
        } else {
            Err("no session granted by the replicas".to_owned())
        }
    }

    fn count(&self, out: &mut Sheet) {
        out.largest("session", "sessions", self.session);
        out.largest("sequence", "messages", self.sequence);
        out.counts("marks", "events", &self.marks);
        out.count("ignored", "datagrams", self.ignored);
        if let Some(offload) = &self.offload {
            out.count("offload.stamped", "messages", offload.stamped);
            out.count("offload.unauthentic", "messages", offload.unauthentic);
        }
        out.datagrams(&self.datagrams);
    }
}

/// Packets stamped in the socket's buffer, kept until the socket sends again.
#[derive(Debug, Default)]
struct Stamped {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Stamped {
    fn push(&mut self, packet: &[u8]) {
        self.bytes.extend_from_slice(packet);
        self.ends.push(self.bytes.len());
    }

    fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts
            .zip(&self.ends)
            .map(|(start, end)| &self.bytes[start..*end])
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }
}

/// A sequencer ready to run.
pub struct Sequencer {
    core: stateplane_group::Sequencer,
    peers: Peers,
    channel: Channel,
    log_clock: LogClock,
    offload: Option<Offload>,
    /// Who stamps, in words: at the start, and as it was last said.
    alone: String,
    stamping: String,
    looked: Time,
    stamped: Stamped,
    session: u64,
    ignored: u64,
    status: Publisher<SequencerStatus>,
}

impl Sequencer {
    /// The sequencer of the configured group.
    pub fn new(
        config: &Config,
        node: &str,
        channel: Channel,
        status: Publisher<SequencerStatus>,
    ) -> Result<Self, Failure> {
        let peers = Peers::new(config, node, Role::Sequencer);
        let me = peers.my_sequencer().expect("a sequencer is configured");
        let core = stateplane_group::Sequencer::new(peers.group_config(), me, random());
        let log_clock = LogClock::default();
        let stamping = config.node(node).map(|node| &node.stamping);
        let attach = |interface: &String| {
            let identity = Identity {
                address: peers.sequencer_address(me),
                number: me,
                keys: channel.keys().clone(),
            };
            Offload::new(interface, &identity, &peers.clients(), peers.others())
        };
        let (offload, alone) = match stamping {
            None | Some(Stamping::UserSpace) => (None, "in user space".to_owned()),
            Some(Stamping::Auto(None)) => {
                let text = "in user space: no `interface` is named for an XDP program";
                (None, text.to_owned())
            }
            Some(Stamping::Xdp(interface)) => (Some(attach(interface)?), String::new()),
            Some(Stamping::Auto(Some(interface))) => match attach(interface) {
                Ok(offload) => (Some(offload), String::new()),
                Err(failure) => (None, format!("in user space: {failure}")),
            },
        };
        Ok(Self {
            core,
            peers,
            channel,
            log_clock,
            offload,
            alone,
            stamping: String::new(),
            looked: Time::ZERO,
            stamped: Stamped::default(),
            session: 0,
            ignored: 0,
            status,
        })
    }

    /// Stamps until asked to stop.
    pub fn run(mut self, io: Io, stop: &Stop) -> Result<(), Failure> {
        turn::serve(&mut self, io, stop)
    }

    fn carry_out(&mut self) {
        while let Some(effect) = self.core.poll_effect() {
            match effect {
                Effect::Send { to, msg } => self.peers.send(&mut self.channel, to, &msg),
                Effect::Alarm(alarm) => warn!(?alarm, "sequencer"),
                Effect::Persist(_) | Effect::Reconfigured { .. } => {
                    unreachable!("only replicas have disks and members")
                }
            }
        }
        self.channel.flush();
    }

    fn publish(&mut self) {
        let core = self.core.inspect();
        if core.session != self.session {
            self.session = core.session;
            info!(session = core.session, "sequencer session");
        }
        let offload = self.offload.as_ref();
        let stamping = offload.map_or_else(|| self.alone.clone(), Offload::describe);
        if stamping != self.stamping {
            info!("requests are stamped {stamping}");
            self.stamping.clone_from(&stamping);
        }
        let marks = self.core.marks().iter();
        let marks = marks
            .filter(|(_, n)| *n > 0)
            .map(|(mark, n)| (mark.name(), n))
            .collect();
        self.status.update(|s| {
            *s = SequencerStatus {
                formation: core.formation,
                session: core.session,
                stands_by: core.stands_by,
                sequence: core.sequence,
                log_time_ns: core.log_time.as_nanos(),
                marks,
                ignored: self.ignored,
                datagrams: self.channel.counters(),
                stamping,
                offload: self.offload.as_ref().map(Offload::status),
            };
        });
    }
}

impl Turn for Sequencer {
    const NAME: &'static str = "sequencer";
    const NICE: i32 = -5;

    fn fd(&self) -> BorrowedFd<'_> {
        self.channel.fd()
    }

    fn next(&self) -> Time {
        let core = self.core.next_timer().unwrap_or(Time::MAX);
        let look = self.offload.as_ref().map(|_| self.looked + offload::LOOK);
        core.min(self.status.next()).min(look.unwrap_or(Time::MAX))
    }

    fn hear(&mut self, now: Time) -> io::Result<usize> {
        let Self {
            core,
            peers,
            channel,
            log_clock,
            offload,
            stamped,
            ignored,
            ..
        } = self;
        let wall = log_clock.now();
        let heard = channel.receive(BATCH, |heard| match heard {
            Heard::Request(asked) if !peers.is_client(asked.ask.client) => *ignored += 1,
            Heard::Request(asked) => match &offload {
                Some(offload) if offload.stamps() => {
                    if let Some(packet) = offload.stamp(asked.packet()) {
                        stamped.push(&packet);
                    }
                }
                _ => {
                    if let Some(stamp) = core.stamp(now, wall, &asked.ask.groups) {
                        stamped.push(asked.stamp(&stamp));
                    }
                }
            },
            heard => match peers.hear(heard) {
                Some((peer, message)) => core.on_message(now, peer, message),
                None => *ignored += 1,
            },
        })?;
        for packet in stamped.iter() {
            channel.relay(peers.others(), packet);
        }
        stamped.clear();
        Ok(heard)
    }

    fn act(&mut self, now: Time) -> io::Result<()> {
        if let Some(offload) = &mut self.offload {
            self.looked = now;
            offload.follow(now, self.log_clock.now(), &mut self.core)?;
        }
        if self.core.next_timer().is_some_and(|due| due <= now) {
            self.core.on_timer(now);
        }
        self.carry_out();
        if self.status.due(now) {
            self.publish();
        }
        Ok(())
    }
}

/// 64 bits nobody can foresee: the standard library keys each of its hash maps
/// from the system's random source.
pub(crate) fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}
