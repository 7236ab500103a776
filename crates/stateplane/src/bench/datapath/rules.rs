//! The devices that the kernel has itself: forwarding, nftables, IPVS.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use stateplane_host::link::Netlink;
use stateplane_host::spawn::Process;

use crate::bench::device::{load_rules, snat_rules};
use crate::bench::testbed::{DISCARD, SERVICE, TARGET, Testbed};
use crate::lab::clients::find_tool;

/// What came from inside may go out, and its answers in; anything else may not.
const FIREWALL: &str = "table ip filter {
  chain forward {
    type filter hook forward priority filter; policy drop;
    ct state established,related accept
    ct state new iifname \"lan0\" accept
  }
}
";

pub(super) fn check_nft() -> Result<()> {
    if find_tool("nft").is_none() {
        bail!("nft is missing; `make setup`, or `apt-get install nftables`, brings it");
    }
    Ok(())
}

pub(super) fn forward(bed: &Testbed) -> Result<()> {
    Ok(bed.device.set_sysctls(&[("ipv4/ip_forward", "1")])?)
}

pub(super) fn snat(bed: &Testbed, dir: &Path) -> Result<()> {
    forward(bed)?;
    load_rules(bed, dir, &snat_rules())
}

pub(super) fn firewall(bed: &Testbed, dir: &Path) -> Result<()> {
    forward(bed)?;
    load_rules(bed, dir, FIREWALL)
}

/// Why there is no load balancer of the kernel's here, if so.
pub(super) fn missing_ipvs(bed: &Testbed) -> Result<Option<String>> {
    if find_tool("ipvsadm").is_none() {
        let there = Path::new("/proc/net/ip_vs").exists();
        let text = if there {
            "ipvsadm is missing (Debian package ipvsadm)"
        } else {
            "this kernel has no IPVS loaded, and ipvsadm is missing"
        };
        return Ok(Some(text.to_owned()));
    }
    let listed = ipvsadm(bed, &["-L", "-n"]);
    Ok(listed
        .err()
        .map(|_| "this kernel has no IPVS (`ipvsadm -L` fails)".to_owned()))
}

/// UDP to the service's discard port goes to the sink (masquerading: the destination is
/// translated).
pub(super) fn balance(bed: &Testbed) -> Result<()> {
    forward(bed)?;
    bed.device
        .run(|| Netlink::open()?.add_address("lan0", SERVICE, 32))?;
    let (service, server) = (
        format!("{SERVICE}:{DISCARD}"),
        format!("{TARGET}:{DISCARD}"),
    );
    ipvsadm(bed, &["-A", "-u", &service, "-s", "rr"])?;
    ipvsadm(bed, &["-a", "-u", &service, "-r", &server, "-m"])
}

fn ipvsadm(bed: &Testbed, args: &[&str]) -> Result<()> {
    let tool = find_tool("ipvsadm").context("ipvsadm is missing")?;
    let mut command = Command::new(tool);
    command
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut process = Process::spawn("ipvsadm", command, &bed.device)?;
    match process.wait(Duration::from_secs(10))? {
        Some(status) if status.success() => Ok(()),
        other => bail!("ipvsadm {}: {other:?}", args.join(" ")),
    }
}
