//! Waiting for many descriptors at once: each is told once when it becomes ready (edge-triggered),
//! so that one with more to read costs nothing while nobody wants it.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Events taken in one [`Epoll::wait`].
const EVENTS: usize = 512;

/// A descriptor that became ready.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ready {
    /// What it was added with.
    pub token: u64,
    /// It can be read, or has ended or failed, which reading will tell.
    pub readable: bool,
    /// The peer sends nothing more: reading on until the end will not wait.
    pub ended: bool,
    /// It can be written, or has failed, which writing will tell.
    pub writable: bool,
}

/// A set of descriptors. One that is closed leaves it.
#[derive(Debug)]
pub struct Epoll {
    fd: OwnedFd,
}

impl Epoll {
    /// An empty set.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            fd: epoll::create(CreateFlags::CLOEXEC)?,
        })
    }

    /// Adds a descriptor.
    pub fn add(&self, source: impl AsFd, token: u64) -> io::Result<()> {
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        Ok(epoll::add(
            &self.fd,
            source,
            EventData::new_u64(token),
            flags,
        )?)
    }

    /// Adds a descriptor that is told as long as it can be read (level-triggered).
    pub fn add_level(&self, source: impl AsFd, token: u64) -> io::Result<()> {
        Ok(epoll::add(
            &self.fd,
            source,
            EventData::new_u64(token),
            EventFlags::IN,
        )?)
    }

    /// Waits for at most `timeout` and hands every descriptor that became ready to `each`. A signal
    /// ends the wait early.
    pub fn wait(&self, timeout: Duration, mut each: impl FnMut(Ready)) -> io::Result<()> {
        let timeout = Timespec::try_from(timeout).ok();
        let mut room = [const { MaybeUninit::<Event>::uninit() }; EVENTS];
        let (events, _) = match epoll::wait(&self.fd, &mut room, timeout.as_ref()) {
            Ok(events) => events,
            Err(Errno::INTR) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let broken = EventFlags::ERR | EventFlags::HUP;
        for event in events {
            let (flags, data) = (event.flags, event.data);
            each(Ready {
                token: data.u64(),
                readable: flags.intersects(EventFlags::IN | EventFlags::RDHUP | broken),
                ended: flags.intersects(EventFlags::RDHUP | broken),
                writable: flags.intersects(EventFlags::OUT | broken),
            });
        }
        Ok(())
    }
}

/// Lets this process have `count` descriptors open, as far as it may.
pub fn allow_descriptors(count: u64) -> io::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= count) {
        return Ok(());
    }
    let maximum = limit.maximum.map_or(count, |maximum| maximum.max(count));
    let raised = Rlimit {
        current: Some(count),
        maximum: limit.maximum.map(|_| maximum),
    };
    Ok(setrlimit(Resource::Nofile, raised)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    fn ready(epoll: &Epoll) -> Vec<Ready> {
        let mut all = Vec::new();
        epoll.wait(Duration::ZERO, |ready| all.push(ready)).unwrap();
        all
    }

    #[test]
    fn each_change_is_told_once_and_levels_as_long_as_they_last() {
        let epoll = Epoll::new().unwrap();
        let (edge, mut edge_peer) = UnixStream::pair().unwrap();
        let (mut level, mut level_peer) = UnixStream::pair().unwrap();
        epoll.add(&edge, 1).unwrap();
        epoll.add_level(&level, 2).unwrap();
        let told = |token, readable, writable| Ready {
            token,
            readable,
            writable,
            ended: false,
        };
        assert_eq!(ready(&epoll), [told(1, false, true)]);
        assert_eq!(ready(&epoll), []);
        edge_peer.write_all(b"x").unwrap();
        level_peer.write_all(b"x").unwrap();
        let mut both = ready(&epoll);
        both.sort_by_key(|ready| ready.token);
        assert_eq!(both, [told(1, true, true), told(2, true, false)]);
        assert_eq!(ready(&epoll), [told(2, true, false)]);
        level.read_exact(&mut [0]).unwrap();
        assert_eq!(ready(&epoll), []);
        drop(edge_peer);
        let ended = Ready {
            ended: true,
            ..told(1, true, true)
        };
        assert_eq!(ready(&epoll), [ended]);
    }
}
