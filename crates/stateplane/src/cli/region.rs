//! `stateplane region`: the broker of a machine's regions, and a look at them.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use clap::{Args, Subcommand};
use comfy_table::Table;
use comfy_table::presets::NOTHING;
use serde_json::{Value, json};
use stateplane_region::{
    Access, Broker, Entry, Host, HostError, LINE, Limits, Name, ReadError, Reader, Refusal,
    Snapshot,
};

use crate::say::say;

const HELP: &str = "\
Examples:
  stateplane region broker                          serve this machine's regions
  stateplane region ls /edge/gw1                    what there is, who writes it
  stateplane region show /edge/gw1/fw/acl           version, age, first bytes
  stateplane region watch /edge/gw1/nat/ports       each version that is seen
  stateplane region diff /edge/gw1/lb/weights       what the next version changes

Regions are memory of the processes that write them; see the crate stateplane-region.
Exit codes: 0 done, 1 refused, or nothing came in time, 3 no broker answers.";

/// Bytes in a line of a dump.
const DUMP: usize = 16;

/// `stateplane region …`
#[derive(Args, Clone, Debug)]
#[command(after_help = HELP)]
pub(crate) struct RegionArgs {
    #[command(subcommand)]
    what: What,
    /// The broker's directory
    #[arg(
        long,
        value_name = "DIR",
        default_value = "/run/stateplane/regions",
        global = true
    )]
    dir: PathBuf,
}

#[derive(Subcommand, Clone, Debug)]
enum What {
    /// Serve the regions of this machine until SIGTERM or SIGINT
    Broker {
        /// Memory that all regions may take together
        #[arg(long, value_name = "MIB", default_value_t = 4096)]
        memory_mib: u64,
        /// Memory that the regions of one user may take
        #[arg(long, value_name = "MIB", default_value_t = 2048)]
        user_memory_mib: u64,
    },
    /// List regions
    Ls {
        /// Only this one and those below it
        #[arg(default_value = "")]
        prefix: String,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// One region: version, age, first bytes
    Show {
        /// Its name
        name: Name,
        /// How many bytes
        #[arg(long, default_value_t = 256)]
        bytes: usize,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Every version that is seen, until SIGINT
    Watch {
        /// Its name
        name: Name,
        /// Between two looks
        #[arg(long, value_name = "MS", default_value_t = 100)]
        every_ms: u64,
        /// Stop after so many versions
        #[arg(long, value_name = "N")]
        count: Option<u64>,
        /// Print one JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Wait for a newer version and show what it changed
    Diff {
        /// Its name
        name: Name,
        /// How long to wait
        #[arg(long, value_name = "S", default_value_t = 10.0)]
        wait_s: f64,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
}

pub(super) fn run(args: &RegionArgs) -> ExitCode {
    let done = match &args.what {
        What::Broker {
            memory_mib,
            user_memory_mib,
        } => broker(args, *memory_mib, *user_memory_mib),
        What::Ls { prefix, json } => ls(args, prefix, *json),
        What::Show { name, bytes, json } => show(args, name, *bytes, *json),
        What::Watch {
            name,
            every_ms,
            count,
            json,
        } => watch(args, name, Duration::from_millis(*every_ms), *count, *json),
        What::Diff { name, wait_s, json } => diff(args, name, *wait_s, *json),
    };
    let Err(error) = done else {
        return ExitCode::SUCCESS;
    };
    eprintln!("stateplane: error: {error:#}");
    match error.downcast_ref::<HostError>() {
        Some(HostError::NoBroker { .. }) => ExitCode::from(3),
        _ => ExitCode::FAILURE,
    }
}

fn broker(args: &RegionArgs, memory_mib: u64, user_memory_mib: u64) -> Result<()> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    let limits = Limits {
        bytes: memory_mib.saturating_mul(1 << 20),
        bytes_per_user: user_memory_mib.saturating_mul(1 << 20),
        ..Limits::default()
    };
    let mut broker = Broker::open(&args.dir, limits)
        .with_context(|| format!("cannot serve {}", args.dir.display()))?;
    Ok(broker.run(&stop)?)
}

fn ls(args: &RegionArgs, prefix: &str, as_json: bool) -> Result<()> {
    let entries = Host::connect(&args.dir)?.list(prefix)?;
    if as_json {
        let all: Vec<Value> = entries.iter().map(entry_json).collect();
        say!("{:#}", json!({ "regions": all }));
        return Ok(());
    }
    let mut table = Table::new();
    table.load_style(NOTHING);
    table.set_header(["NAME", "KIB", "EPOCH", "OWNER", "READERS", "WRITER"]);
    for entry in &entries {
        let writer = match (entry.writer, entry.readable) {
            (Some(process), _) => format!("process {process}"),
            (None, true) => "none: the last version stays".to_owned(),
            (None, false) => "not come back yet".to_owned(),
        };
        table.add_row([
            entry.name.to_string(),
            entry.bytes.div_ceil(1024).to_string(),
            entry.epoch.to_string(),
            entry.owner.to_string(),
            access(entry.access).to_owned(),
            writer,
        ]);
    }
    say!("{table}");
    Ok(())
}

fn access(access: Access) -> &'static str {
    match access {
        Access::Owner => "owner",
        Access::Group => "group",
        Access::Everyone => "everyone",
    }
}

fn entry_json(entry: &Entry) -> Value {
    json!({
        "name": entry.name.as_str(),
        "memory_bytes": entry.bytes,
        "epoch": entry.epoch,
        "owner": entry.owner,
        "readers": access(entry.access),
        "writer": entry.writer,
        "readable": entry.readable,
    })
}

/// The newest version, of whichever writer is in force.
struct Follower {
    host: Host,
    name: Name,
    reader: Reader<[u8]>,
}

impl Follower {
    fn attach(args: &RegionArgs, name: &Name) -> Result<Self> {
        let host = Host::connect(&args.dir)?;
        let reader = host.attach(name, "").map_err(|error| match &error {
            HostError::Refused {
                refusal: Refusal::NotThere,
                ..
            } => {
                anyhow!("{error}; `stateplane region ls` lists those there are")
            }
            _ => error.into(),
        })?;
        let name = name.clone();
        Ok(Self { host, name, reader })
    }

    fn look(&mut self) -> Result<Snapshot<[u8]>> {
        match self.reader.snapshot() {
            Err(ReadError::Superseded { .. }) => {
                self.reader = self.host.attach(&self.name, "")?;
                Ok(self.reader.snapshot()?)
            }
            read => Ok(read?),
        }
    }
}

fn show(args: &RegionArgs, name: &Name, bytes: usize, as_json: bool) -> Result<()> {
    let mut follower = Follower::attach(args, name)?;
    let snapshot = follower.look()?;
    let first = &snapshot.bytes()[..bytes.min(snapshot.bytes().len())];
    if as_json {
        let mut value = edition_json(&follower, &snapshot);
        value["first_bytes"] = json!(hex(first));
        say!("{value:#}");
        return Ok(());
    }
    let edition = snapshot.edition();
    say!("{name}");
    say!("  bytes    {}", snapshot.bytes().len());
    say!(
        "  version  {} of writer epoch {}",
        edition.version,
        edition.epoch
    );
    say!("  age      {:?}", edition.age());
    if follower.reader.is_closed() {
        say!("  writer   has ended; this is its last version");
    }
    dump(first);
    Ok(())
}

fn edition_json(follower: &Follower, snapshot: &Snapshot<[u8]>) -> Value {
    let edition = snapshot.edition();
    json!({
        "name": follower.name.as_str(),
        "bytes": snapshot.bytes().len(),
        "version": edition.version,
        "epoch": edition.epoch,
        "age_us": edition.age().as_secs_f64() * 1e6,
        "published_day_ns": edition.published_day_ns,
        "closed": follower.reader.is_closed(),
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn dump(bytes: &[u8]) {
    for (number, line) in bytes.chunks(DUMP).enumerate() {
        let text: String = line
            .iter()
            .map(|byte| {
                if (b' '..=b'~').contains(byte) {
                    char::from(*byte)
                } else {
                    '.'
                }
            })
            .collect();
        let pairs: Vec<String> = line.iter().map(|byte| format!("{byte:02x}")).collect();
        say!("  {:08x}  {:47}  {text}", number * DUMP, pairs.join(" "));
    }
}

/// Byte ranges that differ; the second may be of another length, after a change of writer.
fn changes(old: &[u8], new: &[u8]) -> Vec<(usize, usize)> {
    let mut ranges: Vec<(usize, usize)> = Vec::new();
    let len = old.len().max(new.len());
    for at in (0..len).filter(|at| old.get(*at) != new.get(*at)) {
        match ranges.last_mut() {
            // A byte between two changes that happens to be the same is told with them.
            Some((_, end)) if at <= *end + 1 => *end = at + 1,
            _ => ranges.push((at, at + 1)),
        }
    }
    ranges
}

fn watch(
    args: &RegionArgs,
    name: &Name,
    every: Duration,
    count: Option<u64>,
    as_json: bool,
) -> Result<()> {
    let mut follower = Follower::attach(args, name)?;
    let mut last: Option<Snapshot<[u8]>> = None;
    let mut seen = 0;
    loop {
        let new = follower.look()?;
        let same = |last: &Snapshot<[u8]>| {
            let (old, new) = (last.edition(), new.edition());
            (old.version, old.epoch) == (new.version, new.epoch)
        };
        if !last.as_ref().is_some_and(same) {
            let old = last.as_ref().map_or(&[][..], |last| last.bytes());
            tell_version(&follower, old, &new, as_json);
            last = Some(new);
            seen += 1;
        }
        if count.is_some_and(|count| seen >= count) {
            return Ok(());
        }
        std::thread::sleep(every);
    }
}

fn tell_version(follower: &Follower, old: &[u8], new: &Snapshot<[u8]>, as_json: bool) {
    let ranges = changes(old, new.bytes());
    let bytes: usize = ranges.iter().map(|(start, end)| end - start).sum();
    let mut lines: Vec<usize> = ranges
        .iter()
        .flat_map(|(start, end)| start / LINE..=(end - 1) / LINE)
        .collect();
    lines.dedup();
    if as_json {
        let mut value = edition_json(follower, new);
        value["changed_bytes"] = json!(bytes);
        value["changed_lines"] = json!(lines.len());
        say!("{value}");
        return;
    }
    let edition = new.edition();
    say!(
        "version {} of epoch {}, {:?} old: {bytes} bytes in {} lines changed",
        edition.version,
        edition.epoch,
        edition.age(),
        lines.len()
    );
}

fn diff(args: &RegionArgs, name: &Name, wait_s: f64, as_json: bool) -> Result<()> {
    let mut follower = Follower::attach(args, name)?;
    let old = follower.look()?;
    let limit = Duration::try_from_secs_f64(wait_s).context("--wait-s")?;
    let start = Instant::now();
    let new = loop {
        let new = follower.look()?;
        let (was, is) = (old.edition(), new.edition());
        if (was.version, was.epoch) != (is.version, is.epoch) {
            break new;
        }
        if start.elapsed() > limit {
            bail!(
                "{name}: no version after {} came within {wait_s} s",
                was.version
            );
        }
        std::thread::sleep(Duration::from_millis(1));
    };
    let ranges = changes(old.bytes(), new.bytes());
    let of = |bytes: &[u8], (start, end): (usize, usize)| {
        let len = bytes.len();
        hex(&bytes[start.min(len)..end.min(len)])
    };
    if as_json {
        let all: Vec<Value> = ranges
            .iter()
            .map(|range| json!({ "at": range.0, "old": of(old.bytes(), *range), "new": of(new.bytes(), *range) }))
            .collect();
        let mut value = edition_json(&follower, &new);
        value["old_version"] = json!(old.edition().version);
        value["changes"] = json!(all);
        say!("{value:#}");
        return Ok(());
    }
    say!(
        "{name}: version {} to {}",
        old.edition().version,
        new.edition().version
    );
    for range in ranges {
        say!(
            "  {:08x}  {} -> {}",
            range.0,
            of(old.bytes(), range),
            of(new.bytes(), range)
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_ranges() {
        assert_eq!(changes(b"same", b"same"), []);
        assert_eq!(changes(b"", b"abc"), [(0, 3)]);
        assert_eq!(changes(b"abcdefgh", b"xbydefgz"), [(0, 3), (7, 8)]);
        assert_eq!(changes(b"abcd", b"ab"), [(2, 4)]);
    }
}
