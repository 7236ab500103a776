//! AF_XDP: packets between the network driver and this process, past the kernel's
//! network stack, in frames of a [`FramePool`].
//!
//! ```text
//!            fill ring ───▶ kernel: empty frames to fill
//!              rx ring ◀─── kernel: filled frames
//!              tx ring ───▶ kernel: frames to send
//!      completion ring ◀─── kernel: frames that have been sent
//! ```
//!
//! All ports of a pool share its memory: each interface registers the same region, so
//! that frame numbers mean the same to all and each interface keeps its own mode (a
//! registration shared between interfaces would force one mode on all). The queues of
//! one interface share its registration. Zero-copy is used where the driver has it,
//! copying otherwise; [`XskPort::mode`] says which.
//!
//! Packets arrive only once an XDP program redirects them: see [`crate::bpf`].
//! Checksums of packets sent here are not completed by the kernel.

mod queue;
mod ring;

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::epoll;
use rustix::io::Errno;

use crate::frame::{Frame, FramePool, Lessee};
use crate::port::{Mac, Port, PortStats};
use crate::{busy, ethtool, ifreq};
use queue::{Binding, Queue};

/// How an [`XskPort`] is set up.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct XskConfig {
    /// Entries of each ring, a power of two. The pool needs more frames than all fill
    /// rings together.
    pub ring: u32,
    /// Never try zero-copy.
    pub copy_only: bool,
    /// Which of the interface's queues are opened; the others may be another thread's.
    pub share: Share,
    /// How long a queue that is taken is waited for.
    pub patience: Duration,
}

/// A part of the queues of an interface: every so-many-th.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Share {
    /// The first of them.
    pub first: u32,
    /// The distance to the next.
    pub of: u32,
}

impl Share {
    /// All queues.
    pub const ALL: Share = Share { first: 0, of: 1 };

    /// Those of so many queues that are in it.
    pub fn queues(self, count: u32) -> impl Iterator<Item = u32> {
        (self.first..count).step_by(self.of.max(1) as usize)
    }
}

impl Default for XskConfig {
    fn default() -> Self {
        Self {
            ring: 2048,
            copy_only: false,
            share: Share::ALL,
            patience: busy::PATIENCE,
        }
    }
}

/// How packets come from the driver.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum XskMode {
    /// The kernel copies between the driver's memory and ours.
    Copy,
    /// The driver uses our memory.
    ZeroCopy,
}

impl fmt::Display for XskMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Copy => "copy",
            Self::ZeroCopy => "zero-copy",
        })
    }
}

/// Why a port could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("{interface}: {step}: {source}{hint}")]
pub struct OpenError {
    interface: String,
    step: &'static str,
    hint: String,
    source: io::Error,
}

impl OpenError {
    /// Names the step that failed; the interface is added by [`OpenError::on`].
    fn at<E: Into<io::Error>>(step: &'static str) -> impl FnOnce(E) -> Self {
        move |error| {
            let source = error.into();
            let hint = match Errno::from_io_error(&source) {
                Some(Errno::PERM | Errno::ACCESS) => {
                    " (run as root, or with CAP_NET_RAW, CAP_NET_ADMIN and CAP_BPF)"
                }
                Some(Errno::NOBUFS) => " (raise the limit on locked memory: ulimit -l)",
                Some(Errno::AFNOSUPPORT) => " (this kernel is built without AF_XDP)",
                Some(Errno::NETDOWN) => " (the interface is down: ip link set up)",
                _ => "",
            };
            Self {
                interface: String::new(),
                step,
                hint: hint.to_owned(),
                source,
            }
        }
    }

    fn is_busy(&self) -> bool {
        Errno::from_io_error(&self.source) == Some(Errno::BUSY)
    }

    /// Names a queue that is taken, and who probably has it.
    fn of_queue(mut self, queue: u32) -> Self {
        if self.is_busy() {
            let users = busy::users_of_af_xdp();
            let by = match users.as_slice() {
                [] => {
                    "no other process here uses AF_XDP: this one does, or the kernel has not let go"
                        .to_owned()
                }
                users => format!("likely by {}: stop it", users.join(", ")),
            };
            self.hint = format!(" (queue {queue} is taken, {by})");
        }
        self
    }

    fn on(mut self, interface: &str) -> Self {
        interface.clone_into(&mut self.interface);
        self
    }
}

/// The queues of one interface, or a share of them.
#[derive(Debug)]
pub struct XskPort {
    name: String,
    ifindex: u32,
    mtu: u32,
    mac: Mac,
    mode: XskMode,
    queues: Vec<Queue>,
    share: Share,
    /// With several queues: readable when one of them is.
    readable: Option<OwnedFd>,
    /// The queue to look at first next time, so that none starves.
    turn: usize,
    pool: u64,
    lessee: Lessee,
    stats: PortStats,
}

impl XskPort {
    /// Opens a socket on every receive queue of `interface` that is in the share, and fills its rings.
    pub fn open(
        pool: &mut FramePool,
        interface: &str,
        config: &XskConfig,
    ) -> Result<Self, OpenError> {
        Self::open_queues(pool, interface, config).map_err(|error| error.on(interface))
    }

    fn open_queues(
        pool: &mut FramePool,
        interface: &str,
        config: &XskConfig,
    ) -> Result<Self, OpenError> {
        if !config.ring.is_power_of_two() {
            let error = io::Error::new(io::ErrorKind::InvalidInput, "not a power of two");
            return Err(OpenError::at("ring size")(error));
        }
        let found = OpenError::at("looking up the interface");
        let ifindex = ifreq::index(interface).map_err(found)?;
        let asked = OpenError::at("asking for its properties");
        let (mtu, mac, count) = ifreq::mtu(interface)
            .and_then(|mtu| {
                Ok((
                    mtu,
                    ifreq::mac(interface)?,
                    ethtool::receive_queues(interface)?,
                ))
            })
            .map_err(asked)?;

        let mut queues: Vec<Queue> = Vec::with_capacity(count as usize);
        for queue in config.share.queues(count) {
            let sharing = queues.first().map(Queue::as_fd);
            let place = Binding {
                ifindex,
                queue,
                sharing,
            };
            let opened = busy::wait_while(
                format_args!("{interface}: queue {queue}"),
                config.patience,
                OpenError::is_busy,
                || Queue::open(pool, &place, config),
            );
            queues.push(opened.map_err(|error| error.of_queue(queue))?);
        }
        let Some(first) = queues.first() else {
            let error = format!("it has {count} queue(s), none of them in the share");
            let error = io::Error::new(io::ErrorKind::InvalidInput, error);
            return Err(OpenError::at("choosing its queues")(error));
        };
        let mode = match first.is_zero_copy() {
            true => XskMode::ZeroCopy,
            false => XskMode::Copy,
        };
        let readable = watch(&queues).map_err(OpenError::at("watching its queues"))?;
        let opened = queues.len();
        tracing::info!("{interface}: AF_XDP on {opened} queue(s) of {count}, {mode} mode");
        let lessee = pool.lessee();
        for queue in &mut queues {
            queue.refill(pool, lessee);
        }
        Ok(Self {
            name: interface.to_owned(),
            ifindex,
            mtu,
            mac,
            mode,
            queues,
            share: config.share,
            readable,
            turn: 0,
            pool: pool.identity(),
            lessee,
            stats: PortStats::default(),
        })
    }

    /// The sockets by queue number, for the map an XDP program redirects through.
    pub fn sockets(&self) -> impl Iterator<Item = (u32, BorrowedFd<'_>)> {
        let numbers = self.share.queues(u32::MAX);
        numbers.zip(self.queues.iter().map(Queue::as_fd))
    }

    /// Whether packets are copied.
    pub fn mode(&self) -> XskMode {
        self.mode
    }

    /// Takes back frames that have been sent, without receiving.
    pub fn reclaim(&mut self, pool: &mut FramePool) {
        self.expect_own(pool);
        for queue in &mut self.queues {
            queue.reclaim(pool, self.lessee);
        }
    }

    /// Closes the sockets, after which the kernel uses none of the frames, and takes
    /// all of them back.
    pub fn close(mut self, pool: &mut FramePool) {
        self.expect_own(pool);
        self.readable = None;
        self.queues.clear();
        pool.foreclose(self.lessee);
    }

    fn expect_own(&self, pool: &FramePool) {
        assert_eq!(
            self.pool,
            pool.identity(),
            "{}: used with another pool",
            self.name
        );
    }
}

/// An epoll descriptor over all queues, if there are several.
fn watch(queues: &[Queue]) -> rustix::io::Result<Option<OwnedFd>> {
    if queues.len() < 2 {
        return Ok(None);
    }
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    for queue in queues {
        epoll::add(
            &epoll,
            queue,
            epoll::EventData::new_u64(0),
            epoll::EventFlags::IN,
        )?;
    }
    Ok(Some(epoll))
}

impl Port for XskPort {
    fn receive(&mut self, pool: &mut FramePool, max: usize, into: &mut Vec<Frame>) -> usize {
        self.expect_own(pool);
        let mut total = 0;
        for step in 0..self.queues.len() {
            let which = (self.turn + step) % self.queues.len();
            let queue = &mut self.queues[which];
            let (count, bytes) = queue.receive(pool, self.lessee, max - total, into);
            total += count;
            self.stats.received += count as u64;
            self.stats.received_bytes += bytes;
        }
        self.turn = (self.turn + 1) % self.queues.len().max(1);
        total
    }

    /// Everything is sent through the first queue, which keeps each flow's packets in order
    /// whichever of our queues they arrived on.
    fn transmit(&mut self, pool: &mut FramePool, from: &mut Vec<Frame>) -> usize {
        self.expect_own(pool);
        let Some(queue) = self.queues.first_mut() else {
            return 0;
        };
        queue.reclaim(pool, self.lessee);
        let count = queue.room(from.len());
        for frame in from.drain(..count) {
            if frame.is_empty() {
                // The kernel would skip an empty packet without ever returning the frame.
                self.stats.dropped_other += 1;
                pool.give(frame);
                continue;
            }
            let (address, len) = pool.lend(frame, self.lessee);
            queue.push(address, len);
            self.stats.sent += 1;
            self.stats.sent_bytes += u64::from(len);
        }
        if count > 0 {
            queue.publish();
        }
        self.stats.send_full += from.len() as u64;
        count
    }

    fn flush(&mut self) {
        self.queues.iter_mut().for_each(Queue::kick);
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        match &self.readable {
            Some(epoll) => Some(epoll.as_fd()),
            None => self.queues.first().map(Queue::as_fd),
        }
    }

    fn stats(&self) -> PortStats {
        let mut stats = self.stats;
        for queue in &self.queues {
            stats.kicks += queue.kicks;
            if let Some(kernel) = queue.statistics() {
                // The kernel counts a packet without a free frame under both numbers.
                let no_frame = kernel.rx_fill_ring_empty_descs.unwrap_or(0);
                stats.dropped_no_frame += no_frame;
                stats.dropped_ring_full += kernel.rx_ring_full.unwrap_or(0);
                stats.dropped_other += kernel.rx_dropped.saturating_sub(no_frame);
                stats.dropped_other += kernel.rx_invalid_descs;
            }
        }
        stats
    }

    fn mtu(&self) -> u32 {
        self.mtu
    }

    fn mac(&self) -> Mac {
        self.mac
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn ifindex(&self) -> u32 {
        self.ifindex
    }
}
