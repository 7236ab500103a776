//! The role that copies regions between machines.
//!
//! For each region of the file that begins here it is a reader, and sends what changes to the nodes
//! named; for each that ends here it is the writer of the copy, which it passes on if the file has
//! more below. Which memory that is, is found by name at this machine's broker, as often as it must
//! be found. A region that is not there yet, or has lost its writer, is waited for; nothing one
//! region does holds up another.

mod begin;
mod receiving;
mod relaying;
mod sending;
mod status;

use std::io;
use std::net::{SocketAddr, SocketAddrV4};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use stateplane_base::{Incarnation, Time};
use stateplane_host::region::{Copy, Source};
use stateplane_host::{clock, poll};
use stateplane_wire::envelope::cluster_id;

use crate::config::{Config, CopiedRegion, Regions, Role, sender_id};
use crate::failure::Failure;
use crate::status::Publisher;
use crate::stop::Stop;
use begin::Begin;
use receiving::Receiving;
use sending::Sending;
pub use status::{CopiesStatus, ReceivedStatus, SentStatus};

/// How often a region that is not there is looked for.
const LOOK: Duration = Duration::from_millis(100);
/// The loop looks at the stop flag at least this often.
const PATIENCE: Duration = Duration::from_millis(50);

/// Where a node copies the region of this place in the file: each has a port of its own,
/// counted from the role's.
fn address(config: &Config, node: &str, index: usize) -> SocketAddrV4 {
    let control = config.nodes[node].control[&Role::Regions];
    let index = u16::try_from(index).expect("checked: there are as many ports");
    SocketAddrV4::new(*control.ip(), control.port() + index)
}

/// Whom a node sends a region to, or may have it from.
fn others(
    config: &Config,
    region: &CopiedRegion,
    node: &str,
    index: usize,
) -> Vec<(String, u16, SocketAddr)> {
    let other = |name: &String| {
        let number = sender_id(name, Role::Regions);
        (name.clone(), number, address(config, name, index).into())
    };
    if region.is_from(node) {
        region.to.iter().map(other).collect()
    } else {
        region.from.iter().map(other).collect()
    }
}

/// The places in the file of what a node passes on of what it receives.
fn below(regions: &Regions, received: &CopiedRegion, node: &str) -> Vec<usize> {
    let passed_on = |copy: &CopiedRegion| copy.name == received.name && copy.is_from(node);
    let all = regions.copies.iter().enumerate();
    let below = all.filter(|(_, copy)| passed_on(copy));
    below.map(|(n, _)| n).collect()
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
        let begin = |index: usize| Begin {
            host: host.clone(),
            region: regions.copies[index].clone(),
            own: address(config, node, index),
            key: config.cluster.key.0,
            cluster: cluster_id(&config.cluster.name),
            sender: sender_id(node, Role::Regions),
            life,
            paths: regions.paths(&regions.copies[index].name, node),
            others: others(config, &regions.copies[index], node, index),
            lose_one_in: config.io.lose_one_in,
        };
        let (mut sending, mut receiving) = (Vec::new(), Vec::new());
        for (index, region) in regions.copies.iter().enumerate() {
            if region.is_to(node) {
                let below = below(regions, region, node).into_iter().map(begin);
                receiving.push(Receiving::new(begin(index), below.collect()));
            } else if region.is_from(node) && !regions.is_received(&region.name, node) {
                sending.push(Sending::new(begin(index)));
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
                let passed_on = self.receiving.iter().flat_map(Receiving::passed_on);
                let sent = self.sending.iter().map(Sending::status);
                let status = CopiesStatus {
                    sent: sent.chain(passed_on).collect(),
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
        let relays = self.receiving.iter().flat_map(|r| &r.relays);
        let senders = sources
            .map(Source::sender)
            .chain(relays.filter_map(|relay| relay.sender.as_ref()));
        let fds: Vec<BorrowedFd<'_>> = senders
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
