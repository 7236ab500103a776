//! The workers of one instance: a thread each, and what little they tell one another.
//!
//! The first worker runs on the role's own thread. It speaks for the instance: heartbeats, figures,
//! the local addresses. It says that the instance lives only while all workers turn, and ends them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use stateplane_base::Time;
use stateplane_host::frame::FramePool;
use stateplane_host::priority;

use super::front::Pair;
use super::instance::Seat;
use super::service::Functions;
use super::{GLANCE, Worker};
use crate::failure::Failure;
use crate::regions::keeper::Home;
use crate::stop::Stop;

/// The sign of life of a worker that is not the first.
#[derive(Debug, Default)]
pub(super) struct Pulse {
    at: AtomicU64,
    registered: AtomicBool,
}

impl Pulse {
    /// To be called in every turn.
    pub(super) fn beat(&self, now: Time, registered: bool) {
        // Nothing else is read because of it.
        self.at.store(now.as_nanos(), Ordering::Relaxed);
        self.registered.store(registered, Ordering::Relaxed);
    }

    /// Whether it can serve, and turned within `span`.
    fn serves(&self, now: Time, span: Duration) -> bool {
        let at = Time::from_nanos(self.at.load(Ordering::Relaxed));
        self.registered.load(Ordering::Relaxed) && now.since(at) <= span
    }
}

/// What a worker leaves: its memory and its sockets, until no program leads there any more.
pub(super) type Remains = (FramePool, Pair);

type Thread = JoinHandle<Result<Remains, Failure>>;

/// The workers that are not the first, as the first one has them. Dropping it ends them.
pub(super) struct Team {
    threads: Vec<Thread>,
    pulses: Vec<Arc<Pulse>>,
    homes: Homes,
    /// What they stop at.
    stop: Stop,
    /// A worker that has not turned for so long is stuck.
    stuck: Duration,
}

impl Team {
    /// Starts a thread for each seat.
    pub(super) fn start<R: Functions>(
        seats: Vec<Seat>,
        homes: Homes,
        dead: Duration,
    ) -> Result<Self, Failure> {
        let mut team = Self {
            threads: Vec::with_capacity(seats.len()),
            pulses: seats.iter().map(|seat| Arc::clone(&seat.pulse)).collect(),
            homes,
            stop: Stop::default(),
            // An idle worker turns that seldom.
            stuck: dead + GLANCE,
        };
        for seat in seats {
            let stop = team.stop.clone();
            let thread = thread::Builder::new()
                .name(seat.status.name.clone())
                .spawn(move || Worker::<R>::sit(seat, None, stop)?.run_beside())
                .map_err(|error| Failure::running(format!("cannot start a thread: {error}")))?;
            team.threads.push(thread);
        }
        Ok(team)
    }

    /// Whether all of them can serve.
    pub(super) fn serves(&self, now: Time) -> bool {
        self.pulses
            .iter()
            .all(|pulse| pulse.serves(now, self.stuck))
    }

    /// Whether one has ended that nobody asked to: then the instance ends.
    pub(super) fn has_lost_one(&self) -> bool {
        !self.stop.is_raised() && self.threads.iter().any(JoinHandle::is_finished)
    }

    /// How the switch steers, if that is news; the others hear it too.
    pub(super) fn home(&mut self) -> Option<Home> {
        self.homes.next()
    }

    /// Asks all to drain and to stop.
    pub(super) fn dismiss(&self) {
        self.stop.raise();
    }

    /// Waits until they have; what they leave, and the first failure.
    pub(super) fn part(mut self) -> (Vec<Remains>, Result<(), Failure>) {
        self.dismiss();
        let (mut remains, mut result) = (Vec::new(), Ok(()));
        for thread in std::mem::take(&mut self.threads) {
            let name = thread.thread().name().unwrap_or_default().to_owned();
            let ended = thread.join();
            match ended.unwrap_or_else(|_| Err(Failure::running(format!("worker {name} panicked"))))
            {
                Ok(left) => remains.push(left),
                Err(failure) => result = result.and(Err(failure)),
            }
        }
        (remains, result)
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.dismiss();
    }
}

/// How switches steer, from the regions' thread to every worker.
#[derive(Debug)]
pub(super) struct Homes {
    from: Option<Receiver<Home>>,
    newest: Option<Home>,
    /// Who has not been told of the newest yet.
    to: Vec<(SyncSender<Home>, bool)>,
}

impl Homes {
    /// For one worker that hears it here, and so many that hear it at the ends returned.
    pub(super) fn new(from: Option<Receiver<Home>>, others: usize) -> (Self, Vec<Receiver<Home>>) {
        let (to, ends): (Vec<_>, Vec<_>) = (0..others).map(|_| sync_channel(1)).unzip();
        let homes = Self {
            from,
            newest: None,
            to: to.into_iter().map(|to| (to, false)).collect(),
        };
        (homes, ends)
    }

    fn next(&mut self) -> Option<Home> {
        let news = self.from.as_ref().and_then(|from| from.try_recv().ok());
        if let Some(home) = &news {
            self.newest = Some(home.clone());
            self.to.iter_mut().for_each(|(_, untold)| *untold = true);
        }
        if let Some(newest) = &self.newest {
            // Who has not taken the last one yet is told in a later turn.
            for (to, untold) in self.to.iter_mut().filter(|(_, untold)| *untold) {
                *untold = to.try_send(newest.clone()).is_err();
            }
        }
        news
    }
}

/// Binds the calling thread to a processor, if one is named.
pub(super) fn pin(cpu: Option<usize>) -> Result<(), Failure> {
    let Some(cpu) = cpu else {
        return Ok(());
    };
    priority::pin_to(cpu)
        .map_err(|error| Failure::running(format!("cannot stay on processor {cpu}: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use stateplane_flow::steering::Table;
    use stateplane_host::clock;

    #[test]
    fn a_worker_that_does_not_turn_or_cannot_serve_is_no_sign_of_life() {
        let (pulse, span) = (Pulse::default(), Duration::from_millis(40));
        let now = clock::now();
        assert!(!pulse.serves(now, span), "it has not begun");
        pulse.beat(now, false);
        assert!(!pulse.serves(now, span), "the store does not know it");
        pulse.beat(now, true);
        assert!(pulse.serves(now + span, span));
        assert!(!pulse.serves(now + span + Duration::from_millis(1), span));
    }

    #[test]
    fn every_worker_hears_the_newest_word_of_the_switch() {
        let (to, from) = sync_channel(4);
        let (mut homes, ends) = Homes::new(Some(from), 2);
        let home = |me: u8| (Table::weighted(&[(0, 1), (1, 1)]), me);
        assert!(homes.next().is_none());
        to.send(home(0)).unwrap();
        assert_eq!(homes.next().map(|home| home.1), Some(0));
        to.send(home(1)).unwrap();
        assert_eq!(homes.next().map(|home| home.1), Some(1));
        for end in &ends {
            assert_eq!(end.try_recv().map(|home| home.1), Ok(0), "full until now");
        }
        assert!(homes.next().is_none());
        for end in &ends {
            assert_eq!(end.try_recv().map(|home| home.1), Ok(1));
            assert!(end.try_recv().is_err(), "once");
        }
    }
}
