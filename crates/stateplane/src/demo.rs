//! `stateplane demo`: the failover lab with a live view, in under a minute.

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Args;

use crate::lab::options::Spec;
use crate::lab::screen::Screen;
use crate::lab::view::{Lines, Watcher};
use crate::say::say;

/// `stateplane demo`
#[derive(Args, Clone, Debug)]
pub(crate) struct DemoArgs {
    /// Progress lines instead of the live view (as when output is not a terminal)
    #[arg(long)]
    pub(crate) plain: bool,
}

const TITLE: &str = "Stateplane: kill -9 under load, nothing breaks";

/// Plays the demonstration and prints its table; 0 only when nothing broke.
pub(crate) fn run(args: &DemoArgs) -> ExitCode {
    let spec = Spec::demo();
    let mut watcher = watcher(args.plain);
    crate::lab::finish(&spec, watcher.as_mut(), |report| {
        say!("\n{}", report.text());
    })
}

/// The live view where there is a terminal that can show it.
fn watcher(plain: bool) -> Box<dyn Watcher> {
    if !plain
        && std::io::stdout().is_terminal()
        && std::io::stdin().is_terminal()
        && let Ok(screen) = Screen::open(TITLE)
    {
        return Box::new(screen);
    }
    say!("{TITLE}\n");
    Box::new(Lines::on_stdout())
}
