//! A request's words, and what is said of those that make no sense.

use std::ops::Range;

use super::super::reply;
use super::Sizes;

/// A request's words.
#[derive(Clone, Copy)]
pub(super) struct Words<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) ranges: &'a [Range<usize>],
}

impl<'a> Words<'a> {
    pub(super) fn len(self) -> usize {
        self.ranges.len()
    }

    pub(super) fn name(self) -> &'a [u8] {
        self.ranges
            .first()
            .map_or(&[], |range| &self.bytes[range.clone()])
    }

    pub(super) fn arguments(self) -> impl ExactSizeIterator<Item = &'a [u8]> + Clone {
        let rest = self.ranges.get(1..).unwrap_or_default();
        rest.iter().map(move |range| &self.bytes[range.clone()])
    }
}

pub(super) fn before_authentication(name: &[u8]) -> bool {
    ["auth", "hello", "quit", "reset"]
        .iter()
        .any(|allowed| name.eq_ignore_ascii_case(allowed.as_bytes()))
}

pub(super) fn too_large(sizes: Sizes, out: &mut Vec<u8>) {
    let text = format!(
        "ERR the command or transaction is longer than the store takes: {} bytes",
        sizes.most
    );
    reply::error(&text, out);
}

pub(super) fn unknown(words: Words<'_>, out: &mut Vec<u8>) {
    let shown = |bytes: &[u8]| String::from_utf8_lossy(&bytes[..bytes.len().min(128)]).into_owned();
    let args: Vec<String> = words
        .arguments()
        .take(8)
        .map(|arg| format!("'{}'", shown(arg)))
        .collect();
    let text = format!(
        "ERR unknown command '{}', with args beginning with: {}",
        shown(words.name()),
        args.join(" ")
    );
    reply::error(&text, out);
}
