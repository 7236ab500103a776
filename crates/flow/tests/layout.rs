//! `xdp/fastpath.h` says what `flow::fast::layout` says: neither changes without the other.

use std::collections::BTreeMap;
use std::path::Path;

use stateplane_flow::fast::{COUNTER_BYTES, COUNTER_HITS, COUNTERS, Punt};

const XDP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../xdp/fastpath.h");
const RUST: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/fast/layout.rs");

fn number(text: &str) -> u64 {
    let parsed = match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => text.parse(),
    };
    parsed.unwrap_or_else(|_| panic!("a plain number, not {text}"))
}

/// The header's numbers; macros with arguments are not numbers.
fn header() -> BTreeMap<String, u64> {
    let text = std::fs::read_to_string(Path::new(XDP)).expect("xdp/fastpath.h");
    let defines = text.lines().filter_map(|line| {
        let (name, value) = line.strip_prefix("#define FAST_")?.split_once(' ')?;
        (!name.contains('(')).then(|| (name.to_owned(), number(value)))
    });
    defines.collect()
}

#[test]
fn header_and_layout_have_the_same_numbers() {
    let text = std::fs::read_to_string(Path::new(RUST)).expect("layout.rs");
    let constants = text.lines().filter_map(|line| {
        let (name, rest) = line.strip_prefix("pub const ")?.split_once(": ")?;
        let (_, value) = rest.strip_suffix(';')?.split_once(" = ")?;
        Some((name.to_owned(), number(value)))
    });
    let mut wanted: BTreeMap<String, u64> = constants.collect();
    wanted.insert("COUNT_HITS".to_owned(), COUNTER_HITS as u64);
    wanted.insert("COUNT_BYTES".to_owned(), COUNTER_BYTES as u64);
    wanted.insert("COUNTERS".to_owned(), COUNTERS as u64);
    for punt in Punt::ALL {
        let name = punt.name().replace('-', "_").to_uppercase();
        wanted.insert(format!("PUNT_{name}"), punt.counter() as u64);
    }
    assert!(wanted.len() > 60, "the constants were read");
    assert_eq!(header(), wanted);
}
