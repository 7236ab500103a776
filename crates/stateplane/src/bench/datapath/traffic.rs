//! Real programs through the device: TCP by iperf3, HTTP by wrk and nginx.
//!
//! End hosts hand whole checksums and single segments to the cable; what a device merges and
//! cuts again (GRO, TSO) is its own affair.

use std::net::{SocketAddrV4, TcpStream};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use stateplane_host::spawn::Process;

use super::device::Device;
use super::placement::Placement;
use super::report::{Case, Figures};
use super::{Part, Scale};
use crate::bench::Place;
use crate::bench::testbed::{TARGET, Testbed};
use crate::lab::clients::{find_tool, nginx_conf, piped, tool};

const HTTP: u16 = 80;
/// Connections of wrk.
const CONNECTIONS: u32 = 32;
/// Flows that a device gets room for.
const FLOWS: u32 = 1_000;
/// A server is there and a device forwards after as long at most.
const READY: Duration = Duration::from_secs(10);
const PAGE_BYTES: usize = 1024;

/// Why a part cannot be measured, if so.
pub(super) fn missing(part: Part) -> Option<String> {
    let tools: &[(&str, &str)] = match part {
        Part::Tcp => &[("iperf3", "iperf3")],
        Part::Http => &[("wrk", "wrk"), ("nginx", "nginx-light")],
        _ => &[],
    };
    let lacking = tools.iter().find(|(tool, _)| find_tool(tool).is_none());
    lacking.map(|(tool, package)| format!("{tool} is missing (Debian package {package})"))
}

/// A part with a device.
pub(super) fn measure(
    part: Part,
    device: Device,
    scale: &Scale,
    place: Place,
) -> Result<Vec<(Case, Figures)>> {
    let dir = tempfile::tempdir()?;
    let bed = Testbed::build()?;
    let running = device.start(&bed, dir.path(), FLOWS)?;
    let placement = Placement::Cross;
    placement.arrange(&bed, &running, place)?;
    let (name, figure) = match part {
        Part::Tcp => ("gbit_per_s", tcp(&bed, scale.traffic)?),
        _ => ("requests_per_s", http(&bed, dir.path(), scale.traffic)?),
    };
    running.stop(dir.path())?;
    let case = Case {
        part,
        device,
        placement,
        bytes: 0,
        flows: if part == Part::Tcp { 1 } else { CONNECTIONS },
    };
    Ok(vec![(case, Figures::from([(name, figure)]))])
}

fn tcp(bed: &Testbed, span: Duration) -> Result<f64> {
    let mut server = tool("iperf3")?;
    server.args(["-s", "-B", &TARGET.to_string()]);
    server.stdout(Stdio::null());
    let _server = Process::spawn("iperf3-server", server, &bed.sink)?;
    let until = Instant::now() + READY;
    loop {
        let mut client = tool("iperf3")?;
        client.args(["-J", "-c", &TARGET.to_string(), "-t"]);
        client.arg(span.as_secs().to_string());
        let text = output("iperf3", client, bed, span)?;
        let report: Value = serde_json::from_str(&text).context("iperf3's report")?;
        if let Some(bits) = report["end"]["sum_received"]["bits_per_second"].as_f64() {
            return Ok(bits / 1e9);
        }
        // The server takes a moment to be there, and a look at its port for a client.
        if Instant::now() > until {
            bail!("iperf3 reports no bits: {}", report["error"]);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn http(bed: &Testbed, dir: &Path, span: Duration) -> Result<f64> {
    let www = dir.join("www");
    std::fs::create_dir(&www)?;
    std::fs::write(www.join("page"), vec![b'x'; PAGE_BYTES])?;
    let conf = dir.join("nginx.conf");
    std::fs::write(&conf, nginx_conf(dir, &www, TARGET))?;
    let mut server = tool("nginx")?;
    server.arg("-p").arg(dir).arg("-c").arg(&conf).arg("-e");
    server.arg(dir.join("nginx.err")).stdout(Stdio::null());
    let _server = Process::spawn("nginx", server, &bed.sink)?;
    wait_for(bed, HTTP)?;
    let mut client = tool("wrk")?;
    client.args(["-t", "1", "-c", &CONNECTIONS.to_string(), "-d"]);
    client.arg(format!("{}s", span.as_secs()));
    client.arg(format!("http://{TARGET}/page"));
    let text = output("wrk", client, bed, span)?;
    requests(&text).with_context(|| format!("wrk reports no requests:\n{text}"))
}

/// The rate in wrk's report; none if some were not answered with a page.
fn requests(text: &str) -> Option<f64> {
    if text.contains("Non-2xx") {
        return None;
    }
    let line = text.lines().find_map(|l| l.strip_prefix("Requests/sec:"))?;
    line.trim().parse().ok().filter(|rate| *rate > 0.0)
}

/// Until a connection through the device comes about.
fn wait_for(bed: &Testbed, port: u16) -> Result<()> {
    let address = SocketAddrV4::new(TARGET, port).into();
    let until = Instant::now() + READY;
    let is_there = bed.generator.run(|| {
        while Instant::now() < until {
            if TcpStream::connect_timeout(&address, Duration::from_millis(300)).is_ok() {
                return Ok(true);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(false)
    })?;
    if !is_there {
        bail!("no connection through the device to {address} within {READY:?}");
    }
    Ok(())
}

/// What a client writes, who has to end in time.
fn output(
    name: &str,
    command: std::process::Command,
    bed: &Testbed,
    span: Duration,
) -> Result<String> {
    let (mut client, mut out) = piped(name, command, &bed.generator)?;
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        std::io::Read::read_to_string(&mut out, &mut text).map(|_| text)
    });
    if client.wait(span + Duration::from_secs(15))?.is_none() {
        client.kill()?;
        bail!("{name} did not end");
    }
    Ok(reader.join().expect("the reader does not panic")?)
}

#[cfg(test)]
mod tests {
    #[test]
    fn wrks_rate_counts_only_if_all_were_pages() {
        let text =
            "Running 1s test\n  10 requests in 1s\nRequests/sec:  12345.67\nTransfer/sec: 1MB\n";
        assert_eq!(super::requests(text), Some(12345.67));
        let bad = format!("  Non-2xx or 3xx responses: 4\n{text}");
        assert_eq!(super::requests(&bad), None);
        assert_eq!(super::requests("unable to connect"), None);
    }
}
