//! `xdp/limits.c`: what forwarding in XDP can reach at most, the yardstick of the
//! benchmarks.

use std::net::SocketAddrV4;

use aya::maps::{Array, DevMap, HashMap, MapError};
use aya::programs::Xdp;
use aya::{Ebpf, EbpfLoader};

use super::{Attachment, BpfError, attach, loaded, map_error, map_mut, object, verify};
use crate::port::Mac;

/// How much the program does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Limit {
    /// Sends every frame on as it is.
    Redirect,
    /// Looks the flow up in one BPF hash map first, and passes to the kernel what it does
    /// not know.
    Lookup,
    /// Rewrites source, time to live, checksums and hardware addresses, too.
    Nat,
}

impl Limit {
    fn program(self) -> &'static str {
        match self {
            Self::Redirect => "limit_redirect",
            Self::Lookup => "limit_lookup",
            Self::Nat => "limit_nat",
        }
    }
}

/// A flow the program knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LimitFlow {
    /// The IP protocol: 6 or 17.
    pub protocol: u8,
    /// Who sent it.
    pub source: SocketAddrV4,
    /// For whom it is.
    pub destination: SocketAddrV4,
    /// What replaces the source.
    pub replacement: SocketAddrV4,
}

/// Where the frames go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LimitHop {
    /// The interface that sends them, in the network namespace of the calling thread.
    pub ifindex: u32,
    /// Its hardware address.
    pub source: Mac,
    /// The next hop's hardware address.
    pub destination: Mac,
}

/// One of the programs, on an interface.
#[derive(Debug)]
pub struct LimitProgram {
    ebpf: Ebpf,
    limit: Limit,
    attachment: Attachment,
}

impl LimitProgram {
    /// Attaches the program to `interface`; call it where that and `hop` live. It knows
    /// `flows` and has room for no more.
    pub fn attach(
        limit: Limit,
        interface: &str,
        hop: LimitHop,
        flows: impl ExactSizeIterator<Item = LimitFlow>,
    ) -> Result<Self, BpfError> {
        let room = u32::try_from(flows.len())
            .map_err(|_| BpfError::TooMany(format!("{} flows", flows.len())))?;
        let mut ebpf = EbpfLoader::new()
            .map_max_entries("limit_flows", room.max(1))
            .load(object!("limits"))
            .map_err(|error| BpfError::Load {
                program: limit.program(),
                source: error.into(),
            })?;
        set_hop(&mut ebpf, hop)?;
        let mut map = map_mut!(ebpf, "limit_flows", HashMap<_, [u8; 16], [u8; 8]>)?;
        for flow in flows {
            let (key, value) = bytes(&flow);
            map.insert(key, value, 0)
                .map_err(map_error::<MapError>("limit_flows"))?;
        }
        let attachment = attach(verify(&mut ebpf, limit.program())?, interface)?;
        Ok(Self {
            ebpf,
            limit,
            attachment,
        })
    }

    /// Where it is attached.
    pub fn attachment(&self) -> &Attachment {
        &self.attachment
    }

    /// The program itself, to run it on frames.
    pub fn program(&self) -> Result<&Xdp, BpfError> {
        loaded(&self.ebpf, self.limit.program())
    }
}

fn set_hop(ebpf: &mut Ebpf, hop: LimitHop) -> Result<(), BpfError> {
    map_mut!(ebpf, "limit_out", DevMap<_>)?
        .set(0, hop.ifindex, None, 0)
        .map_err(map_error("limit_out"))?;
    let mut macs = [0; 12];
    macs[..6].copy_from_slice(&hop.destination.0);
    macs[6..].copy_from_slice(&hop.source.0);
    map_mut!(ebpf, "limit_hops", Array<_, [u8; 12]>)?
        .set(0, macs, 0)
        .map_err(map_error::<MapError>("limit_hops"))
}

/// A flow as `struct limit_flow` and `struct limit_action` lay it out.
fn bytes(flow: &LimitFlow) -> ([u8; 16], [u8; 8]) {
    let mut key = [0; 16];
    key[0..4].copy_from_slice(&flow.source.ip().octets());
    key[4..8].copy_from_slice(&flow.destination.ip().octets());
    key[8..10].copy_from_slice(&flow.source.port().to_be_bytes());
    key[10..12].copy_from_slice(&flow.destination.port().to_be_bytes());
    key[12..16].copy_from_slice(&u32::from(flow.protocol).to_ne_bytes());
    let mut value = [0; 8];
    value[0..4].copy_from_slice(&flow.replacement.ip().octets());
    value[4..6].copy_from_slice(&flow.replacement.port().to_be_bytes());
    (key, value)
}
