//! The `SIOC*IF*` calls: an interface's number, address, MTU and flags, and ethtool.

use std::io;
use std::net::Ipv4Addr;

use rustix::io::Errno;
use rustix::ioctl::{Opcode, Updater};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use crate::port::Mac;

const SIOCGIFFLAGS: Opcode = 0x8913;
const SIOCSIFFLAGS: Opcode = 0x8914;
const SIOCGIFADDR: Opcode = 0x8915;
const SIOCGIFMTU: Opcode = 0x8921;
const SIOCSIFMTU: Opcode = 0x8922;
const SIOCGIFHWADDR: Opcode = 0x8927;
const SIOCGIFINDEX: Opcode = 0x8933;
const SIOCETHTOOL: Opcode = 0x8946;

/// Longest interface name, without the closing zero.
const NAME_MAX: usize = 15;

/// Interface is up (`IFF_UP`).
pub(crate) const UP: u16 = 0x1;
/// Interface can send (`IFF_RUNNING`).
const RUNNING: u16 = 0x40;
/// Interface takes every frame (`IFF_PROMISC`).
pub(crate) const PROMISCUOUS: u16 = 0x100;

/// `struct ifreq`: a name and a union of 24 bytes, aligned like a pointer.
#[repr(C, align(8))]
struct Request {
    name: [u8; 16],
    value: [u8; 24],
}

fn request(interface: &str) -> io::Result<Request> {
    let bytes = interface.as_bytes();
    if bytes.is_empty() || bytes.len() > NAME_MAX || bytes.contains(&0) {
        return Err(Errno::NODEV.into());
    }
    let mut name = [0; 16];
    name[..bytes.len()].copy_from_slice(bytes);
    Ok(Request {
        name,
        value: [0; 24],
    })
}

fn call<const OPCODE: Opcode>(request: &mut Request) -> io::Result<()> {
    let socket = socket_with(
        AddressFamily::INET,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    // SAFETY: every OPCODE of this module takes a pointer to a `struct ifreq`, whose
    // layout and size `Request` has; a pointer within it (ethtool) is set only by
    // `ethtool` below, which argues for it.
    unsafe { rustix::ioctl::ioctl(&socket, Updater::<OPCODE, Request>::new(request))? };
    Ok(())
}

/// The interface's number in this network namespace.
pub fn index(interface: &str) -> io::Result<u32> {
    let mut request = request(interface)?;
    call::<SIOCGIFINDEX>(&mut request)?;
    Ok(u32::from_ne_bytes(first(&request)))
}

/// The interface's hardware address.
pub fn mac(interface: &str) -> io::Result<Mac> {
    let mut request = request(interface)?;
    call::<SIOCGIFHWADDR>(&mut request)?;
    // A sockaddr: two bytes of family, then the address.
    let mut mac = [0; 6];
    mac.copy_from_slice(&request.value[2..8]);
    Ok(Mac(mac))
}

/// The interface's first IPv4 address.
pub fn address(interface: &str) -> io::Result<Ipv4Addr> {
    let mut request = request(interface)?;
    // The kernel answers for the family that is asked for.
    request.value[..2].copy_from_slice(&AddressFamily::INET.as_raw().to_ne_bytes());
    call::<SIOCGIFADDR>(&mut request)?;
    // A sockaddr_in: two bytes of family, two of port, then the address.
    let mut octets = [0; 4];
    octets.copy_from_slice(&request.value[4..8]);
    Ok(Ipv4Addr::from(octets))
}

/// The largest IP packet the interface sends.
pub fn mtu(interface: &str) -> io::Result<u32> {
    let mut request = request(interface)?;
    call::<SIOCGIFMTU>(&mut request)?;
    Ok(u32::from_ne_bytes(first(&request)))
}

/// Changes the MTU.
pub(crate) fn set_mtu(interface: &str, mtu: u32) -> io::Result<()> {
    let mut request = request(interface)?;
    request.value[..4].copy_from_slice(&mtu.to_ne_bytes());
    call::<SIOCSIFMTU>(&mut request)
}

/// The interface's `IFF_*` flags.
pub(crate) fn flags(interface: &str) -> io::Result<u16> {
    let mut request = request(interface)?;
    call::<SIOCGIFFLAGS>(&mut request)?;
    Ok(u16::from_ne_bytes(first(&request)))
}

/// Sets or clears one flag, leaving the others.
pub(crate) fn set_flag(interface: &str, flag: u16, on: bool) -> io::Result<()> {
    let old = flags(interface)?;
    let new = if on { old | flag } else { old & !flag };
    let mut request = request(interface)?;
    request.value[..2].copy_from_slice(&new.to_ne_bytes());
    call::<SIOCSIFFLAGS>(&mut request)
}

/// Whether the interface is up.
pub fn is_up(interface: &str) -> io::Result<bool> {
    Ok(flags(interface)? & UP != 0)
}

/// Whether the interface is up and its cable is plugged in at both ends. The kernel
/// finds out a moment after it happened, and until then sends nothing.
pub fn is_running(interface: &str) -> io::Result<bool> {
    Ok(flags(interface)? & RUNNING != 0)
}

/// One ethtool command: the kernel reads `command` and writes its answer there.
///
/// # Safety
///
/// `T` must be the structure that the command in its first field names, as
/// `linux/ethtool.h` lays it out, with no pointers and no variable tail.
pub(crate) unsafe fn ethtool<T>(interface: &str, command: &mut T) -> io::Result<()> {
    let mut request = request(interface)?;
    let address = core::ptr::from_mut(command).expose_provenance();
    request.value[..size_of::<usize>()].copy_from_slice(&address.to_ne_bytes());
    call::<SIOCETHTOOL>(&mut request)
}

/// The first `N` bytes of the union.
fn first<const N: usize>(request: &Request) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&request.value[..N]);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_number_one() {
        assert_eq!(index("lo").unwrap(), 1);
        assert_eq!(mac("lo").unwrap(), Mac::default());
        assert!(mtu("lo").unwrap() >= 1500);
        assert_eq!(address("lo").unwrap(), Ipv4Addr::LOCALHOST);
    }

    #[test]
    fn a_missing_interface_is_an_error() {
        for name in ["", "no-such-if", "a-name-that-is-too-long"] {
            assert_eq!(index(name).unwrap_err().raw_os_error(), Some(19), "{name}");
        }
    }
}
