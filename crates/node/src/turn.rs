//! The loop of a role that hears datagrams: wait, hear, act, again.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use stateplane_base::Time;
use stateplane_host::{clock, poll, priority};
use tracing::warn;

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

    /// Takes what has arrived.
    fn hear(&mut self) -> io::Result<()>;

    /// Does what is due. Comes after everything that waited was heard: silence is judged
    /// by what arrived, not by when this thread ran.
    fn act(&mut self, now: Time);
}

/// Turns a role until asked to stop.
pub(crate) fn serve<T: Turn>(role: &mut T, stop: &Stop) -> Result<(), Failure> {
    if let Err(error) = priority::set_nice(T::NICE) {
        let role = T::NAME;
        warn!(%error, role, "runs without priority: it may be late on a busy machine");
    }
    while !stop.is_raised() {
        turn(role).map_err(|error| Failure::running(format!("{}: {error}", T::NAME)))?;
    }
    Ok(())
}

fn turn<T: Turn>(role: &mut T) -> io::Result<()> {
    let span = role.next().since(clock::now()).min(PATIENCE);
    poll::wait(&[role.fd()], Some(span))?;
    role.hear()?;
    role.act(clock::now());
    Ok(())
}
