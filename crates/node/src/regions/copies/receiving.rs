//! Regions of other machines that have copies here.

use stateplane_base::Time;
use stateplane_host::clock;
use stateplane_host::region::{Copy, Heard};
use stateplane_region::sync::region_id;
use tracing::{info, warn};

use super::LOOK;
use super::begin::Begin;
use super::relaying::Relaying;
use super::status::{ReceivedStatus, SentStatus};

/// A region that ends here.
pub(super) struct Receiving {
    begin: Begin,
    pub(super) copy: Option<Copy>,
    next: Time,
    why: Option<String>,
    /// What passes it on, if this machine does: for each entry of the file that says so.
    pub(super) relays: Vec<Relaying>,
}

impl Receiving {
    pub(super) fn new(begin: Begin, relays: Vec<Begin>) -> Self {
        Self {
            begin,
            copy: None,
            next: Time::ZERO,
            why: None,
            relays: relays.into_iter().map(Relaying::new).collect(),
        }
    }

    /// Everything there is to do now; when to come back, if nothing arrives before.
    pub(super) fn turn(&mut self, now: Time) -> Time {
        let next = self.receive(now);
        // After what came, so that it goes on at once.
        let copy = self.copy.as_ref();
        let passed_on = self.relays.iter_mut().map(|relay| relay.turn(now, copy));
        next.min(passed_on.min().unwrap_or(Time::MAX))
    }

    fn receive(&mut self, now: Time) -> Time {
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
        let sources = self.begin.others.iter();
        let sources = sources.map(|(_, number, at)| (*number, *at)).collect();
        let (region, timing) = (region_id(&self.begin.region.name), self.begin.timing());
        let sealed = self.begin.sealed();
        let mut copy = Copy::new(socket, sealed, region, writer, sources, timing);
        if let Some(group) = self.begin.region.multicast {
            copy.hear(group).map_err(|error| error.to_string())?;
        }
        copy.lose(self.begin.lose_one_in, self.begin.life.0);
        self.copy = Some(copy);
        let from: Vec<&str> = self.begin.others.iter().map(|(n, ..)| n.as_str()).collect();
        info!(region = %self.begin.region.name, from = from.join(", "), "received");
        Ok(Time::ZERO)
    }

    /// The place of who is asked, among those who may send it.
    fn asks(&self) -> usize {
        self.copy.as_ref().map_or(0, Copy::asks)
    }

    /// What is said of those below.
    pub(super) fn passed_on(&self) -> impl Iterator<Item = SentStatus> {
        self.relays.iter().map(|relay| relay.status(self.asks()))
    }

    pub(super) fn status(&self) -> ReceivedStatus {
        let status = ReceivedStatus {
            region: self.begin.region.name.to_string(),
            from: self.begin.others[self.asks()].0.clone(),
            path: self.begin.path(self.asks()),
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
