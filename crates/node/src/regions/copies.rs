//! The role that copies regions between machines.
//!
//! For each region of the file that begins here it is a reader, and sends what changes to the nodes
//! named; for each that ends here it is the writer of the copy. Which memory that is, is found by
//! name at this machine's broker, as often as it must be found. A region that is not there yet, or
//! has lost its writer, is waited for; nothing one region does holds up another.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, SocketAddrV4};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use serde::Serialize;
use stateplane_base::{Incarnation, Time};
use stateplane_host::region::{Copy, Heard, Source};
use stateplane_host::udp::BatchSocket;
use stateplane_host::{clock, poll};
use stateplane_region::sync::{Sealed, Timing, region_id};
use stateplane_region::{Host, Reader, Spec, Writer};
use stateplane_wire::envelope::{Key, cluster_id};
use tracing::{info, warn};

use super::telemetry::Sheet;
use crate::config::{Config, CopiedRegion, Role, sender_id};
use crate::failure::Failure;
use crate::status::{Publisher, RoleStatus};
use crate::stop::Stop;

/// How often a region that is not there is looked for.
const LOOK: Duration = Duration::from_millis(100);
/// The loop looks at the stop flag at least this often.
const PATIENCE: Duration = Duration::from_millis(50);

/// What the role publishes.
#[derive(Clone, Debug, Default, Serialize)]
pub struct CopiesStatus {
    /// Regions that begin here.
    pub sent: Vec<SentStatus>,
    /// Regions that end here.
    pub received: Vec<ReceivedStatus>,
}

/// A region that begins here.
#[derive(Clone, Debug, Default, Serialize)]
pub struct SentStatus {
    /// Its name.
    pub region: String,
    /// Why it is not sent, if it is not.
    pub waits_for: Option<String>,
    /// The version that is being sent.
    pub version: u64,
    /// Of which writer.
    pub epoch: u64,
    /// Versions taken up.
    pub versions: u64,
    /// Pieces sent.
    pub pieces: u64,
    /// Pieces sent again because a receiver missed them.
    pub repairs: u64,
    /// Times that a receiver had to be led on from an older version, or from nothing.
    pub caught_up: u64,
    /// Receivers that said something lately, and the version each has.
    pub receivers: BTreeMap<String, u64>,
    /// Nodes of its scope that say nothing.
    pub silent: Vec<String>,
    /// Datagrams sent to its group, for several receivers each.
    pub to_group: u64,
    /// Datagrams of nobody known, forged, replayed or malformed.
    pub refused: u64,
}

/// A region that ends here.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ReceivedStatus {
    /// Its name.
    pub region: String,
    /// Where it begins.
    pub from: String,
    /// Why it is not received, if it is not.
    pub waits_for: Option<String>,
    /// The version of the copy.
    pub version: u64,
    /// Of which writer.
    pub epoch: u64,
    /// How long ago that was known to be all there is.
    pub age_ms: Option<f64>,
    /// Versions that came whole.
    pub versions: u64,
    /// Versions given up for newer ones.
    pub given_up: u64,
    /// Pieces that came.
    pub pieces: u64,
    /// Pieces asked for again.
    pub missed: u64,
    /// Datagrams that came by its group.
    pub by_group: u64,
    /// Datagrams lost on purpose.
    pub lost: u64,
    /// Datagrams of nobody known, forged, replayed or malformed.
    pub refused: u64,
}

impl RoleStatus for CopiesStatus {
    fn readiness(&self) -> Result<(), String> {
        let sent = self.sent.iter().map(|s| (&s.region, &s.waits_for));
        let received = self.received.iter().map(|r| (&r.region, &r.waits_for));
        let waiting = sent.chain(received).find_map(|(region, why)| {
            let why = why.as_ref()?;
            Some(format!("{region}: {why}"))
        });
        waiting.map_or(Ok(()), Err)
    }

    fn count(&self, out: &mut Sheet) {
        let sent = |of: fn(&SentStatus) -> u64| self.sent.iter().map(of).sum();
        out.count("sent.versions", "versions", sent(|s| s.versions));
        out.count("sent.pieces", "pieces", sent(|s| s.pieces));
        out.count("sent.repairs", "pieces", sent(|s| s.repairs));
        let received = |of: fn(&ReceivedStatus) -> u64| self.received.iter().map(of).sum();
        out.count("received.versions", "versions", received(|r| r.versions));
        out.count("received.pieces", "pieces", received(|r| r.pieces));
        out.count("received.missed", "pieces", received(|r| r.missed));
        let refused = received(|r| r.refused) + sent(|s| s.refused);
        out.count("refused", "datagrams", refused);
    }
}

/// What both directions need to begin.
#[derive(Clone)]
struct Begin {
    host: Host,
    region: CopiedRegion,
    own: SocketAddrV4,
    key: [u8; 16],
    cluster: u32,
    sender: u16,
    life: Incarnation,
    /// Its receivers, or its sender: name, number, address.
    others: Vec<(String, u16, SocketAddr)>,
    lose_one_in: u32,
}

impl Begin {
    fn timing(&self) -> Timing {
        Timing {
            interval: self.region.interval,
            ..Timing::default()
        }
    }

    /// A new socket is a new life of its sender: nothing sent before may look like a replay.
    fn sealed(&mut self) -> Sealed {
        self.life.0 += 1;
        Sealed::new(Key::new(self.key), self.cluster, self.sender, self.life.0)
    }

    fn socket(&self) -> io::Result<BatchSocket> {
        BatchSocket::bind(self.own.into())
    }

    fn reader(&self) -> Result<Reader<[u8]>, String> {
        let name = &self.region.name;
        let reader = self.host.attach::<[u8]>(name, &self.region.schema);
        let reader = reader.map_err(|error| error.to_string())?;
        match reader.len() == self.region.bytes {
            true => Ok(reader),
            false => Err(format!(
                "it has {} bytes, the file says {}",
                reader.len(),
                self.region.bytes
            )),
        }
    }

    fn writer(&self) -> Result<Writer<[u8]>, String> {
        let spec = Spec::bytes(self.region.bytes).schema(&self.region.schema);
        let writer = self.host.open(&self.region.name, &spec);
        writer.map_err(|error| error.to_string())
    }
}

/// A region that begins here.
struct Sending {
    begin: Begin,
    source: Option<Source>,
    next: Time,
    why: Option<String>,
}

impl Sending {
    /// Everything there is to do now; when to come back, if nothing arrives before.
    fn turn(&mut self, now: Time) -> Time {
        if now < self.next && self.source.is_none() {
            return self.next;
        }
        let done = match &mut self.source {
            None => self.start(),
            Some(source) => source.turn(now).map_err(|error| error.to_string()),
        };
        self.next = match done {
            Ok(next) => {
                self.why = None;
                // A new version is found by looking.
                next.min(now + self.begin.region.interval)
            }
            Err(why) => {
                self.lost(why);
                now + LOOK
            }
        };
        self.next
    }

    /// Another writer, most likely: what is sent goes on from its version.
    fn lost(&mut self, why: String) {
        let why = match (self.begin.reader(), &mut self.source) {
            (Ok(reader), Some(source)) => {
                source.follow(reader);
                why
            }
            (Ok(_), None) => why,
            (Err(why), _) => why,
        };
        if self.why.as_ref() != Some(&why) {
            info!(region = %self.begin.region.name, why, "not sent");
        }
        self.why = Some(why);
    }

    fn start(&mut self) -> Result<Time, String> {
        let reader = self.begin.reader()?;
        let socket = self.begin.socket().map_err(|error| error.to_string())?;
        let others = self.begin.others.iter();
        let scope = others.map(|(_, number, at)| (*number, *at)).collect();
        let (region, timing) = (region_id(&self.begin.region.name), self.begin.timing());
        let sealed = self.begin.sealed();
        let mut source = Source::new(socket, sealed, region, reader, scope, timing);
        if let Some(group) = self.begin.region.multicast {
            source.send_to(group).map_err(|error| error.to_string())?;
        }
        source.lose(self.begin.lose_one_in, self.begin.life.0);
        self.source = Some(source);
        info!(region = %self.begin.region.name, "sent to other machines");
        Ok(Time::ZERO)
    }

    fn status(&self) -> SentStatus {
        let mut status = SentStatus {
            region: self.begin.region.name.to_string(),
            waits_for: self.why.clone(),
            ..SentStatus::default()
        };
        let Some(source) = &self.source else {
            return status;
        };
        let (export, sent) = (source.export(), source.export().sent());
        let has: BTreeMap<u16, u64> = export.peers().map(|(n, at)| (n, at.version)).collect();
        for (name, number, _) in &self.begin.others {
            match has.get(number) {
                Some(version) => drop(status.receivers.insert(name.clone(), *version)),
                None => status.silent.push(name.clone()),
            }
        }
        SentStatus {
            version: export.at().version,
            epoch: export.at().epoch,
            versions: sent.versions,
            pieces: sent.pieces,
            repairs: sent.repairs,
            caught_up: sent.caught_up,
            to_group: source.grouped(),
            refused: source.heard().refused,
            ..status
        }
    }
}

/// A region that ends here.
struct Receiving {
    begin: Begin,
    copy: Option<Copy>,
    next: Time,
    why: Option<String>,
}

impl Receiving {
    fn turn(&mut self, now: Time) -> Time {
        if now < self.next && self.copy.is_none() {
            return self.next;
        }
        let done = match &mut self.copy {
            None => self.start(),
            Some(copy) => copy.turn(now).map_err(|error| error.to_string()),
        };
        self.next = match done {
            Ok(next) => {
                self.why = None;
                next
            }
            Err(why) => {
                if self.why.as_ref() != Some(&why) {
                    warn!(region = %self.begin.region.name, why, "not received");
                }
                // Another writer has it: as long as that one lives, it is its region.
                (self.copy, self.why) = (None, Some(why));
                now + LOOK
            }
        };
        self.next
    }

    fn start(&mut self) -> Result<Time, String> {
        let writer = self.begin.writer()?;
        let socket = self.begin.socket().map_err(|error| error.to_string())?;
        let (_, number, at) = self.begin.others[0];
        let (region, timing) = (region_id(&self.begin.region.name), self.begin.timing());
        let sealed = self.begin.sealed();
        let mut copy = Copy::new(socket, sealed, region, writer, (number, at), timing);
        if let Some(group) = self.begin.region.multicast {
            copy.hear(group).map_err(|error| error.to_string())?;
        }
        copy.lose(self.begin.lose_one_in, self.begin.life.0);
        self.copy = Some(copy);
        info!(region = %self.begin.region.name, from = self.begin.others[0].0, "received");
        Ok(Time::ZERO)
    }

    fn status(&self) -> ReceivedStatus {
        let status = ReceivedStatus {
            region: self.begin.region.name.to_string(),
            from: self.begin.others[0].0.clone(),
            waits_for: self.why.clone(),
            ..ReceivedStatus::default()
        };
        let Some(copy) = &self.copy else {
            return status;
        };
        let (has, taken) = (copy.has(), copy.taken());
        let Heard {
            refused,
            lost,
            by_group,
            ..
        } = copy.heard();
        ReceivedStatus {
            version: has.version,
            epoch: has.epoch,
            age_ms: copy
                .current()
                .map(|current| clock::now().since(current).as_secs_f64() * 1e3),
            versions: taken.versions,
            given_up: taken.given_up,
            pieces: taken.pieces,
            missed: taken.missed,
            by_group,
            lost,
            refused,
            ..status
        }
    }
}

/// The role, ready to run.
pub struct Copies {
    sending: Vec<Sending>,
    receiving: Vec<Receiving>,
    status: Publisher<CopiesStatus>,
}

impl Copies {
    /// The copies of the file that begin or end at `node`.
    ///
    /// # Panics
    /// If the (checked) configuration has no regions, or no address for one of the nodes.
    pub fn new(
        config: &Config,
        node: &str,
        life: Incarnation,
        status: Publisher<CopiesStatus>,
    ) -> Result<Self, Failure> {
        let regions = config.regions.as_ref().expect("checked: it copies some");
        let host = super::host(regions)?;
        let (mut sending, mut receiving) = (Vec::new(), Vec::new());
        for (index, region) in (0u16..).zip(&regions.copies) {
            let at = |name: &str| {
                let control = config.nodes[name].control[&Role::Regions];
                // Each region has a port of its own, counted from the role's.
                SocketAddrV4::new(*control.ip(), control.port() + index)
            };
            let other = |name: &String| {
                let number = sender_id(name, Role::Regions);
                (name.clone(), number, at(name).into())
            };
            let begin = |others| Begin {
                host: host.clone(),
                region: region.clone(),
                own: at(node),
                key: config.cluster.key.0,
                cluster: cluster_id(&config.cluster.name),
                sender: sender_id(node, Role::Regions),
                life,
                others,
                lose_one_in: config.io.lose_one_in,
            };
            if region.from == node {
                sending.push(Sending {
                    begin: begin(region.to.iter().map(other).collect()),
                    source: None,
                    next: Time::ZERO,
                    why: None,
                });
            } else if region.to.iter().any(|to| to == node) {
                receiving.push(Receiving {
                    begin: begin(vec![other(&region.from)]),
                    copy: None,
                    next: Time::ZERO,
                    why: None,
                });
            }
        }
        Ok(Self {
            sending,
            receiving,
            status,
        })
    }

    /// Copies until asked to stop.
    pub fn run(mut self, stop: &Stop) -> Result<(), Failure> {
        while !stop.is_raised() {
            let now = clock::now();
            let sent = self.sending.iter_mut().map(|sending| sending.turn(now));
            let next = sent.min().unwrap_or(Time::MAX);
            let received = self
                .receiving
                .iter_mut()
                .map(|receiving| receiving.turn(now));
            let next = next.min(received.min().unwrap_or(Time::MAX));
            if self.status.due(now) {
                let status = CopiesStatus {
                    sent: self.sending.iter().map(Sending::status).collect(),
                    received: self.receiving.iter().map(Receiving::status).collect(),
                };
                self.status.update(|s| *s = status);
            }
            self.wait(next.min(self.status.next()))
                .map_err(|error| Failure::running(format!("regions: {error}")))?;
        }
        Ok(())
    }

    fn wait(&self, next: Time) -> io::Result<()> {
        let sources = self.sending.iter().filter_map(|s| s.source.as_ref());
        let copies = self.receiving.iter().filter_map(|r| r.copy.as_ref());
        let fds: Vec<BorrowedFd<'_>> = sources
            .map(AsFd::as_fd)
            .chain(copies.flat_map(Copy::fds))
            .collect();
        let span = next.since(clock::now()).min(PATIENCE);
        if fds.len() > poll::MAX_FDS {
            // More than are waited for at once: looked at every millisecond.
            std::thread::sleep(span.min(Duration::from_millis(1)));
            return Ok(());
        }
        poll::wait(&fds, Some(span)).map(drop)
    }
}
