//! Keys and entries for tests of the flow table.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use stateplane_base::Time;
use stateplane_flow::PortId;
use stateplane_flow::fast::{Action, Address, Entry, Guard, Hop, Key, Kind, Seed, Vlans};

pub(crate) const SEED: Seed = Seed::new([
    0x243f_6a88_85a3_08d3,
    0x1319_8a2e_0370_7344,
    0xa409_3822_299f_31d0,
    0x082e_fa98_ec4e_6c89,
]);

/// Memory that a table and its readers share.
pub(crate) type Words = Arc<[AtomicU64]>;

pub(crate) fn words(count: usize) -> Words {
    (0..count).map(|_| AtomicU64::new(0)).collect()
}

pub(crate) fn key<A: Address>(number: u32, to_addr: impl Fn(u32) -> A) -> Key<A> {
    Key {
        kind: Kind::Udp,
        port: PortId::INSIDE,
        source: to_addr(0x0a00_0000 + number / 4),
        source_port: 1024 + (number % 4) as u16,
        destination: A::ANY,
        destination_port: 0,
        vlans: Vlans::default(),
    }
}

pub(crate) fn key4(number: u32) -> Key<Ipv4Addr> {
    key(number, Ipv4Addr::from)
}

/// All parts of the entry follow from one number, so that a mixture of two shows.
pub(crate) fn entry<A: Address>(number: u32, until: Time, to_addr: impl Fn(u32) -> A) -> Entry<A> {
    let low = number as u16;
    Entry {
        action: Action {
            source: Some(to_addr(number)),
            source_port: Some(low),
            destination: Some(to_addr(!number)),
            destination_port: Some(!low),
            ttl: (number % 16) as u8,
            hop: Hop::Index(low % 0xff00),
            tunnel: number as u8,
            guard: Guard {
                lease: low,
                epoch: number,
            },
            tcp_events: !number as u8,
            meter: None,
        },
        until,
    }
}

pub(crate) fn entry4(number: u32, until: Time) -> Entry<Ipv4Addr> {
    entry(number, until, Ipv4Addr::from)
}
