//! Short byte strings without an allocation.

use alloc::boxed::Box;
use core::borrow::Borrow;
use core::cmp::Ordering;
use core::fmt;
use core::ops::Deref;

/// Bytes of a row's key.
pub(crate) type Key = Blob<22>;
/// Bytes of a row's value.
pub(crate) type Value = Blob<46>;

/// A byte string that lies in place if it has at most `N` bytes, else on the heap. `N` is chosen so
/// that the whole fills 24 or 48 bytes: most keys and values of network state fit.
#[derive(Clone)]
pub(crate) enum Blob<const N: usize> {
    Inline { len: u8, bytes: [u8; N] },
    Heap(Box<[u8]>),
}

impl<const N: usize> Blob<N> {
    /// The concatenation of two strings.
    pub(crate) fn join(a: &[u8], b: &[u8]) -> Self {
        let total = a.len() + b.len();
        match u8::try_from(total) {
            Ok(len) if total <= N => {
                let mut bytes = [0; N];
                bytes[..a.len()].copy_from_slice(a);
                bytes[a.len()..total].copy_from_slice(b);
                Self::Inline { len, bytes }
            }
            _ => Self::Heap([a, b].concat().into()),
        }
    }
}

impl<const N: usize> From<&[u8]> for Blob<N> {
    fn from(bytes: &[u8]) -> Self {
        Self::join(bytes, &[])
    }
}

impl<const N: usize> Deref for Blob<N> {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match self {
            Self::Inline { len, bytes } => &bytes[..usize::from(*len)],
            Self::Heap(bytes) => bytes,
        }
    }
}

impl<const N: usize> Borrow<[u8]> for Blob<N> {
    fn borrow(&self) -> &[u8] {
        self
    }
}

impl<const N: usize> PartialEq for Blob<N> {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl<const N: usize> Eq for Blob<N> {}

impl<const N: usize> PartialOrd for Blob<N> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<const N: usize> Ord for Blob<N> {
    fn cmp(&self, other: &Self) -> Ordering {
        (**self).cmp(&**other)
    }
}

impl<const N: usize> fmt::Debug for Blob<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blobs_are_compact_and_equal_their_bytes() {
        assert_eq!((size_of::<Key>(), size_of::<Value>()), (24, 48));
        let bytes: alloc::vec::Vec<u8> = (0..=255).cycle().take(300).collect();
        for len in [0, 1, 21, 22, 23, 255, 256, 300] {
            assert_eq!(&*Key::from(&bytes[..len]), &bytes[..len]);
            let joined = Key::join(&bytes[..len / 2], &bytes[len / 2..len]);
            assert_eq!(joined, Key::from(&bytes[..len]));
        }
    }
}
