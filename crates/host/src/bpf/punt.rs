//! `xdp/punt.c`: hands a network function's packets to the AF_XDP sockets of the
//! interface, and leaves everything else to the kernel.

use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;

use aya::Ebpf;
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap, MapError, XskMap};

use super::{Attachment, BpfError, attach, counters, load, map_error, map_mut, object, verify};
use crate::port::{Mac, Port};
use crate::xsk::XskPort;

pub use super::prefix::Prefix;

/// Most queues of one interface: the size of the program's map of sockets.
const MAX_QUEUES: u32 = 64;

/// What the program has done with frames.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct PuntCounters {
    /// IPv4 packets given to the function.
    pub function: u64,
    /// Frames left to the kernel.
    pub kernel: u64,
    /// ARP requests given to the function.
    pub arp: u64,
    /// Frames for the function dropped because their queue has no socket.
    pub no_socket: u64,
}

/// The program on one interface.
#[derive(Debug)]
pub struct NfProgram {
    ebpf: Ebpf,
    attachment: Attachment,
}

impl NfProgram {
    /// Directs the function's packets on `port`'s interface to `port`'s sockets.
    ///
    /// `pool` are the addresses the function owns: packets to them, and ARP requests
    /// for those that are not `locals`, always go to the function. `locals` are the
    /// machine's own addresses: packets to them stay with the kernel.
    pub fn attach(port: &XskPort, pool: &[Prefix], locals: &[Ipv4Addr]) -> Result<Self, BpfError> {
        let mut ebpf = load("punt", object!("punt"))?;
        set_station(&mut ebpf, port.mac())?;
        set_sockets(&mut ebpf, port)?;
        set_pool(&mut ebpf, pool)?;
        set_locals(&mut ebpf, locals)?;
        // Attached last, so that no frame meets half a configuration.
        let attachment = attach(verify(&mut ebpf, "punt")?, port.name())?;
        Ok(Self { ebpf, attachment })
    }

    /// Replaces the addresses that stay with the kernel.
    pub fn set_locals(&mut self, locals: &[Ipv4Addr]) -> Result<(), BpfError> {
        set_locals(&mut self.ebpf, locals)
    }

    /// Where the program is attached.
    pub fn attachment(&self) -> &Attachment {
        &self.attachment
    }

    /// What it has done so far.
    pub fn counters(&self) -> Result<PuntCounters, BpfError> {
        let [function, kernel, arp, no_socket] = counters(&self.ebpf)?;
        Ok(PuntCounters {
            function,
            kernel,
            arp,
            no_socket,
        })
    }
}

fn set_station(ebpf: &mut Ebpf, Mac([a, b, c, d, e, f]): Mac) -> Result<(), BpfError> {
    let station = u64::from_be_bytes([0, 0, a, b, c, d, e, f]);
    map_mut!(ebpf, "station", Array<_, u64>)?
        .set(0, station, 0)
        .map_err(map_error::<MapError>("station"))
}

fn set_sockets(ebpf: &mut Ebpf, port: &XskPort) -> Result<(), BpfError> {
    let mut sockets = map_mut!(ebpf, "sockets", XskMap<_>)?;
    for (queue, socket) in port.sockets() {
        if queue >= MAX_QUEUES {
            let text = format!("{}: more than {MAX_QUEUES} receive queues", port.name());
            return Err(BpfError::TooMany(text));
        }
        sockets
            .set(queue, socket.as_raw_fd(), 0)
            .map_err(map_error::<MapError>("sockets"))?;
    }
    Ok(())
}

fn set_pool(ebpf: &mut Ebpf, pool: &[Prefix]) -> Result<(), BpfError> {
    let mut trie = map_mut!(ebpf, "pool", LpmTrie<_, [u8; 4], u8>)?;
    for prefix in pool {
        let key = Key::new(u32::from(prefix.length), prefix.address.octets());
        trie.insert(&key, 1, 0)
            .map_err(map_error::<MapError>("pool"))?;
    }
    Ok(())
}

fn set_locals(ebpf: &mut Ebpf, locals: &[Ipv4Addr]) -> Result<(), BpfError> {
    let failed = map_error::<MapError>;
    let mut map = map_mut!(ebpf, "locals", HashMap<_, [u8; 4], u8>)?;
    for address in locals {
        map.insert(address.octets(), 1, 0)
            .map_err(failed("locals"))?;
    }
    let old: Vec<[u8; 4]> = map
        .keys()
        .collect::<Result<_, _>>()
        .map_err(failed("locals"))?;
    for address in old {
        if !locals.contains(&Ipv4Addr::from(address)) {
            map.remove(&address).map_err(failed("locals"))?;
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "punt_tests.rs"]
mod tests;
