//! Who watches a run: a log, or a person at a terminal ([`super::screen`]).

use std::io::Write;
use std::time::Instant;

use super::traffic::live::Live;

/// Told what happens while a run is played.
pub(crate) trait Watcher {
    /// Something worth a line.
    fn say(&mut self, what: &str);
    /// The nodes that take part.
    fn nodes(&mut self, _names: &[String]) {}
    /// A node is dead.
    fn down(&mut self, _name: &str) {}
    /// A node starts again.
    fn up(&mut self, _name: &str) {}
    /// Some tens of milliseconds have passed.
    fn frame(&mut self, _live: Option<&Live>) {}
    /// Whether the person asks to stop.
    fn wants_stop(&mut self) -> bool {
        false
    }
    /// The run is over; give the terminal back.
    fn close(&mut self) {}
}

/// Progress lines; on standard error when standard output is for the result.
pub(crate) struct Lines {
    started: Instant,
    out: Box<dyn Write>,
}

impl Lines {
    pub(crate) fn on_stderr() -> Self {
        Self::on(Box::new(std::io::stderr()))
    }

    pub(crate) fn on_stdout() -> Self {
        Self::on(Box::new(std::io::stdout()))
    }

    fn on(out: Box<dyn Write>) -> Self {
        Self {
            started: Instant::now(),
            out,
        }
    }
}

impl Watcher for Lines {
    fn say(&mut self, what: &str) {
        let seconds = self.started.elapsed().as_secs_f64();
        // A closed pipe must not end a run that cleans up after itself.
        let _ = writeln!(self.out, "{seconds:7.2} s  {what}");
    }
}
