//! A port: where frames come from and go to.
//!
//! The worker's loop is the same over AF_XDP ([`crate::xsk`]), a capture file
//! ([`crate::pcap`]) and memory ([`crate::memory`]).

use std::fmt;
use std::os::fd::BorrowedFd;

use crate::frame::{Frame, FramePool};

/// A hardware address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a port has seen, since it was opened.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct PortStats {
    /// Frames received.
    pub received: u64,
    /// Their bytes.
    pub received_bytes: u64,
    /// Frames accepted for sending.
    pub sent: u64,
    /// Their bytes.
    pub sent_bytes: u64,
    /// Frames refused because the outgoing ring was full; the caller still has them.
    pub send_full: u64,
    /// Frames the kernel dropped because no free frame was in the fill ring.
    pub dropped_no_frame: u64,
    /// Frames the kernel dropped because the receive ring was full.
    pub dropped_ring_full: u64,
    /// Frames dropped for other reasons: too large, or described wrongly.
    pub dropped_other: u64,
    /// Times the kernel was called to send.
    pub kicks: u64,
}

/// Where frames come from and go to. One thread uses a port at a time.
pub trait Port {
    /// Appends at most `max` received frames to `into`; how many. Never waits.
    fn receive(&mut self, pool: &mut FramePool, max: usize, into: &mut Vec<Frame>) -> usize;

    /// Takes frames from the front of `from` as long as there is room; how many. The
    /// rest stays with the caller, who tries again or drops. Call
    /// [`Port::flush`] at the end of a batch.
    fn transmit(&mut self, pool: &mut FramePool, from: &mut Vec<Frame>) -> usize;

    /// Makes sure that everything accepted is on its way.
    fn flush(&mut self);

    /// Becomes readable when there is something to receive. `None`: never wait for
    /// this port, ask it.
    fn fd(&self) -> Option<BorrowedFd<'_>>;

    /// Counters so far.
    fn stats(&self) -> PortStats;

    /// Largest IP packet that may be sent.
    fn mtu(&self) -> u32;

    /// The port's own hardware address.
    fn mac(&self) -> Mac;

    /// Name for people: the interface or the file.
    fn name(&self) -> &str;

    /// The kernel's number of the interface, 0 if there is none behind the port.
    fn ifindex(&self) -> u32 {
        0
    }
}
