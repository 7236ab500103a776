//! The configuration file the lab gives to its nodes, as a user would write it.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use super::topology::{GATEWAYS, REPLICAS, control_address};

/// Where instances keep their state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum State {
    /// In the replicated store: survives the instance.
    Group,
    /// In each instance: dies with it.
    Local,
}

/// When a packet may leave whose processing wrote state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Commit {
    Strict,
    ReplyBarrier,
    Async,
}

/// What differs between scenarios.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    pub(crate) state: State,
    pub(crate) commit: Commit,
    /// Requests through one instance, answers through the other.
    pub(crate) asymmetric: bool,
    /// Packets of known flows pass in the kernel.
    pub(crate) fast_path: bool,
    /// Nodes write what they say about themselves to regions.
    pub(crate) regions: bool,
    /// Of each instance.
    pub(crate) workers: u32,
}

impl Settings {
    /// Instances that keep their state to themselves cannot share one pool:
    /// they work as active and standby, like a pair without synchronisation.
    fn pin(&self) -> Option<(&'static str, &'static str)> {
        match (self.asymmetric, self.state) {
            (true, _) => Some(("gw1", "gw2")),
            (false, State::Local) => Some(("gw1", "gw1")),
            (false, State::Group) => None,
        }
    }
}

/// The nodes that must run under these settings, in starting order.
pub(crate) fn nodes(settings: &Settings) -> Vec<&'static str> {
    let mut nodes = Vec::new();
    if settings.state == State::Group {
        nodes.extend(REPLICAS);
        nodes.push("seq");
    }
    nodes.extend(GATEWAYS);
    nodes.push("sw");
    nodes
}

/// The namespace in which a node runs.
pub(crate) fn namespace_of(node: &str) -> &str {
    if node == "sw" { "switch" } else { node }
}

/// Where the broker of the lab's regions is.
pub(crate) fn regions_dir(admin_dir: &Path) -> PathBuf {
    admin_dir.join("regions")
}

/// The text of the file.
pub(crate) fn render(settings: &Settings, admin_dir: &Path) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = write_config(&mut text, settings, admin_dir);
    text
}

fn write_config(out: &mut String, settings: &Settings, admin_dir: &Path) -> std::fmt::Result {
    let key: String = std::iter::repeat_with(|| fastrand::u8(..))
        .take(16)
        .fold(String::new(), |key, byte| format!("{key}{byte:02x}"));
    let commit = match settings.commit {
        Commit::Strict => "strict",
        Commit::ReplyBarrier => "reply-barrier",
        Commit::Async => "async",
    };
    writeln!(out, "[cluster]\nname = \"lab\"\nkey = \"{key}\"")?;
    writeln!(out, "admin-dir = \"{}\"\n", admin_dir.display())?;
    if settings.regions {
        let dir = regions_dir(admin_dir);
        let state = admin_dir.join("state");
        writeln!(out, "[regions]\ndir = \"{}\"", dir.display())?;
        writeln!(out, "state-dir = \"{}\"\n", state.display())?;
    }
    match settings.state {
        State::Local => writeln!(out, "[state]\nbackend = \"embedded\"\n")?,
        State::Group => {
            writeln!(out, "[state]\nbackend = \"group\"\nsequencer = \"seq\"")?;
            writeln!(out, "replicas = {REPLICAS:?}\n")?;
            write_node(out, "seq", "sequencer")?;
            for replica in REPLICAS {
                write_node(out, replica, "replica")?;
            }
        }
    }
    for gateway in GATEWAYS {
        write_node(out, gateway, "function")?;
        writeln!(out, "inside = \"lan0\"\noutside = \"wan0\"")?;
        writeln!(out, "workers = {}\n", settings.workers)?;
    }
    write_node(out, "sw", "switch")?;
    writeln!(
        out,
        "inside = [\"cl0\"]\noutside = [\"sv0\"]\ninstances = ["
    )?;
    writeln!(
        out,
        "    {{ node = \"gw1\", inside = \"g1i\", outside = \"g1o\" }},"
    )?;
    writeln!(
        out,
        "    {{ node = \"gw2\", inside = \"g2i\", outside = \"g2o\" }},\n]"
    )?;
    if let Some((inside, outside)) = settings.pin() {
        writeln!(
            out,
            "pin = {{ inside = \"{inside}\", outside = \"{outside}\" }}"
        )?;
    }
    writeln!(out, "\n[detect]\nheartbeat-ms = 5\ndead-ms = 15\n\n[nat]")?;
    writeln!(out, "inside-prefixes = [\"10.0.0.0/16\"]")?;
    writeln!(out, "outside-addresses = [\"198.51.100.1-198.51.100.16\"]")?;
    writeln!(out, "ports = \"1024-65535\"\ncommit = \"{commit}\"")?;
    writeln!(out, "limit-per-subscriber = 60000\n")?;
    if settings.fast_path {
        return Ok(());
    }
    writeln!(out, "[fast-path]\nenabled = false\n")
}

fn write_node(out: &mut String, name: &str, role: &str) -> std::fmt::Result {
    writeln!(out, "[node.{name}]\nroles = [\"{role}\"]")?;
    writeln!(out, "control = \"{}:7400\"", control_address(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_node_that_runs_is_described_once() {
        for state in [State::Group, State::Local] {
            let settings = Settings {
                state,
                commit: Commit::ReplyBarrier,
                asymmetric: true,
                fast_path: false,
                regions: true,
                workers: 2,
            };
            let text = render(&settings, Path::new("/tmp/x"));
            for node in nodes(&settings) {
                let header = format!("[node.{node}]\n");
                assert_eq!(text.matches(&header).count(), 1, "{node} in\n{text}");
            }
            assert_eq!(text.contains("[node.r1]"), state == State::Group);
            assert!(text.contains("dir = \"/tmp/x/regions\""));
            assert!(text.contains("pin = ") && text.contains("reply-barrier"));
        }
    }
}
