//! Regions: tables of the store to be read in place, and copies between machines.

use std::path::PathBuf;
use std::time::Duration;

use stateplane_committed::{MAX_KEY, MAX_TABLES, MAX_VALUE};
use stateplane_region::{MAX_LEN, Name};
use toml::de::DeValue;

use super::problem::Collector;
use super::read::Draft;
use super::section::{Parsed, Section, Wrong};
use super::{CopiedRegion, Regions, Role, SharedTable, check, relays, values};

/// Where the broker is unless the file says otherwise.
const DIR: &str = "/run/stateplane/regions";
/// Where switches keep what must outlast that unless the file says otherwise.
const STATE_DIR: &str = "/var/lib/stateplane";
/// Bytes of keys and values unless the file says otherwise: what the NAT's rows need, and one
/// cache line a row.
const KEY_BYTES: usize = 7;
const VALUE_BYTES: usize = 47;
/// How far apart versions are copied unless the file says otherwise.
const INTERVAL: Duration = Duration::from_millis(1);
/// How often nodes tell what they count unless the file says otherwise.
const TELEMETRY: Duration = Duration::from_millis(100);
/// Rows one table may be given room for.
const MAX_ROWS: u64 = 1 << 24;
/// Senders that a receiver may choose from.
const MAX_SENDERS: usize = 8;
/// Receivers of one region.
const MAX_SCOPE: usize = stateplane_region::sync::PEERS_MAX;

/// Reads `[regions]`.
pub(super) fn read(root: &Section<'_, '_>, out: &mut Collector) -> Option<Regions> {
    let section = root.section("regions", out)?;
    section.only(&["dir", "state-dir", "tables", "copies", "exchange"], out);
    let dir = section.optional("dir", out, values::string);
    let state_dir = section.optional("state-dir", out, values::string);
    let tables = section.list("tables", out, |path, value, out| {
        table(&Section::of(path, value, out)?, out)
    });
    let copies = section.list("copies", out, |path, value, out| {
        copied(&Section::of(path, value, out)?, out)
    });
    let exchange = section.optional("exchange", out, values::boolean);
    Some(Regions {
        dir: dir.map_or_else(|| DIR.into(), PathBuf::from),
        state_dir: state_dir.map_or_else(|| STATE_DIR.into(), PathBuf::from),
        tables: tables.unwrap_or_default(),
        copies: copies.unwrap_or_default(),
        exchange: exchange.unwrap_or(false),
    })
}

/// Reads `[telemetry]`.
pub(super) fn telemetry(root: &Section<'_, '_>, out: &mut Collector) -> Duration {
    let Some(section) = root.section("telemetry", out) else {
        return TELEMETRY;
    };
    section.only(&["interval-ms"], out);
    let span = section.optional("interval-ms", out, values::millis(20..=60_000));
    span.unwrap_or(TELEMETRY)
}

fn table(section: &Section<'_, '_>, out: &mut Collector) -> Option<SharedTable> {
    section.only(&["name", "rows", "key-bytes", "value-bytes"], out);
    let name = section.required("name", "\"nat.mappings\"", out, values::string);
    let rows = section.required("rows", "100000", out, values::integer(1..=MAX_ROWS));
    let mut bytes = |key: &str, most: usize, usual: usize| match section.value(key) {
        None => Some(usual),
        Some(_) => {
            let read = section.optional(key, out, values::integer(1..=most as u64));
            read.map(|bytes| bytes as usize)
        }
    };
    let key_bytes = bytes("key-bytes", MAX_KEY, KEY_BYTES);
    let value_bytes = bytes("value-bytes", MAX_VALUE, VALUE_BYTES);
    Some(SharedTable {
        name: name?,
        rows: rows? as usize,
        key_bytes: key_bytes?,
        value_bytes: value_bytes?,
    })
}

fn copied(section: &Section<'_, '_>, out: &mut Collector) -> Option<CopiedRegion> {
    section.only(
        &[
            "region",
            "bytes",
            "schema",
            "from",
            "to",
            "interval-us",
            "multicast",
        ],
        out,
    );
    let name = section.required("region", "\"/edge/lb/weights\"", out, region);
    let range = values::integer(1..=MAX_LEN as u64);
    let bytes = section.required("bytes", "4096", out, range);
    let schema = section.optional("schema", out, values::string);
    let from = senders(section, out);
    section.required("to", "[\"site2\"]", out, |_| Ok(()));
    let to = section.values("to", out, values::name);
    let interval = section.optional("interval-us", out, values::integer(100..=60_000_000));
    let multicast = section.optional("multicast", out, values::group);
    Some(CopiedRegion {
        name: name?,
        bytes: bytes? as usize,
        schema: schema.unwrap_or_default(),
        from: from?,
        to: to?,
        interval: interval.map_or(INTERVAL, Duration::from_micros),
        multicast,
    })
}

/// One that sends the region, or several.
fn senders(section: &Section<'_, '_>, out: &mut Collector) -> Option<Vec<String>> {
    let is_list = |value: &DeValue<'_>| matches!(value, DeValue::Array(_));
    if !section
        .value("from")
        .is_some_and(|from| is_list(from.get_ref()))
    {
        let only = section.required("from", "\"site1\"", out, values::name)?;
        return Some(vec![only]);
    }
    let from = section.values("from", out, values::name)?;
    let path = section.path_of("from");
    if from.is_empty() || from.len() > MAX_SENDERS {
        let message = format!("expected 1 to {MAX_SENDERS} senders, found {}", from.len());
        let help =
            "write `from = \"site1\"`, or several, the best first, `from = [\"site1\", \"site2\"]`";
        out.error(&path, message, help);
        return None;
    }
    if let Some(n) = (1..from.len()).find(|&n| from[..n].contains(&from[n])) {
        let message = format!("\"{}\" is listed twice", from[n]);
        out.error(&format!("{path}[{n}]"), message, "name each sender once");
        return None;
    }
    Some(from)
}

/// A region's name, `/part/part`.
fn region(value: &DeValue<'_>) -> Parsed<Name> {
    let text = values::string(value)?;
    text.parse::<Name>().map_err(|error| {
        let help = "write `/deployment/node/process/region`, each part of letters, digits and -_.";
        Wrong::new(format!("\"{text}\": {error}"), help)
    })
}

/// What no single key shows.
pub(super) fn check(draft: &Draft, out: &mut Collector) {
    let none = Regions::default();
    let regions = draft.regions.as_ref().unwrap_or(&none);
    if regions.tables.len() > MAX_TABLES {
        let message = format!(
            "expected at most {MAX_TABLES} tables, found {}",
            regions.tables.len()
        );
        out.error("regions.tables", message, "share only what is looked up");
    }
    for (n, table) in regions.tables.iter().enumerate() {
        if regions.tables[..n].iter().any(|t| t.name == table.name) {
            let message = format!("\"{}\" is listed twice", table.name);
            let key = format!("regions.tables[{n}].name");
            out.error(&key, message, "list each table once");
        }
    }
    for (n, copied) in regions.copies.iter().enumerate() {
        copy(n, copied, &regions.copies[..n], draft, out);
        relays::check(n, &regions.copies, out);
    }
    for node in draft.nodes.values().filter(|node| node.is(Role::Regions)) {
        let takes_part = |c: &CopiedRegion| c.is_from(&node.name) || c.is_to(&node.name);
        if !regions.copies.iter().any(takes_part) {
            out.error(
                &format!("node.{}.roles", node.name),
                "there is no region that it copies",
                "name the node in `from` or `to` of a region in `regions.copies`",
            );
        }
        let last = node.control.get(&Role::Regions).map(|at| at.port());
        let room = last.map(|first| usize::from(u16::MAX - first));
        if room.is_some_and(|room| room < regions.copies.len()) {
            out.error(
                &format!("node.{}.control", node.name),
                format!("{} ports are needed from this one on", regions.copies.len()),
                "each copied region has a port of its own, counted from here: choose a lower one",
            );
        }
    }
}

fn copy(
    n: usize,
    copied: &CopiedRegion,
    earlier: &[CopiedRegion],
    draft: &Draft,
    out: &mut Collector,
) {
    let key = format!("regions.copies[{n}]");
    let shares =
        |other: &CopiedRegion| copied.multicast.is_some() && other.multicast == copied.multicast;
    if let Some(other) = earlier.iter().find(|other| shares(other)) {
        let message = format!("{} is sent to this group already", other.name);
        let help = "give each region a group or a port of its own: who hears one would hear both";
        out.error(&format!("{key}.multicast"), message, help);
    }
    for (m, from) in copied.from.iter().enumerate() {
        check::member(
            &relays::sender(n, m, copied),
            from,
            Role::Regions,
            draft,
            out,
        );
    }
    for (m, to) in copied.to.iter().enumerate() {
        let place = format!("{key}.to[{m}]");
        if copied.is_from(to) || copied.to[..m].contains(to) {
            let message = format!("\"{to}\" has the region already");
            out.error(&place, message, "name each other node once");
            continue;
        }
        check::member(&place, to, Role::Regions, draft, out);
    }
    if copied.to.is_empty() || copied.to.len() > MAX_SCOPE {
        let message = format!(
            "expected 1 to {MAX_SCOPE} receivers, found {}",
            copied.to.len()
        );
        out.error(&format!("{key}.to"), message, "");
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Config, Plain};
    use std::path::Path;

    const FILE: &str = r#"
[cluster]
name = "edge"
key = "00112233445566778899aabbccddeeff"

[regions]
dir = "/tmp/regions"
tables = [ { name = "nat.mappings", rows = 1000 } ]
copies = [ { region = "/edge/lb/weights", bytes = 4096, from = "a", to = ["b", "c"] } ]

[node.a]
roles = ["regions"]
control = "127.0.0.1:7000"
[node.b]
roles = ["regions"]
control = "127.0.0.1:7100"
[node.c]
roles = ["regions"]
control = "127.0.0.1:7200"
"#;

    fn parse(text: &str) -> Result<Config, String> {
        let parsed = Config::parse("edge.toml", text, Path::new("."));
        parsed
            .map(|(config, warnings)| {
                assert!(warnings.is_empty(), "{}", Plain(&warnings));
                config
            })
            .map_err(|problems| problems.to_string())
    }

    #[test]
    fn tables_and_copies_are_read() {
        let config = parse(FILE).unwrap();
        let regions = config.regions.unwrap();
        let table = &regions.tables[0];
        assert_eq!(regions.state_dir, Path::new("/var/lib/stateplane"));
        assert_eq!(
            (table.rows, table.key_bytes, table.value_bytes),
            (1000, 7, 47)
        );
        let copied = &regions.copies[0];
        assert_eq!(
            (copied.name.as_str(), copied.bytes),
            ("/edge/lb/weights", 4096)
        );
        assert_eq!(copied.interval.as_micros(), 1000);
        assert_eq!(copied.multicast, None, "unless the file says so");
        let text = FILE.replacen(
            "bytes = 4096",
            "bytes = 4096, multicast = \"239.192.7.1:7900\"",
            1,
        );
        let group = parse(&text).unwrap().regions.unwrap().copies[0].multicast;
        assert_eq!(group, "239.192.7.1:7900".parse().ok());
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        for (from, to, what) in [
            ("rows = 1000", "rows = 0", "edge.toml:8:"),
            ("rows = 1000", "rows = 5, key-bytes = 64", "key-bytes"),
            ("\"/edge/lb/weights\"", "\"weights\"", "edge.toml:9:"),
            ("bytes = 4096", "byte = 4096", "did you mean `bytes`"),
            (
                "to = [\"b\", \"c\"]",
                "to = [\"b\", \"b\"]",
                "copies[0].to[1]",
            ),
            (
                "to = [\"b\", \"c\"]",
                "to = [\"b\", \"a\"]",
                "has the region already",
            ),
            (
                "to = [\"b\", \"c\"]",
                "to = [\"b\"]",
                "no region that it copies",
            ),
            (
                "to = [\"b\", \"c\"]",
                "to = [\"b\", \"d\"]",
                "no node is called \"d\"",
            ),
            ("127.0.0.1:7200", "127.0.0.1:65535", "ports are needed"),
            ("[regions]", "[regios]", "did you mean `regions`"),
            (
                "[regions]",
                "[telemetry]\ninterval-ms = 5\n[regions]",
                "edge.toml:7:",
            ),
            (
                "bytes = 4096",
                "bytes = 4096, multicast = \"10.0.0.1:7900\"",
                "copies[0].multicast",
            ),
            (
                "copies = [",
                "copies = [ { region = \"/a/b\", bytes = 1, from = \"b\", to = [\"a\"], \
                 multicast = \"239.1.1.1:7\" }, { region = \"/a/c\", bytes = 1, from = \"b\", \
                 to = [\"a\"], multicast = \"239.1.1.1:7\" },",
                "/a/b is sent to this group already",
            ),
        ] {
            let text = FILE.replacen(from, to, 1);
            assert_ne!(text, FILE, "{from}");
            let error = parse(&text).expect_err(to);
            assert!(error.contains(what), "{to}: {error}");
        }
    }
}
