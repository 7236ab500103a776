//! What an entry of the flow tables is found by.

use core::fmt::Debug;
use core::hash::Hash;
use core::net::{Ipv4Addr, Ipv6Addr};

use super::layout::{
    KEY4_WORDS, KEY6_WORDS, KIND_ECHO, KIND_TCP, KIND_UDP, META_INNER_SHIFT, META_KIND_SHIFT,
    META_PORT_SHIFT, PORTS, SLOT4_WORDS, SLOT6_WORDS,
};
use crate::{Endpoint, FlowKey, PortId, Protocol};

/// Most words of a slot.
pub(super) const SLOT_WORDS_MAX: usize = SLOT6_WORDS;

/// An address family of the flow tables: [`Ipv4Addr`] or [`Ipv6Addr`].
pub trait Address: Copy + Eq + Ord + Hash + Debug + private::Sealed {
    /// Stands for any address in a key.
    const ANY: Self;
    /// Words of a slot.
    const SLOT_WORDS: usize;
    /// Words that hold two addresses.
    const PAIR_WORDS: usize;

    /// The words of two addresses, the first [`Self::PAIR_WORDS`] of the result.
    fn pair(source: Self, destination: Self) -> [u64; 4];

    /// The inverse of [`Self::pair`].
    fn unpair(words: [u64; 4]) -> (Self, Self);
}

mod private {
    pub trait Sealed {}
    impl Sealed for core::net::Ipv4Addr {}
    impl Sealed for core::net::Ipv6Addr {}
}

impl Address for Ipv4Addr {
    const ANY: Self = Ipv4Addr::UNSPECIFIED;
    const SLOT_WORDS: usize = SLOT4_WORDS;
    const PAIR_WORDS: usize = KEY4_WORDS;

    #[inline]
    fn pair(source: Self, destination: Self) -> [u64; 4] {
        let half = |addr: Self| u64::from(u32::from_le_bytes(addr.octets()));
        [half(source) | half(destination) << 32, 0, 0, 0]
    }

    #[inline]
    fn unpair(words: [u64; 4]) -> (Self, Self) {
        let half = |word: u64| Ipv4Addr::from((word as u32).to_le_bytes());
        (half(words[0]), half(words[0] >> 32))
    }
}

impl Address for Ipv6Addr {
    const ANY: Self = Ipv6Addr::UNSPECIFIED;
    const SLOT_WORDS: usize = SLOT6_WORDS;
    const PAIR_WORDS: usize = KEY6_WORDS;

    fn pair(source: Self, destination: Self) -> [u64; 4] {
        // The first byte of an address is the lowest of its first word.
        let halves = |addr: Self| {
            let number = u128::from_le_bytes(addr.octets());
            [number as u64, (number >> 64) as u64]
        };
        let ([a, b], [c, d]) = (halves(source), halves(destination));
        [a, b, c, d]
    }

    fn unpair([a, b, c, d]: [u64; 4]) -> (Self, Self) {
        let join = |low: u64, high: u64| {
            Ipv6Addr::from((u128::from(low) | u128::from(high) << 64).to_le_bytes())
        };
        (join(a, b), join(c, d))
    }
}

/// What kind of flow, by its transport.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u32)]
pub enum Kind {
    /// TCP.
    Tcp = KIND_TCP,
    /// UDP.
    Udp = KIND_UDP,
    /// Echo of ICMP or ICMPv6: the identifier is both ports.
    Echo = KIND_ECHO,
}

impl Kind {
    const fn from_number(number: u32) -> Option<Self> {
        match number {
            KIND_TCP => Some(Kind::Tcp),
            KIND_UDP => Some(Kind::Udp),
            KIND_ECHO => Some(Kind::Echo),
            _ => None,
        }
    }
}

impl From<Protocol> for Kind {
    fn from(protocol: Protocol) -> Self {
        match protocol {
            Protocol::IcmpEcho => Kind::Echo,
            Protocol::Tcp => Kind::Tcp,
            Protocol::Udp => Kind::Udp,
        }
    }
}

/// The VLAN ids of a frame, outer and inner; 0 where there is no tag.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Vlans(pub u16, pub u16);

/// The key of an entry. What the port's [`KeyMask`](super::KeyMask) leaves out is zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Key<A> {
    /// What kind of flow.
    pub kind: Kind,
    /// The port its packets arrive on, below [`PORTS`].
    pub port: PortId,
    /// From which address.
    pub source: A,
    /// From which port (echo: the identifier).
    pub source_port: u16,
    /// To which address.
    pub destination: A,
    /// To which port (echo: the identifier).
    pub destination_port: u16,
    /// In which VLANs.
    pub vlans: Vlans,
}

impl Key<Ipv4Addr> {
    /// The key of an untagged flow whose packets arrive on `port`.
    pub const fn of(flow: &FlowKey, port: PortId) -> Self {
        let Endpoint {
            addr: source,
            port: source_port,
        } = flow.source;
        let Endpoint {
            addr: destination,
            port: destination_port,
        } = flow.destination;
        Key {
            kind: match flow.protocol {
                Protocol::IcmpEcho => Kind::Echo,
                Protocol::Tcp => Kind::Tcp,
                Protocol::Udp => Kind::Udp,
            },
            port,
            source,
            source_port,
            destination,
            destination_port,
            vlans: Vlans(0, 0),
        }
    }
}

impl<A: Address> Key<A> {
    /// Its words: those of the addresses (the first [`Address::PAIR_WORDS`]) and the tag.
    pub fn words(&self) -> ([u64; 4], u64) {
        let meta = u32::from(self.vlans.0 & 0xfff)
            | u32::from(self.vlans.1 & 0xfff) << META_INNER_SHIFT
            | (u32::from(self.port.0) % PORTS as u32) << META_PORT_SHIFT
            | (self.kind as u32) << META_KIND_SHIFT;
        let tag = port_word(self.source_port)
            | port_word(self.destination_port) << 16
            | u64::from(meta) << 32;
        (A::pair(self.source, self.destination), tag)
    }

    /// The inverse of [`Self::words`]; nothing if the tag is none.
    pub fn from_words(addresses: [u64; 4], tag: u64) -> Option<Self> {
        let meta = (tag >> 32) as u32;
        let (source, destination) = A::unpair(addresses);
        Some(Key {
            kind: Kind::from_number(meta >> META_KIND_SHIFT)?,
            port: PortId((meta >> META_PORT_SHIFT & 0x1f) as u8),
            source,
            source_port: word_port(tag),
            destination,
            destination_port: word_port(tag >> 16),
            vlans: Vlans(
                meta as u16 & 0xfff,
                (meta >> META_INNER_SHIFT) as u16 & 0xfff,
            ),
        })
    }
}

/// A port in network order, as the low bytes of a word.
#[inline]
pub(super) const fn port_word(port: u16) -> u64 {
    port.swap_bytes() as u64
}

/// The inverse of [`port_word`].
#[inline]
pub(super) const fn word_port(word: u64) -> u16 {
    (word as u16).swap_bytes()
}

/// The secrets of the hash. Senders choose keys: they must not know which ones collide.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Seed {
    /// Added (exclusive or) to address words and to the tag.
    pub add: [u64; 2],
    /// Multiplied with; odd.
    pub multiply: [u64; 2],
}

impl Seed {
    /// The hash's secrets from random words.
    pub const fn new([a, b, c, d]: [u64; 4]) -> Self {
        Seed {
            add: [a, b],
            multiply: [c | 1, d | 1],
        }
    }

    /// Multiply and fold: cheap in a BPF program, where 64 bits are all a product has.
    ///
    /// ```text
    /// h = 0
    /// for each address word w:   h = ((h ^ h >> 32) ^ w ^ add0) * multiply0
    /// h ^= tag ^ add1;           h = (h ^ h >> 32) * multiply1
    /// h ^ h >> 32
    /// ```
    #[inline]
    pub fn hash(&self, addresses: &[u64], tag: u64) -> u64 {
        let mut h = 0u64;
        for word in addresses {
            h = (h ^ h >> 32 ^ word ^ self.add[0]).wrapping_mul(self.multiply[0]);
        }
        h ^= tag ^ self.add[1];
        h = (h ^ h >> 32).wrapping_mul(self.multiply[1]);
        h ^ h >> 32
    }

    /// Where a key's second choice comes from. The two halves of the hash alone would not do: keys
    /// that differ in a port's high bits only would have choices that differ by one constant in a
    /// small table, and could not make room for each other.
    #[inline]
    pub fn second(&self, hash: u64) -> u64 {
        hash.wrapping_mul(self.multiply[0]) >> 32
    }

    /// The hash of a key.
    pub(super) fn hash_of<A: Address>(&self, key: &Key<A>) -> u64 {
        let (addresses, tag) = key.words();
        self.hash(&addresses[..A::PAIR_WORDS], tag)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key<A: Address>(
        (kind, port, vlans): (u32, u8, (u16, u16)),
        (source, destination): (A, A),
        (source_port, destination_port): (u16, u16),
    ) -> Key<A> {
        Key {
            kind: Kind::from_number(kind).unwrap(),
            port: PortId(port),
            source,
            source_port,
            destination,
            destination_port,
            vlans: Vlans(vlans.0, vlans.1),
        }
    }

    fn heads() -> impl Strategy<Value = (u32, u8, (u16, u16))> {
        (1..4u32, 0..PORTS as u8, (0..4096u16, 0..4096u16))
    }

    proptest! {
        #[test]
        fn keys_survive_their_words(
            head in heads(), a: [u32; 2], b: [u128; 2], ports: (u16, u16), masked: u8,
        ) {
            let four = key(head, (Ipv4Addr::from(a[0]), Ipv4Addr::from(a[1])), ports);
            let (addresses, tag) = four.words();
            prop_assert_eq!(Key::from_words(addresses, tag), Some(four));
            let six = key(head, (Ipv6Addr::from(b[0]), Ipv6Addr::from(b[1])), ports);
            let (addresses, tag) = six.words();
            prop_assert_eq!(Key::from_words(addresses, tag), Some(six));
            // A free slot's tag is no key.
            prop_assert_eq!(Key::<Ipv4Addr>::from_words(addresses, u64::from(masked)), None);
        }
    }

    #[test]
    fn bytes_lie_as_in_the_packet() {
        let key = key(
            (KIND_UDP, 1, (2, 3)),
            (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(192, 0, 2, 7)),
            (0x1234, 53),
        );
        let (addresses, tag) = key.words();
        assert_eq!(addresses[0].to_le_bytes(), [10, 0, 0, 1, 192, 0, 2, 7]);
        assert_eq!(tag.to_le_bytes(), [0x12, 0x34, 0, 53, 2, 0x30, 0, 0x41]);
    }

    /// Neighbouring keys, as real hosts choose them, spread over both choices, and over what lies
    /// between those.
    #[test]
    fn both_choices_spread_whatever_differs() {
        let seed = Seed::new([
            0x9e37_79b9_7f4a_7c15,
            3,
            0xd6e8_feb8_6659_fd93,
            0xa076_1d64_78bd_642f,
        ]);
        let base = key(
            (KIND_TCP, 0, (0, 0)),
            (Ipv4Addr::new(10, 0, 0, 0), Ipv4Addr::new(192, 0, 2, 1)),
            (1024, 443),
        );
        let varied: [&dyn Fn(u32) -> Key<Ipv4Addr>; 5] = [
            &|n| Key {
                source: Ipv4Addr::from(0x0a00_0000 + n),
                ..base
            },
            &|n| Key {
                destination: Ipv4Addr::from(0xc000_0000 + (n << 16)),
                ..base
            },
            &|n| Key {
                source_port: n as u16,
                ..base
            },
            &|n| Key {
                destination_port: n as u16,
                ..base
            },
            &|n| Key {
                vlans: Vlans(n as u16 & 0xfff, (n >> 12) as u16),
                ..base
            },
        ];
        const BINS: usize = 1024;
        for (which, vary) in varied.iter().enumerate() {
            for what in ["first", "second", "between"] {
                let mut bins = [0u32; BINS];
                for n in 0..16 * BINS as u32 {
                    let (addresses, tag) = vary(n).words();
                    let first = seed.hash(&addresses[..1], tag);
                    let second = seed.second(first);
                    let bin = match what {
                        "first" => first,
                        "second" => second,
                        _ => first ^ second,
                    };
                    bins[bin as usize % BINS] += 1;
                }
                // Each bin expects 16; by chance none of 1024 has 48.
                let most = bins.iter().max().unwrap();
                assert!(*most < 48, "field {which}, {what}: {most} in one bin");
            }
        }
    }
}
