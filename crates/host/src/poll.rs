//! Waiting for descriptors, to the nanosecond.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// Most descriptors one [`wait`] watches.
pub const MAX_FDS: usize = 64;
/// What the loops of a node wait for.
const FEW: usize = 4;

/// Which of the descriptors given to [`wait`] are ready.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Ready(u64);

impl Ready {
    /// Whether the descriptor at `index` can be read, or has failed or ended, which
    /// reading will tell.
    pub fn contains(self, index: usize) -> bool {
        index < MAX_FDS && self.0 & (1 << index) != 0
    }

    /// Whether the wait timed out.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// Waits until one of at most [`MAX_FDS`] descriptors is readable, or for `timeout`
/// (`None`: for ever; zero: not at all). A signal ends the wait early, with nothing
/// ready. Allocates nothing.
pub fn wait(fds: &[BorrowedFd<'_>], timeout: Option<Duration>) -> io::Result<Ready> {
    let Some((&spare, _)) = fds.split_first() else {
        if let Some(timeout) = timeout {
            std::thread::sleep(timeout);
        }
        return Ok(Ready::default());
    };
    assert!(
        fds.len() <= MAX_FDS,
        "{} descriptors, at most {MAX_FDS}",
        fds.len()
    );
    // To describe many costs more than the call that waits for few.
    match fds.len() <= FEW {
        true => wait_on::<FEW>(fds, spare, timeout),
        false => wait_on::<MAX_FDS>(fds, spare, timeout),
    }
}

/// The same for some descriptors, at most `N`.
fn wait_on<const N: usize>(
    fds: &[BorrowedFd<'_>],
    spare: BorrowedFd<'_>,
    timeout: Option<Duration>,
) -> io::Result<Ready> {
    let mut slots: [PollFd<'_>; N] = core::array::from_fn(|index| {
        PollFd::from_borrowed_fd(*fds.get(index).unwrap_or(&spare), PollFlags::IN)
    });
    let slots = &mut slots[..fds.len()];
    let timeout = timeout.and_then(|span| Timespec::try_from(span).ok());
    match poll(slots, timeout.as_ref()) {
        Ok(_) => {}
        Err(Errno::INTR) => return Ok(Ready::default()),
        Err(error) => return Err(error.into()),
    }
    let ready = slots
        .iter()
        .enumerate()
        .filter(|(_, slot)| !slot.revents().is_empty());
    Ok(Ready(ready.fold(0, |mask, (index, _)| mask | 1 << index)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::fd::AsFd;
    use std::time::Instant;

    #[test]
    fn the_readable_one_is_named() {
        let (one, _one) = std::io::pipe().unwrap();
        let (two, mut two_in) = std::io::pipe().unwrap();
        let fds = [one.as_fd(), two.as_fd()];
        assert!(wait(&fds, Some(Duration::ZERO)).unwrap().is_empty());
        two_in.write_all(b"x").unwrap();
        let ready = wait(&fds, None).unwrap();
        assert!(!ready.contains(0) && ready.contains(1) && !ready.contains(64));
    }

    #[test]
    fn a_wait_ends_in_time() {
        let (reader, _writer) = std::io::pipe().unwrap();
        for fds in [&[][..], &[reader.as_fd()]] {
            let start = Instant::now();
            assert!(
                wait(fds, Some(Duration::from_micros(300)))
                    .unwrap()
                    .is_empty()
            );
            assert!(start.elapsed() >= Duration::from_micros(300));
        }
    }
}
