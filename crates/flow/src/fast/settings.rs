//! What holds for all packets: which fields make a flow, which destinations are reserved.

use core::net::{Ipv4Addr, Ipv6Addr};
use core::sync::atomic::{AtomicU64, Ordering};

use stateplane_wire::eth::Mac;

use super::key::{Address, Seed};
use super::layout::{
    PORT_IPV4, PORT_IPV6, PORT_PARTIAL, PORT_RESERVED, PORT_TAGGED, PORT_WORDS, PORTS,
    RESERVED_FUNCTION, RESERVED_KERNEL, RESERVED4, RESERVED6, SETTINGS_ENABLED_WORD,
    SETTINGS_IN_USE_WORD, SETTINGS_PORTS_WORD, SETTINGS_RESERVED4_WORD, SETTINGS_RESERVED6_WORD,
    SETTINGS_SEED_WORD, SETTINGS_WORDS,
};
use super::memory::{Memory, WrongSize, store};
use super::view::in_use;
use crate::PortId;

/// Which fields of a packet make a flow on a port; the others are zero in keys. The
/// protocol, the port and the VLANs always do.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct KeyMask {
    /// The source address.
    pub source: bool,
    /// The source port.
    pub source_port: bool,
    /// The destination address.
    pub destination: bool,
    /// The destination port.
    pub destination_port: bool,
}

impl KeyMask {
    /// All fields, as a firewall needs them.
    pub const ALL: KeyMask = KeyMask {
        source: true,
        source_port: true,
        destination: true,
        destination_port: true,
    };
    /// Who sends, as an endpoint-independent NAT needs it from the inside.
    pub const SOURCE: KeyMask = KeyMask {
        source: true,
        source_port: true,
        destination: false,
        destination_port: false,
    };
    /// For whom it is, as an endpoint-independent NAT needs it from the outside.
    pub const DESTINATION: KeyMask = KeyMask {
        source: false,
        source_port: false,
        destination: true,
        destination_port: true,
    };

    /// The bits of a key's words that count: of the addresses, and of the tag.
    pub(super) fn words<A: Address>(self) -> ([u64; 4], u64) {
        let of = |field, bits: u64| if field { bits } else { 0 };
        let (low, high) = (0xffff_ffff, 0xffff_ffff_0000_0000);
        let addresses = if A::PAIR_WORDS == 1 {
            [of(self.source, low) | of(self.destination, high), 0, 0, 0]
        } else {
            let [source, destination] = self.halves();
            [source, source, destination, destination]
        };
        let ports = of(self.source_port, 0xffff) | of(self.destination_port, 0xffff_0000);
        (addresses, high | ports)
    }

    fn halves(self) -> [u64; 2] {
        [self.source, self.destination].map(|field| if field { u64::MAX } else { 0 })
    }
}

/// A port of the function.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PortSettings {
    /// The interface's hardware address: other frames are not for us.
    pub station: Mac,
    /// What makes a flow.
    pub mask: KeyMask,
    /// IPv4 packets are the function's.
    pub ipv4: bool,
    /// IPv6 packets are the function's.
    pub ipv6: bool,
    /// Tagged frames are the function's too.
    pub tagged: bool,
    /// Senders may leave transport checksums unfinished, as on virtual links.
    pub partial_checksums: bool,
}

/// Who has to see packets to a reserved destination.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Reserve {
    /// The function: its own addresses, seen from where keys leave the destination out.
    Function = RESERVED_FUNCTION,
    /// The kernel: the machine's own.
    Kernel = RESERVED_KERNEL,
}

/// A run of destinations that entries do not hold for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reserved<A> {
    /// Its first address.
    pub address: A,
    /// Leading bits in common.
    pub length: u8,
    /// Who has to see their packets.
    pub who: Reserve,
    /// On which ports, a bit for each.
    pub ports: u32,
}

/// More reserved destinations than there is room for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "{given} reserved destinations, but there is room for {room}; use next hops by destination instead"
)]
pub struct TooMany {
    /// So many were given.
    pub given: usize,
    /// So many fit.
    pub room: usize,
}

/// How much of a flow table readers look at: a word of the settings that the table's writer has.
#[derive(Clone, Debug)]
pub struct Extent<M> {
    settings: M,
    word: usize,
}

impl<M: Memory> Extent<M> {
    /// Readers look at so many slots from now on: a power of two.
    pub(super) fn set(&self, slots: usize) {
        // SYNC: with the load in `view::in_use`: who looks there finds what was written there.
        self.settings[self.word].store(slots as u64 - 1, Ordering::Release);
    }

    /// The part of its table that readers look at now, for [`look_up`](super::look_up) and
    /// [`seen`](super::seen).
    pub fn in_use<'t, A: Address>(&self, flows: &'t [AtomicU64]) -> &'t [AtomicU64] {
        in_use::<A>(&self.settings[self.word], flows)
    }
}

/// The settings, as their one writer has them.
#[derive(Debug)]
pub struct Settings<M>(M);

impl<M: Memory> Settings<M> {
    /// Takes memory of [`SETTINGS_WORDS`] and sets the secrets of the hash. The fast path is off.
    pub fn new(memory: M, seed: Seed) -> Result<Self, WrongSize> {
        if memory.len() < SETTINGS_WORDS {
            let (what, words) = ("the settings", memory.len());
            let wants = "they need 144";
            return Err(WrongSize { what, words, wants });
        }
        let settings = Settings(memory);
        for at in 0..SETTINGS_WORDS {
            store(&settings.0, at, 0);
        }
        for table in 0..2 {
            store(&settings.0, SETTINGS_IN_USE_WORD + table, u64::MAX);
        }
        let secrets = seed.add.into_iter().chain(seed.multiply);
        for (n, word) in secrets.enumerate() {
            store(&settings.0, SETTINGS_SEED_WORD + n, word);
        }
        Ok(settings)
    }

    /// What tells readers how much of a table is in use, for [`Table::growing`](super::Table::growing).
    pub fn extent<A: Address>(&self) -> Extent<M>
    where
        M: Clone,
    {
        let table = usize::from(A::PAIR_WORDS > 1);
        Extent {
            settings: self.0.clone(),
            word: SETTINGS_IN_USE_WORD + table,
        }
    }

    /// Switches the fast path on or off. Switch it off before other settings change.
    pub fn enable(&mut self, on: bool) {
        let word = &self.0[SETTINGS_ENABLED_WORD];
        word.store(u64::from(on), Ordering::SeqCst);
    }

    /// Sets a port; with none, the fast path leaves its frames alone.
    pub fn set_port(&mut self, port: PortId, settings: Option<&PortSettings>) {
        let at = SETTINGS_PORTS_WORD + usize::from(port.0) % PORTS * PORT_WORDS;
        let words = &self.0[at..at + PORT_WORDS];
        store(words, 0, 0);
        let Some(settings) = settings else { return };
        let (addresses, tag) = settings.mask.words::<Ipv4Addr>();
        let [source, destination] = settings.mask.halves();
        for (n, word) in [addresses[0], tag, source, destination]
            .into_iter()
            .enumerate()
        {
            store(words, 1 + n, word);
        }
        let mut flags = 0;
        for (given, flag) in [
            (settings.ipv4, PORT_IPV4),
            (settings.ipv6, PORT_IPV6),
            (settings.tagged, PORT_TAGGED),
            (settings.partial_checksums, PORT_PARTIAL),
            (!settings.mask.destination, PORT_RESERVED),
        ] {
            if given {
                flags |= flag;
            }
        }
        let [a, b, c, d, e, f] = settings.station.0;
        store(words, 0, u64::from_le_bytes([a, b, c, d, e, f, flags, 0]));
    }

    /// Sets the reserved IPv4 destinations; the first that fits a packet counts.
    pub fn reserve4(&mut self, reserved: &[Reserved<Ipv4Addr>]) -> Result<(), TooMany> {
        self.reserve::<_, 2>(SETTINGS_RESERVED4_WORD, RESERVED4, reserved, |r| {
            let mask = Ipv4Addr::from(u32::MAX.checked_shl(32 - u32::from(r.length)).unwrap_or(0));
            [Ipv4Addr::pair(r.address & mask, mask)[0], 0]
        })
    }

    /// Sets the reserved IPv6 destinations; the first that fits a packet counts.
    pub fn reserve6(&mut self, reserved: &[Reserved<Ipv6Addr>]) -> Result<(), TooMany> {
        self.reserve::<_, 5>(SETTINGS_RESERVED6_WORD, RESERVED6, reserved, |r| {
            let mask = Ipv6Addr::from(
                u128::MAX
                    .checked_shl(128 - u32::from(r.length))
                    .unwrap_or(0),
            );
            let [a, b, c, d] = Ipv6Addr::pair(r.address & mask, mask);
            [a, b, c, d, 0]
        })
    }

    /// Writes entries of `W` words, the last of which says what to do, and to none frees the rest.
    fn reserve<A, const W: usize>(
        &mut self,
        first: usize,
        room: usize,
        reserved: &[Reserved<A>],
        encode: impl Fn(&Reserved<A>) -> [u64; W],
    ) -> Result<(), TooMany> {
        let given = reserved.len();
        if given > room {
            return Err(TooMany { given, room });
        }
        for n in 0..room {
            let words = &self.0[first + n * W..][..W];
            words[W - 1].store(0, Ordering::SeqCst);
            let Some(entry) = reserved.get(n) else {
                continue;
            };
            for (at, word) in encode(entry).into_iter().enumerate().take(W - 1) {
                store(words, at, word);
            }
            let what = entry.who as u64 | u64::from(entry.ports) << 32;
            words[W - 1].store(what, Ordering::SeqCst);
        }
        Ok(())
    }
}
