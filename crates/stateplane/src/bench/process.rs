//! Child processes: where they run, and what they cost.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_setaffinity};
use stateplane_host::netns::Namespace;
use stateplane_host::spawn::Process;

use super::quota::Quota;
use crate::scheduled::Scheduled;

/// What a process has used so far.
#[derive(Clone, Copy, Debug)]
pub(in crate::bench) struct Used {
    /// Processor time, to the nanosecond.
    pub(in crate::bench) run_time: Duration,
    /// The same, as coarse as the kernel tells it apart.
    pub(in crate::bench) user: Duration,
    pub(in crate::bench) kernel: Duration,
    /// Times that one of its threads left a processor.
    pub(in crate::bench) switches: u64,
    /// Pages that it touched and that were not there.
    pub(in crate::bench) faults: u64,
}

/// A child and what it is called in a report.
pub(in crate::bench) struct Child {
    pub(in crate::bench) name: String,
    process: Process,
}

impl Child {
    /// Starts `program`; what it says goes to a file in `dir`.
    pub(in crate::bench) fn start(name: &str, command: Command, dir: &Path) -> Result<Self> {
        Self::start_in(&Namespace::current()?, name, command, dir)
    }

    /// The same in a namespace of its own.
    pub(in crate::bench) fn start_in(
        space: &Namespace,
        name: &str,
        mut command: Command,
        dir: &Path,
    ) -> Result<Self> {
        let log = fs::File::create(dir.join(format!("{name}.log")))?;
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let process =
            Process::spawn(name, command, space).with_context(|| format!("cannot start {name}"))?;
        let name = name.to_owned();
        Ok(Self { name, process })
    }

    /// All its threads run on `cpu` from now on, and so will those they start.
    pub(in crate::bench) fn pin(&self, cpu: usize) -> Result<()> {
        let mut set = CpuSet::new();
        set.set(cpu);
        for entry in fs::read_dir(format!("/proc/{}/task", self.process.id()))? {
            let name = entry?.file_name();
            let task = name.to_str().and_then(|t| t.parse().ok());
            sched_setaffinity(task.and_then(Pid::from_raw), &set)?;
        }
        Ok(())
    }

    /// Bounds the processor time it gets while the quota is kept.
    pub(in crate::bench) fn bound(&self) -> Result<Quota> {
        Quota::of(self.process.id()).with_context(|| format!("cannot bound {}", self.name))
    }

    /// Processor time it has used, in the kernel and outside.
    pub(in crate::bench) fn cpu(&self) -> Result<Duration> {
        let Stat { user, kernel, .. } = self.stat()?;
        Ok(user + kernel)
    }

    /// All that it has used.
    pub(in crate::bench) fn used(&self) -> Result<Used> {
        let run_time = self.run_time()?;
        let Stat {
            faults,
            user,
            kernel,
        } = self.stat()?;
        let mut switches = 0;
        for thread in fs::read_dir(format!("/proc/{}/task", self.process.id()))?.flatten() {
            let status = fs::read_to_string(thread.path().join("status")).unwrap_or_default();
            switches += switched(&status);
        }
        Ok(Used {
            run_time,
            user,
            kernel,
            switches,
            faults,
        })
    }

    fn stat(&self) -> Result<Stat> {
        let line = fs::read_to_string(format!("/proc/{}/stat", self.process.id()))?;
        Stat::read(&line).with_context(|| format!("cannot read what {} has used", self.name))
    }

    /// Processor time its threads have used, to the nanosecond. Those that ended are left out.
    pub(in crate::bench) fn run_time(&self) -> Result<Duration> {
        Ok(Scheduled::of(self.process.id())?.ran)
    }

    /// Whether it has ended by itself.
    pub(in crate::bench) fn has_ended(&mut self) -> Result<bool> {
        Ok(self.process.poll()?.is_some())
    }

    /// Ends it and waits until it has.
    pub(in crate::bench) fn stop(mut self) -> Result<()> {
        Ok(self.process.stop(Duration::from_secs(5))?)
    }
}

/// Times that the thread with this `/proc/PID/status` left a processor.
fn switched(status: &str) -> u64 {
    let counts = status.lines().filter_map(|line| {
        let (name, count) = line.split_once(':')?;
        let count: u64 = count.trim().parse().ok()?;
        name.ends_with("ctxt_switches").then_some(count)
    });
    counts.sum()
}

/// What a line of `/proc/PID/stat` says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Stat {
    faults: u64,
    user: Duration,
    kernel: Duration,
}

impl Stat {
    /// The name at the beginning may hold anything.
    fn read(line: &str) -> Option<Self> {
        let (_, fields) = line.rsplit_once(") ")?;
        let fields: Vec<&str> = fields.split(' ').collect();
        let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
        let each = rustix::param::clock_ticks_per_second();
        let time = |at: usize| Some(Duration::from_secs_f64(number(at)? as f64 / each as f64));
        Some(Self {
            // Without a disk, and with one.
            faults: number(7)? + number(9)?,
            user: time(11)?,
            kernel: time(12)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_is_found_behind_any_name() {
        let line = "7 (a ) b) S 1 7 7 0 -1 4194560 100 0 2 0 31 11 0 0 20 0 1 0 5 0 0";
        let stat = Stat::read(line).expect("it is whole");
        let ticks = |time: Duration| {
            (time.as_secs_f64() * rustix::param::clock_ticks_per_second() as f64).round()
        };
        assert_eq!(
            (stat.faults, ticks(stat.user), ticks(stat.kernel)),
            (102, 31.0, 11.0)
        );
        assert_eq!(Stat::read("7 (a"), None);
    }

    #[test]
    fn switches_of_both_kinds_count() {
        let status = "Name:\tctxt_switches\nThreads:\t1\nvoluntary_ctxt_switches:\t7\n\
                      nonvoluntary_ctxt_switches:\t5\n";
        assert_eq!(switched(status), 12);
    }
}
