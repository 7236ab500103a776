//! How much passes without a function's process.

use stateplane_host::bpf::AttachAs;

use super::FastPath;
use super::problem::Collector;
use super::section::Section;
use super::values;

/// Slots that a table of flows can have: 64 bytes of the kernel's memory each.
const FLOWS: std::ops::RangeInclusive<u64> = 1024..=1 << 24;

/// Reads `[fast-path]`.
pub(super) fn fast_path(root: &Section<'_, '_>, out: &mut Collector) -> FastPath {
    let mut fast = FastPath::default();
    let Some(section) = root.section("fast-path", out) else {
        return fast;
    };
    section.only(&["enabled", "flows", "mode"], out);
    if let Some(enabled) = section.optional("enabled", out, values::boolean) {
        fast.enabled = enabled;
    }
    if let Some(flows) = section.optional("flows", out, values::integer(FLOWS)) {
        fast.flows = (flows as u32).next_power_of_two();
    }
    let words = [
        ("auto", AttachAs::Auto),
        ("native", AttachAs::Native),
        ("generic", AttachAs::Generic),
    ];
    if let Some(mode) = section.optional("mode", out, values::word(&words)) {
        fast.mode = mode;
    }
    if !fast.enabled && section.value("flows").is_some() {
        let help = "remove this key, or write `enabled = true`";
        out.warn("fast-path.flows", "not used: the fast path is off", help);
    }
    fast
}
