//! Who and what.

use stateplane_base::Incarnation;

/// 64-bit FNV-1a.
fn fnv1a(name: &str) -> u64 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    name.bytes().fold(0xcbf2_9ce4_8422_2325, step)
}

/// An instance's identity in the store: a hash of its configured name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct InstanceId(pub u64);

impl InstanceId {
    /// The identity of the instance with this name (64-bit FNV-1a).
    pub fn of(name: &str) -> Self {
        Self(fnv1a(name))
    }
}

/// One life of an instance.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Life {
    /// Which instance.
    pub instance: InstanceId,
    /// Which life of it.
    pub incarnation: Incarnation,
}

/// Who was granted something, and by which grant. The epoch fences what a former owner, or a former
/// life of the same one, still has in flight.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Owner {
    /// Which instance.
    pub instance: InstanceId,
    /// The grant; later ones are larger.
    pub epoch: u64,
}

/// A part of the state that has one owner at a time. Its function says what belongs to it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Partition(pub u64);

impl Partition {
    /// The partition with this name (64-bit FNV-1a).
    pub fn of(name: &str) -> Self {
        Self(fnv1a(name))
    }
}
