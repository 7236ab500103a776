//! The interpreter against the slow path, against another packet library, and on any bytes.

use std::net::Ipv6Addr;

use proptest::prelude::*;
use stateplane_flow::fast::{Action, Guard, Hop, Kind, Punt, Verdict, compose};
use stateplane_flow::{FlowAction, PortId};
use stateplane_wire::packet::Headers;

use crate::world::*;

fn kinds() -> impl Strategy<Value = Kind> {
    prop::sample::select(vec![Kind::Tcp, Kind::Udp, Kind::Echo])
}

/// Addresses that are neither multicast nor broadcast.
fn unicast() -> impl Strategy<Value = End4> {
    (any::<[u8; 4]>(), any::<u16>()).prop_map(|([a, b, c, d], port)| ([a % 224, b, c, d], port))
}

fn flow_action() -> impl Strategy<Value = FlowAction> {
    (
        prop::option::of(unicast()),
        prop::option::of(unicast()),
        0..3u8,
    )
        .prop_map(|(source, destination, ttl)| FlowAction {
            source: source.map(endpoint),
            destination: destination.map(endpoint),
            ttl,
            out: PortId::OUTSIDE,
        })
}

/// The frame as the slow path sends it: rewritten, and addressed by its egress.
fn slowly(frame: &[u8], actions: &[FlowAction]) -> Vec<u8> {
    let mut sent = frame.to_vec();
    for action in actions {
        let headers = Headers::parse(&sent).unwrap();
        action.apply(&mut sent, &headers).unwrap();
    }
    sent[..6].copy_from_slice(&NEXT.destination.0);
    sent[6..12].copy_from_slice(&NEXT.source.0);
    sent
}

proptest! {
    /// What both paths can do they do alike, byte for byte, for a whole chain of functions too.
    #[test]
    fn it_agrees_with_the_slow_path(
        kind in kinds(), from in unicast(), to in unicast(), ttl in 9u8..,
        chain in prop::collection::vec(flow_action(), 1..5),
        payload in prop::collection::vec(any::<u8>(), 0..60), padding in 0..20usize,
        flip in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut frame = build4(kind, from, to, ttl, &payload);
        if let Some(index) = flip {
            // Damage behind the ports: it must arrive as damage.
            let first = 42.min(frame.len() - 1);
            let at = first + index.index(frame.len() - first);
            let harmless = !(kind == Kind::Tcp && (46..48).contains(&at)); // offset, flags
            if harmless {
                frame[at] ^= 1;
            }
        }
        frame.resize(frame.len() + padding, 0xaa);
        let whole = compose(kind, chain.iter().copied()).unwrap();
        prop_assert_eq!(slowly(&frame, &[whole]), slowly(&frame, &chain));
        let action = Action::of(&whole, Hop::Index(1), Guard::NONE);
        let world = World::with4(&key4(kind, from, to), action);
        prop_assert_eq!(world.passes(&frame), slowly(&frame, &chain));
    }

    /// A rewritten IPv6 packet is the packet another library builds with the new ends.
    #[test]
    fn ipv6_packets_are_rewritten_as_if_built_so(
        kind in kinds(), from: (u128, u16), to: (u128, u16),
        new_from: Option<u128>, new_to: Option<u128>,
        ports: [Option<u16>; 2], ttl in 17u8.., fall in 0..16u8,
        payload in prop::collection::vec(any::<u8>(), 0..60),
    ) {
        let unicast = |addr: u128| Ipv6Addr::from(addr >> 1);
        let (from, to) = ((unicast(from.0), from.1), (unicast(to.0), to.1));
        let action = Action {
            source: new_from.map(unicast),
            source_port: ports[0],
            destination: new_to.map(unicast),
            destination_port: ports[1],
            ttl: fall,
            ..Action::forward(Hop::Index(1), Guard::NONE)
        };
        let mut world = World::new();
        World::insert(&mut world.flows6, &key(kind, from, to), action);
        let sent = world.passes(&build6(kind, from, to, ttl, &payload));
        prop_assert!(sums_right(&sent));
        let mut from_now = (action.source.unwrap_or(from.0), ports[0].unwrap_or(from.1));
        let to_now = (action.destination.unwrap_or(to.0), ports[1].unwrap_or(to.1));
        if kind == Kind::Echo {
            from_now.1 = ports[1].or(ports[0]).unwrap_or(from.1);
        }
        let expected = build6(kind, from_now, to_now, ttl - fall, &payload);
        // Zero and all ones are the same sum; builders choose either.
        let sum = 54 + match kind { Kind::Tcp => 16, Kind::Udp => 6, Kind::Echo => 2 };
        prop_assert_eq!(&sent[12..sum], &expected[12..sum]);
        prop_assert_eq!(&sent[sum + 2..], &expected[sum + 2..]);
    }

    /// Any bytes have a verdict; only a redirected frame was touched.
    #[test]
    fn any_bytes_have_a_verdict(
        mut bytes in prop::collection::vec(any::<u8>(), 0..120),
        family in prop::option::of(any::<bool>()), tags in 0..4usize,
    ) {
        let mut at = 12;
        let mut put = |bytes: &mut Vec<u8>, word: [u8; 2]| {
            if bytes.len() >= at + 2 {
                bytes[at..at + 2].copy_from_slice(&word);
            }
            at += 4;
        };
        if bytes.len() >= 6 {
            bytes[..6].copy_from_slice(&STATION.0);
        }
        for _ in 0..tags {
            put(&mut bytes, [0x81, 0]);
        }
        if let Some(four) = family {
            put(&mut bytes, if four { [8, 0] } else { [0x86, 0xdd] });
        }
        let world = World::new();
        prop_assert!(!matches!(world.run(&bytes).0, Verdict::Redirect { .. }), "no entries");
    }

    /// What is cut off from a packet does not let it pass as another one.
    #[test]
    fn a_truncated_packet_does_not_pass(kind in kinds(), six: bool, keep in any::<prop::sample::Index>()) {
        let action = FlowAction {
            source: Some(endpoint(TO)), destination: None, ttl: 1, out: PortId::OUTSIDE,
        };
        let mut world = World::with4(&key4(kind, FROM, TO), Action::of(&action, Hop::Index(1), Guard::NONE));
        World::insert(&mut world.flows6, &key(kind, FROM6, TO6), Action::forward(Hop::Index(1), Guard::NONE));
        let frame = if six { build6(kind, FROM6, TO6, 9, b"data") } else { build4(kind, FROM, TO, 9, b"data") };
        world.passes(&frame);
        let verdict = world.run(&frame[..keep.index(frame.len())]).0;
        prop_assert!(matches!(verdict, Verdict::Kernel | Verdict::Function(Punt::Malformed)));
    }
}
