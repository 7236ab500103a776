//! The broker: hands out the memory of regions by name.
//!
//! It knows who has which name, promises epochs to writers and keeps what they offer, so
//! that a region outlives its writer. It is asked when somebody attaches, never when
//! somebody reads or publishes: while it is down everything attached goes on, and what
//! was decided last (epochs, owners) lies in the [board](crate::board), where the next one
//! finds it. Writers notice a new broker and offer their regions again. Only what no
//! writer has any more is lost with the broker.

pub(crate) mod message;
pub mod outside;
mod registry;
pub(crate) mod socket;

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvFlags, SendFlags, SocketFlags};

use crate::board::{Board, MAX_REGIONS};
use crate::object::Object;
use message::{LIST_MAX, MESSAGE_MAX, Refusal, Reply, Request};
pub use registry::Limits;
use registry::{Peer, Registry};

/// Processes that may be connected at once.
const CONNECTIONS_MAX: usize = 1024;
/// Those the kernel lets wait.
const BACKLOG: i32 = 128;

/// Serves the regions of one machine (or of one directory: there may be several).
#[derive(Debug)]
pub struct Broker {
    dir: PathBuf,
    listener: OwnedFd,
    board: Board,
    registry: Registry<Arc<OwnedFd>>,
    connections: Vec<(OwnedFd, Peer)>,
    next: u64,
    buffer: Vec<u8>,
}

impl Broker {
    /// Begins to serve `dir`, which is made if it is not there. It should lie in memory,
    /// such as `/run/stateplane/regions`, and stay as long as any region does.
    pub fn open(dir: &Path, limits: Limits) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let board = Board::serve(dir)?;
        let rows: Vec<_> = (0..MAX_REGIONS).map(|slot| board.row(slot)).collect();
        let path = socket::path(dir);
        // The lock on the board says that whoever left this is gone.
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = socket::open()?;
        rustix::net::bind(&listener, &socket::address(dir)?)?;
        // Anyone may ask; who may have what, the kernel's word on the peer decides.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666))?;
        rustix::net::listen(&listener, BACKLOG)?;
        Ok(Self {
            dir: dir.to_owned(),
            listener,
            board,
            registry: Registry::new(limits, rows.into_iter()),
            connections: Vec::new(),
            next: 1,
            buffer: vec![0; MESSAGE_MAX],
        })
    }

    /// Serves until `stop` is set, which it looks at ten times a second.
    pub fn run(&mut self, stop: &AtomicBool) -> io::Result<()> {
        while !stop.load(Ordering::Acquire) {
            self.turn(Duration::from_millis(100))?;
        }
        Ok(())
    }

    /// Waits for requests, at most so long, and serves those that are there.
    pub fn turn(&mut self, wait: Duration) -> io::Result<()> {
        let listener = self.listener.as_fd();
        let mut all: Vec<PollFd<'_>> = Vec::with_capacity(self.connections.len() + 1);
        all.push(PollFd::from_borrowed_fd(listener, PollFlags::IN));
        for (socket, _) in &self.connections {
            all.push(PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::IN));
        }
        let wait = Timespec {
            tv_sec: i64::try_from(wait.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: wait.subsec_nanos().into(),
        };
        match poll(&mut all, Some(&wait)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ready: Vec<bool> = all.iter().map(|fd| !fd.revents().is_empty()).collect();
        // From the end, so that those to come keep their places.
        for index in (0..self.connections.len()).rev() {
            if ready[index + 1] && !self.serve(index) {
                let (_, peer) = self.connections.swap_remove(index);
                self.registry.disconnected(peer.connection);
                self.write_board();
            }
        }
        if ready[0] {
            self.accept();
        }
        Ok(())
    }

    fn accept(&mut self) {
        let Ok(socket) = rustix::net::accept_with(&self.listener, SocketFlags::CLOEXEC) else {
            return;
        };
        let Ok(peer) = rustix::net::sockopt::socket_peercred(&socket) else {
            return;
        };
        if self.connections.len() >= CONNECTIONS_MAX {
            return;
        }
        let peer = Peer {
            connection: self.next,
            user: peer.uid.as_raw(),
            group: peer.gid.as_raw(),
            process: peer.pid.as_raw_pid().unsigned_abs(),
        };
        self.next += 1;
        self.connections.push((socket, peer));
    }

    /// One request of a connection; false: it has ended.
    fn serve(&mut self, index: usize) -> bool {
        let (socket, peer) = &self.connections[index];
        let (peer, mut buffer) = (*peer, std::mem::take(&mut self.buffer));
        let received = socket::receive(socket.as_fd(), &mut buffer, RecvFlags::DONTWAIT);
        let answer = match received {
            Ok((0, _)) => None,
            Ok((len, object)) => Some(match Request::decode(&buffer[..len]) {
                Ok(request) => self.handle(peer, request, object),
                Err(_) => (Reply::Refused(Refusal::Wrong("request")), None),
            }),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.buffer = buffer;
                return true;
            }
            Err(_) => None,
        };
        self.buffer = buffer;
        let Some((reply, object)) = answer else {
            return false;
        };
        self.write_board();
        let mut bytes = Vec::new();
        reply.encode(&mut bytes);
        let object = object.as_deref().map(AsFd::as_fd);
        let (socket, _) = &self.connections[index];
        // Who does not take replies is not waited for.
        socket::send(socket.as_fd(), &bytes, object, SendFlags::DONTWAIT).is_ok()
    }

    fn handle(
        &mut self,
        peer: Peer,
        request: Request,
        object: Option<OwnedFd>,
    ) -> (Reply, Option<Arc<OwnedFd>>) {
        let registry = &mut self.registry;
        let done = |result: Result<(), Refusal>| result.map(|()| (Reply::Done, None));
        let slot = |slot: usize| u32::try_from(slot).expect("fewer slots than that");
        let result = match request {
            Request::Claim {
                name,
                how,
                access,
                bytes,
            } => registry
                .claim(peer, &name, how, access, bytes)
                .map(|promise| {
                    let reply = Reply::Promised {
                        epoch: promise.epoch,
                        slot: slot(promise.slot),
                    };
                    (reply, promise.last)
                }),
            Request::Offer(name) => offered(name.as_str(), object)
                .and_then(|(object, facts)| done(registry.offer(peer, &name, facts, object))),
            Request::OfferAgain(name) => {
                offered(name.as_str(), object).and_then(|(object, facts)| {
                    let again = registry.offer_again(peer, &name, facts, object);
                    again.map(|at| (Reply::Attached { slot: slot(at) }, None))
                })
            }
            Request::Attach(name) => registry
                .attach(peer, &name)
                .map(|(at, object)| (Reply::Attached { slot: slot(at) }, Some(object))),
            Request::Release { name, epoch } => done(registry.release(peer, &name, epoch)),
            Request::Delete(name) => done(registry.delete(peer, &name)),
            Request::List { prefix, after } => {
                let entries = registry.list(peer, &prefix, &after, LIST_MAX);
                let more = entries.len() == LIST_MAX;
                Ok((Reply::Listed { entries, more }, None))
            }
        };
        result.unwrap_or_else(|refusal| (Reply::Refused(refusal), None))
    }

    /// What was decided is on the board before anybody is told.
    fn write_board(&mut self) {
        for (slot, row) in self.registry.take_changes() {
            self.board.write(slot, &row);
        }
    }
}

type Offered = (Arc<OwnedFd>, (u64, u64));

/// An object that came with a request: it must be what it is offered as, since readers
/// are going to map it. Its epoch, and the memory it takes.
fn offered(name: &str, object: Option<OwnedFd>) -> Result<Offered, Refusal> {
    let object = object.ok_or(Refusal::Wrong("no object"))?;
    let wrong = Refusal::Wrong("object");
    let copy = object.try_clone().map_err(|_| wrong.clone())?;
    let opened = Object::open(copy).map_err(|_| wrong.clone())?;
    if opened.name() != name {
        return Err(wrong);
    }
    Ok((Arc::new(object), (opened.epoch(), opened.bytes() as u64)))
}

impl Drop for Broker {
    fn drop(&mut self) {
        // The board stays: it is what the next broker goes on from.
        let _ = fs::remove_file(socket::path(&self.dir));
    }
}
