//! SipHash of a few words from here and there in a header; and its state after a beginning
//! that is constant, for a program outside this process that goes on from there. (The library
//! that hashes what lies in one piece keeps its state to itself.)

/// The four words of a SipHash-2-4 state.
#[derive(Clone, PartialEq, Eq)]
pub struct SipState([u64; 4]);

impl SipState {
    /// After the key alone.
    pub(super) fn new(key: &[u8; 16]) -> Self {
        let (k0, k1) = key.split_at(8);
        let word = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("eight bytes"));
        let (k0, k1) = (word(k0), word(k1));
        // "somepseudorandomlygeneratedbytes"
        Self([
            k0 ^ 0x736f_6d65_7073_6575,
            k1 ^ 0x646f_7261_6e64_6f6d,
            k0 ^ 0x6c79_6765_6e65_7261,
            k1 ^ 0x7465_6462_7974_6573,
        ])
    }

    /// After eight more bytes, as they lie in a packet.
    #[must_use]
    pub(super) fn absorb(mut self, bytes: [u8; 8]) -> Self {
        let word = u64::from_le_bytes(bytes);
        self.0[3] ^= word;
        self.round();
        self.round();
        self.0[0] ^= word;
        self
    }

    /// The hash, after the last seven bytes of `len` in all.
    pub(super) fn finish(self, last: [u8; 7], len: usize) -> u64 {
        let [b0, b1, b2, b3, b4, b5, b6] = last;
        let length = (len & 0xff) as u8;
        let mut end = self.absorb([b0, b1, b2, b3, b4, b5, b6, length]);
        end.0[2] ^= 0xff;
        (0..4).for_each(|_| end.round());
        let [v0, v1, v2, v3] = end.0;
        v0 ^ v1 ^ v2 ^ v3
    }

    fn round(&mut self) {
        let [v0, v1, v2, v3] = &mut self.0;
        *v0 = v0.wrapping_add(*v1);
        *v2 = v2.wrapping_add(*v3);
        *v1 = v1.rotate_left(13) ^ *v0;
        *v3 = v3.rotate_left(16) ^ *v2;
        *v0 = v0.rotate_left(32);
        *v2 = v2.wrapping_add(*v1);
        *v0 = v0.wrapping_add(*v3);
        *v1 = v1.rotate_left(17) ^ *v2;
        *v3 = v3.rotate_left(21) ^ *v0;
        *v2 = v2.rotate_left(32);
    }

    /// The words, in order.
    pub const fn words(&self) -> &[u64; 4] {
        &self.0
    }
}

impl core::fmt::Debug for SipState {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("SipState(..)") // as good as the key
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use siphasher::sip::SipHasher24;

    proptest! {
        #[test]
        fn it_is_the_library_s_hash(key: [u8; 16], words in proptest::collection::vec(any::<[u8; 8]>(), 0..40), rest: [u8; 7]) {
            let bytes = [words.concat(), rest.to_vec()].concat();
            let state = words.iter().fold(SipState::new(&key), |state, word| state.absorb(*word));
            let hash = SipHasher24::new_with_key(&key).hash(&bytes);
            prop_assert_eq!(state.finish(rest, bytes.len()), hash);
        }
    }
}
