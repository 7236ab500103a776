//! The settings, as readers see them.

use core::sync::atomic::{AtomicU64, Ordering};

use stateplane_wire::eth::Mac;

use super::key::{Address, Key, Seed};
use super::layout::{
    BUCKET_SLOTS, PORT_WORDS, PORTS, RESERVED_FUNCTION, RESERVED_KERNEL, RESERVED4, RESERVED6,
    SETTINGS_ENABLED_WORD, SETTINGS_IN_USE_WORD, SETTINGS_PORTS_WORD, SETTINGS_RESERVED4_WORD,
    SETTINGS_RESERVED6_WORD, SETTINGS_SEED_WORD, SETTINGS_WORDS,
};
use super::memory::load;
use super::settings::Reserve;
use crate::PortId;

/// The part of a flow table that a word of the settings says is in use.
pub(super) fn in_use<'t, A: Address>(word: &AtomicU64, flows: &'t [AtomicU64]) -> &'t [AtomicU64] {
    let last = (flows.len() / A::SLOT_WORDS).saturating_sub(1) as u64;
    // SYNC: with the store in `Extent::set`.
    let slots = (last & word.load(Ordering::Acquire)) as usize + 1;
    let in_use = flows.get(..slots * A::SLOT_WORDS).unwrap_or_default();
    match slots.is_power_of_two() && slots >= BUCKET_SLOTS {
        true => in_use,
        false => &[],
    }
}

/// A port as a reader sees it.
#[derive(Clone, Copy, Debug)]
pub(super) struct PortView<'a> {
    pub(super) flags: u8,
    pub(super) station: Mac,
    words: &'a [AtomicU64],
    settings: &'a [AtomicU64],
    port: PortId,
}

/// What a reader needs before it knows the packet; nothing if the memory is too short.
pub(super) fn port_view(settings: &[AtomicU64], port: PortId) -> Option<PortView<'_>> {
    let settings = settings.get(..SETTINGS_WORDS)?;
    if usize::from(port.0) >= PORTS {
        return None;
    }
    let words = &settings[SETTINGS_PORTS_WORD + usize::from(port.0) * PORT_WORDS..][..PORT_WORDS];
    let [a, b, c, d, e, f, flags, _] = load(words, 0).to_le_bytes();
    let station = Mac([a, b, c, d, e, f]);
    Some(PortView {
        flags,
        station,
        words,
        settings,
        port,
    })
}

impl PortView<'_> {
    pub(super) fn enabled(&self) -> bool {
        load(self.settings, SETTINGS_ENABLED_WORD) == 1
    }

    pub(super) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    pub(super) fn seed(&self) -> Seed {
        let at = |n: usize| load(self.settings, SETTINGS_SEED_WORD + n);
        Seed {
            add: [at(0), at(1)],
            multiply: [at(2), at(3)],
        }
    }

    /// The part of a flow table that is in use.
    pub(super) fn in_use<'t, A: Address>(&self, flows: &'t [AtomicU64]) -> &'t [AtomicU64] {
        let table = usize::from(A::PAIR_WORDS > 1);
        in_use::<A>(&self.settings[SETTINGS_IN_USE_WORD + table], flows)
    }

    /// The key with what makes a flow on this port alone.
    pub(super) fn masked<A: Address>(&self, key: &Key<A>) -> Key<A> {
        let mask = |n: usize| load(self.words, 1 + n);
        let masks = match A::PAIR_WORDS {
            1 => [mask(0), 0, 0, 0],
            _ => [mask(2), mask(2), mask(3), mask(3)],
        };
        let (mut addresses, tag) = key.words();
        for (word, mask) in addresses.iter_mut().zip(masks) {
            *word &= mask;
        }
        Key::from_words(addresses, tag & mask(1)).unwrap_or(*key)
    }

    /// Who else has to see packets to this destination.
    pub(super) fn reserved<A: Address>(&self, destination: A) -> Option<Reserve> {
        let (first, room, width) = match A::PAIR_WORDS {
            1 => (SETTINGS_RESERVED4_WORD, RESERVED4, 2),
            _ => (SETTINGS_RESERVED6_WORD, RESERVED6, 5),
        };
        self.settings[first..][..room * width]
            .chunks_exact(width)
            .find_map(|entry| {
                let what = load(entry, width - 1);
                let (prefix, mask) = prefix::<A>(entry);
                let on_port = what >> 32 >> self.port.0 & 1 != 0;
                let wanted = A::pair(destination, A::ANY);
                let within = (0..2).all(|n| wanted[n] & mask[n] == prefix[n]);
                match what as u32 {
                    RESERVED_FUNCTION if on_port && within => Some(Reserve::Function),
                    RESERVED_KERNEL if on_port && within => Some(Reserve::Kernel),
                    _ => None,
                }
            })
    }
}

/// A reserved destination and its mask, each in the words of one address.
fn prefix<A: Address>(entry: &[AtomicU64]) -> ([u64; 2], [u64; 2]) {
    match A::PAIR_WORDS {
        1 => ([load(entry, 0) & 0xffff_ffff, 0], [load(entry, 0) >> 32, 0]),
        _ => (
            [load(entry, 0), load(entry, 1)],
            [load(entry, 2), load(entry, 3)],
        ),
    }
}
