//! For the model checker, to which time stands still: a timer that is set may fire at any
//! moment, so timers are actions like deliveries.

use stateplane_base::Time;
use stateplane_state::Application;

use super::{Replica, Timers};

impl Timers {
    fn named(&mut self) -> [(&'static str, &mut Option<Time>); 9] {
        [
            ("heartbeat", &mut self.heartbeat),
            ("silence", &mut self.silence),
            ("gap", &mut self.gap),
            ("resend", &mut self.resend),
            ("patience", &mut self.patience),
            ("boot", &mut self.boot),
            ("transfer", &mut self.transfer),
            ("snapshot", &mut self.snapshot),
            ("prepare", &mut self.prepare),
        ]
    }
}

impl<A: Application + Clone> Replica<A> {
    /// The timers that are set.
    pub fn armed(&self) -> impl Iterator<Item = &'static str> {
        let mut timers = self.timers.clone();
        let set = timers
            .named()
            .map(|(name, at)| at.is_some().then_some(name));
        set.into_iter().flatten()
    }

    /// Lets one of them fire at `now`, which is the time of everything else, too.
    pub fn fire(&mut self, now: Time, timer: &str) {
        for (name, at) in self.timers.named() {
            if name == timer && at.is_some() {
                *at = Some(now);
            }
        }
        // That it fired means that time has passed.
        self.told_session = None;
        self.on_timer(now);
    }
}
