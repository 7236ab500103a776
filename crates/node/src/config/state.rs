//! `[state]`: where state is kept, and who orders what a group does.

use std::path::PathBuf;

use stateplane_group::Protocol;

use super::problem::Collector;
use super::section::Section;
use super::{State, values};

/// Slots a Prepare carries at most unless the file says otherwise.
const BATCH: u16 = 64;

/// MiB of the longest operation unless the file says otherwise.
const LONGEST: u64 = 4;

/// Reads the table; without one, state is kept in the function's own process.
pub(super) fn read(root: &Section<'_, '_>, out: &mut Collector) -> Option<State> {
    if root.value("state").is_none() {
        return Some(State::Embedded);
    }
    let section = root.section("state", out)?;
    let keys = [
        "backend",
        "protocol",
        "batch",
        "sequencer",
        "sequencers",
        "replicas",
        "spares",
        "durable",
        "dir",
        "longest-mib",
    ];
    section.only(&keys, out);
    let words = [("embedded", false), ("group", true)];
    let group = match section.value("backend") {
        Some(_) => section.optional("backend", out, values::word(&words)),
        None => Some(false),
    };
    if group == Some(false) {
        let message = "this belongs to a group; the embedded state has none";
        let help = "set `backend = \"group\"`, or remove this key";
        refuse(&section, &keys[1..], message, help, out);
        return Some(State::Embedded);
    }
    let protocol = protocol(&section, out);
    let sequencers = match protocol {
        Some(Protocol::Vr { .. }) => Some(Vec::new()),
        _ => sequencers(&section, out),
    };
    let example = "[\"r1\", \"r2\", \"r3\"]";
    section.required("replicas", example, out, |_| Ok(()));
    let replicas = section.values("replicas", out, values::name);
    let spares = match section.value("spares") {
        Some(_) => section.values("spares", out, values::name),
        None => Some(Vec::new()),
    };
    let disk = disk(&section, out);
    let longest = match section.value("longest-mib") {
        Some(_) => section.optional("longest-mib", out, values::integer(1..=64)),
        None => Some(LONGEST),
    };
    let longest = longest.and_then(|mib| usize::try_from(mib << 20).ok());
    group?;
    Some(State::Group {
        disk,
        protocol: protocol?,
        sequencers: sequencers?,
        replicas: replicas?,
        spares: spares?,
        longest: longest?,
    })
}

/// Where the replicas keep their journals, if they do.
fn disk(section: &Section<'_, '_>, out: &mut Collector) -> Option<PathBuf> {
    let durable = match section.value("durable") {
        Some(_) => section.optional("durable", out, values::boolean)?,
        None => false,
    };
    if !durable {
        let message = "without `durable = true` nothing is kept on disk";
        refuse(
            section,
            &["dir"],
            message,
            "remove this key, or add `durable = true`",
            out,
        );
        return None;
    }
    let dir = section.optional("dir", out, values::string);
    Some(dir.map_or_else(|| "/var/lib/stateplane".into(), PathBuf::from))
}

/// Who orders; the keys of the other protocol have no business here.
fn protocol(section: &Section<'_, '_>, out: &mut Collector) -> Option<Protocol> {
    let words = [("nopaxos", false), ("vr", true)];
    let vr = match section.value("protocol") {
        Some(_) => section.optional("protocol", out, values::word(&words))?,
        None => false,
    };
    if vr {
        let message = "with \"vr\" the leader orders: there is no sequencer";
        let help = "remove this key, or set `protocol = \"nopaxos\"`";
        refuse(section, &["sequencer", "sequencers"], message, help, out);
        let batch = section.optional("batch", out, values::integer(1..=256));
        let batch = batch.and_then(|n| u16::try_from(n).ok()).unwrap_or(BATCH);
        return Some(Protocol::Vr { batch });
    }
    let message = "only a leader that orders batches what it orders";
    let help = "remove this key, or set `protocol = \"vr\"`";
    refuse(section, &["batch"], message, help, out);
    Some(Protocol::Nopaxos)
}

/// One sequencer, or the list of all: the first serves, the others stand by.
fn sequencers(section: &Section<'_, '_>, out: &mut Collector) -> Option<Vec<String>> {
    let Some(list) = section.value("sequencers") else {
        let one = section.required("sequencer", "\"seq\"", out, values::name);
        return one.map(|name| vec![name]);
    };
    if section.value("sequencer").is_some() {
        let message = "`sequencer` and `sequencers` say the same twice";
        let help = "keep `sequencers`, the one that is to serve first at its head";
        out.error_at(list.span(), &section.path_of("sequencers"), message, help);
    }
    section.values("sequencers", out, values::name)
}

/// Reports those of `keys` that are there.
fn refuse(
    section: &Section<'_, '_>,
    keys: &[&str],
    message: &str,
    help: &str,
    out: &mut Collector,
) {
    for key in keys {
        if let Some(value) = section.value(key) {
            out.error_at(value.span(), &section.path_of(key), message, help);
        }
    }
}
