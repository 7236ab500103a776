//! etcd: three nodes with their data on tmpfs, so that no disk is the limit.
//!
//! Puts go to the leader through the JSON gateway every etcd has, over connections that
//! are kept. It costs etcd some more than gRPC would.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::measure::{Meter, Sample, Spans};
use super::peer::{self, Talk, installed};
use super::redis::free_ports;
use crate::bench::process::Child;

/// A running cluster.
pub(super) struct Etcd {
    pub(super) children: Vec<Child>,
    pub(super) leader: usize,
    ports: Vec<u16>,
    /// Goes with the cluster.
    _data: tempfile::TempDir,
}

const NODES: usize = 3;

impl Etcd {
    pub(super) fn start(dir: &Path) -> Result<Self> {
        installed("etcd", "apt install etcd-server")?;
        let data = tempfile::Builder::new()
            .prefix("stateplane-bench-")
            .tempdir_in("/dev/shm")
            .context("/dev/shm, for etcd's data")?;
        let (clients, peers) = (free_ports(NODES)?, free_ports(NODES)?);
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let cluster: Vec<String> = peers
            .iter()
            .enumerate()
            .map(|(n, port)| format!("etcd{n}={}", url(*port)))
            .collect();
        let mut children = Vec::new();
        for n in 0..NODES {
            let (name, peer, client) = (format!("etcd{n}"), url(peers[n]), url(clients[n]));
            let mut command = Command::new("etcd");
            command.args(["--name", &name, "--initial-cluster-state", "new"]);
            command.args(["--initial-cluster", &cluster.join(",")]);
            command.args(["--listen-peer-urls", &peer]);
            command.args(["--initial-advertise-peer-urls", &peer]);
            command.args(["--listen-client-urls", &client]);
            command.args(["--advertise-client-urls", &client, "--log-level", "error"]);
            command.arg("--data-dir").arg(data.path().join(&name));
            children.push(Child::start(&name, command, dir)?);
        }
        let mut etcd = Self {
            children,
            leader: 0,
            ports: clients,
            _data: data,
        };
        etcd.leader = etcd.wait_for_leader()?;
        Ok(etcd)
    }

    fn address(&self, node: usize) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.ports[node]).into()
    }

    /// Until all nodes know who leads.
    fn wait_for_leader(&self) -> Result<usize> {
        let limit = Instant::now() + Duration::from_secs(30);
        while Instant::now() < limit {
            let said: Vec<Value> = (0..NODES).map(|n| self.status(n)).collect();
            let leads =
                |s: &Value| s["leader"].is_string() && s["leader"] == s["header"]["member_id"];
            if said.iter().all(|s| s["leader"].is_string())
                && let Some(leader) = said.iter().position(leads)
            {
                return Ok(leader);
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        bail!("etcd did not elect a leader within 30 s")
    }

    fn status(&self, node: usize) -> Value {
        let ask = post("/v3/maintenance/status", "{}");
        let answer = peer::once(self.address(node), ask.as_bytes(), whole);
        let body = answer.ok().and_then(|a| {
            let head = end_of_head(&a)?;
            serde_json::from_slice(&a[head..]).ok()
        });
        body.unwrap_or_default()
    }

    pub(super) fn load(&self, outstanding: usize, spans: Spans) -> Result<Sample> {
        let talk = Talk {
            address: self.address(self.leader),
            ask: |serial, out| {
                // Twelve letters of base64 are nine bytes; these need no encoder.
                let (key, value) = (serial % 1024, serial % 100_000_000);
                let body = format!("{{\"key\":\"{key:012}\",\"value\":\"{value:012}\"}}");
                out.extend_from_slice(post("/v3/kv/put", &body).as_bytes());
            },
            answered: whole,
            well: |got| got.starts_with(b"HTTP/1.1 200"),
        };
        let meter = || Meter::read(&self.children);
        peer::closed_loop(talk, outstanding, spans, meter).context("etcd")
    }
}

fn post(path: &str, body: &str) -> String {
    let length = body.len();
    format!("POST {path} HTTP/1.1\r\nHost: etcd\r\nContent-Length: {length}\r\n\r\n{body}")
}

fn end_of_head(got: &[u8]) -> Option<usize> {
    Some(got.windows(4).position(|w| w == b"\r\n\r\n")? + 4)
}

/// Whether an answer is there to its last byte.
fn whole(got: &[u8]) -> bool {
    let Some(head) = end_of_head(got) else {
        return false;
    };
    let text = String::from_utf8_lossy(&got[..head]).to_ascii_lowercase();
    let length = text
        .lines()
        .find_map(|line| line.strip_prefix("content-length:"))
        .and_then(|value| value.trim().parse::<usize>().ok());
    match length {
        Some(length) => got.len() >= head + length,
        None => got.ends_with(b"0\r\n\r\n"), // in chunks
    }
}

#[cfg(test)]
mod tests {
    use super::whole;

    #[test]
    fn an_answer_is_whole_when_its_last_byte_is_there() {
        let head = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
        assert!(!whole(&head.as_bytes()[..20]));
        assert!(!whole(format!("{head}hell").as_bytes()));
        assert!(whole(format!("{head}hello").as_bytes()));
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n";
        assert!(whole(chunked.as_bytes()));
    }
}
