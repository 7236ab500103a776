//! The nodes as real child processes, and what they say of themselves.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use stateplane_host::netns::Namespace;
use stateplane_host::spawn::Process;

use super::config::{self, Settings};
use super::patience::Patience;
use super::topology::{GATEWAYS, REPLICAS, Topology};
use crate::scheduled::Scheduled;

/// How long a node may take to stop that was asked to.
const STOP_LIMIT: Duration = Duration::from_secs(6);

/// The children of the lab, with their files.
pub(crate) struct Nodes {
    dir: PathBuf,
    config: PathBuf,
    /// Those of the store's group.
    replicas: Vec<String>,
    running: Vec<Process>,
    /// Of their regions, if they have any.
    broker: Option<Process>,
}

impl Nodes {
    /// Writes the configuration below `dir` and starts every node.
    pub(crate) fn start(topology: &Topology, settings: &Settings, dir: &Path) -> Result<Self> {
        let config = dir.join("lab.toml");
        fs::write(&config, config::render(settings, dir))?;
        let mut nodes = Self::new(dir, config, REPLICAS.map(str::to_owned).into());
        if settings.regions {
            nodes.start_broker(topology.namespace("switch"))?;
        }
        for name in config::nodes(settings) {
            nodes.start_one(name, topology.namespace(config::namespace_of(name)))?;
        }
        Ok(nodes)
    }

    /// No node yet; `config` describes them all, their files go below `dir`.
    pub(crate) fn new(dir: &Path, config: PathBuf, replicas: Vec<String>) -> Self {
        Self {
            dir: dir.to_owned(),
            config,
            replicas,
            running: Vec::new(),
            broker: None,
        }
    }

    fn start_broker(&mut self, namespace: &Namespace) -> Result<()> {
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args(["region", "broker", "--dir"])
            .arg(config::regions_dir(&self.dir))
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::null());
        let process = Process::spawn("broker", command, namespace);
        self.broker = Some(process.context("cannot start the broker of regions")?);
        Ok(())
    }

    /// Gives an instance another weight, as an operator does.
    pub(crate) fn weigh(&self, name: &str, weight: u32) -> Result<()> {
        let mut command = Command::new(std::env::current_exe()?);
        let weight = weight.to_string();
        command.args(["steering", "weight", name, &weight, "--config"]);
        let output = command.arg(&self.config).output()?;
        if !output.status.success() {
            bail!("{}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    }

    /// Starts one node, again if it ran before.
    pub(crate) fn start_one(&mut self, name: &str, namespace: &Namespace) -> Result<()> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_path(name))?;
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args(["run", "--node", name, "--config"])
            .arg(&self.config)
            .stdin(std::process::Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let process = Process::spawn(name, command, namespace)
            .with_context(|| format!("cannot start node {name}"))?;
        self.running.push(process);
        Ok(())
    }

    fn log_path(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.log"))
    }

    /// The last lines a node wrote.
    pub(crate) fn log_tail(&self, name: &str) -> String {
        let text = fs::read(self.log_path(name)).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.running.iter().map(|p| p.name().to_owned()).collect()
    }

    pub(crate) fn runs(&self, name: &str) -> bool {
        self.running.iter().any(|p| p.name() == name)
    }

    /// Asks a node's admin socket; an error when it does not answer in time.
    pub(crate) fn ask(&self, name: &str, path: &str) -> Result<Value> {
        let socket = self.dir.join(format!("{name}.sock"));
        let body = http_get(&socket, path).with_context(|| format!("ask {name} for {path}"))?;
        Ok(serde_json::from_slice(&body)?)
    }

    /// Whether a node says that it is ready.
    pub(crate) fn ready(&self, name: &str) -> bool {
        let status = self.ask(name, "/v1/status");
        status.is_ok_and(|s| s["ready"] == Value::Bool(true))
    }

    /// Waits until every node is ready; `go_on` may end the wait.
    pub(crate) fn wait_ready(
        &mut self,
        limit: Duration,
        mut go_on: impl FnMut() -> Result<()>,
    ) -> Result<()> {
        let mut patience = Patience::begin(limit, self);
        loop {
            go_on()?;
            if let Some(name) = self.first_dead()? {
                bail!("node {name} ended by itself:\n{}", self.log_tail(&name));
            }
            let names = self.names();
            let Some(waiting) = names.iter().find(|n| !self.ready(n)) else {
                return Ok(());
            };
            if patience.is_over(self) {
                let status = self.ask(waiting, "/v1/status");
                let said = match status {
                    Ok(status) => format!("it says {status}"),
                    Err(error) => format!("{error:#}"),
                };
                let tail = self.log_tail(waiting);
                bail!("node {waiting} is not ready after {patience}; {said}\n{tail}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// A node that ended without being killed.
    pub(crate) fn first_dead(&mut self) -> Result<Option<String>> {
        for process in &mut self.running {
            if process.poll()?.is_some() {
                return Ok(Some(process.name().to_owned()));
            }
        }
        Ok(None)
    }

    /// SIGKILL; `at` is called just before.
    pub(crate) fn kill(&mut self, name: &str, at: impl FnOnce()) -> Result<()> {
        let mut process = self.take(name)?;
        at();
        Ok(process.kill()?)
    }

    /// SIGTERM; an error if it does not end in time.
    pub(crate) fn end(&mut self, name: &str) -> Result<()> {
        let mut process = self.take(name)?;
        process.signal(rustix::process::Signal::TERM)?;
        match process.wait(STOP_LIMIT)? {
            Some(status) if status.success() => Ok(()),
            Some(status) => bail!("node {name} was asked to stop, and ended with {status}"),
            None => bail!("node {name} was asked to stop, and did not in {STOP_LIMIT:?}"),
        }
    }

    /// Sends a running node a signal.
    pub(crate) fn signal(&mut self, name: &str, signal: rustix::process::Signal) -> Result<()> {
        let index = self.place(name)?;
        Ok(self.running[index].signal(signal)?)
    }

    fn place(&self, name: &str) -> Result<usize> {
        let found = self.running.iter().position(|p| p.name() == name);
        found.with_context(|| format!("node {name} does not run"))
    }

    fn take(&mut self, name: &str) -> Result<Process> {
        let index = self.place(name)?;
        Ok(self.running.swap_remove(index))
    }

    /// The gateway that carries most flows.
    pub(crate) fn busiest_gateway(&self) -> Option<String> {
        let flows = |name: &str| -> u64 {
            let status = self.ask(name, "/v1/status").unwrap_or_default();
            ["sessions", "flows"]
                .iter()
                .find_map(|key| find_number(&status, key))
                .unwrap_or(0)
        };
        let running = GATEWAYS.iter().rev().filter(|g| self.runs(g));
        running.max_by_key(|g| flows(g)).map(|g| (*g).to_owned())
    }

    /// The replica that leads the store's group.
    pub(crate) fn leader(&self) -> Option<String> {
        let mut running = self.replicas.iter().filter(|r| self.runs(r));
        running
            .find(|r| self.ask(r, "/v1/status").is_ok_and(|s| leads(&s)))
            .cloned()
    }

    /// A running replica that does not lead.
    pub(crate) fn follower(&self) -> Option<String> {
        let leader = self.leader();
        let mut running = self.replicas.iter().rev().filter(|r| self.runs(r));
        running.find(|r| leader.as_ref() != Some(*r)).cloned()
    }

    /// For how long others have kept each process from running.
    pub(crate) fn kept_from_running(&self) -> BTreeMap<u32, Duration> {
        let kept = self.running.iter().map(|process| {
            let times = Scheduled::of(process.id());
            let waited = times.map(|times| times.waited);
            (process.id(), waited.unwrap_or_default())
        });
        kept.collect()
    }

    /// What every running node says of itself.
    pub(crate) fn states(&self) -> Value {
        let names = self.names();
        let state = |name: &String| {
            let status = self.ask(name, "/v1/status");
            (name.clone(), status.unwrap_or(Value::Null))
        };
        Value::Object(names.iter().map(state).collect())
    }

    /// SIGTERM to all, then SIGKILL to those that do not end.
    pub(crate) fn stop(mut self) {
        for process in &mut self.running {
            let _ = process.signal(rustix::process::Signal::TERM);
        }
        let until = Instant::now() + Duration::from_millis(1500);
        for process in &mut self.running {
            let left = until.saturating_duration_since(Instant::now());
            let _ = process.wait(left);
        }
    }
}

/// Whether a status says "I lead", wherever in the object.
fn leads(status: &Value) -> bool {
    match status {
        Value::Object(fields) => fields
            .iter()
            .any(|(key, value)| (key == "leader" && *value == Value::Bool(true)) || leads(value)),
        _ => false,
    }
}

/// A number by its key, wherever in the object.
fn find_number(status: &Value, key: &str) -> Option<u64> {
    let fields = status.as_object()?;
    let own = fields.get(key).and_then(Value::as_u64);
    own.or_else(|| fields.values().find_map(|v| find_number(v, key)))
}

/// HTTP/1.1 over a Unix socket, one request a connection: all the admin API needs.
pub(crate) fn http_get(socket: &Path, path: &str) -> io::Result<Vec<u8>> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(Duration::from_millis(500)))?;
    stream.set_write_timeout(Some(Duration::from_millis(500)))?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let bad = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let head_end = answer
        .windows(4)
        .position(|w| w == b"\r\n\r\n")
        .ok_or_else(|| bad("not an HTTP answer"))?;
    let head = String::from_utf8_lossy(&answer[..head_end]).to_ascii_lowercase();
    let status = head.split_whitespace().nth(1).unwrap_or("");
    if status != "200" {
        return Err(bad(&format!("the answer is HTTP {status}")));
    }
    if head.contains("transfer-encoding: chunked") {
        return Err(bad("the answer has no length"));
    }
    Ok(answer.split_off(head_end + 4))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::os::unix::net::UnixListener;

    #[test]
    fn a_status_is_searched_at_any_depth() {
        let status = json!({"node": "r1", "replica": {"leader": true, "flows": 7}});
        assert!(leads(&status));
        assert_eq!(find_number(&status, "flows"), Some(7));
        assert!(!leads(&json!({"replica": {"leader": "r2"}})));
        assert_eq!(find_number(&json!({"a": {"b": 1}}), "flows"), None);
    }

    #[test]
    fn an_answer_over_the_socket_is_its_body() {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("x.sock");
        let listener = UnixListener::bind(&path).expect("listen");
        let server = std::thread::spawn(move || {
            for answer in [
                "HTTP/1.1 200 OK\r\nA: b\r\n\r\n{}",
                "HTTP/1.1 404 No\r\n\r\n",
            ] {
                let (mut stream, _) = listener.accept().expect("accept");
                let mut request = [0; 64];
                let _ = stream.read(&mut request).expect("request");
                stream.write_all(answer.as_bytes()).expect("answer");
            }
        });
        assert_eq!(http_get(&path, "/v1/status").expect("body"), b"{}");
        let error = http_get(&path, "/no").unwrap_err();
        assert!(error.to_string().contains("404"), "{error}");
        server.join().expect("server");
    }
}
