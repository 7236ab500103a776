//! How a sequencer stamps.

use super::problem::Collector;
use super::section::Section;
use super::values;

/// The keys of a node that is a sequencer.
pub(super) const KEYS: [&str; 2] = ["mode", "interface"];

const MODES: [(&str, bool); 2] = [("user-space", false), ("xdp", true)];

/// The interface to stamp at, if an XDP program stamps.
pub(super) fn offload(section: &Section<'_, '_>, out: &mut Collector) -> Option<String> {
    let xdp = section.optional("mode", out, values::word(&MODES));
    if xdp == Some(true) {
        return section.required("interface", "\"eth0\"", out, values::interface);
    }
    if section.value("interface").is_some() {
        out.error(
            &section.path_of("interface"),
            "in user space requests come in by any interface",
            "remove this key, or add `mode = \"xdp\"`",
        );
    }
    None
}
