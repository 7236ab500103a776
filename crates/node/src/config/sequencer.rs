//! How a sequencer stamps.

use super::problem::Collector;
use super::section::Section;
use super::values;

/// The keys of a node that is a sequencer.
pub(super) const KEYS: [&str; 2] = ["mode", "interface"];

/// Who stamps requests.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Stamping {
    /// An XDP program where requests come in, if an interface is named and all is there that
    /// it needs; else the process.
    Auto(Option<String>),
    /// An XDP program at this interface, or nobody.
    Xdp(String),
    /// The process.
    UserSpace,
}

#[derive(Clone, Copy)]
enum Mode {
    Auto,
    Xdp,
    UserSpace,
}

const MODES: [(&str, Mode); 3] = [
    ("auto", Mode::Auto),
    ("xdp", Mode::Xdp),
    ("user-space", Mode::UserSpace),
];

/// What the section says of it.
pub(super) fn stamping(section: &Section<'_, '_>, out: &mut Collector) -> Option<Stamping> {
    let mode = section.optional("mode", out, values::word(&MODES));
    let named = section.value("interface").is_some();
    match mode.unwrap_or(Mode::Auto) {
        Mode::Xdp => section
            .required("interface", "\"eth0\"", out, values::interface)
            .map(Stamping::Xdp),
        Mode::Auto if named => {
            let interface = section.optional("interface", out, values::interface);
            Some(Stamping::Auto(Some(interface?)))
        }
        Mode::Auto => Some(Stamping::Auto(None)),
        Mode::UserSpace => {
            if named {
                out.error(
                    &section.path_of("interface"),
                    "in user space requests come in by any interface",
                    "remove this key, or write `mode = \"auto\"` or `mode = \"xdp\"`",
                );
            }
            Some(Stamping::UserSpace)
        }
    }
}
