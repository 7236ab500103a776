//! Room for all flows in the kernel's connection tracking, as an administrator would make
//! for so many. These settings are the machine's, not a namespace's, and are put back.

use std::fs;

use anyhow::{Context, Result};

const MOST: &str = "/proc/sys/net/netfilter/nf_conntrack_max";
const BUCKETS: &str = "/proc/sys/net/netfilter/nf_conntrack_buckets";

/// Puts the settings back when dropped.
pub(super) struct Conntrack {
    before: Vec<(&'static str, String)>,
}

impl Conntrack {
    /// A bucket and some room for each of `flows`, unless there is as much.
    pub(super) fn make_room(flows: u32) -> Result<Self> {
        let mut changed = Self { before: Vec::new() };
        let wanted = u64::from(flows) * 5 / 4;
        for (path, wanted) in [(BUCKETS, u64::from(flows)), (MOST, wanted)] {
            // Where connection tracking is not loaded yet there is nothing to enlarge.
            let Ok(now) = fs::read_to_string(path) else {
                continue;
            };
            if now.trim().parse::<u64>().is_ok_and(|now| now >= wanted) {
                continue;
            }
            fs::write(path, wanted.to_string())
                .with_context(|| format!("cannot enlarge {path} to {wanted}"))?;
            changed.before.push((path, now));
        }
        Ok(changed)
    }
}

impl Drop for Conntrack {
    fn drop(&mut self) {
        for (path, value) in self.before.drain(..).rev() {
            if let Err(error) = fs::write(path, value.trim()) {
                eprintln!("cannot put {path} back to {}: {error}", value.trim());
            }
        }
    }
}
