//! A text whose length changes, such as a JSON document: what is read seldom, and by
//! readers of any language and version.

use zerocopy::IntoBytes;

use super::{Source, value};
use crate::LINE;
use crate::publisher::Publisher;

/// Bytes before the text: its length.
const HEAD: usize = size_of::<u64>();

/// There is no room for so long a text.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the text is too long: there is room for {capacity} bytes")]
pub struct TooLong {
    /// Bytes there is room for.
    pub capacity: usize,
}

/// A text in a region.
///
/// ```
/// # use stateplane_region::{Reader, Spec, Text, Writer};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let text = Text::new(0, 4096);
/// let mut writer = Writer::<[u8]>::create(&Spec::bytes(text.bytes()))?;
/// assert!(text.put(&mut writer, "{\"weight\": 50}")?, "it is another than before");
/// assert!(!text.put(&mut writer, "{\"weight\": 50}")?);
/// writer.publish()?;
/// # let reader = Reader::<[u8]>::open(writer.fd().try_clone_to_owned()?, "")?;
/// assert_eq!(text.get(&reader.snapshot()?).as_deref(), Some("{\"weight\": 50}"));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Text {
    at: usize,
    capacity: usize,
}

impl Text {
    /// A text of at most `capacity` bytes that lies at byte `at` of its region. Bytes of
    /// zero are an empty one.
    ///
    /// # Panics
    /// If `at` is not a multiple of [`LINE`].
    pub const fn new(at: usize, capacity: usize) -> Self {
        assert!(at.is_multiple_of(LINE));
        Self { at, capacity }
    }

    /// Bytes it takes.
    pub const fn bytes(&self) -> usize {
        HEAD + self.capacity
    }

    /// Changes the text; whether it is another than before.
    ///
    /// # Errors
    /// There is no room for so long a text; nothing was changed.
    ///
    /// # Panics
    /// If it does not lie within the region.
    pub fn put(&self, region: &mut Publisher, text: &str) -> Result<bool, TooLong> {
        if text.len() > self.capacity {
            return Err(TooLong {
                capacity: self.capacity,
            });
        }
        let start = self.at + HEAD;
        let len = text.len() as u64;
        let had: Option<u64> = value(region.bytes(), self.at);
        let same = &region.bytes()[start..start + text.len()] == text.as_bytes();
        if had == Some(len) && same {
            return Ok(false);
        }
        region
            .bytes_mut(self.at, HEAD)
            .copy_from_slice(len.as_bytes());
        region
            .bytes_mut(start, text.len())
            .copy_from_slice(text.as_bytes());
        Ok(true)
    }

    /// The text; none if what lies there is not one.
    pub fn get(&self, source: &(impl Source + ?Sized)) -> Option<String> {
        let len: u64 = value(source, self.at)?;
        let len = usize::try_from(len)
            .ok()
            .filter(|len| *len <= self.capacity)?;
        let mut bytes = vec![0; len];
        if !source.load(self.at + HEAD, &mut bytes) {
            return None;
        }
        String::from_utf8(bytes).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Spec;
    use crate::writer::Writer;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_are_bounded(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let text = Text::new(0, 64);
            if let Some(found) = text.get(&bytes[..]) {
                prop_assert!(found.len() <= 64);
            }
        }

        #[test]
        fn the_last_text_is_read(texts in proptest::collection::vec(".{0,30}", 1..20)) {
            let text = Text::new(LINE, 120);
            let mut writer = Writer::<[u8]>::create(&Spec::bytes(LINE + text.bytes())).unwrap();
            let mut last = String::new();
            for new in texts {
                prop_assert_eq!(text.put(&mut writer, &new), Ok(new != last));
                let read = text.get(writer.bytes());
                prop_assert_eq!(read.as_ref(), Some(&new));
                last = new;
            }
            prop_assert_eq!(text.put(&mut writer, &"x".repeat(121)), Err(TooLong { capacity: 120 }));
            prop_assert_eq!(text.get(writer.bytes()), Some(last));
        }
    }
}
