use super::*;
use proptest::prelude::*;
extern crate std;
use std::vec::Vec;

/// Ethernet + IPv4 (no options) + `l4` bytes.
fn frame(protocol: u8, source: u32, destination: u32, fragment: u16, l4: &[u8]) -> Vec<u8> {
    let mut frame = std::vec![0u8; 12];
    frame.extend([0x08, 0x00]);
    frame.extend(ip(protocol, source, destination, fragment, l4));
    frame
}

fn ip(protocol: u8, source: u32, destination: u32, fragment: u16, l4: &[u8]) -> Vec<u8> {
    let mut packet = std::vec![0x45, 0];
    packet.extend(u16::try_from(20 + l4.len()).unwrap().to_be_bytes());
    packet.extend([0, 7]);
    packet.extend(fragment.to_be_bytes());
    packet.extend([64, protocol, 0, 0]);
    packet.extend(source.to_be_bytes());
    packet.extend(destination.to_be_bytes());
    packet.extend(l4);
    packet
}

fn ports(source: u16, destination: u16) -> Vec<u8> {
    let mut l4 = source.to_be_bytes().to_vec();
    l4.extend(destination.to_be_bytes());
    l4.extend([0; 4]);
    l4
}

const IN: u32 = 0x0a00_0001;
const OUT: u32 = 0xc633_6401;
const FAR: u32 = 0x0808_0808;

#[test]
fn hash_is_the_documented_one() {
    // Vectors for whoever writes the twin.
    assert_eq!(
        (mix(0), mix(1), mix(0xdead_beef)),
        (0, 0x6889_90c0, 0xe628_c683)
    );
    assert_eq!(
        (inside_bucket(6, IN, 40000), outside_bucket(OUT, 200)),
        (283, 31)
    );
    let by_hand = |address: u32, low: u32, seed: u32| mix(mix(address ^ seed) ^ low) / (1 << 22);
    let inside = by_hand(IN, (6 << 16) | 40000, 0x1b56_c4e9);
    assert_eq!(u32::from(inside_bucket(6, IN, 40000)), inside);
    assert_eq!(
        u32::from(outside_bucket(OUT, 200)),
        by_hand(OUT, 200, 0x7a3d_90f5)
    );
}

#[test]
fn endpoints_of_the_right_side_decide() {
    let out = frame(6, IN, FAR, 0, &ports(40000, 443));
    assert_eq!(
        steer(&out, Side::Inside),
        Steer::Bucket(inside_bucket(6, IN, 40000))
    );
    let back = frame(17, FAR, OUT, 0, &ports(443, 51234));
    assert_eq!(
        steer(&back, Side::Outside),
        Steer::Bucket(outside_bucket(OUT, 51234 >> 8))
    );
    let echo = frame(1, IN, FAR, 0, &[8, 0, 0, 0, 0x12, 0x34, 0, 1]);
    assert_eq!(
        steer(&echo, Side::Inside),
        Steer::Bucket(inside_bucket(1, IN, 0x1234))
    );
}

#[test]
fn an_error_follows_the_packet_it_is_about() {
    // We sent OUT:51234 -> FAR; a router outside complains about it.
    let mut error = std::vec![11, 0, 0, 0, 0, 0, 0, 0];
    error.extend(ip(17, OUT, FAR, 0, &ports(51234, 53)));
    let frame_out = frame(1, 0x0101_0101, OUT, 0, &error);
    let expected = Steer::Bucket(outside_bucket(OUT, 51234 >> 8));
    assert_eq!(steer(&frame_out, Side::Outside), expected);
    // FAR sent to the inside host, which complains.
    let mut error = std::vec![3, 3, 0, 0, 0, 0, 0, 0];
    error.extend(ip(17, FAR, IN, 0, &ports(53, 40000)));
    let frame_in = frame(1, IN, FAR, 0, &error);
    assert_eq!(
        steer(&frame_in, Side::Inside),
        Steer::Bucket(inside_bucket(17, IN, 40000))
    );
}

#[test]
fn all_fragments_of_a_datagram_meet() {
    let first = frame(17, IN, FAR, 0x2000, &ports(40000, 53));
    let later = frame(17, IN, FAR, 0x00b9, &[0xff; 16]);
    assert_eq!(steer(&first, Side::Inside), steer(&later, Side::Inside));
    assert_eq!(
        steer(&first, Side::Inside),
        Steer::Bucket(inside_bucket(17, IN, 0))
    );
}

#[test]
fn other_traffic_passes_floods_or_drops() {
    let mut arp = std::vec![0xff; 14];
    arp[12..14].copy_from_slice(&[8, 6]);
    assert_eq!(steer(&arp, Side::Inside), Steer::Flood);
    let mut vlan = frame(6, IN, FAR, 0, &ports(1, 2));
    vlan[12..14].copy_from_slice(&[0x81, 0]);
    assert_eq!(steer(&vlan, Side::Inside), Steer::Pass);
    let mut group = frame(6, IN, FAR, 0, &ports(1, 2));
    group[0] = 1;
    assert_eq!(steer(&group, Side::Inside), Steer::Pass);
    let whole = frame(6, IN, FAR, 0, &ports(1, 2));
    for len in 0..whole.len() {
        assert_eq!(
            steer(&whole[..len], Side::Inside),
            Steer::Drop,
            "{len} bytes"
        );
    }
    // A packet whose IP length ends inside the ports, followed by padding.
    let mut short = frame(6, IN, FAR, 0, &[1]);
    short.resize(60, 0);
    assert_eq!(steer(&short, Side::Inside), Steer::Drop);
}

proptest! {
    #[test]
    fn any_bytes_have_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
        for side in [Side::Inside, Side::Outside] {
            prop_assert!(steer(&bytes, side).code() < BUCKETS as u32 + 3);
        }
    }

    #[test]
    fn damaged_ipv4_has_an_answer(
        damage in prop::collection::vec((14usize..90, any::<u8>()), 0..6),
        protocol in prop::sample::select(std::vec![1u8, 6, 17, 47]),
        kind in any::<u8>(),
    ) {
        let mut l4 = std::vec![kind, 0, 0, 0, 0, 0, 0, 0];
        l4.extend(ip(protocol, OUT, FAR, 0, &ports(51234, 53)));
        let mut bytes = frame(protocol, IN, FAR, 0, &l4);
        for (at, value) in damage {
            if let Some(byte) = bytes.get_mut(at) { *byte = value; }
        }
        for side in [Side::Inside, Side::Outside] {
            prop_assert!(steer(&bytes, side).code() < BUCKETS as u32 + 3);
        }
    }

    #[test]
    fn a_death_moves_only_the_dead_ones_buckets(
        mut live in prop::collection::btree_set(0u8..40, 2..9), pick in any::<prop::sample::Index>(),
    ) {
        let dead = *live.iter().nth(pick.index(live.len())).unwrap();
        let before = Table::compute(&live.iter().copied().collect::<Vec<_>>());
        live.remove(&dead);
        let after = Table::compute(&live.iter().rev().copied().collect::<Vec<_>>());
        for (old, new) in before.inside.iter().zip(&after.inside)
            .chain(before.outside.iter().zip(&after.outside)) {
            prop_assert!(live.contains(new));
            prop_assert!(*old == dead || old == new);
        }
    }
}

#[test]
fn shares_are_balanced() {
    for instances in 2..=8u8 {
        let live: Vec<u8> = (0..instances).collect();
        let table = Table::compute(&live);
        for side in [&table.inside, &table.outside] {
            for instance in &live {
                let share = side.iter().filter(|&owner| owner == instance).count();
                let fair = BUCKETS / usize::from(instances);
                assert!(
                    share > fair * 7 / 10 && share < fair * 13 / 10,
                    "{instances}: {share}"
                );
            }
        }
    }
}

#[test]
fn endpoints_spread_over_buckets() {
    // 64 hosts x 256 ports, and all blocks of 16 addresses.
    let mut inside = [0u32; BUCKETS];
    for host in 0..64 {
        for port in 0..256 {
            inside[usize::from(inside_bucket(6, IN + host, 32768 + port))] += 1;
        }
    }
    assert!(inside.iter().all(|&n| n > 0 && n < 48), "16 expected");
    let mut outside = [0u32; BUCKETS];
    for address in 0..64 {
        for block in 0..256 {
            outside[usize::from(outside_bucket(OUT + address, block))] += 1;
        }
    }
    assert!(outside.iter().all(|&n| n > 0 && n < 48), "16 expected");
}

#[test]
fn nobody_lives_in_an_empty_set() {
    assert_eq!(Table::compute(&[]), Table::pinned(NOBODY, NOBODY));
    assert_eq!(Table::compute(&[NOBODY]), Table::pinned(NOBODY, NOBODY));
    assert_eq!(Table::compute(&[3]), Table::pinned(3, 3));
    assert_eq!(Table::pinned(1, 2).owner_of_block(OUT, 9), 2);
}

/// Buckets of each instance, both sides.
fn shares(table: &Table) -> [f64; 8] {
    let mut shares = [0.0; 8];
    for owner in table.inside.iter().chain(&table.outside) {
        shares[usize::from(*owner)] += 1.0 / (2 * BUCKETS) as f64;
    }
    shares
}

#[test]
fn shares_are_as_the_weights() {
    for weights in [
        [100, 300, 0, 0],
        [1, 1, 2, 4],
        [50, 100, 100, 100],
        [1000, 1, 1, 1],
    ] {
        let live: Vec<(u8, u32)> = (0..).zip(weights).collect();
        let (total, shares) = (weights.iter().sum::<u32>(), shares(&Table::weighted(&live)));
        for (share, weight) in shares.iter().zip(weights) {
            let due = f64::from(weight) / f64::from(total);
            // Four deviations of what chance gives each of 2048 buckets.
            let chance = (due * (1.0 - due) / 2048.0).sqrt() * 4.0 + 0.001;
            assert!((share - due).abs() <= chance, "{weights:?}: {shares:?}");
        }
        assert!(weights[2] > 0 || shares[2] == 0.0);
    }
}

#[test]
fn equal_weights_are_no_weights() {
    let live = [0u8, 3, 4, 9, 40];
    for weight in [0, 1, 7, 1000, u32::MAX] {
        let weighted = live.map(|n| (n, weight));
        assert_eq!(
            Table::weighted(&weighted),
            Table::compute(&live),
            "{weight}"
        );
    }
    assert_eq!(Table::weighted(&[]), Table::pinned(NOBODY, NOBODY));
    assert_eq!(Table::weighted(&[(3, 0), (4, 1)]), Table::pinned(4, 4));
}

#[test]
fn the_logarithm_is_one() {
    let scale = f64::from(1u32 << LOG_BITS);
    let mut last = 0;
    for n in (0..32).flat_map(|bit| [0, 1, 77, 12_345].map(|d| (1u64 << bit) + d - 1)) {
        let Ok(n) = u32::try_from(n) else { continue };
        let exact = (f64::from(n) + 1.0).log2();
        assert!((log2(n) as f64 / scale - exact).abs() < 4e-6, "{n}");
    }
    for n in (0..u32::MAX - 70_001).step_by(70_001) {
        assert!(log2(n) >= last && log2(n + 1) >= log2(n), "{n}");
        last = log2(n);
    }
    assert_eq!(log2(u32::MAX), 32 << LOG_BITS);
}

proptest! {
    /// What one weight's change moves, it moves to or from that instance, and no more than
    /// its share changes by.
    #[test]
    fn a_weight_moves_only_its_own_buckets(
        weights in prop::collection::vec(1u32..1000, 2..9), to in 0u32..1000,
        pick in any::<prop::sample::Index>(),
    ) {
        let mut live: Vec<(u8, u32)> = (0..).zip(weights).collect();
        let before = Table::weighted(&live);
        let changed = pick.index(live.len());
        let grows = to > live[changed].1;
        live[changed].1 = to;
        let after = Table::weighted(&live);
        let changed = changed as u8;
        for (old, new) in before.inside.iter().zip(&after.inside)
            .chain(before.outside.iter().zip(&after.outside)) {
            let mine = if grows { *new == changed } else { *old == changed };
            prop_assert!(old == new || mine, "{} to {}", old, new);
        }
    }
}
