//! The devices that are compared: two of the kernel's, and ours.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use stateplane_host::bpf::bench::Expected;
use stateplane_host::spawn::Process;

use super::testbed::{MAC_SINK, POOL, POOL_PREFIX, POOL_RANGE, SOURCE, TARGET, Testbed};

/// What stands between generator and sink.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Device {
    /// The kernel forwards; nothing is translated, nothing remembered.
    KernelForwarding,
    /// The kernel's connection tracking with random source ports.
    NftablesSnat,
    /// `stateplane run` with an embedded store.
    StateplaneSlow,
}

impl Device {
    pub(super) const ALL: [Device; 3] = [
        Device::KernelForwarding,
        Device::NftablesSnat,
        Device::StateplaneSlow,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Device::KernelForwarding => "kernel-forwarding",
            Device::NftablesSnat => "nftables-snat",
            Device::StateplaneSlow => "stateplane-slow-path",
        }
    }

    /// What it makes of the generator's frames.
    pub(super) fn expected(self) -> Expected {
        let (source, source_prefix) = match self {
            Device::KernelForwarding => (SOURCE, 32),
            Device::NftablesSnat | Device::StateplaneSlow => (POOL, POOL_PREFIX),
        };
        Expected {
            source,
            source_prefix,
            destination: TARGET,
            mac: MAC_SINK,
        }
    }

    /// Makes the test bed's middle namespace such a device. It works until the result
    /// is dropped.
    pub(super) fn start(self, bed: &Testbed, dir: &Path) -> Result<Option<Process>> {
        match self {
            Device::KernelForwarding => {
                bed.device.set_sysctls(&[("ipv4/ip_forward", "1")])?;
                Ok(None)
            }
            Device::NftablesSnat => {
                bed.device.set_sysctls(&[("ipv4/ip_forward", "1")])?;
                load_rules(bed, dir, &snat_rules())?;
                Ok(None)
            }
            Device::StateplaneSlow => start_node(bed, dir).map(Some),
        }
    }
}

/// Source addresses and ports are chosen at random.
pub(super) fn snat_rules() -> String {
    format!(
        "table ip nat {{
  chain postrouting {{
    type nat hook postrouting priority srcnat;
    oifname \"wan0\" snat to {POOL_RANGE} fully-random
  }}
}}
"
    )
}

/// Has nft carry out `rules` in the device's namespace.
pub(super) fn load_rules(bed: &Testbed, dir: &Path, rules: &str) -> Result<()> {
    let file = dir.join("rules.nft");
    fs::write(&file, rules)?;
    let mut command = Command::new("nft");
    command.arg("-f").arg(&file).stdin(Stdio::null());
    let mut nft = Process::spawn("nft", command, &bed.device)
        .context("cannot start nft (Debian package nftables; `make setup` installs it)")?;
    match nft.wait(Duration::from_secs(10))? {
        Some(status) if status.success() => Ok(()),
        other => bail!("nft did not take the ruleset: {other:?}"),
    }
}

fn start_node(bed: &Testbed, dir: &Path) -> Result<Process> {
    let config = dir.join("bench.toml");
    fs::write(&config, node_config(dir, 0, SLOW))?;
    let log = fs::File::create(dir.join("node.log"))?;
    let mut command = Command::new(std::env::current_exe()?);
    command
        .args(["run", "--node", "gw", "--config"])
        .arg(&config)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    Process::spawn("gw", command, &bed.device).context("cannot start the node")
}

/// All packets cross the worker.
pub(super) const SLOW: &str = "[fast-path]\nenabled = false\n";

/// A gateway for so many mappings, with a store of its own unless the `rest` of the file says
/// otherwise.
pub(super) fn node_config(dir: &Path, mappings: u32, rest: &str) -> String {
    let flows = mappings.saturating_mul(5) / 2;
    format!(
        r#"[cluster]
name = "bench"
key = "00112233445566778899aabbccddeeff"
admin-dir = "{}"

[node.gw]
roles = ["function"]
control = "127.0.0.1:7400"
inside = "lan0"
outside = "wan0"

[nat]
inside-prefixes = ["10.0.0.0/16"]
outside-addresses = ["{POOL_RANGE}"]
ports = "1024-65535"
limit-per-subscriber = 60000
flows = {}

{rest}"#,
        dir.display(),
        flows.max(1 << 20)
    )
}
