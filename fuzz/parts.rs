//! An input that is a list of byte strings, `length u16 | bytes` each.

/// The parts of an input; the last one may be cut short.
pub fn split(mut data: &[u8]) -> impl Iterator<Item = &[u8]> {
    core::iter::from_fn(move || {
        let (length, rest) = data.split_first_chunk::<2>()?;
        let length = usize::from(u16::from_be_bytes(*length));
        let (part, rest) = rest.split_at(length.min(rest.len()));
        data = rest;
        Some(part)
    })
}

/// The input made of these parts; those too long for one are left out.
#[allow(dead_code, reason = "only who writes seeds joins")]
pub fn join<P: AsRef<[u8]>>(parts: impl IntoIterator<Item = P>) -> Vec<u8> {
    let mut input = Vec::new();
    for part in parts {
        let part = part.as_ref();
        if let Ok(length) = u16::try_from(part.len()) {
            input.extend_from_slice(&length.to_be_bytes());
            input.extend_from_slice(part);
        }
    }
    input
}
