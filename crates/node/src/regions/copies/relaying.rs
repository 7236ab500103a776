//! Regions that are passed on: received here, and sent to others.

use stateplane_base::Time;
use stateplane_host::region::{Copy, Sender};
use tracing::{info, warn};

use super::LOOK;
use super::begin::Begin;
use super::status::SentStatus;

/// Passes a copy on. It outlives the copy: while that is begun anew, those below keep what
/// they have, and are told how old it grows.
pub(super) struct Relaying {
    begin: Begin,
    pub(super) sender: Option<Sender>,
    next: Time,
    why: Option<String>,
}

impl Relaying {
    pub(super) fn new(begin: Begin) -> Self {
        Self {
            begin,
            sender: None,
            next: Time::ZERO,
            why: None,
        }
    }

    /// Everything there is to do now that `copy` had its turn; when to come back, if nothing
    /// arrives before.
    pub(super) fn turn(&mut self, now: Time, copy: Option<&Copy>) -> Time {
        if now < self.next && self.sender.is_none() {
            return self.next;
        }
        let done = match &mut self.sender {
            None => self.start(),
            Some(sender) => sender.pass_on(now, copy).map_err(|e| e.to_string()),
        };
        self.next = match done {
            Ok(next) => {
                self.why = None;
                // What was not taken up yet is looked at again.
                let waits = |sender: &Sender| copy.is_some_and(|c| c.has() > sender.export().at());
                if self.sender.as_ref().is_some_and(waits) {
                    next.min(now + self.begin.region.interval)
                } else {
                    next
                }
            }
            Err(why) => {
                if self.why.as_ref() != Some(&why) {
                    warn!(region = %self.begin.region.name, why, "not passed on");
                }
                self.why = Some(why);
                now + LOOK
            }
        };
        self.next
    }

    fn start(&mut self) -> Result<Time, String> {
        self.sender = Some(self.begin.sender()?);
        info!(region = %self.begin.region.name, "passed on to other machines");
        Ok(Time::ZERO)
    }

    /// `asks`: the place of who sends the region here.
    pub(super) fn status(&self, asks: usize) -> SentStatus {
        let (why, sender) = (self.why.as_ref(), self.sender.as_ref());
        self.begin.sent(why, sender, asks)
    }
}
