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
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.process.id()))?;
        ticks(&stat)
            .map(|ticks| {
                let each = rustix::param::clock_ticks_per_second();
                Duration::from_secs_f64(ticks as f64 / each as f64)
            })
            .with_context(|| format!("cannot read what {} has used", self.name))
    }

    /// Processor time its threads have used, to the nanosecond. Those that ended are left out.
    pub(in crate::bench) fn run_time(&self) -> Result<Duration> {
        run_time(self.process.id())
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

/// Processor time that the present threads of a process have used.
pub(in crate::bench) fn run_time(process: u32) -> Result<Duration> {
    let mut sum = Duration::ZERO;
    for thread in fs::read_dir(format!("/proc/{process}/task"))?.flatten() {
        // A thread that ends meanwhile counts as nothing.
        let line = fs::read_to_string(thread.path().join("schedstat")).unwrap_or_default();
        sum += scheduled(&line).unwrap_or_default();
    }
    Ok(sum)
}

/// The first field of `schedstat`: time on a processor.
pub(in crate::bench) fn scheduled(line: &str) -> Option<Duration> {
    let nanos = line.split(' ').next()?.parse().ok()?;
    Some(Duration::from_nanos(nanos))
}

/// utime and stime of a line of `/proc/PID/stat`; the name before them may hold anything.
fn ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ').skip(11);
    let (user, system): (u64, u64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some(user + system)
}

#[cfg(test)]
mod tests {
    #[test]
    fn processor_time_is_found_behind_any_name() {
        let stat = "7 (a ) b) S 1 7 7 0 -1 4194560 100 0 0 0 31 11 0 0 20 0 1 0 5 0 0";
        assert_eq!(super::ticks(stat), Some(42));
        assert_eq!(super::ticks("7 (a"), None);
    }
}
