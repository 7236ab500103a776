//! Who watches a run: nobody but a log, or a person at a terminal.

use super::traffic::live::Live;

/// Told what happens while a run is played.
pub(crate) trait Watcher {
    /// Something worth a line.
    fn say(&mut self, what: &str);
    /// The nodes that take part.
    fn nodes(&mut self, _names: &[String]) {}
    /// A node is dead.
    fn down(&mut self, _name: &str) {}
    /// A node starts (again).
    fn up(&mut self, _name: &str) {}
    /// Some tens of milliseconds have passed.
    fn frame(&mut self, _live: Option<&Live>) {}
}

/// Progress lines on standard error, so that standard output stays the result.
pub(crate) struct Lines {
    started: std::time::Instant,
}

impl Lines {
    pub(crate) fn new() -> Self {
        Self { started: std::time::Instant::now() }
    }
}

impl Watcher for Lines {
    fn say(&mut self, what: &str) {
        eprintln!("{:7.2} s  {what}", self.started.elapsed().as_secs_f64());
    }
}
