//! What ethtool knows: driver, queues and offloads, through its ioctl.

use std::fmt;
use std::io;

use rustix::io::Errno;

use crate::ifreq;

/// An offload that must be settled before raw frames and real TCP can meet: a frame
/// that the kernel left unfinished for the hardware reaches XDP and AF_XDP unfinished.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Offload {
    /// Checksums of outgoing packets are left to the device.
    TxChecksum,
    /// Checksums of incoming packets are verified by the device.
    RxChecksum,
    /// TCP segments are cut by the device.
    Tso,
    /// Segments are cut just before the driver.
    Gso,
    /// Incoming segments are merged. On veth this also turns on NAPI, without which
    /// frames redirected to the peer by XDP are lost.
    Gro,
}

impl Offload {
    /// All of them, in an order in which they can be turned off: segmentation depends
    /// on checksums.
    pub const ALL: [Offload; 5] = [
        Self::Tso,
        Self::Gso,
        Self::TxChecksum,
        Self::RxChecksum,
        Self::Gro,
    ];

    /// The commands that get and set it.
    const fn commands(self) -> (u32, u32) {
        match self {
            Self::RxChecksum => (0x14, 0x15),
            Self::TxChecksum => (0x16, 0x17),
            Self::Tso => (0x1e, 0x1f),
            Self::Gso => (0x23, 0x24),
            Self::Gro => (0x2b, 0x2c),
        }
    }
}

impl fmt::Display for Offload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TxChecksum => "tx-checksum",
            Self::RxChecksum => "rx-checksum",
            Self::Tso => "tso",
            Self::Gso => "gso",
            Self::Gro => "gro",
        })
    }
}

/// `struct ethtool_value`.
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

/// `struct ethtool_drvinfo`, with the fields after the name lumped together.
#[repr(C)]
struct DriverInfo {
    command: u32,
    driver: [u8; 32],
    rest: [u8; 160],
}

/// `struct ethtool_channels`.
#[repr(C)]
#[derive(Default)]
struct Channels {
    command: u32,
    max_rx: u32,
    max_tx: u32,
    max_other: u32,
    max_combined: u32,
    rx: u32,
    tx: u32,
    other: u32,
    combined: u32,
}

const GET_DRIVER_INFO: u32 = 0x3;
const GET_CHANNELS: u32 = 0x3c;
const SET_CHANNELS: u32 = 0x3d;

/// Whether an offload is on. A device that does not know it has it off.
pub fn offload(interface: &str, offload: Offload) -> io::Result<bool> {
    let mut value = Value {
        command: offload.commands().0,
        data: 0,
    };
    // SAFETY: the get commands of `Offload` take a `struct ethtool_value`.
    match unsafe { ifreq::ethtool(interface, &mut value) } {
        Err(error) if error.raw_os_error() == Some(Errno::OPNOTSUPP.raw_os_error()) => Ok(false),
        result => result.map(|()| value.data != 0),
    }
}

/// Turns an offload on or off, and checks that it is.
pub fn set_offload(interface: &str, which: Offload, on: bool) -> io::Result<()> {
    if offload(interface, which)? == on {
        return Ok(());
    }
    let mut value = Value {
        command: which.commands().1,
        data: u32::from(on),
    };
    // SAFETY: the set commands of `Offload` take a `struct ethtool_value`.
    unsafe { ifreq::ethtool(interface, &mut value)? };
    if offload(interface, which)? == on {
        return Ok(());
    }
    let state = if on { "on" } else { "off" };
    Err(io::Error::other(format!(
        "{interface}: the driver did not turn {which} {state}"
    )))
}

/// The driver's name: `veth`, `virtio_net`, `ixgbe`.
pub fn driver(interface: &str) -> io::Result<String> {
    let mut info = DriverInfo {
        command: GET_DRIVER_INFO,
        driver: [0; 32],
        rest: [0; 160],
    };
    // SAFETY: the command takes a `struct ethtool_drvinfo`: 196 bytes, as here.
    unsafe { ifreq::ethtool(interface, &mut info)? };
    let end = info
        .driver
        .iter()
        .position(|&byte| byte == 0)
        .unwrap_or(info.driver.len());
    Ok(String::from_utf8_lossy(&info.driver[..end]).into_owned())
}

/// Number of receive queues in use: each may need an AF_XDP socket. A driver without
/// channels has one.
pub fn receive_queues(interface: &str) -> io::Result<u32> {
    match channels(interface) {
        Err(error) if error.raw_os_error() == Some(Errno::OPNOTSUPP.raw_os_error()) => Ok(1),
        result => result.map(|channels| (channels.rx + channels.combined).max(1)),
    }
}

/// Number of send queues in use. A driver without channels has one.
pub fn send_queues(interface: &str) -> io::Result<u32> {
    match channels(interface) {
        Err(error) if error.raw_os_error() == Some(Errno::OPNOTSUPP.raw_os_error()) => Ok(1),
        result => result.map(|channels| (channels.tx + channels.combined).max(1)),
    }
}

/// Sets the number of queues in each direction.
pub fn set_queues(interface: &str, count: u32) -> io::Result<()> {
    let mut channels = channels(interface)?;
    channels.command = SET_CHANNELS;
    // Drivers have either pairs of queues or separate ones.
    if channels.max_combined > 0 {
        channels.combined = count;
    } else {
        (channels.rx, channels.tx) = (count, count);
    }
    // SAFETY: the command takes a `struct ethtool_channels`.
    unsafe { ifreq::ethtool(interface, &mut channels) }
}

fn channels(interface: &str) -> io::Result<Channels> {
    let mut channels = Channels {
        command: GET_CHANNELS,
        ..Channels::default()
    };
    // SAFETY: the command takes a `struct ethtool_channels`.
    unsafe { ifreq::ethtool(interface, &mut channels)? };
    Ok(channels)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_structures_have_the_kernels_sizes() {
        assert_eq!(size_of::<DriverInfo>(), 196);
        assert_eq!(size_of::<Channels>(), 36);
    }

    #[test]
    fn loopback_has_one_queue() {
        assert_eq!(receive_queues("lo").unwrap(), 1);
        assert_eq!(send_queues("lo").unwrap(), 1);
        assert!(receive_queues("no-such-if").is_err());
    }
}
