//! The lab: a whole network in namespaces of its own, real nodes as child
//! processes, real traffic, real kills, and a verdict.
//!
//! * [`topology`], [`config`], [`nodes`]: the world and who lives in it
//! * [`traffic`], [`clients`]: our generator, and other people's programs
//! * [`scenario`]: the course of one run, [`patience`]: how long it waits for nodes; [`report`]: its outcome
//! * [`view`], [`screen`]: who watches
//! * [`store`]: a lab of its own, for the store alone
//!
//! Nothing is left behind: namespaces are anonymous, children die with their
//! parent, files lie in one temporary directory.

pub(crate) mod clients;
mod config;
mod load;
pub(crate) mod nodes;
pub(crate) mod options;
mod patience;
pub(crate) mod report;
pub(crate) mod scenario;
pub(crate) mod screen;
mod store;
mod topology;
mod traffic;
pub(crate) mod view;

use std::process::ExitCode;

use crate::say::say;
pub(crate) use options::LabArgs;
use options::{LabCommand, RunArgs, Scenario, Spec};
use report::Report;
use scenario::{Interrupted, Lacking};
use view::{Lines, Watcher};

/// `stateplane lab …`: 0 pass, 1 fail, 2 no verdict, 3 the machine lacks
/// something, 130 interrupted.
pub(crate) fn run(args: &LabArgs) -> ExitCode {
    match &args.command {
        LabCommand::List => {
            say!("failover    kill instances and replicas under traffic; nothing may break");
            say!("asymmetric  requests through one instance, answers through the other");
            say!(
                "store       strike the store itself; what clients saw must be linearizable. Faults:"
            );
            store::list();
            ExitCode::SUCCESS
        }
        LabCommand::Run(Scenario::Failover(args)) => run_scenario(Spec::failover(args), args),
        LabCommand::Run(Scenario::Asymmetric(args)) => run_scenario(Spec::asymmetric(args), args),
        LabCommand::Run(Scenario::Store(args)) => store::run(args),
    }
}

fn run_scenario(spec: Spec, args: &RunArgs) -> ExitCode {
    finish(&spec, &mut Lines::on_stderr(), |report| {
        if args.json {
            say!("{:#}", report.json());
        } else {
            say!("{}", report.text());
        }
    })
}

/// Plays, prints, and says how it went.
pub(crate) fn finish(
    spec: &Spec,
    watcher: &mut dyn Watcher,
    print: impl FnOnce(&Report),
) -> ExitCode {
    let result = scenario::play(spec, watcher);
    watcher.close();
    conclude(result, |report| {
        print(&report);
        report.pass()
    })
}

/// `print` shows what came out and says whether all is well.
fn conclude<R>(result: anyhow::Result<R>, print: impl FnOnce(R) -> bool) -> ExitCode {
    match result {
        Ok(report) => ExitCode::from(u8::from(!print(report))),
        Err(error) if error.is::<Interrupted>() => {
            eprintln!("interrupted; everything is removed");
            ExitCode::from(130)
        }
        Err(error) if error.is::<Lacking>() => {
            eprintln!("the lab cannot run here: {error}");
            ExitCode::from(3)
        }
        Err(error) => {
            eprintln!("the lab cannot run: {error:#}");
            ExitCode::from(2)
        }
    }
}
