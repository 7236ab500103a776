//! Short byte strings without an allocation.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::borrow::Borrow;
use core::cmp::Ordering;
use core::fmt;
use core::hash::{Hash, Hasher};
use core::ops::Deref;

/// A byte string that lies in place if it has at most `N` bytes, else on the heap. With 22 the
/// whole fills 24 bytes, with 46 it fills 48.
#[derive(Clone)]
pub struct Blob<const N: usize>(Place<N>);

#[derive(Clone)]
enum Place<const N: usize> {
    Inline { len: u8, bytes: [u8; N] },
    Heap(Box<[u8]>),
}

impl<const N: usize> Blob<N> {
    /// The concatenation of two strings.
    pub fn join(a: &[u8], b: &[u8]) -> Self {
        let total = a.len() + b.len();
        match u8::try_from(total) {
            Ok(len) if total <= N => {
                let mut bytes = [0; N];
                bytes[..a.len()].copy_from_slice(a);
                bytes[a.len()..total].copy_from_slice(b);
                Self(Place::Inline { len, bytes })
            }
            _ => Self(Place::Heap([a, b].concat().into())),
        }
    }
}

impl<const N: usize> From<&[u8]> for Blob<N> {
    fn from(bytes: &[u8]) -> Self {
        match u8::try_from(bytes.len()) {
            Ok(len) if bytes.len() <= N => {
                let mut inline = [0; N];
                inline[..bytes.len()].copy_from_slice(bytes);
                Self(Place::Inline { len, bytes: inline })
            }
            _ => Self(Place::Heap(bytes.into())),
        }
    }
}

impl<const N: usize> From<Vec<u8>> for Blob<N> {
    /// Takes over the memory of a long one.
    fn from(bytes: Vec<u8>) -> Self {
        if bytes.len() <= N {
            Self::from(&bytes[..])
        } else {
            Self(Place::Heap(bytes.into_boxed_slice()))
        }
    }
}

impl<const N: usize> From<Blob<N>> for Vec<u8> {
    fn from(blob: Blob<N>) -> Self {
        match blob.0 {
            Place::Inline { len, bytes } => bytes[..usize::from(len)].to_vec(),
            Place::Heap(bytes) => bytes.into_vec(),
        }
    }
}

impl<const N: usize> Deref for Blob<N> {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match &self.0 {
            Place::Inline { len, bytes } => &bytes[..usize::from(*len)],
            Place::Heap(bytes) => bytes,
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

impl<const N: usize> Hash for Blob<N> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (**self).hash(state);
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
        assert_eq!((size_of::<Blob<22>>(), size_of::<Blob<46>>()), (24, 48));
        let bytes: alloc::vec::Vec<u8> = (0..=255).cycle().take(300).collect();
        for len in [0, 1, 21, 22, 23, 255, 256, 300] {
            assert_eq!(&*Blob::<22>::from(&bytes[..len]), &bytes[..len]);
            let joined = Blob::<22>::join(&bytes[..len / 2], &bytes[len / 2..len]);
            assert_eq!(joined, Blob::from(&bytes[..len]));
            assert_eq!(joined, Blob::from(bytes[..len].to_vec()));
            assert_eq!(alloc::vec::Vec::from(joined), &bytes[..len]);
        }
    }
}
