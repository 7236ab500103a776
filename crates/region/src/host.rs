//! Regions by name: what a process asks the broker for.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{RecvFlags, SendFlags};

use crate::board::Board;
use crate::broker::message::{Claim, Entry, MESSAGE_MAX, Refusal, Reply, Request};
use crate::broker::socket;
use crate::fence::{Fence, Seat};
use crate::name::Name;
use crate::object::{Object, OpenError};
use crate::publisher::Publisher;
use crate::reader::Reader;
use crate::spec::{Content, Spec};
use crate::writer::{self, Writer};

/// How long the broker may take for an answer.
const ANSWER: Duration = Duration::from_secs(5);
/// How often a lost broker is looked for.
const SEARCH: Duration = Duration::from_millis(100);

/// Why a region could not be had.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The broker cannot be reached.
    #[error("no broker answers in {dir}: {error}; start one with `stateplane region broker`")]
    NoBroker {
        /// Where it should be.
        dir: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// The broker says no.
    #[error("{name}: {refusal}")]
    Refused {
        /// The region.
        name: String,
        /// Why.
        refusal: Refusal,
    },
    /// The memory could not be made.
    #[error("{name}: the memory cannot be had: {error}")]
    Memory {
        /// The region.
        name: Name,
        /// What the system says, or what is wrong with the specification.
        error: io::Error,
    },
    /// The memory is not what it should be.
    #[error("{name}: {error}")]
    Open {
        /// The region.
        name: Name,
        /// What is wrong.
        error: OpenError,
    },
}

/// A process's connection to the broker of its machine.
///
/// It is used when regions are made, attached or deleted, and at no other time. If the
/// broker goes, a thread waits for the next one and offers this process's regions to it.
#[derive(Clone, Debug)]
pub struct Host {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    board: Arc<Board>,
    link: Mutex<Link>,
}

#[derive(Debug, Default)]
struct Link {
    socket: Option<Arc<OwnedFd>>,
    /// What this process writes.
    offered: Vec<Offer>,
}

#[derive(Debug)]
struct Offer {
    name: Name,
    epoch: u64,
    object: OwnedFd,
}

impl Host {
    /// Connects to the broker that serves `dir`.
    pub fn connect(dir: &Path) -> Result<Self, HostError> {
        let failed = |error| HostError::NoBroker {
            dir: dir.to_owned(),
            error,
        };
        let mut link = Link::default();
        link.connect(dir).map_err(failed)?;
        let inner = Arc::new(Inner {
            dir: dir.to_owned(),
            board: Arc::new(Board::look(dir).map_err(failed)?),
            link: Mutex::new(link),
        });
        let weak = Arc::downgrade(&inner);
        thread::Builder::new()
            .name("region-host".to_owned())
            .spawn(move || keep(&weak))
            .map_err(failed)?;
        Ok(Self { inner })
    }

    /// Creates a region. It has version 0, and nothing to read, until it is published.
    pub fn create<T: ?Sized + Content>(
        &self,
        name: &Name,
        spec: &Spec,
    ) -> Result<Writer<T>, HostError> {
        self.write(name, spec, Claim::New)
    }

    /// Becomes the writer of a region that has none, going on from its last version; or
    /// creates it.
    pub fn open<T: ?Sized + Content>(
        &self,
        name: &Name,
        spec: &Spec,
    ) -> Result<Writer<T>, HostError> {
        self.write(name, spec, Claim::IfVacant)
    }

    /// Becomes the writer of a region, going on from its last version, even if it has one:
    /// that one is fenced. Or creates it.
    pub fn take_over<T: ?Sized + Content>(
        &self,
        name: &Name,
        spec: &Spec,
    ) -> Result<Writer<T>, HostError> {
        self.write(name, spec, Claim::Force)
    }

    fn write<T: ?Sized + Content>(
        &self,
        name: &Name,
        spec: &Spec,
        how: Claim,
    ) -> Result<Writer<T>, HostError> {
        let memory = |error| HostError::Memory {
            name: name.clone(),
            error,
        };
        writer::check::<T>(spec).map_err(memory)?;
        // Before anybody is fenced: would this go on from what is there?
        if let Ok((_, last)) = self.memory(name) {
            Publisher::may_succeed(&last, spec).map_err(memory)?;
        }
        let plan = spec.plan().map_err(memory)?;
        let claim = Request::Claim {
            name: name.clone(),
            how,
            access: spec.access,
            bytes: plan.object_len(spec.huge_pages) as u64,
        };
        let (reply, last) = self.ask(name.as_str(), &claim, None)?;
        let Reply::Promised { epoch, slot } = reply else {
            return Err(self.nonsense());
        };
        let made = self.fill(name, spec, epoch, last);
        let mut publisher = made.inspect_err(|_| self.release(name, epoch))?;
        self.ask(
            name.as_str(),
            &Request::Offer(name.clone()),
            Some(&publisher),
        )?;
        let object = publisher.object().fd().try_clone_to_owned();
        self.inner.link().offered.push(Offer {
            name: name.clone(),
            epoch,
            object: object.map_err(memory)?,
        });
        let (host, of) = (self.clone(), name.clone());
        publisher.set_fence(Fence::new(self.seat(slot), epoch, move || {
            host.release(&of, epoch);
        }));
        Ok(Writer::of(publisher))
    }

    fn fill(
        &self,
        name: &Name,
        spec: &Spec,
        epoch: u64,
        last: Option<OwnedFd>,
    ) -> Result<Publisher, HostError> {
        let memory = |error| HostError::Memory {
            name: name.clone(),
            error,
        };
        let Some(last) = last else {
            return Publisher::create(name.as_str(), spec, epoch).map_err(memory);
        };
        let last = Object::open(last).map_err(|error| HostError::Open {
            name: name.clone(),
            error,
        })?;
        Publisher::succeed(&last, spec, epoch).map_err(memory)
    }

    /// Attaches to a region, to read it. `meaning` is the schema its contents must have;
    /// "" takes any. Dropping the reader detaches.
    pub fn attach<T: ?Sized + Content>(
        &self,
        name: &Name,
        meaning: &str,
    ) -> Result<Reader<T>, HostError> {
        let (seat, object) = self.memory(name)?;
        let reader = Reader::of(object, meaning, Some(seat));
        reader.map_err(|error| HostError::Open {
            name: name.clone(),
            error,
        })
    }

    fn memory(&self, name: &Name) -> Result<(Seat, Object), HostError> {
        let request = Request::Attach(name.clone());
        let (reply, object) = self.ask(name.as_str(), &request, None)?;
        let (Reply::Attached { slot }, Some(object)) = (reply, object) else {
            return Err(self.nonsense());
        };
        let object = Object::open(object).map_err(|error| HostError::Open {
            name: name.clone(),
            error,
        })?;
        Ok((self.seat(slot), object))
    }

    fn seat(&self, slot: u32) -> Seat {
        Seat::new(Arc::clone(&self.inner.board), slot as usize)
    }

    /// Deletes a region. Its readers and its writer are told when they next use it.
    pub fn delete(&self, name: &Name) -> Result<(), HostError> {
        self.ask(name.as_str(), &Request::Delete(name.clone()), None)?;
        Ok(())
    }

    /// The regions below `prefix` ("" for all) that this process may read.
    pub fn list(&self, prefix: &str) -> Result<Vec<Entry>, HostError> {
        let mut all: Vec<Entry> = Vec::new();
        loop {
            let after = all.last().map_or(String::new(), |e| e.name.to_string());
            let request = Request::List {
                prefix: prefix.to_owned(),
                after,
            };
            let (Reply::Listed { entries, more }, _) = self.ask(prefix, &request, None)? else {
                return Err(self.nonsense());
            };
            // They come in order, or this would never end.
            let goes_on = |e: &Entry| all.last().is_none_or(|last| last.name < e.name);
            if !entries.first().is_none_or(goes_on) {
                return Err(self.nonsense());
            }
            let end = entries.is_empty() || !more;
            all.extend(entries);
            if end {
                return Ok(all);
            }
        }
    }

    fn release(&self, name: &Name, epoch: u64) {
        let mut link = self.inner.link();
        link.offered.retain(|o| o.name != *name || o.epoch != epoch);
        // A broker that is gone, or gave it to another already, need not be told.
        let name = name.clone();
        let _ = link.ask(&Request::Release { name, epoch }, None);
    }

    fn ask(
        &self,
        name: &str,
        request: &Request,
        object: Option<&Publisher>,
    ) -> Result<(Reply, Option<OwnedFd>), HostError> {
        let mut link = self.inner.link();
        let object = object.map(|publisher| publisher.object().fd());
        let mut answer = link.ask(request, object);
        if answer.is_err() {
            // Perhaps another broker has begun.
            answer = link
                .connect(&self.inner.dir)
                .and_then(|()| link.ask(request, object));
        }
        match answer {
            Ok((Reply::Refused(refusal), _)) => Err(HostError::Refused {
                name: name.to_owned(),
                refusal,
            }),
            Ok(answer) => Ok(answer),
            Err(error) => Err(HostError::NoBroker {
                dir: self.inner.dir.clone(),
                error,
            }),
        }
    }

    fn nonsense(&self) -> HostError {
        HostError::NoBroker {
            dir: self.inner.dir.clone(),
            error: io::Error::new(
                io::ErrorKind::InvalidData,
                "its answer is no answer to that",
            ),
        }
    }
}

impl Inner {
    fn link(&self) -> MutexGuard<'_, Link> {
        // Whatever panicked left at worst a reply unread: then the next exchange fails
        // and begins anew.
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Link {
    /// Connects, and offers again what this process writes.
    fn connect(&mut self, dir: &Path) -> io::Result<()> {
        self.socket = None;
        let socket = socket::open()?;
        rustix::net::connect(&socket, &socket::address(dir)?)?;
        set_socket_timeout(&socket, Timeout::Recv, Some(ANSWER))?;
        set_socket_timeout(&socket, Timeout::Send, Some(ANSWER))?;
        self.socket = Some(Arc::new(socket));
        let mut offered = std::mem::take(&mut self.offered);
        let mut result = Ok(());
        // One that is refused has been given to another meanwhile: the board says so to
        // its writer.
        offered.retain(|offer| {
            let request = Request::OfferAgain(offer.name.clone());
            match self.ask(&request, Some(offer.object.as_fd())) {
                Ok((Reply::Refused(refusal), _)) => !matches!(refusal, Refusal::Fenced(_)),
                Ok(_) => true,
                Err(error) => {
                    result = Err(error);
                    true
                }
            }
        });
        self.offered = offered;
        result
    }

    fn ask(
        &mut self,
        request: &Request,
        object: Option<std::os::fd::BorrowedFd<'_>>,
    ) -> io::Result<(Reply, Option<OwnedFd>)> {
        let socket = self.socket.clone().ok_or(io::ErrorKind::NotConnected)?;
        let exchange = || {
            let mut bytes = Vec::new();
            request.encode(&mut bytes);
            socket::send(socket.as_fd(), &bytes, object, SendFlags::empty())?;
            bytes.resize(MESSAGE_MAX, 0);
            let (len, object) = socket::receive(socket.as_fd(), &mut bytes, RecvFlags::empty())?;
            let reply = Reply::decode(&bytes[..len]);
            let reply = reply.map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
            Ok((reply, object))
        };
        let answer = exchange();
        if answer.is_err() {
            // A reply that comes late must not be taken for that of the next request.
            self.socket = None;
        }
        answer
    }
}

/// Looks for a new broker when the old one has gone, as long as the host is in use.
fn keep(host: &Weak<Inner>) {
    loop {
        let Some(socket) = host.upgrade().map(|inner| inner.link().socket.clone()) else {
            return;
        };
        let gone = socket.is_none_or(|socket| hung_up(&socket));
        let Some(inner) = host.upgrade() else {
            return;
        };
        if gone {
            let connected = inner.link().connect(&inner.dir).is_ok();
            drop(inner);
            if !connected {
                thread::sleep(SEARCH);
            }
        }
    }
}

/// Waits a moment for the other side to hang up; whether it has.
fn hung_up(socket: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(socket, PollFlags::RDHUP)];
    let wait = Timespec {
        tv_sec: 0,
        tv_nsec: i64::from(SEARCH.subsec_nanos()),
    };
    let ended = PollFlags::HUP | PollFlags::RDHUP | PollFlags::ERR;
    poll(&mut fds, Some(&wait)).is_ok() && fds[0].revents().intersects(ended)
}
