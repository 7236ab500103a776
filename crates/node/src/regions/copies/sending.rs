//! Regions that are written on this machine.

use stateplane_base::Time;
use stateplane_host::region::Source;
use tracing::info;

use super::LOOK;
use super::begin::Begin;
use super::status::SentStatus;

/// A region that begins here.
pub(super) struct Sending {
    begin: Begin,
    pub(super) source: Option<Source>,
    next: Time,
    why: Option<String>,
}

impl Sending {
    pub(super) fn new(begin: Begin) -> Self {
        Self {
            begin,
            source: None,
            next: Time::ZERO,
            why: None,
        }
    }

    /// Everything there is to do now; when to come back, if nothing arrives before.
    pub(super) fn turn(&mut self, now: Time) -> Time {
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
        self.source = Some(Source::new(self.begin.sender()?, reader));
        info!(region = %self.begin.region.name, "sent to other machines");
        Ok(Time::ZERO)
    }

    pub(super) fn status(&self) -> SentStatus {
        let sender = self.source.as_ref().map(Source::sender);
        self.begin.sent(self.why.as_ref(), sender, 0)
    }
}
