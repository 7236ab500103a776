//! One AF_XDP socket: one receive queue and one send queue of an interface.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::xdp::{
    SocketAddrXdp, SocketAddrXdpFlags, SocketAddrXdpWithSharedUmem, XDP_PGOFF_RX_RING,
    XDP_PGOFF_TX_RING, XDP_UMEM_PGOFF_COMPLETION_RING, XDP_UMEM_PGOFF_FILL_RING, XdpDesc,
    XdpDescOptions, XdpOptionsFlags, XdpStatistics, XdpUmemReg, XdpUmemRegFlags,
};
use rustix::net::{self, AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, sockopt};

use super::ring::{Consumer, Place, Producer};
use super::{OpenError, XskConfig};
use crate::frame::{Frame, FramePool, Lessee};

/// Room for packets on their way to the driver; beyond it the kernel asks us to wait.
const SEND_BUFFER: usize = 16 << 20;

/// Which queue of which interface, and whose registration of the memory it uses.
pub(super) struct Binding<'a> {
    pub(super) ifindex: u32,
    pub(super) queue: u32,
    pub(super) sharing: Option<BorrowedFd<'a>>,
}

/// One socket with its rings.
#[derive(Debug)]
pub(super) struct Queue {
    socket: OwnedFd,
    receive: Consumer<XdpDesc>,
    send: Producer<XdpDesc>,
    fill: Producer<u64>,
    completion: Consumer<u64>,
    rings: XskConfig,
    /// The kernel has not taken everything sent and must be called again.
    unfinished: bool,
    /// Packets sent whose frames have not come back.
    in_flight: u32,
    /// The fill ring has room that no free frame was there for.
    hungry: bool,
    pub(super) kicks: u64,
}

impl Queue {
    /// Opens and binds the socket, with empty rings.
    pub(super) fn open(
        pool: &FramePool,
        place: &Binding<'_>,
        config: &XskConfig,
    ) -> Result<Self, OpenError> {
        let flags = SocketFlags::CLOEXEC;
        let socket = net::socket_with(AddressFamily::XDP, SocketType::RAW, flags, None)
            .map_err(OpenError::at("opening an AF_XDP socket"))?;
        if place.sharing.is_none() {
            sockopt::set_xdp_umem_reg(&socket, registration(pool))
                .map_err(OpenError::at("registering packet memory"))?;
        }
        let rings = Self::rings(&socket, config).map_err(OpenError::at("setting up rings"))?;
        // Without the right to exceed the limit the default must do: it only bounds how
        // much one call sends.
        let _ = sockopt::set_socket_send_buffer_size_force(&socket, SEND_BUFFER);

        let mut flags = SocketAddrXdpFlags::empty();
        let bound = if let Some(owner) = place.sharing {
            // Mode and wake-up are those of the registration.
            flags |= SocketAddrXdpFlags::XDP_SHARED_UMEM;
            let addr = SocketAddrXdp::new(flags, place.ifindex, place.queue);
            net::bind(
                &socket,
                &SocketAddrXdpWithSharedUmem {
                    addr,
                    shared_umem_fd: owner,
                },
            )
        } else {
            flags |= SocketAddrXdpFlags::XDP_USE_NEED_WAKEUP;
            if config.copy_only {
                flags |= SocketAddrXdpFlags::XDP_COPY;
            }
            // Neither copy nor zero-copy asked for: the kernel takes the best it has.
            net::bind(
                &socket,
                &SocketAddrXdp::new(flags, place.ifindex, place.queue),
            )
        };
        bound.map_err(OpenError::at("binding to the queue"))?;
        let (receive, send, fill, completion) = rings;
        let rings = config.clone();
        Ok(Self {
            socket,
            receive,
            send,
            fill,
            completion,
            rings,
            unfinished: false,
            in_flight: 0,
            hungry: false,
            kicks: 0,
        })
    }

    #[allow(
        clippy::type_complexity,
        reason = "the four rings, named at once by the caller"
    )]
    fn rings(
        socket: &OwnedFd,
        config: &XskConfig,
    ) -> io::Result<(
        Consumer<XdpDesc>,
        Producer<XdpDesc>,
        Producer<u64>,
        Consumer<u64>,
    )> {
        let size = config.ring;
        sockopt::set_xdp_umem_fill_ring_size(socket, size)?;
        sockopt::set_xdp_umem_completion_ring_size(socket, size)?;
        sockopt::set_xdp_rx_ring_size(socket, size)?;
        sockopt::set_xdp_tx_ring_size(socket, size)?;
        let offsets = sockopt::xdp_mmap_offsets(socket)?;
        let place = |page_offset, offset| Place {
            page_offset,
            size,
            offset,
        };
        Ok((
            Consumer::open(socket, &place(XDP_PGOFF_RX_RING, &offsets.rx))?,
            Producer::open(socket, &place(XDP_PGOFF_TX_RING, &offsets.tx))?,
            Producer::open(socket, &place(XDP_UMEM_PGOFF_FILL_RING, &offsets.fr))?,
            Consumer::open(socket, &place(XDP_UMEM_PGOFF_COMPLETION_RING, &offsets.cr))?,
        ))
    }

    pub(super) fn is_zero_copy(&self) -> bool {
        sockopt::xdp_options(&self.socket)
            .is_ok_and(|options| options.contains(XdpOptionsFlags::XDP_OPTIONS_ZEROCOPY))
    }

    /// Takes at most `max` received frames; how many, and their bytes.
    pub(super) fn receive(
        &mut self,
        pool: &mut FramePool,
        port: Lessee,
        max: usize,
        into: &mut Vec<Frame>,
    ) -> (usize, u64) {
        self.reclaim(pool, port);
        let max = u32::try_from(max).unwrap_or(u32::MAX);
        let count = self.receive.available(max);
        let mut bytes = 0;
        for _ in 0..count {
            let entry = self.receive.pop();
            bytes += u64::from(entry.len);
            into.push(pool.received(entry.addr, entry.len, port));
        }
        if count > 0 {
            self.receive.release();
        }
        if count > 0 || self.hungry {
            self.refill(pool, port);
        }
        if self.unfinished {
            self.kick();
        }
        (count as usize, bytes)
    }

    /// Hands free frames to the kernel until its ring is full, but leaves the pool a
    /// few for packets the worker makes itself.
    pub(super) fn refill(&mut self, pool: &mut FramePool, port: Lessee) {
        let spare = pool.census().free.saturating_sub(pool.size() / 32);
        let spare = u32::try_from(spare).unwrap_or(u32::MAX);
        let room = self.fill.room(self.rings.ring);
        let count = room.min(spare);
        self.hungry = count < room;
        for _ in 0..count {
            let address = pool.lend_free(port).expect("`spare` frames are free");
            self.fill.push(address);
        }
        if count > 0 {
            self.fill.publish();
            if self.fill.needs_wakeup() {
                // Only a driver that ran out of frames asks for this.
                let mut nothing = [0; 0];
                let _ = net::recv(&self.socket, &mut nothing, RecvFlags::DONTWAIT);
            }
        }
    }

    /// Takes back frames that have been sent.
    pub(super) fn reclaim(&mut self, pool: &mut FramePool, port: Lessee) {
        let count = self.completion.available(self.in_flight);
        self.in_flight -= count;
        for _ in 0..count {
            pool.returned(self.completion.pop(), port);
        }
        if count > 0 {
            self.completion.release();
        }
    }

    /// Room in the send ring, up to `wanted`.
    pub(super) fn room(&mut self, wanted: usize) -> usize {
        let wanted = u32::try_from(wanted).unwrap_or(u32::MAX);
        self.send.room(wanted).min(wanted) as usize
    }

    /// Queues one packet, of those [`Queue::room`] allowed.
    pub(super) fn push(&mut self, addr: u64, len: u32) {
        self.in_flight += 1;
        self.send.push(XdpDesc {
            addr,
            len,
            options: XdpDescOptions::empty(),
        });
    }

    /// Shows the kernel what was pushed.
    pub(super) fn publish(&mut self) {
        self.send.publish();
        self.unfinished = true;
    }

    /// Calls the kernel, if it waits to be called, until it has taken every packet or
    /// takes no more now.
    pub(super) fn kick(&mut self) {
        if !self.unfinished {
            return;
        }
        let mut pending = self.send.pending();
        while pending > 0 && self.send.needs_wakeup() {
            self.kicks += 1;
            // In copy mode one call takes a batch and says AGAIN if there is more. The
            // other errors need no distinction: when the driver's queue or our share of
            // memory is full (BUSY, NOBUFS, AGAIN) the next batch tries again; when the
            // device is gone (NXIO, NETDOWN) the ring fills up and the caller sees that.
            let _ = net::send(&self.socket, &[], SendFlags::DONTWAIT);
            let left = self.send.pending();
            if left == pending {
                return;
            }
            pending = left;
        }
        self.unfinished = pending > 0;
    }

    pub(super) fn statistics(&self) -> Option<XdpStatistics> {
        sockopt::xdp_statistics(&self.socket).ok()
    }
}

impl AsFd for Queue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn registration(pool: &FramePool) -> XdpUmemReg {
    XdpUmemReg {
        addr: pool.memory().start().as_ptr().expose_provenance() as u64,
        len: pool.memory().len() as u64,
        chunk_size: pool.frame_size(),
        headroom: 0,
        flags: XdpUmemRegFlags::empty(),
        tx_metadata_len: 0,
    }
}
