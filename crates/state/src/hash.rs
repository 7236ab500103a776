//! The two hashes: one that says what a row is worth in the digest, one that finds it in a table.

use core::hash::Hasher;

use siphasher::sip::SipHasher13;

/// An odd constant: the fractional part of the square root of 3.
const MULTIPLIER: u64 = 0xbb67_ae85_84ca_a73b;

/// A running fingerprint of byte strings. The same on every machine and in every version, since
/// replicas compare it; not for adversaries.
#[derive(Clone, Copy)]
pub(crate) struct Fingerprint(u64);

impl Fingerprint {
    /// Begins a fingerprint of its own kind.
    pub(crate) const fn new(kind: u64) -> Self {
        Self(fold(kind ^ 0x6a09_e667_f3bc_c908))
    }

    /// Takes in one string, told apart from others by its length.
    pub(crate) fn bytes(self, bytes: &[u8]) -> Self {
        let mut hash = fold(self.0 ^ bytes.len() as u64);
        let (words, tail) = bytes.as_chunks::<8>();
        for word in words {
            hash = fold(hash ^ u64::from_le_bytes(*word));
        }
        Self(fold(hash ^ last_word(bytes, tail)))
    }

    /// Takes in one number.
    pub(crate) const fn number(self, number: u64) -> Self {
        Self(fold(self.0.rotate_left(29) ^ number))
    }

    /// The value.
    pub(crate) const fn finish(self) -> u64 {
        fold(self.0 ^ (self.0 >> 32))
    }
}

/// The last bytes, `tail`, fewer than eight, as a word.
fn last_word(bytes: &[u8], tail: &[u8]) -> u64 {
    match bytes.last_chunk() {
        // Those before them are shifted out: nothing is copied.
        Some(_) if tail.is_empty() => 0,
        Some(last) => u64::from_le_bytes(*last) >> (64 - 8 * tail.len()),
        None => {
            let mut word = [0; 8];
            word[..tail.len()].copy_from_slice(tail);
            u64::from_le_bytes(word)
        }
    }
}

/// A checksum of bytes that come piece by piece; how they are cut does not matter.
#[derive(Clone)]
pub(crate) struct Checksum {
    hash: u64,
    len: u64,
    /// The last bytes, fewer than eight.
    rest: [u8; 8],
    held: usize,
}

impl Checksum {
    pub(crate) const fn new() -> Self {
        Self {
            hash: Fingerprint::new(6).0,
            len: 0,
            rest: [0; 8],
            held: 0,
        }
    }

    /// Takes in the next bytes.
    pub(crate) fn take(&mut self, mut bytes: &[u8]) {
        self.len += bytes.len() as u64;
        if self.held > 0 {
            let missing = (8 - self.held).min(bytes.len());
            self.rest[self.held..self.held + missing].copy_from_slice(&bytes[..missing]);
            self.held += missing;
            bytes = &bytes[missing..];
            if self.held < 8 {
                return;
            }
            self.hash = fold(self.hash ^ u64::from_le_bytes(self.rest));
        }
        let (words, tail) = bytes.as_chunks::<8>();
        for word in words {
            self.hash = fold(self.hash ^ u64::from_le_bytes(*word));
        }
        self.rest[..tail.len()].copy_from_slice(tail);
        self.held = tail.len();
    }

    /// The checksum of all bytes so far.
    pub(crate) fn finish(&self) -> [u8; 8] {
        let mut last = [0; 8];
        last[..self.held].copy_from_slice(&self.rest[..self.held]);
        let hash = Fingerprint(fold(self.hash ^ u64::from_le_bytes(last)));
        hash.number(self.len).finish().to_be_bytes()
    }
}

impl Default for Checksum {
    fn default() -> Self {
        Self::new()
    }
}

/// Multiplies and folds the product's halves together. The constant keeps zero from being a trap.
const fn fold(x: u64) -> u64 {
    let product = (x as u128 ^ 0x9e37_79b9_7f4a_7c15) * MULTIPLIER as u128;
    product as u64 ^ (product >> 64) as u64
}

/// The secret that places rows in hash tables. It may differ from replica to replica: neither
/// replies nor snapshots depend on it.
#[derive(Clone, Copy)]
pub(crate) struct Seed(pub(crate) u64, pub(crate) u64);

impl Seed {
    /// Where a key is found.
    pub(crate) fn hash(self, key: &[u8]) -> u64 {
        let mut hasher = SipHasher13::new_with_keys(self.0, self.1);
        hasher.write(key);
        hasher.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_tell_strings_apart() {
        let of = |parts: &[&[u8]]| {
            parts
                .iter()
                .fold(Fingerprint::new(1), |hash, part| hash.bytes(part))
                .finish()
        };
        let mut seen = alloc::collections::BTreeSet::new();
        let zeros = [0; 40];
        for len in 0..zeros.len() {
            assert!(seen.insert(of(&[&zeros[..len]])), "{len} zeros");
        }
        assert!(seen.insert(of(&[b"ab", b"c"])));
        assert!(seen.insert(of(&[b"a", b"bc"])));
        assert!(seen.insert(of(&[b"abc"])));
        assert!(seen.insert(Fingerprint::new(2).bytes(b"abc").finish()));
    }

    #[test]
    fn a_checksum_does_not_depend_on_how_bytes_are_cut() {
        let bytes: alloc::vec::Vec<u8> = (0..100).collect();
        let sum = |cuts: &[usize]| {
            let (mut sum, mut from) = (Checksum::new(), 0);
            for cut in cuts.iter().chain([&bytes.len()]) {
                sum.take(&bytes[from..*cut]);
                from = *cut;
            }
            sum.finish()
        };
        let whole = sum(&[]);
        for cuts in [&[1, 2, 3][..], &[8, 16], &[5, 5, 14, 97], &[7, 8, 9, 99]] {
            assert_eq!(sum(cuts), whole);
        }
        let mut shorter = Checksum::new();
        shorter.take(&bytes[..99]);
        assert_ne!(shorter.finish(), whole);
    }

    #[test]
    fn fingerprints_never_change() {
        // Replicas of different versions compare these: a new value here is a new wire format.
        let hash = Fingerprint::new(7).bytes(b"stateplane").number(42).finish();
        assert_eq!(hash, PINNED);
    }

    const PINNED: u64 = 0x405f_36fd_da86_94f3;
}
