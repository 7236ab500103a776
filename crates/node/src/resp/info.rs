//! What `INFO` says.

use std::fmt::Write;
use std::time::Duration;

use stateplane_base::Time;

/// What the front end knows about itself and its group.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    /// The node's name.
    pub(super) node: String,
    /// TCP port.
    pub(super) port: u16,
    /// When it started.
    pub(super) started: Time,
    /// Identifies this life.
    pub(super) life: u64,
    /// Replicas of the group by name; none: the state is in this process.
    pub(super) replicas: Vec<String>,
    /// Connections that may be open.
    pub(super) max_clients: usize,
}

/// What changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Figures {
    /// Open connections.
    pub(super) clients: usize,
    /// Connections that wait for the store.
    pub(super) waiting: usize,
    /// Connections since the start, and those refused.
    pub(super) accepted: u64,
    pub(super) refused: u64,
    /// Commands received.
    pub(super) commands: u64,
    /// Operations sent to the store.
    pub(super) operations: u64,
    /// Operations whose outcome nobody knows.
    pub(super) unknown: u64,
    /// Bytes received and sent.
    pub(super) received: u64,
    pub(super) sent: u64,
    /// The newest view heard of, and the position of its leader among the replicas.
    pub(super) view: u64,
    pub(super) leader: usize,
}

/// The sections somebody asked for, with everything but the store's own figures.
#[derive(Clone, Debug)]
pub(super) struct Page {
    sections: Vec<String>,
    facts: Facts,
    figures: Figures,
    uptime: Duration,
}

/// The sections in Redis' order.
const SECTIONS: [&str; 6] = [
    "server",
    "clients",
    "memory",
    "stats",
    "replication",
    "keyspace",
];

impl Page {
    /// The sections named, in whatever case; all if none are.
    pub(super) fn new(asked: &[&[u8]], facts: &Facts, figures: Figures, now: Time) -> Self {
        let asked: Vec<String> = asked
            .iter()
            .map(|word| String::from_utf8_lossy(word).to_ascii_lowercase())
            .collect();
        let all = ["all", "default", "everything"];
        let every = asked.is_empty() || asked.iter().any(|word| all.contains(&word.as_str()));
        let wanted = |name: &&&str| every || asked.iter().any(|word| word == **name);
        Self {
            sections: SECTIONS
                .iter()
                .filter(wanted)
                .map(|s| (*s).to_owned())
                .collect(),
            facts: facts.clone(),
            figures,
            uptime: now.since(facts.started),
        }
    }

    /// The page with the store's figures: see `Command::Figures`.
    pub(super) fn complete(&self, store: &[Vec<u8>]) -> String {
        let figure = |n: usize| {
            let text = store.get(n).and_then(|text| std::str::from_utf8(text).ok());
            text.and_then(|text| text.parse().ok()).unwrap_or(0)
        };
        let mut page = String::new();
        for section in &self.sections {
            if !page.is_empty() {
                page.push_str("\r\n");
            }
            let lines = match section.as_str() {
                "server" => self.server(figure(4)),
                "clients" => self.clients(),
                "memory" => memory(figure(2), figure(3)),
                "stats" => self.stats(),
                "replication" => self.replication(),
                _ => keyspace(figure(0), figure(1)),
            };
            let (first, rest) = section.split_at(1);
            let _ = write!(page, "# {}{rest}\r\n", first.to_ascii_uppercase());
            for (name, value) in lines {
                let _ = write!(page, "{name}:{value}\r\n");
            }
        }
        page
    }

    fn server(&self, log_ms: u64) -> Vec<(String, String)> {
        let seconds = self.uptime.as_secs();
        lines([
            // Clients decide by it which commands they may use.
            ("redis_version", super::REDIS_VERSION.to_owned()),
            ("redis_mode", "standalone".to_owned()),
            ("stateplane_version", env!("CARGO_PKG_VERSION").to_owned()),
            ("node", self.facts.node.clone()),
            ("process_id", std::process::id().to_string()),
            ("run_id", format!("{:040x}", self.facts.life)),
            ("tcp_port", self.facts.port.to_string()),
            ("uptime_in_seconds", seconds.to_string()),
            ("uptime_in_days", (seconds / 86_400).to_string()),
            ("log_time_ms", log_ms.to_string()),
        ])
    }

    fn clients(&self) -> Vec<(String, String)> {
        lines([
            ("connected_clients", self.figures.clients.to_string()),
            ("maxclients", self.facts.max_clients.to_string()),
            (
                "clients_waiting_for_store",
                self.figures.waiting.to_string(),
            ),
        ])
    }

    fn stats(&self) -> Vec<(String, String)> {
        let figures = &self.figures;
        lines([
            ("total_connections_received", figures.accepted.to_string()),
            ("rejected_connections", figures.refused.to_string()),
            ("total_commands_processed", figures.commands.to_string()),
            ("total_operations", figures.operations.to_string()),
            ("unknown_outcomes", figures.unknown.to_string()),
            ("total_net_input_bytes", figures.received.to_string()),
            ("total_net_output_bytes", figures.sent.to_string()),
        ])
    }

    fn replication(&self) -> Vec<(String, String)> {
        let replicas = &self.facts.replicas;
        let mut all = lines([
            ("role", "master".to_owned()),
            (
                "connected_slaves",
                replicas.len().saturating_sub(1).to_string(),
            ),
            ("group_replicas", replicas.len().to_string()),
        ]);
        if let Some(leader) = replicas.get(self.figures.leader) {
            all.extend(lines([
                ("group_view", self.figures.view.to_string()),
                ("group_leader", leader.clone()),
                ("group_quorum", (replicas.len() / 2 + 1).to_string()),
            ]));
            for (n, name) in replicas.iter().enumerate() {
                let role = if n == self.figures.leader {
                    "leader"
                } else {
                    "follower"
                };
                all.push((format!("replica{n}"), format!("name={name},role={role}")));
            }
        }
        all
    }
}

fn lines<const N: usize>(lines: [(&str, String); N]) -> Vec<(String, String)> {
    lines.map(|(name, value)| (name.to_owned(), value)).into()
}

fn memory(bytes: u64, most: u64) -> Vec<(String, String)> {
    lines([
        ("used_memory", bytes.to_string()),
        ("used_memory_dataset", bytes.to_string()),
        ("maxmemory", most.to_string()),
        ("maxmemory_policy", "noeviction".to_owned()),
    ])
}

fn keyspace(keys: u64, expires: u64) -> Vec<(String, String)> {
    match keys {
        0 => Vec::new(),
        _ => lines([("db0", format!("keys={keys},expires={expires},avg_ttl=0"))]),
    }
}
