//! Redis: a master and two replicas; a write counts when both replicas have it.
//!
//! Each connection sends `SET` and `WAIT 2 0` together and waits for both answers, as a
//! client that wants its write to survive has to. One connection an outstanding operation.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::measure::{Meter, Sample, Spans};
use super::peer::{self, Talk, installed};
use crate::bench::process::Child;

/// A running master with its replicas; the master comes first.
pub(super) struct Redis {
    pub(super) children: Vec<Child>,
    port: u16,
}

/// Ports of the loopback that are free now.
pub(super) fn free_ports(count: usize) -> Result<Vec<u16>> {
    let held: std::io::Result<Vec<_>> = (0..count)
        .map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
        .collect();
    held?
        .iter()
        .map(|socket| Ok(socket.local_addr()?.port()))
        .collect()
}

impl Redis {
    pub(super) fn start(dir: &Path) -> Result<Self> {
        installed("redis-server", "apt install redis-server")?;
        let ports = free_ports(3)?;
        let mut children = Vec::new();
        for (n, port) in ports.iter().enumerate() {
            let name = if n == 0 {
                "master".to_owned()
            } else {
                format!("replica{n}")
            };
            let mut command = Command::new("redis-server");
            command.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
            command.args([
                "--repl-diskless-sync-delay",
                "0",
                "--port",
                &port.to_string(),
            ]);
            command.arg("--dir").arg(dir);
            if n > 0 {
                command.args(["--replicaof", "127.0.0.1", &ports[0].to_string()]);
            }
            children.push(Child::start(&name, command, dir)?);
        }
        let redis = Self {
            children,
            port: ports[0],
        };
        redis.wait_until_in_step()?;
        Ok(redis)
    }

    /// Until a write reaches both replicas.
    fn wait_until_in_step(&self) -> Result<()> {
        let limit = Instant::now() + Duration::from_secs(20);
        let probe = b"SET key value\r\nWAIT 2 500\r\n";
        while Instant::now() < limit {
            let answer = peer::once(self.address(), probe, |got| answers(got) == 2);
            if answer.is_ok_and(|a| a.ends_with(b":2\r\n")) {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        bail!("the replicas of Redis did not follow within 20 s")
    }

    fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    pub(super) fn load(&self, outstanding: usize, spans: Spans) -> Result<Sample> {
        let talk = Talk {
            address: self.address(),
            ask: |serial, out| {
                let key = serial % 1024;
                out.extend_from_slice(
                    format!(
                        "*3\r\n$3\r\nSET\r\n$8\r\n{key:08}\r\n$8\r\n{:08}\r\n\
                         *3\r\n$4\r\nWAIT\r\n$1\r\n2\r\n$1\r\n0\r\n",
                        serial % 100_000_000
                    )
                    .as_bytes(),
                );
            },
            answered: |got| answers(got) == 2,
            well: |got| got == b"+OK\r\n:2\r\n",
        };
        let meter = || Meter::read(&self.children);
        peer::closed_loop(talk, outstanding, spans, meter).context("Redis")
    }
}

/// Complete answers, each of them one line.
fn answers(got: &[u8]) -> usize {
    got.windows(2).filter(|w| w == b"\r\n").count()
}
