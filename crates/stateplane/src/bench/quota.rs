//! A share of a processor, by the kernel's bandwidth control: makes one process the bottleneck,
//! however few processors the others have.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// Where the controller of processor time is mounted, and the files that bound a group of
/// version 1 and of version 2.
const MOUNTS: [&str; 2] = ["/sys/fs/cgroup/cpu", "/sys/fs/cgroup"];
const V1: &str = "cpu.cfs_quota_us";
const V2: &str = "cpu.max";

/// How long a bounded process may run in each [`PERIOD`].
const SLICE: Duration = Duration::from_millis(1);
/// With the least slice that the kernel grants, this is the share.
const PERIOD: Duration = Duration::from_millis(8);

/// A control group whose processes together get an eighth of a processor. Removing it leaves
/// them unbounded.
#[derive(Debug)]
pub(super) struct Quota {
    group: PathBuf,
    parent: PathBuf,
}

impl Quota {
    /// Bounds a process, all its threads together.
    pub(super) fn of(process: u32) -> Result<Self> {
        let mut why = String::new();
        for mount in MOUNTS.map(Path::new).into_iter().filter(|m| m.is_dir()) {
            match Self::within(mount, process) {
                Ok(quota) => return Ok(quota),
                Err(error) => why += &format!("; {}: {error:#}", mount.display()),
            }
        }
        bail!("no control group can bound processor time{why}")
    }

    fn within(mount: &Path, process: u32) -> Result<Self> {
        let group = mount.join(format!("stateplane-bench-{process}"));
        // Version 2 must be told that the groups below divide processor time.
        let _ = fs::write(mount.join("cgroup.subtree_control"), "+cpu");
        fs::create_dir(&group).context("cannot create a group")?;
        let quota = Self {
            group,
            parent: mount.to_owned(),
        };
        quota.bound().context("cannot set a quota")?;
        let members = quota.group.join("cgroup.procs");
        fs::write(members, process.to_string()).context("cannot move a process")?;
        Ok(quota)
    }

    fn bound(&self) -> io::Result<()> {
        let (slice, period) = (SLICE.as_micros(), PERIOD.as_micros());
        if self.group.join(V1).exists() {
            fs::write(self.group.join("cpu.cfs_period_us"), period.to_string())?;
            return fs::write(self.group.join(V1), slice.to_string());
        }
        fs::write(self.group.join(V2), format!("{slice} {period}"))
    }
}

impl Drop for Quota {
    fn drop(&mut self) {
        let members = fs::read_to_string(self.group.join("cgroup.procs")).unwrap_or_default();
        for process in members.lines() {
            let _ = fs::write(self.parent.join("cgroup.procs"), process);
        }
        let _ = fs::remove_dir(&self.group);
    }
}

#[cfg(test)]
mod tests {
    use super::Quota;
    use std::process::Command;

    #[test]
    fn a_process_is_bounded_and_let_go() {
        let mut sleeper = Command::new("sleep").arg("60").spawn().unwrap();
        match Quota::of(sleeper.id()) {
            Ok(quota) => {
                let group = quota.group.clone();
                let members = std::fs::read_to_string(group.join("cgroup.procs")).unwrap();
                assert_eq!(members.trim(), sleeper.id().to_string());
                drop(quota);
                assert!(!group.exists());
            }
            Err(why) => eprintln!("skipped: {why:#}"),
        }
        sleeper.kill().unwrap();
        sleeper.wait().unwrap();
    }
}
