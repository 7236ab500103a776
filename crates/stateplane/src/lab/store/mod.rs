//! `stateplane lab run store`: the replicated store as real processes under faults, with
//! recorded and checked histories.
//!
//! * [`network`], [`config`]: machines around a hub, and who lives there
//! * [`fault`]: what can go wrong; [`stage`]: the course of a run
//! * [`load`], [`work`]: clients that record what they asked and were answered
//! * [`judge`], [`ledger`]: whether that can be right; [`silence`]: how long nobody was served
//! * [`options`], [`report`], [`plot`]: in and out
//!
//! The checkers are those of the simulator, which know nothing of the protocol.

mod config;
mod fault;
mod judge;
mod ledger;
mod load;
mod network;
mod options;
mod plot;
mod report;
mod silence;
mod stage;
mod work;

use std::process::ExitCode;

use anyhow::Result;

use super::scenario::{self, Interrupted, Lacking};
use super::view::{Lines, Watcher};
use crate::say::say;
pub(crate) use options::StoreArgs;
use report::Report;
use stage::Stage;

/// Plays, prints, and says how it went.
pub(crate) fn run(args: &StoreArgs) -> ExitCode {
    let mut watcher = Lines::on_stderr();
    let result = play(args, &mut watcher).and_then(|report| {
        if let Some(path) = &args.plot {
            plot::draw(&report, path)?;
        }
        Ok(report)
    });
    super::conclude(result, |report| {
        if args.json {
            say!("{:#}", report.json());
        } else {
            say!("{}", report.text());
        }
        report.pass()
    })
}

fn play(args: &StoreArgs, watcher: &mut dyn Watcher) -> Result<Report> {
    let stop = scenario::stop_at_signals()?;
    if super::clients::find_tool("nft").is_none() {
        let text = "networks are cut by nft: `apt-get install nftables`";
        return Err(Lacking::new(text).into());
    }
    let dir = scenario::make_dir()?;
    let result = Stage::set(args, dir.path(), watcher, &stop).and_then(Stage::play);
    let failed = match &result {
        Ok(report) => !report.pass(),
        Err(error) => !error.is::<Interrupted>(),
    };
    if args.keep || failed && args.falsify.is_none() {
        scenario::keep(dir)?;
    }
    result
}

/// The faults, for `stateplane lab list`.
pub(crate) fn list() {
    for fault in fault::Fault::ALL {
        say!("  {:<18}{}", fault.to_string(), fault.about());
    }
}
