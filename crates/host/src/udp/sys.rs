//! The two system calls, with the two control messages that make them cheap: GSO hands
//! the kernel many datagrams for one destination as one buffer, GRO hands them back so.
//! Their way through the kernel is then paid once.

use std::io;
use std::mem::{self, MaybeUninit};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd};
use std::ptr;

use super::MAX_DATAGRAM;

/// Messages of one system call.
pub(super) const BATCH: usize = 32;
/// Pieces of memory that one call sends from.
pub(super) const MAX_PIECES: usize = 128;
/// Room for one control message that carries a number.
const CONTROL_LEN: usize = 24;

type Control = [u64; CONTROL_LEN / 8];

/// Lets the kernel hand over what belongs together as one buffer. One that cannot
/// delivers datagrams one by one.
pub(super) fn ask_for_gro(socket: &impl AsFd) {
    let _ = set(socket, libc::SOL_UDP, libc::UDP_GRO, 1);
}

/// Lets it hand datagrams over one by one again.
pub(super) fn refuse_gro(socket: &impl AsFd) {
    let _ = set(socket, libc::SOL_UDP, libc::UDP_GRO, 0);
}

/// Whether the kernel splits what it is given.
pub(super) fn has_gso(socket: &impl AsFd) -> bool {
    set(socket, libc::SOL_UDP, libc::UDP_SEGMENT, 0).is_ok()
}

/// Whether an error may be about GSO rather than about where the datagrams go.
pub(super) fn may_mean_gso(error: &io::Error) -> bool {
    let about = [
        libc::EINVAL,
        libc::EIO,
        libc::EMSGSIZE,
        libc::EOPNOTSUPP,
        libc::ENOPROTOOPT,
    ];
    error
        .raw_os_error()
        .is_some_and(|code| about.contains(&code))
}

/// Sends without checksums from now on.
#[cfg(test)]
pub(super) fn without_checksums(socket: &impl AsFd) {
    set(socket, libc::SOL_SOCKET, libc::SO_NO_CHECK, 1).expect("a socket has this option");
}

fn set(
    socket: &impl AsFd,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    let len = mem::size_of_val(&value) as libc::socklen_t;
    // SAFETY: the pointer and the length describe `value`, which outlives the call.
    let done = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            len,
        )
    };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Buffers that are offered to the kernel while it fills no more: to describe one costs some
/// nanoseconds, and most calls of a node that is not busy find a single datagram.
const FEW: usize = 4;

/// Memory that datagrams are received into.
pub(super) struct Inbox {
    /// Buffers that the next call offers,
    offers: usize,
    /// and that one offers at the least and at most.
    range: (usize, usize),
    bytes: Box<[u8]>,
    names: [libc::sockaddr_in6; BATCH],
    controls: [Control; BATCH],
    lengths: [Length; BATCH],
}

/// What the kernel said of one buffer.
#[derive(Clone, Copy, Default)]
struct Length {
    bytes: usize,
    name: libc::socklen_t,
    control: usize,
}

impl Inbox {
    pub(super) fn new() -> Self {
        // SAFETY: both are plain numbers, for which zero is a value.
        let (names, controls) = unsafe { (mem::zeroed(), mem::zeroed()) };
        Self {
            offers: FEW,
            range: (FEW, BATCH),
            // The kernel's zero pages: memory that is never used is never there.
            bytes: vec![0; BATCH * MAX_DATAGRAM].into_boxed_slice(),
            names,
            controls,
            lengths: [Length::default(); BATCH],
        }
    }

    /// Offers a single buffer from now on.
    pub(super) fn offer_one(&mut self) {
        self.range = (1, 1);
        self.offers = 1;
    }

    /// Fills as many buffers as there is something for, without waiting; how many, and whether
    /// there may be more.
    pub(super) fn fill(&mut self, socket: &impl AsFd) -> io::Result<(usize, bool)> {
        let offers = self.offers;
        // Only what is offered is written, and of that only what was is read.
        let mut headers = [const { MaybeUninit::<libc::mmsghdr>::uninit() }; BATCH];
        let mut pieces = [const { MaybeUninit::<libc::iovec>::uninit() }; BATCH];
        let buffers = self.bytes.chunks_exact_mut(MAX_DATAGRAM);
        let slots = self.names.iter_mut().zip(&mut self.controls).zip(buffers);
        let headings = headers.iter_mut().zip(&mut pieces).take(offers);
        for ((header, piece), ((name, control), bytes)) in headings.zip(slots) {
            let piece = piece.write(libc::iovec {
                iov_base: bytes.as_mut_ptr().cast(),
                iov_len: bytes.len(),
            });
            // SAFETY: zero is a value of it: no buffers, no name, no control message.
            let header = header.write(unsafe { mem::zeroed() });
            let header = &mut header.msg_hdr;
            header.msg_iov = piece;
            header.msg_iovlen = 1;
            header.msg_name = ptr::from_mut(name).cast();
            header.msg_namelen = mem::size_of_val(name) as libc::socklen_t;
            header.msg_control = ptr::from_mut(control).cast();
            header.msg_controllen = CONTROL_LEN;
        }
        // SAFETY: each of the headers offered describes memory of its own, borrowed mutably
        // until the call returns; the kernel keeps no pointer.
        let filled = unsafe {
            libc::recvmmsg(
                socket.as_fd().as_raw_fd(),
                headers.as_mut_ptr().cast(),
                offers as libc::c_uint,
                libc::MSG_DONTWAIT,
                ptr::null_mut(),
            )
        };
        let filled = usize::try_from(filled).map_err(|_| io::Error::last_os_error())?;
        for (length, header) in self.lengths.iter_mut().zip(&headers[..filled.min(offers)]) {
            // SAFETY: it was offered, so it was written.
            let header = unsafe { header.assume_init_ref() };
            *length = Length {
                bytes: (header.msg_len as usize).min(MAX_DATAGRAM),
                name: header.msg_hdr.msg_namelen,
                control: header.msg_hdr.msg_controllen,
            };
        }
        let (few, most) = self.range;
        self.offers = if filled < few { few } else { most };
        Ok((filled, filled == offers))
    }

    /// What buffer `index` was filled with: from whom, and the size of all datagrams in
    /// it but the last, which may be shorter.
    pub(super) fn filled(&mut self, index: usize) -> Option<(SocketAddr, usize, &mut [u8])> {
        let Length {
            bytes: len,
            name,
            control,
        } = self.lengths[index];
        let from = address(&self.names[index], name)?;
        let segment = segment(&self.controls[index], control).unwrap_or(len);
        let start = index * MAX_DATAGRAM;
        Some((from, segment.max(1), &mut self.bytes[start..start + len]))
    }
}

/// The address in a name the kernel wrote.
fn address(name: &libc::sockaddr_in6, len: libc::socklen_t) -> Option<SocketAddr> {
    let len = len as usize;
    match libc::c_int::from(name.sin6_family) {
        libc::AF_INET if len >= mem::size_of::<libc::sockaddr_in>() => {
            // SAFETY: the family says what it is, both are plain numbers, the one type
            // is smaller than the other and no more strictly aligned.
            let name: libc::sockaddr_in = unsafe { ptr::read(ptr::from_ref(name).cast()) };
            let ip = Ipv4Addr::from(u32::from_be(name.sin_addr.s_addr));
            let port = u16::from_be(name.sin_port);
            Some(SocketAddrV4::new(ip, port).into())
        }
        libc::AF_INET6 if len >= mem::size_of::<libc::sockaddr_in6>() => {
            let ip = Ipv6Addr::from(name.sin6_addr.s6_addr);
            let port = u16::from_be(name.sin6_port);
            let (flow, scope) = (name.sin6_flowinfo, name.sin6_scope_id);
            Some(SocketAddrV6::new(ip, port, flow, scope).into())
        }
        _ => None,
    }
}

/// The name the kernel wants for an address, and its length.
fn name_of(address: SocketAddr) -> (libc::sockaddr_in6, libc::socklen_t) {
    // SAFETY: it is plain numbers, for which zero is a value.
    let mut name: libc::sockaddr_in6 = unsafe { mem::zeroed() };
    match address {
        SocketAddr::V4(v4) => {
            let inner = libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: v4.port().to_be(),
                sin_addr: libc::in_addr {
                    s_addr: u32::from(*v4.ip()).to_be(),
                },
                sin_zero: [0; 8],
            };
            // SAFETY: the target is larger and no less strictly aligned.
            unsafe { ptr::write((&raw mut name).cast(), inner) };
            (name, mem::size_of_val(&inner) as libc::socklen_t)
        }
        SocketAddr::V6(v6) => {
            name.sin6_family = libc::AF_INET6 as libc::sa_family_t;
            name.sin6_port = v6.port().to_be();
            name.sin6_addr.s6_addr = v6.ip().octets();
            name.sin6_flowinfo = v6.flowinfo();
            name.sin6_scope_id = v6.scope_id();
            (name, mem::size_of_val(&name) as libc::socklen_t)
        }
    }
}

/// A control message as the kernel lays it out: length 8, level 4, type 4, then data.
fn control(level: libc::c_int, kind: libc::c_int, value: u16) -> Control {
    let mut bytes = [0; CONTROL_LEN];
    bytes[..8].copy_from_slice(&18_u64.to_ne_bytes());
    bytes[8..12].copy_from_slice(&level.to_ne_bytes());
    bytes[12..16].copy_from_slice(&kind.to_ne_bytes());
    bytes[16..18].copy_from_slice(&value.to_ne_bytes());
    let (words, _) = bytes.as_chunks::<8>();
    core::array::from_fn(|i| u64::from_ne_bytes(words[i]))
}

/// The size of the datagrams in a buffer, if the kernel says that there are several.
fn segment(control: &Control, len: usize) -> Option<usize> {
    let head = control[1].to_ne_bytes();
    let (level, kind) = head.split_at(4);
    let is_gro = level == libc::SOL_UDP.to_ne_bytes() && kind == libc::UDP_GRO.to_ne_bytes();
    let value = control[2].to_ne_bytes();
    let value = i32::from_ne_bytes([value[0], value[1], value[2], value[3]]);
    let value = usize::try_from(value).ok()?;
    (len >= 20 && is_gro && value > 0).then_some(value)
}

/// One message of a call: datagrams of one size (the last may be shorter) for one
/// destination.
#[derive(Clone, Copy)]
pub(super) struct Train {
    pub(super) to: SocketAddr,
    /// How many of the pieces it takes.
    pub(super) pieces: usize,
    /// The size of its datagrams; none if it is a single one.
    pub(super) segment: Option<u16>,
}

/// Sends at most [`BATCH`] trains, whose bytes are the `pieces` one after the other; how
/// many the kernel took. An error is about the first.
pub(super) fn send<'a>(
    socket: &impl AsFd,
    trains: &[Train],
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> io::Result<usize> {
    let count = trains.len().min(BATCH);
    // SAFETY: zero is a value of all of them: no buffers, no names, no control messages.
    let (mut headers, mut names, mut controls, mut vectors): (
        [libc::mmsghdr; BATCH],
        [libc::sockaddr_in6; BATCH],
        [Control; BATCH],
        [libc::iovec; MAX_PIECES],
    ) = unsafe { (mem::zeroed(), mem::zeroed(), mem::zeroed(), mem::zeroed()) };
    for (vector, piece) in vectors.iter_mut().zip(pieces) {
        vector.iov_base = piece.as_ptr().cast_mut().cast();
        vector.iov_len = piece.len();
    }
    let mut rest = &mut vectors[..];
    for (index, train) in trains[..count].iter().enumerate() {
        let (own, others) = rest.split_at_mut(train.pieces);
        rest = others;
        let header = &mut headers[index].msg_hdr;
        header.msg_iov = own.as_mut_ptr();
        header.msg_iovlen = own.len();
        let (name, len) = name_of(train.to);
        names[index] = name;
        header.msg_name = (&raw mut names[index]).cast();
        header.msg_namelen = len;
        if let Some(segment) = train.segment {
            controls[index] = control(libc::SOL_UDP, libc::UDP_SEGMENT, segment);
            header.msg_control = (&raw mut controls[index]).cast();
            header.msg_controllen = CONTROL_LEN;
        }
    }
    // SAFETY: every header describes memory that outlives the call, which only reads it.
    let sent = unsafe {
        libc::sendmmsg(
            socket.as_fd().as_raw_fd(),
            headers.as_mut_ptr(),
            count as libc::c_uint,
            0,
        )
    };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}
