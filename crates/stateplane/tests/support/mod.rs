//! Nodes as processes, and clients of their front end.
#![allow(dead_code, unreachable_pub, reason = "each test program uses its part")]

pub mod edge;
pub mod instances;
pub mod machine;
pub mod sites;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

/// A process that is killed when its test ends, also early.
pub struct Node(pub Child);

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Node {
    /// Runs a node of a configuration. What it says goes to NODE.log beside that, after what
    /// its former lives said.
    pub fn start(config: &Path, node: &str) -> Self {
        let log = config.with_file_name(format!("{node}.log"));
        let log = fs::OpenOptions::new().create(true).append(true).open(log);
        let mut command = stateplane(&["run", "--node", node, "--config"]);
        command
            .arg(config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log.expect("log"));
        Self(command.spawn().expect("the binary starts"))
    }

    pub fn kill(mut self) {
        self.0.kill().expect("SIGKILL");
        self.0.wait().expect("it ended");
    }
}

/// How long anything is waited for.
pub const LIMIT: Duration = Duration::from_secs(60);

/// Asks until there is an answer.
pub fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(start.elapsed() < LIMIT, "waiting until {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

pub fn stateplane(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stateplane"));
    command.args(args);
    command
}

pub fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// What every node says, by `show nodes --json`; nothing while none answers.
pub fn nodes(config: &Path) -> Vec<Value> {
    let mut command = stateplane(&["show", "nodes", "--json", "--config"]);
    let output = command.arg(config).output().expect("show");
    let value: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    value["nodes"].as_array().cloned().unwrap_or_default()
}

/// A connection to the front end, as soon as it listens.
pub fn connect(port: u16) -> TcpStream {
    let limit = Instant::now() + Duration::from_secs(20);
    loop {
        match TcpStream::connect(("127.0.0.1", port)) {
            Ok(stream) => return stream,
            Err(error) => assert!(Instant::now() < limit, "{error}"),
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// A client of the front end.
pub struct Client(BufReader<TcpStream>);

impl Client {
    pub fn connect(port: u16) -> Self {
        Self(BufReader::new(connect(port)))
    }

    /// Asks, and answers the reply's line or, of a string, the string.
    pub fn ask(&mut self, words: &[&str]) -> String {
        let mut request = format!("*{}\r\n", words.len());
        for word in words {
            request += &format!("${}\r\n{word}\r\n", word.len());
        }
        let stream = self.0.get_mut();
        stream.write_all(request.as_bytes()).expect("write");
        let mut line = String::new();
        self.0.read_line(&mut line).expect("a reply");
        let length = line
            .strip_prefix('$')
            .map(|n| n.trim_end().parse::<usize>());
        let Some(Ok(length)) = length else {
            return line.trim_end().to_owned();
        };
        let mut bytes = vec![0; length + 2];
        self.0.read_exact(&mut bytes).expect("a string");
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    }
}

/// Writes until told to stop; answers the keys that were acknowledged.
pub fn write_on(port: u16, writer: usize, stop: &AtomicBool) -> Vec<String> {
    let mut client = Client::connect(port);
    let mut acknowledged = Vec::new();
    for n in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let key = format!("w{writer}:{n}");
        if client.ask(&["SET", &key, &key]) == "+OK" {
            acknowledged.push(key);
        }
    }
    acknowledged
}
