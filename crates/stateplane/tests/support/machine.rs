//! Machines: a namespace with a directory and a broker each, in which nodes of one file run.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use stateplane_host::netns::Namespace;
use stateplane_host::spawn::Process;
use stateplane_region::Host;

use super::{Node, stateplane, until};

/// The configuration, in each machine's directory.
const FILE: &str = "t.toml";

/// One machine: its directory, its broker, its namespace.
pub struct Machine {
    pub dir: PathBuf,
    space: Namespace,
    broker: Option<Node>,
}

impl Machine {
    /// That with this number; `file` is its configuration.
    pub fn new(root: &Path, number: usize, space: Namespace, file: &str) -> Self {
        let dir = root.join(format!("m{number}"));
        fs::create_dir(&dir).expect("directory");
        fs::write(dir.join(FILE), file).expect("write");
        let mut machine = Self {
            dir,
            space,
            broker: None,
        };
        machine.boot();
        machine
    }

    fn regions(&self) -> PathBuf {
        self.dir.join("regions")
    }

    /// Starts its broker.
    pub fn boot(&mut self) {
        let mut command = stateplane(&["region", "broker", "--dir"]);
        let child = command.arg(self.regions()).spawn();
        self.broker = Some(Node(child.expect("the binary starts")));
        until("the broker answers", || Host::connect(&self.regions()).ok());
    }

    /// Loses its broker, and all that lay in memory. Its nodes must have ended.
    pub fn lose_memory(&mut self) {
        self.broker = None;
        fs::remove_dir_all(self.regions()).expect("the directory of regions");
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = stateplane(args);
        command.args(["--config", FILE]);
        command.current_dir(&self.dir).stdin(Stdio::null());
        command
    }

    pub fn start(&self, node: &str) -> Process {
        let log = self.dir.join(format!("{node}.log"));
        let log = File::options().create(true).append(true).open(log);
        let mut command = self.command(&["run", "--node", node]);
        command.stdout(Stdio::null()).stderr(log.expect("log"));
        Process::spawn(node, command, &self.space).expect("the binary starts")
    }

    /// Kills a node and starts it again.
    pub fn restart(&self, node: &mut Process) {
        node.kill().expect("SIGKILL");
        let name = node.name().to_owned();
        *node = self.start_firmly(&name);
    }

    /// Starts a node as often as it must be, as a supervisor does: the kernel takes a moment
    /// to give up what a killed process had of an interface.
    pub fn start_firmly(&self, name: &str) -> Process {
        until(&format!("{name} starts"), || {
            let mut started = self.start(name);
            thread::sleep(Duration::from_millis(500));
            let ended = started.poll().expect("its state");
            ended.is_none().then_some(started)
        })
    }

    pub fn ask(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("the binary starts")
    }

    pub fn json(&self, what: &str) -> Value {
        let output = self.ask(&["show", what, "--json"]);
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    }

    /// How a switch of the file steers, as this machine knows.
    pub fn steering(&self, switch: usize) -> Value {
        self.json("steering")["switches"][switch].clone()
    }

    /// What a node counts, as this machine knows.
    pub fn telemetry(&self, node: &str) -> Option<Value> {
        let nodes = self.json("telemetry");
        let mut nodes = nodes["nodes"].as_array()?.iter();
        nodes.find(|n| n["node"] == node).cloned()
    }

    /// What a node says about the regions it uses.
    pub fn uses(&self, node: &str) -> Value {
        let nodes = self.json("nodes");
        let nodes = nodes["nodes"].as_array().cloned().unwrap_or_default();
        let found = nodes.into_iter().find(|n| n["node"] == node);
        found.map(|n| n["uses"].clone()).unwrap_or_default()
    }
}

/// What the nodes said, if the test failed.
impl Drop for Machine {
    fn drop(&mut self) {
        if !thread::panicking() {
            return;
        }
        for entry in fs::read_dir(&self.dir).expect("directory").flatten() {
            let path = entry.path();
            if path.extension().is_some_and(|e| e == "log") {
                let log = fs::read_to_string(&path).unwrap_or_default();
                println!("{}:\n{log}", path.display());
            }
        }
        println!("{:#}", self.json("config"));
    }
}
