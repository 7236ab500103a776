//! Messages with at most one object beside them, over a Unix socket that keeps their
//! boundaries.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};

/// The socket's name in the broker's directory.
const FILE: &str = "broker.sock";

pub(crate) fn open() -> io::Result<OwnedFd> {
    Ok(rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?)
}

pub(crate) fn path(dir: &Path) -> std::path::PathBuf {
    dir.join(FILE)
}

pub(crate) fn address(dir: &Path) -> io::Result<SocketAddrUnix> {
    Ok(SocketAddrUnix::new(path(dir))?)
}

pub(crate) fn send(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    object: Option<BorrowedFd<'_>>,
    flags: SendFlags,
) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    let objects: Vec<BorrowedFd<'_>> = object.into_iter().collect();
    if !objects.is_empty() {
        beside.push(SendAncillaryMessage::ScmRights(&objects));
    }
    let flags = flags | SendFlags::NOSIGNAL;
    let sent = rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut beside, flags)?;
    if sent == bytes.len() {
        Ok(())
    } else {
        Err(io::ErrorKind::WriteZero.into())
    }
}

/// The next message's length, and the object beside it. A length of 0: nobody is there
/// any more. More objects than one are closed by the kernel.
pub(crate) fn receive(
    socket: BorrowedFd<'_>,
    into: &mut [u8],
    flags: RecvFlags,
) -> io::Result<(usize, Option<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut beside = RecvAncillaryBuffer::new(&mut space);
    let flags = flags | RecvFlags::CMSG_CLOEXEC;
    let got = rustix::net::recvmsg(socket, &mut [IoSliceMut::new(into)], &mut beside, flags)?;
    let mut object = None;
    for message in beside.drain() {
        if let RecvAncillaryMessage::ScmRights(objects) = message {
            object = objects.last().or(object);
        }
    }
    Ok((got.bytes, object))
}
