//! Three namespaces: a client, the sequencer, and one for all replicas; and what the client
//! sends.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::AsFd;

use stateplane_base::Incarnation;
use stateplane_host::bpf::requests::{MOST, SHORTEST};
use stateplane_host::bpf::sequencer::Target;
use stateplane_host::ethtool::{self, Offload};
use stateplane_host::ifreq;
use stateplane_host::link::Netlink;
use stateplane_host::netns::Namespace;
use stateplane_wire::envelope::Key;
use stateplane_wire::group::{Address, Batch, Request};
use stateplane_wire::oum::{self, Groups, Keys};

pub(super) const HERE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 78, 0, 1), 7500);
const CLIENT: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 78, 0, 2), 7501);
pub(super) const SENDER: u16 = 7;
pub(super) const REPLICAS: u8 = 3;
/// Where copies are counted: the discard port (RFC 863).
const DISCARD: u16 = 9;
/// Bytes before a packet: Ethernet, IPv4, UDP.
const HEADERS: usize = 42;
/// An operation's id and length.
const OPERATION: usize = 10;

const MAC_HERE: [u8; 6] = [2, 0x53, 0x50, 0xbf, 0, 1];
const MAC_CLIENT: [u8; 6] = [2, 0x53, 0x50, 0xbf, 0, 2];

/// The three namespaces. Dropping them removes everything in them.
pub(super) struct Bed {
    pub(super) client: Namespace,
    pub(super) sequencer: Namespace,
    pub(super) replicas: Namespace,
}

impl Bed {
    pub(super) fn build() -> io::Result<Self> {
        let bed = Self {
            client: Namespace::create("client")?,
            sequencer: Namespace::create("sequencer")?,
            replicas: Namespace::create("replicas")?,
        };
        let (client, replicas) = (bed.client.try_clone()?, bed.replicas.try_clone()?);
        bed.sequencer.run(move || {
            let netlink = Netlink::open()?;
            netlink.add_veth("lan0", "c0")?;
            netlink.set_mac("lan0", MAC_HERE)?;
            netlink.move_to("c0", client.as_fd())?;
            netlink.add_address("lan0", *HERE.ip(), 24)?;
            for n in 1..=REPLICAS {
                let (near, far) = (format!("d{n}"), format!("r{n}"));
                netlink.add_veth(&near, &far)?;
                netlink.move_to(&far, replicas.as_fd())?;
                netlink.add_address(&near, Ipv4Addr::new(10, 78, n, 1), 24)?;
            }
            Ok(())
        })?;
        bed.client.run(|| up("c0", MAC_CLIENT))?;
        bed.replicas
            .run(|| (1..=REPLICAS).try_for_each(|n| up(&format!("r{n}"), mac(n))))?;
        bed.sequencer.run(|| {
            up("lan0", MAC_HERE)?;
            let netlink = Netlink::open()?;
            (1..=REPLICAS).try_for_each(|n| {
                let near = format!("d{n}");
                netlink.set_up(&near)?;
                ethtool::set_offload(&near, Offload::Gro, true)?;
                netlink.add_neighbour(&near, *replica(n).ip(), mac(n))
            })
        })?;
        Ok(bed)
    }

    pub(super) fn targets(&self) -> io::Result<Vec<Target>> {
        self.sequencer.run(|| {
            let target = |n| {
                let near = format!("d{n}");
                Ok(Target {
                    address: replica(n),
                    ifindex: ifreq::index(&near)?,
                    from: ifreq::mac(&near)?.0,
                    mac: mac(n),
                })
            };
            (1..=REPLICAS).map(target).collect()
        })
    }
}

fn up(name: &str, mac: [u8; 6]) -> io::Result<()> {
    let netlink = Netlink::open()?;
    netlink.set_mac(name, mac)?;
    netlink.set_up(name)?;
    ethtool::set_offload(name, Offload::TxChecksum, false)?;
    ethtool::set_offload(name, Offload::Gro, true)
}

pub(super) fn replica(n: u8) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::new(10, 78, n, 2), DISCARD)
}

fn mac(n: u8) -> [u8; 6] {
    [2, 0x53, 0x50, 0xbf, 1, n]
}

pub(super) fn keys() -> Keys {
    Keys::derive(&Key::new([3; 16]), 1)
}

/// A volley of frames of `size` bytes: sealed requests of one operation each, with rising
/// counters. Those `for_sinks` are no requests but have the size, and sinks count them.
pub(super) fn frames(size: usize, for_sinks: bool) -> Vec<Vec<u8>> {
    if size < SHORTEST {
        return vec![frame(&vec![0; size - HEADERS], true); MOST];
    }
    let seal = |counter| {
        let mut batch = Batch::default();
        let operation = vec![0x5a; size - HEADERS - oum::HEADER_LEN - OPERATION];
        assert!(batch.push(1, &operation), "one operation fits");
        let request = Request {
            client: oum::client_id(SENDER, Incarnation(1)),
            done_below: 1,
            reply_to: Address::default(),
            batch,
        };
        let mut packet = Vec::new();
        oum::seal_request(&keys(), counter, Groups::one(0), &request, &mut packet);
        frame(&packet, for_sinks)
    };
    (1..=MOST as u64).map(seal).collect()
}

fn frame(packet: &[u8], for_sinks: bool) -> Vec<u8> {
    let mut frame = vec![0; HEADERS];
    let length = (packet.len() + HEADERS - 14) as u16;
    let port = if for_sinks { DISCARD } else { HERE.port() };
    frame[..6].copy_from_slice(&MAC_HERE);
    frame[6..12].copy_from_slice(&MAC_CLIENT);
    frame[12..16].copy_from_slice(&[8, 0, 0x45, 0]);
    frame[16..18].copy_from_slice(&length.to_be_bytes());
    frame[22..24].copy_from_slice(&[64, 17]);
    frame[26..30].copy_from_slice(&CLIENT.ip().octets());
    frame[30..34].copy_from_slice(&HERE.ip().octets());
    let checksum = stateplane_wire::checksum::internet(&frame[14..34]);
    frame[24..26].copy_from_slice(&checksum.to_be_bytes());
    frame[34..36].copy_from_slice(&CLIENT.port().to_be_bytes());
    frame[36..38].copy_from_slice(&port.to_be_bytes());
    frame[38..40].copy_from_slice(&(length - 20).to_be_bytes());
    frame.extend_from_slice(packet);
    frame
}
