//! What the kernel says of when threads ran, and when they would have.

use std::fs;
use std::io;
use std::time::Duration;

/// Since a thread began, or the present threads of a process did.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Scheduled {
    /// On a processor.
    pub(crate) ran: Duration,
    /// Ready to run, while others ran.
    pub(crate) waited: Duration,
}

impl Scheduled {
    /// Of a process.
    pub(crate) fn of(process: u32) -> io::Result<Self> {
        let mut sum = Self::default();
        for thread in fs::read_dir(format!("/proc/{process}/task"))?.flatten() {
            // A thread that ends meanwhile counts as nothing.
            let line = fs::read_to_string(thread.path().join("schedstat")).unwrap_or_default();
            let thread = Self::read(&line).unwrap_or_default();
            sum.ran += thread.ran;
            sum.waited += thread.waited;
        }
        Ok(sum)
    }

    /// A thread's file `schedstat`.
    pub(crate) fn read(line: &str) -> Option<Self> {
        let mut nanos = line.split_ascii_whitespace().map(str::parse);
        let mut next = || Some(Duration::from_nanos(nanos.next()?.ok()?));
        Some(Self {
            ran: next()?,
            waited: next()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_times_are_read_or_none() {
        let (ran, waited) = (Duration::from_nanos(17), Duration::from_nanos(4));
        assert_eq!(Scheduled::read("17 4 2\n"), Some(Scheduled { ran, waited }));
        for odd in ["", "17", "17 x", "-1 4 2"] {
            assert_eq!(Scheduled::read(odd), None, "{odd}");
        }
        let ours = Scheduled::of(std::process::id()).expect("we run");
        assert!(ours.ran > Duration::ZERO);
    }
}
