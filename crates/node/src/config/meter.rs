//! `[meter]`: whose packets are counted, and who may how much.

use std::ops::RangeInclusive;
use std::time::Duration;

use stateplane_functions::meter::config::{PARTITIONS_MAX, SUBSCRIBERS_MAX};
use toml::de::DeValue;

use super::problem::Collector;
use super::read::Draft;
use super::section::{Parsed, Section, Wrong, kind};
use super::{Prefix, Role, Runs, State, values};

/// Subscribers that can be active at one instance: 64 bytes of the kernel's memory each.
const ACTIVE: RangeInclusive<u64> = 1024..=1 << 20;
/// Longest period of an allowance.
const PERIOD_MAX: Duration = Duration::from_secs(366 * 86_400);

/// Whose packets are counted, and who may how much. The same for all nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meter {
    /// Subscribers' addresses; disjoint.
    pub inside_prefixes: Vec<Prefix>,
    /// Who may how much; of several that hold for a subscriber the longest prefix counts.
    pub allowances: Vec<Allowance>,
    /// Parts that subscribers are spread over, each of which one instance owns.
    pub partitions: u32,
    /// How often what passed is told to the store.
    pub interval: Duration,
    /// Subscribers that can be active at one instance.
    pub active: u32,
}

/// How much each subscriber of a prefix may send and receive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    /// Whose.
    pub prefix: Prefix,
    /// Bytes.
    pub bytes: u64,
    /// In such a time.
    pub period: Duration,
}

/// Reads the table.
pub(super) fn read(root: &Section<'_, '_>, out: &mut Collector) -> Option<Meter> {
    let section = root.section("meter", out)?;
    let known = [
        "inside-prefixes",
        "allowances",
        "partitions",
        "interval-ms",
        "active",
    ];
    section.only(&known, out);
    section.required("inside-prefixes", "[\"10.0.0.0/16\"]", out, |_| Ok(()));
    let inside_prefixes = section.values("inside-prefixes", out, values::prefix);
    let most = u64::from(PARTITIONS_MAX);
    let partitions = section.optional("partitions", out, values::integer(1..=most));
    let interval = section.optional("interval-ms", out, values::millis(10..=60_000));
    let active = section.optional("active", out, values::integer(ACTIVE));
    let allowances = match section.value("allowances") {
        Some(_) => section.list("allowances", out, |path, value, out| {
            let one = Section::of(path, value, out)?;
            one.only(&["prefix", "allowance", "period"], out);
            let prefix = one.required("prefix", "\"10.0.1.0/24\"", out, values::prefix);
            let bytes = one.required("allowance", "\"10 GiB\"", out, size);
            let period = one.required("period", "\"1d\"", out, period);
            Some(Allowance {
                prefix: prefix?,
                bytes: bytes?,
                period: period?,
            })
        }),
        None => Some(Vec::new()),
    };
    Some(Meter {
        inside_prefixes: inside_prefixes?,
        allowances: allowances?,
        partitions: partitions.map_or(64, |n| n as u32),
        interval: interval.unwrap_or(Duration::from_millis(100)),
        active: active.map_or(1 << 16, |n| n as u32).next_power_of_two(),
    })
}

/// Bytes, with a unit: `"10 GiB"`, `"500 MB"`.
fn size(value: &DeValue<'_>) -> Parsed<u64> {
    let help = "write a number with a unit, e.g. \"10 GiB\" or \"500 MB\"";
    let DeValue::String(text) = value else {
        let found = kind(value);
        return Err(Wrong::new(
            format!("expected a number of bytes, found {found}"),
            help,
        ));
    };
    let wrong = || {
        Wrong::new(
            format!("expected a number of bytes, found \"{text}\""),
            help,
        )
    };
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let number: u64 = text[..digits].parse().map_err(|_| wrong())?;
    let unit: u64 = match text[digits..].trim() {
        "B" => 1,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => return Err(wrong()),
    };
    let bytes = number.checked_mul(unit).filter(|bytes| *bytes > 0);
    bytes.ok_or_else(wrong)
}

/// How long a period is.
fn period(value: &DeValue<'_>) -> Parsed<Duration> {
    let help = "write a number with a unit, e.g. \"1d\", \"30d\", \"12h\"";
    let text = values::string(value)?;
    let allowed = Duration::from_secs(1)..=PERIOD_MAX;
    let span = values::duration(&text).filter(|span| allowed.contains(span));
    span.ok_or_else(|| {
        Wrong::new(
            format!("expected a time from 1s to 366d, found \"{text}\""),
            help,
        )
    })
}

/// What no single key shows.
pub(super) fn check(meter: &Meter, draft: &Draft, out: &mut Collector) {
    if meter.inside_prefixes.is_empty() {
        out.error("meter.inside-prefixes", "expected at least one element", "");
    }
    for (n, prefix) in meter.inside_prefixes.iter().enumerate() {
        let overlap = |p: &&Prefix| p.contains(prefix.first()) || prefix.contains(p.first());
        if let Some(other) = meter.inside_prefixes[..n].iter().find(overlap) {
            let message = format!("{prefix} overlaps {other}");
            let key = format!("meter.inside-prefixes[{n}]");
            out.error(&key, message, "remove the smaller one");
        }
    }
    let count = |prefix: &Prefix| 1_u64 << (32 - u32::from(prefix.len()));
    let all: u64 = meter.inside_prefixes.iter().map(count).sum();
    if all > SUBSCRIBERS_MAX {
        let message = format!("{all} addresses, {SUBSCRIBERS_MAX} can have accounts");
        let help = "meter fewer: what lies in no prefix does not pass";
        out.error("meter.inside-prefixes", message, help);
    }
    for (n, allowance) in meter.allowances.iter().enumerate() {
        let key = format!("meter.allowances[{n}].prefix");
        let prefix = allowance.prefix;
        if meter.allowances[..n]
            .iter()
            .any(|other| other.prefix == prefix)
        {
            let message = format!("{prefix} has an allowance already");
            out.error(&key, message, "keep one of them");
        }
        let mut inside = meter.inside_prefixes.iter();
        if !inside.any(|p| p.contains(prefix.first()) || prefix.contains(p.first())) {
            let message = format!("{prefix} holds no subscriber");
            let help = "subscribers are those of `meter.inside-prefixes`";
            out.error(&key, message, help);
        }
    }
    let runs = |node: &&super::Node| node.runs(Runs::Meter);
    let meters: Vec<&str> = draft
        .nodes
        .values()
        .filter(runs)
        .map(|n| n.name.as_str())
        .collect();
    if meters.is_empty() && draft.nodes.len() == draft.declared.len() {
        let help =
            "write `function = \"meter\"` under a node with the role function, or remove `[meter]`";
        out.warn("meter", "no node is a meter", help);
    }
    if meters.len() > 1 && matches!(draft.state, Some(State::Embedded)) {
        let message = "each meter keeps its own accounts: allowances hold for each of them";
        out.warn("meter", message, "add `[state]` with `backend = \"group\"`");
    }
    for name in &meters {
        let function = draft.nodes[*name].function.as_ref();
        if function.is_some_and(|function| function.workers.len() > 1) {
            let message = "a meter has one worker: a subscriber's packets may come by any queue";
            let help = "leave `workers` out; what passes in the kernel does so on all queues";
            out.error(&format!("node.{name}.workers"), message, help);
        }
    }
    steered(&meters, draft, out);
}

/// Switches steer by endpoint; a subscriber's packets would come to all meters, and its partition would
/// go to and fro.
fn steered(meters: &[&str], draft: &Draft, out: &mut Collector) {
    for node in draft.nodes.values().filter(|node| node.is(Role::Switch)) {
        let Some(switch) = &node.switch else {
            continue;
        };
        let behind = switch.instances.iter();
        let behind = behind.filter(|i| meters.contains(&i.node.as_str())).count();
        let together = switch.pin.is_some_and(|pin| pin.inside == pin.outside);
        if behind > 1 && !together {
            let key = format!("node.{}.pin", node.name);
            let key = if out.has(&key) {
                key
            } else {
                format!("node.{}.instances", node.name)
            };
            let message = "a subscriber's packets would be spread over several meters";
            let help = "pin both directions to one instance, `pin = { inside = \"gw1\", outside = \
                        \"gw1\" }`: another one takes over when it dies";
            out.error(&key, message, help);
        }
    }
}
