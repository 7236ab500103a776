//! The loop of a role that hears datagrams: hear, act, and wait if there was nothing.
//!
//! Nothing is ever waited for to make a batch larger: what has arrived is taken together
//! and answered together. On an idle machine that is one datagram, which leaves at once.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use stateplane_base::Time;
use stateplane_host::{clock, poll, priority};
use tracing::warn;

use crate::config::Io;
use crate::failure::Failure;
use crate::stop::Stop;

/// The loop looks at the stop flag at least this often.
const PATIENCE: Duration = Duration::from_millis(50);

/// What differs between such roles.
pub(crate) trait Turn {
    /// Its name, for errors.
    const NAME: &'static str;
    /// How urgent it is, as a niceness.
    const NICE: i32;

    /// What it hears with.
    fn fd(&self) -> BorrowedFd<'_>;

    /// When it has something to do even if it hears nothing.
    fn next(&self) -> Time;

    /// Takes what has arrived; how many datagrams that were.
    fn hear(&mut self, now: Time) -> io::Result<usize>;

    /// Does what was due at `now`, when the turn began. Comes after everything that waited
    /// then was heard: silence is judged by what arrived, not by when this thread ran.
    fn act(&mut self, now: Time) -> io::Result<()>;
}

/// Turns a role until asked to stop.
pub(crate) fn serve<T: Turn>(role: &mut T, io: Io, stop: &Stop) -> Result<(), Failure> {
    if let Err(error) = priority::set_nice(T::NICE) {
        let role = T::NAME;
        warn!(%error, role, "runs without priority: it may be late on a busy machine");
    }
    let mut awake = clock::now();
    while !stop.is_raised() {
        awake = turn(role, io, awake)
            .map_err(|error| Failure::running(format!("{}: {error}", T::NAME)))?;
    }
    Ok(())
}

/// One turn of a role that last heard something at `awake`; when it did now.
fn turn<T: Turn>(role: &mut T, io: Io, awake: Time) -> io::Result<Time> {
    let now = clock::now();
    let heard = role.hear(now)?;
    role.act(now)?;
    let awake = if heard > 0 { now } else { awake };
    if heard > 1 {
        // Where several came at once there are more by now: no need to ask.
        return Ok(awake);
    }
    if now.since(awake) < io.busy_poll {
        std::hint::spin_loop();
        return Ok(awake);
    }
    let span = role.next().since(clock::now()).min(PATIENCE);
    poll::wait(&[role.fd()], Some(span))?;
    Ok(awake)
}
