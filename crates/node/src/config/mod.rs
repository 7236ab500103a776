//! The configuration: one TOML file, identical on all nodes, strictly checked.
//!
//! * [`problem`]: what is wrong, where, and how to mend it; all of it in one run
//! * `section`, `values`: reading tables and single values
//! * `read`, `state`: the file's tables into the types below
//! * `check`: what no single key shows: names, addresses, impossible combinations

use std::collections::BTreeMap;
use std::fmt;
use std::net::{SocketAddr, SocketAddrV4};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use stateplane_host::bpf::AttachAs;

mod address;
mod chain;
mod check;
mod exchange;
mod fast;
mod io;
mod lease;
mod meter;
pub mod problem;
mod read;
mod regions;
mod relays;
mod resp;
mod running;
mod section;
mod sequencer;
mod state;
mod switch;
#[cfg(test)]
mod tests;
mod values;
mod workers;

pub use stateplane_functions::nat::procedures::Timeouts;
pub use stateplane_group::Protocol;

pub use address::{AddressRange, Prefix};
pub use lease::Lease;
pub use meter::{Allowance, Meter};
pub use problem::{Plain, Problem, ProblemView, Problems};
pub use running::Running;
pub use sequencer::Stamping;
pub use workers::Worker;

/// A checked configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// Who belongs together, and the key they share.
    pub cluster: Cluster,
    /// Where state is kept.
    pub state: State,
    /// How death is noticed.
    pub detect: Detect,
    /// How eagerly datagrams between nodes are taken.
    pub io: Io,
    /// How long instances may use what they own.
    pub lease: Lease,
    /// Every node, by name.
    pub nodes: BTreeMap<String, Node>,
    /// Present when any node is a NAT.
    pub nat: Option<Nat>,
    /// Present when any node is a meter.
    pub meter: Option<Meter>,
    /// How long and how many packets may wait for state.
    pub park: Park,
    /// Whether packets of known flows pass in the kernel.
    pub fast_path: FastPath,
    /// Memory shared between processes and machines.
    pub regions: Option<Regions>,
    /// How often nodes tell what they count.
    pub telemetry: Duration,
    /// The file's meaning, to be compared with what others run.
    pub running: Running,
}

/// Memory shared between processes and machines: versioned regions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Regions {
    /// The directory of each machine's broker.
    pub dir: PathBuf,
    /// The directory where switches keep what operators said about weights, in one of each node.
    pub state_dir: PathBuf,
    /// Tables of the store that replicas let others on their machines read in place.
    pub tables: Vec<SharedTable>,
    /// Regions that are copied between machines, those of `exchange` among them.
    pub copies: Vec<CopiedRegion>,
    /// Whether machines get copies of all that nodes write about themselves.
    pub exchange: bool,
}

/// A table of the store that is read in place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedTable {
    /// Its name in the store.
    pub name: String,
    /// Rows there is room for.
    pub rows: usize,
    /// Bytes of the longest key.
    pub key_bytes: usize,
    /// Bytes of the longest value.
    pub value_bytes: usize,
}

/// A region that is copied to other machines by one: that of its writer, or a relay; or by the
/// first of several that is alive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopiedRegion {
    /// Its name, the same on all of them.
    pub name: stateplane_region::Name,
    /// Its length.
    pub bytes: usize,
    /// What its bytes mean; "": anything.
    pub schema: String,
    /// The node on whose machine it is written, or one that gets it by another entry; or several
    /// such nodes, the best first.
    pub from: Vec<String>,
    /// Those that have copies.
    pub to: Vec<String>,
    /// How far apart versions are copied, at least.
    pub interval: Duration,
    /// The group that hears what several of them need (IP multicast); none: each is sent
    /// its own.
    pub multicast: Option<SocketAddrV4>,
}

impl CopiedRegion {
    /// Whether this node is one of those that send it.
    pub fn is_from(&self, node: &str) -> bool {
        self.from.iter().any(|from| from == node)
    }

    /// Whether this node has a copy.
    pub fn is_to(&self, node: &str) -> bool {
        self.to.iter().any(|to| to == node)
    }
}

/// What all nodes share.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// The cluster's name; nodes of other clusters are not heard.
    pub name: String,
    /// Authenticates every datagram between nodes.
    pub key: Key,
    /// Where `NODE.sock` files are.
    pub admin_dir: PathBuf,
}

/// The secret all nodes share. `Debug` does not show it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Key(pub [u8; 16]);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(secret)")
    }
}

/// Where state is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// In the function's own process: nothing to set up, lost with it.
    Embedded,
    /// In a replicated group.
    Group {
        /// Who decides the order.
        protocol: Protocol,
        /// The nodes that can stamp the order: one does, at first the first of them, and the
        /// others stand by. None where the leader orders.
        sequencers: Vec<String>,
        /// The replicas that the group forms with, in the order of their seats; an odd number.
        replicas: Vec<String>,
        /// Those that may become members later, in the seats after.
        spares: Vec<String>,
        /// If the replicas have disks: each keeps its journal in the directory of its
        /// node's name below this one.
        disk: Option<PathBuf>,
        /// Bytes of the longest operation, and of the longest result. A value may have a quarter.
        longest: usize,
    },
}

/// How death is noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Detect {
    /// Span between heartbeats.
    pub heartbeat: Duration,
    /// Silence after which an instance counts as dead.
    pub dead: Duration,
}

/// How eagerly datagrams between nodes are taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Io {
    /// How long a role looks for more datagrams before it sleeps until the next. Waking up
    /// takes longer than most work: this trades a processor for that time.
    pub busy_poll: Duration,
    /// Replicas lose one in so many of the datagrams that reach them (0: none).
    pub lose_one_in: u32,
    /// Every datagram between nodes takes a system call of its own.
    pub one_by_one: bool,
}

/// What a node does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Stamps the store's operations with session, number and time.
    Sequencer,
    /// Keeps one copy of the store.
    Replica,
    /// Runs a network function on packets.
    Function,
    /// Steers packets to live function instances.
    Switch,
    /// Serves clients of Redis from the store.
    Resp,
    /// Copies regions between machines.
    Regions,
}

impl Role {
    /// Every role with its word in the configuration.
    pub const WORDS: [(&'static str, Self); 6] = [
        ("sequencer", Self::Sequencer),
        ("replica", Self::Replica),
        ("function", Self::Function),
        ("switch", Self::Switch),
        ("resp", Self::Resp),
        ("regions", Self::Regions),
    ];

    /// The role's word.
    pub fn word(self) -> &'static str {
        Self::WORDS
            .iter()
            .find(|(_, role)| *role == self)
            .map_or("", |(word, _)| word)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// One node: a process with one or more roles.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its name in the file.
    pub name: String,
    /// What it does, in the file's order.
    pub roles: Vec<Role>,
    /// Where each role receives datagrams. A lone function or front end that keeps
    /// its state in its own process and is steered by nobody needs none.
    pub control: BTreeMap<Role, SocketAddrV4>,
    /// The processor each role's thread is bound to, if any.
    pub cpu: BTreeMap<Role, usize>,
    /// Set for a function.
    pub function: Option<Function>,
    /// Set for a switch.
    pub switch: Option<Switch>,
    /// Who stamps, if it is a sequencer.
    pub stamping: Stamping,
    /// Set for a front end of the Redis protocol.
    pub resp: Option<Resp>,
}

impl Node {
    /// Whether the node has `role`.
    pub fn is(&self, role: Role) -> bool {
        self.roles.contains(&role)
    }
}

/// Which function an instance runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Runs {
    /// It translates addresses, as `[nat]` says.
    #[default]
    Nat,
    /// It counts, as `[meter]` says.
    Meter,
}

/// A function instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// What it does, from inside to outside; each once.
    pub runs: Vec<Runs>,
    /// Towards the subscribers.
    pub inside: String,
    /// Towards the servers.
    pub outside: String,
    /// One entry for each worker: the processor it is bound to, if any.
    pub workers: Vec<Option<usize>>,
}

/// A front end for clients of Redis.
#[derive(Clone, PartialEq, Eq)]
pub struct Resp {
    /// Where clients connect.
    pub listen: SocketAddr,
    /// What they must know, if anything.
    pub password: Option<String>,
    /// How many may be connected.
    pub max_connections: usize,
}

impl fmt::Debug for Resp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resp")
            .field("listen", &self.listen)
            .field("password", &self.password.as_ref().map(|_| "secret"))
            .field("max_connections", &self.max_connections)
            .finish()
    }
}

/// A steering switch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Switch {
    /// Interfaces towards inside hosts.
    pub inside: Vec<String>,
    /// Interfaces towards outside hosts.
    pub outside: Vec<String>,
    /// The instances behind it; the position is the instance's index.
    pub instances: Vec<Instance>,
    /// Fixed instances for each direction, instead of hashing.
    pub pin: Option<Pin>,
}

/// A function instance as a switch sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// The function node's name.
    pub node: String,
    /// The switch's interface to the instance's inside.
    pub inside: String,
    /// The switch's interface to the instance's outside.
    pub outside: String,
    /// Its share of the flows is as this among those of all, at first.
    pub weight: u32,
}

/// All packets of one direction go to one instance, while it lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pin {
    /// Index of the instance for packets from inside.
    pub inside: usize,
    /// Index of the instance for packets from outside.
    pub outside: usize,
}

/// What the NAT translates, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nat {
    /// Subscribers' addresses; disjoint.
    pub inside_prefixes: Vec<Prefix>,
    /// The pool of public addresses; disjoint.
    pub outside_addresses: Vec<AddressRange>,
    /// Ports in use on each, whole blocks of 256.
    pub ports: RangeInclusive<u16>,
    /// When a packet may leave.
    pub commit: Commit,
    /// Mappings one inside address may hold.
    pub limit_per_subscriber: u32,
    /// Flows an instance knows at once; a mapping in use is two of them, one each way.
    pub flows: u32,
    /// When unused mappings end.
    pub timeouts: Timeouts,
}

/// When a packet may leave whose processing wrote state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Commit {
    /// Once the write is committed.
    Strict,
    /// At once; packets of the opposite direction wait for the commit.
    ReplyBarrier,
    /// At once, both directions: a crash may lose the newest flows.
    Async,
}

/// Bounds on packets that wait for state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Park {
    /// Packets at once.
    pub limit: usize,
    /// The longest wait.
    pub timeout: Duration,
}

/// What passes in the kernel, without a function's process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FastPath {
    /// Whether anything does.
    pub enabled: bool,
    /// Slots of the table of flows, a power of two.
    pub flows: u32,
    /// Where in the kernel a function's XDP programs run.
    pub mode: AttachAs,
}

impl Default for FastPath {
    fn default() -> Self {
        Self {
            enabled: true,
            flows: 1 << 18,
            mode: AttachAs::Auto,
        }
    }
}

/// Why a file could not be used.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is wrong.
    #[error(transparent)]
    Wrong(#[from] Problems),
}

impl Config {
    /// Reads and checks a file; also returns what is doubtful but allowed.
    pub fn load(path: &Path) -> Result<(Self, Vec<Problem>), LoadError> {
        let text = std::fs::read_to_string(path).map_err(|source| LoadError::Read {
            path: path.to_owned(),
            source,
        })?;
        let dir = path.parent().unwrap_or(Path::new("."));
        Ok(Self::parse(&path.display().to_string(), &text, dir)?)
    }

    /// Checks `text`; `file` names it in messages and `dir` is where a
    /// relative `key-file` is looked for.
    pub fn parse(file: &str, text: &str, dir: &Path) -> Result<(Self, Vec<Problem>), Problems> {
        read::read(file, text, dir)
    }

    /// The node called `name`.
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.get(name)
    }

    /// Switches that steer to the instance `name`, with its index there.
    pub fn switches_of<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (&'a Node, u16)> {
        self.nodes.values().filter_map(move |node| {
            let instances = &node.switch.as_ref()?.instances;
            let index = instances.iter().position(|i| i.node == name)?;
            Some((node, u16::try_from(index).ok()?))
        })
    }
}

/// The number of one role of a node on the wire: a 16-bit FNV-1a fold of both
/// names. It does not change when other nodes come or go; `check` refuses the
/// rare file in which two collide.
pub fn sender_id(node: &str, role: Role) -> u16 {
    let bytes = node.bytes().chain([b'/']).chain(role.word().bytes());
    let hash = bytes.fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    });
    ((hash >> 16) ^ hash) as u16
}
