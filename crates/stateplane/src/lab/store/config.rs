//! The configuration file of the store lab, as a user would write it.

use std::fmt::Write;
use std::path::Path;

use super::network::address;

/// Machines that clients run on.
pub(super) const CLIENTS: usize = 3;

/// Who takes part: sequencers, replicas, clients. A machine's place is its address.
#[derive(Clone, Debug)]
pub(super) struct Cast {
    pub(super) sequencers: Vec<String>,
    pub(super) replicas: Vec<String>,
    pub(super) clients: Vec<String>,
}

impl Cast {
    pub(super) fn new(replicas: u8) -> Self {
        Self {
            sequencers: ["seq", "seq2"].map(str::to_owned).into(),
            replicas: (1..=replicas).map(|n| format!("r{n}")).collect(),
            clients: (1..=CLIENTS).map(|n| format!("c{n}")).collect(),
        }
    }

    /// Those that are processes.
    pub(super) fn nodes(&self) -> impl Iterator<Item = &String> {
        self.replicas.iter().chain(&self.sequencers)
    }

    pub(super) fn machines(&self) -> Vec<String> {
        self.nodes().chain(&self.clients).cloned().collect()
    }
}

/// The text of the file.
pub(super) fn render(cast: &Cast, durable: bool, dir: &Path) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = write(&mut text, cast, durable, dir);
    text
}

fn write(out: &mut String, cast: &Cast, durable: bool, dir: &Path) -> std::fmt::Result {
    let key = fastrand::u128(..);
    writeln!(out, "[cluster]\nname = \"lab\"\nkey = \"{key:032x}\"")?;
    writeln!(out, "admin-dir = \"{}\"\n", dir.display())?;
    writeln!(out, "[state]\nbackend = \"group\"")?;
    writeln!(out, "sequencers = {:?}", cast.sequencers)?;
    writeln!(out, "replicas = {:?}", cast.replicas)?;
    if durable {
        let disks = dir.join("disks");
        writeln!(out, "durable = true\ndir = \"{}\"", disks.display())?;
    }
    for (n, name) in cast.machines().iter().enumerate() {
        let role = match name {
            name if cast.sequencers.contains(name) => "sequencer",
            name if cast.replicas.contains(name) => "replica",
            _ => "function",
        };
        writeln!(out, "\n[node.{name}]\nroles = [\"{role}\"]")?;
        writeln!(out, "control = \"{}:7400\"", address(n))?;
        if role == "function" {
            // Clients of the store are instances of a function. These serve nobody.
            writeln!(out, "inside = \"none0\"\noutside = \"none1\"")?;
        }
    }
    writeln!(out, "\n[nat]\ninside-prefixes = [\"10.0.0.0/16\"]")?;
    writeln!(out, "outside-addresses = [\"198.51.100.1\"]")
}

#[cfg(test)]
mod tests {
    use super::*;
    use stateplane_node::config::Config;

    #[test]
    fn the_file_is_right_and_names_everybody_once() {
        for (replicas, durable) in [(3, false), (5, true)] {
            let cast = Cast::new(replicas);
            let dir = tempfile::tempdir().expect("directory");
            let path = dir.path().join("lab.toml");
            std::fs::write(&path, render(&cast, durable, dir.path())).expect("write");
            let (config, _) = Config::load(&path).expect("a right file");
            let named: Vec<&String> = config.nodes.keys().collect();
            let mut wanted = cast.machines();
            wanted.sort();
            assert_eq!(named, wanted.iter().collect::<Vec<_>>());
        }
    }
}
