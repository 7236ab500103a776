//! Real programs through the NAT: curl from nginx, ping, iperf3. Our own
//! generator could share a misunderstanding with our own gateway; these not.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};
use stateplane_host::netns::Namespace;
use stateplane_host::spawn::Process;

use super::options::RealClients;
use super::topology::{SERVER, Topology};

/// Programs and the Debian packages that bring them.
const TOOLS: [(&str, &str); 4] = [
    ("curl", "curl"),
    ("nginx", "nginx-light"),
    ("ping", "iputils-ping"),
    ("iperf3", "iperf3"),
];

/// Says what is missing before anything is started.
pub(crate) fn check_tools() -> Result<()> {
    let missing: Vec<_> = TOOLS
        .iter()
        .filter(|(t, _)| find_tool(t).is_none())
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = missing.iter().map(|(t, _)| *t).collect();
    let packages: Vec<&str> = missing.iter().map(|(_, p)| *p).collect();
    bail!(
        "missing program: {}; `apt-get install {}` brings it, `--no-real-clients` does without",
        names.join(", "),
        packages.join(" ")
    );
}

/// In the search path, or where Debian keeps what only root uses.
pub(crate) fn find_tool(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/sbin", "/usr/bin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(system)
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}

pub(crate) fn tool(name: &str) -> Result<Command> {
    let path = find_tool(name).with_context(|| format!("{name} is not installed"))?;
    let mut command = Command::new(path);
    command.stdin(Stdio::null()).stderr(Stdio::null());
    Ok(command)
}

/// What curl got.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Download {
    pub(crate) bytes: u64,
    pub(crate) intact: bool,
    pub(crate) seconds: f64,
    pub(crate) error: Option<String>,
}

/// What ping counted.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Ping {
    pub(crate) sent: u64,
    pub(crate) lost: u64,
    pub(crate) longest_silence_ms: f64,
}

/// What iperf3 measured.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Iperf {
    pub(crate) mbit_per_s: f64,
    pub(crate) retransmits: u64,
    pub(crate) error: Option<String>,
}

/// All of it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct RealReport {
    pub(crate) curl: Download,
    pub(crate) ping: Ping,
    pub(crate) iperf3: Iperf,
}

/// The web server and its file, made before traffic starts.
pub(crate) struct Servers {
    sha256: [u8; 32],
    _nginx: Process,
    _iperf: Process,
}

impl Servers {
    pub(crate) fn start(topology: &Topology, dir: &Path, real: RealClients) -> Result<Self> {
        let www = dir.join("www");
        std::fs::create_dir_all(&www)?;
        let sha256 = write_random_file(&www.join("file"), real.download_mb)?;
        let conf = dir.join("nginx.conf");
        std::fs::write(&conf, nginx_conf(dir, &www, SERVER))?;
        let namespace = topology.namespace("server");

        let mut nginx = tool("nginx")?;
        let errors = dir.join("nginx.err");
        nginx
            .arg("-p")
            .arg(dir)
            .arg("-c")
            .arg(&conf)
            .arg("-e")
            .arg(&errors);
        nginx.stdout(Stdio::null());
        let nginx = Process::spawn("nginx", nginx, namespace)?;
        let mut iperf = tool("iperf3")?;
        iperf
            .args(["-s", "-B", &SERVER.to_string()])
            .stdout(Stdio::null());
        let iperf = Process::spawn("iperf3-server", iperf, namespace)?;
        Ok(Self {
            sha256,
            _nginx: nginx,
            _iperf: iperf,
        })
    }
}

/// No files outside `dir`, no daemon, no change of user.
pub(crate) fn nginx_conf(dir: &Path, www: &Path, server: Ipv4Addr) -> String {
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {}/tmp-{kind};\n", dir.display()))
        .concat();
    format!(
        "daemon off;\nmaster_process off;\npid {0}/nginx.pid;\nevents {{}}\nhttp {{\n\
         access_log off;\n{temporary}server {{ listen {server}:80; root {1}; }}\n}}\n",
        dir.display(),
        www.display()
    )
}

fn write_random_file(path: &Path, mb: u32) -> Result<[u8; 32]> {
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
    let mut random = fastrand::Rng::new();
    let mut digest = Sha256::new();
    let mut block = vec![0; 1_000_000];
    for _ in 0..mb {
        random.fill(&mut block);
        digest.update(&block);
        file.write_all(&block)?;
    }
    file.flush()?;
    Ok(digest.finalize().into())
}

/// The clients while they run.
pub(crate) struct Running {
    curl: Process,
    curl_started: Instant,
    curl_reader: JoinHandle<(u64, [u8; 32], Instant)>,
    ping: Process,
    ping_reader: JoinHandle<(Option<(u64, u64)>, Duration)>,
    iperf: Process,
    iperf_reader: JoinHandle<String>,
    sha256: [u8; 32],
}

impl Running {
    /// Starts all three; the download is slowed so that it spans the faults.
    pub(crate) fn start(
        topology: &Topology,
        servers: &Servers,
        real: RealClients,
        duration: Duration,
    ) -> Result<Self> {
        let namespace = topology.namespace("client");
        let seconds = duration.as_secs_f64();
        let rate = f64::from(real.download_mb) * 1e6 / (seconds * 0.8).max(1.0);
        let mut curl = tool("curl")?;
        curl.args(["--silent", "--fail", "--connect-timeout", "5", "--max-time"]);
        curl.arg(format!("{}", seconds + 20.0));
        curl.args(["--limit-rate", &format!("{rate:.0}")]);
        curl.arg(format!("http://{SERVER}/file"));
        let (curl, out) = piped("curl", curl, namespace)?;
        let curl_reader = std::thread::spawn(move || hash(out));

        let mut ping = tool("ping")?;
        ping.args(["-n", "-i", "0.02", &SERVER.to_string()]);
        let (ping, out) = piped("ping", ping, namespace)?;
        let ping_reader = std::thread::spawn(move || follow_ping(out));

        let mut iperf = tool("iperf3")?;
        iperf.args(["-J", "-c", &SERVER.to_string()]);
        iperf.args(["-b", &format!("{}M", real.iperf_mbit), "-t"]);
        iperf.arg(format!("{:.0}", (seconds - 1.0).max(1.0)));
        let (iperf, out) = piped("iperf3", iperf, namespace)?;
        let iperf_reader = std::thread::spawn(move || {
            let mut text = String::new();
            let _ = BufReader::new(out).read_to_string(&mut text);
            text
        });
        Ok(Self {
            curl,
            curl_started: Instant::now(),
            curl_reader,
            ping,
            ping_reader,
            iperf,
            iperf_reader,
            sha256: servers.sha256,
        })
    }

    /// Whether the download goes on.
    pub(crate) fn downloading(&mut self) -> bool {
        matches!(self.curl.poll(), Ok(None))
    }

    /// Collects; whoever is not done in time has failed.
    pub(crate) fn finish(mut self, limit: Duration) -> Result<RealReport> {
        let until = Instant::now() + limit;
        let left = || until.saturating_duration_since(Instant::now());
        let _ = self.ping.signal(rustix::process::Signal::INT);
        let status = self.curl.wait(left())?;
        self.curl.kill()?;
        let (bytes, sha256, ended) = self
            .curl_reader
            .join()
            .unwrap_or_else(|_| (0, [0; 32], Instant::now()));
        let error = match status {
            Some(status) if status.success() => None,
            Some(status) => Some(format!("curl: {status} (see EXIT CODES in curl(1))")),
            None => Some("curl did not finish in time".to_owned()),
        };
        let curl = Download {
            bytes,
            intact: error.is_none() && sha256 == self.sha256,
            seconds: round(ended.duration_since(self.curl_started).as_secs_f64()),
            error,
        };
        self.ping.wait(left().max(Duration::from_millis(200)))?;
        self.ping.kill()?;
        let (counts, silence) = self.ping_reader.join().unwrap_or_default();
        let (sent, received) = counts.unwrap_or_default();
        let ping = Ping {
            sent,
            lost: sent.saturating_sub(received),
            longest_silence_ms: round(silence.as_secs_f64() * 1e3),
        };
        self.iperf.wait(left().max(Duration::from_secs(3)))?;
        self.iperf.kill()?;
        let text = self.iperf_reader.join().unwrap_or_default();
        Ok(RealReport {
            curl,
            ping,
            iperf3: read_iperf(&text),
        })
    }
}

pub(crate) fn piped(
    name: &str,
    mut command: Command,
    namespace: &Namespace,
) -> Result<(Process, std::process::ChildStdout)> {
    command.stdout(Stdio::piped());
    let mut process =
        Process::spawn(name, command, namespace).with_context(|| format!("cannot start {name}"))?;
    let out = process.pipes().stdout.take();
    Ok((process, out.context("the child has no standard output")?))
}

fn hash(mut from: impl Read) -> (u64, [u8; 32], Instant) {
    let (mut digest, mut bytes) = (Sha256::new(), 0);
    let mut block = vec![0; 256 * 1024];
    while let Ok(length @ 1..) = from.read(&mut block) {
        digest.update(&block[..length]);
        bytes += length as u64;
    }
    (bytes, digest.finalize().into(), Instant::now())
}

/// The final counts and the longest pause between two answers.
fn follow_ping(from: impl Read) -> (Option<(u64, u64)>, Duration) {
    let (mut last, mut longest, mut counts) = (None, Duration::ZERO, None);
    for line in BufReader::new(from).lines().map_while(Result::ok) {
        if line.contains("icmp_seq=") && line.contains("time=") {
            let now = Instant::now();
            if let Some(last) = last.replace(now) {
                longest = longest.max(now.duration_since(last));
            }
        }
        counts = read_ping_counts(&line).or(counts);
    }
    (counts, longest)
}

fn read_ping_counts(line: &str) -> Option<(u64, u64)> {
    let (sent, rest) = line.split_once(" packets transmitted, ")?;
    let received = rest.split_once(" received")?.0;
    Some((sent.trim().parse().ok()?, received.trim().parse().ok()?))
}

fn read_iperf(text: &str) -> Iperf {
    let Ok(report) = serde_json::from_str::<Value>(text) else {
        return Iperf {
            error: Some("iperf3 wrote no report".to_owned()),
            ..Iperf::default()
        };
    };
    let end = &report["end"];
    Iperf {
        mbit_per_s: round(
            end["sum_received"]["bits_per_second"]
                .as_f64()
                .unwrap_or(0.0)
                / 1e6,
        ),
        retransmits: end["sum_sent"]["retransmits"].as_u64().unwrap_or(0),
        error: report["error"].as_str().map(ToOwned::to_owned),
    }
}

fn round(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ping_is_read_by_its_summary_line() {
        let line = "500 packets transmitted, 498 received, 0.4% packet loss, time 10001ms";
        assert_eq!(read_ping_counts(line), Some((500, 498)));
        assert_eq!(read_ping_counts("64 bytes from 1.2.3.4: icmp_seq=1"), None);
    }

    #[test]
    fn an_iperf_error_is_reported() {
        let text = r#"{"start":{},"end":{},"error":"unable to connect"}"#;
        assert_eq!(read_iperf(text).error.as_deref(), Some("unable to connect"));
        assert!(read_iperf("").error.is_some());
        let good =
            r#"{"end":{"sum_received":{"bits_per_second":2e7},"sum_sent":{"retransmits":3}}}"#;
        let good = read_iperf(good);
        assert_eq!(
            (good.mbit_per_s, good.retransmits, good.error),
            (20.0, 3, None)
        );
    }

    #[test]
    fn what_is_written_is_what_is_hashed() {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("file");
        let expected = write_random_file(&path, 2).expect("file");
        let (bytes, got, _) = hash(File::open(&path).expect("file"));
        assert_eq!((bytes, got), (2_000_000, expected));
    }
}
