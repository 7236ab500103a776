//! `xdp/sequencer.c`: the sequencer in the network. It speaks the packets of
//! [`stateplane_wire::oum`], byte for byte as the Rust code does, which a test compares.
//!
//! The user-space agent asks for sessions and tells tails; what it hands to
//! [`Sequencer::begin`] is stamped by the program until [`Sequencer::end`].

use std::fmt;
use std::net::SocketAddrV4;

use aya::Ebpf;
use aya::maps::{Array, ArrayOfMaps, DevMap, MapData, MapError};
use stateplane_base::LogTime;
use stateplane_wire::oum::{self, GroupId, Keys, SipState};

use super::{
    Attachment, BpfError, TestRunMode, TestRunOutcome, attach, counters, load, load_error, loaded,
    map_error, map_mut, object, test_run, verify,
};

/// Groups the program numbers: those below this one.
pub const MAX_GROUPS: usize = 16;
/// Replicas it sends to at most.
pub const MAX_REPLICAS: usize = 9;
/// Clients it knows at most.
pub const MAX_CLIENTS: usize = 1024;

/// In a device map: no entry.
const NOWHERE: u32 = 0;

const SETTINGS: usize = 48;
/// Where a session keeps the numbers it gave.
const LAST: usize = 72;
const SESSION: usize = LAST + 8 * MAX_GROUPS;
const TARGET: usize = 24;
const PORT: usize = TARGET * MAX_REPLICAS;
const PORTS: usize = (4 + 4 + PORT) * MAX_REPLICAS;
const WINDOW: usize = 152;

/// Where the program listens and as whom.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Where clients send requests.
    pub address: SocketAddrV4,
    /// Its number among the group's sequencers.
    pub number: u8,
    /// The cluster's keys.
    pub keys: Keys,
}

/// A replica and the way to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Target {
    /// Its socket.
    pub address: SocketAddrV4,
    /// The interface towards it.
    pub ifindex: u32,
    /// That interface's hardware address.
    pub from: [u8; 6],
    /// The hardware address of the replica or of the router towards it.
    pub mac: [u8; 6],
}

/// A session, as the program takes it over.
#[derive(Clone, Copy, Debug)]
pub struct Grant<'a> {
    /// The life of the group.
    pub formation: u64,
    /// Its number.
    pub session: u64,
    /// How far log time is ahead of the kernel's monotonic clock.
    pub ahead_ns: u64,
    /// Nothing is stamped with an earlier time.
    pub not_before: LogTime,
    /// The numbers given so far.
    pub last: &'a [u64; MAX_GROUPS],
}

/// What the program has done with packets.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct SequencerCounters {
    /// Stamped and sent to all replicas.
    pub stamped: u64,
    /// Left to the kernel, and so to the agent.
    pub passed: u64,
    /// Dropped: not as long as it says, another version, or absurd groups.
    pub malformed: u64,
    /// Dropped: another key, or damaged.
    pub unauthentic: u64,
    /// Dropped: of nobody that is a client of the group.
    pub stranger: u64,
    /// Dropped: seen before.
    pub replayed: u64,
    /// Dropped: no such group, or no number left.
    pub unstamped: u64,
}

/// Which of the object's programs runs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Mode {
    /// Verifies and renews tags.
    Authentic,
    /// Does not: to measure what that costs.
    Bare,
    /// Multicasts and does not stamp: to measure what stamping costs.
    Forward,
    /// Does not address the copies either: the kernel's multicast as it is.
    Limit,
}

impl Mode {
    const fn program(self) -> &'static str {
        match self {
            Self::Authentic => "sequencer_stamp",
            Self::Bare => "sequencer_bare",
            Self::Forward => "sequencer_forward",
            Self::Limit => "sequencer_limit",
        }
    }
}

/// A loaded sequencer. Dropping it, or the end of the process, stops it.
pub struct Sequencer {
    ebpf: Ebpf,
    mode: Mode,
    number: u8,
    keys: Keys,
    session: Array<MapData, [u8; SESSION]>,
    devices: u32,
    attachment: Option<Attachment>,
}

impl fmt::Debug for Sequencer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sequencer")
            .field("mode", &self.mode)
            .field("attachment", &self.attachment)
            .finish_non_exhaustive()
    }
}

impl Sequencer {
    /// Loads it, attached to nothing and without a session. `clients` are the numbers of
    /// the senders that may ask.
    pub fn load(me: &Identity, clients: &[u16], mode: Mode) -> Result<Self, BpfError> {
        let mut ebpf = load("sequencer", object!("sequencer"))?;
        let mut settings = [0; SETTINGS];
        settings[..4].copy_from_slice(&me.address.ip().octets());
        settings[4..6].copy_from_slice(&me.address.port().to_be_bytes());
        settings[8..16].copy_from_slice(&oum::head(oum::Kind::Ordered, me.number));
        put_state(&mut settings[16..], &me.keys.request_state());
        map_mut!(ebpf, "sequencer", Array<_, [u8; SETTINGS]>)?
            .set(0, settings, 0)
            .map_err(map_error::<MapError>("sequencer"))?;
        set_clients(&mut ebpf, clients)?;
        let session = install(&mut ebpf, [0; SESSION])?;
        verify(&mut ebpf, mode.program())?;
        verify(&mut ebpf, "probe_address")?;
        verify(&mut ebpf, "sequencer_address")?;
        Ok(Self {
            ebpf,
            mode,
            number: me.number,
            keys: me.keys.clone(),
            session,
            devices: 0,
            attachment: None,
        })
    }

    /// Attaches it to the interface that requests come in by.
    pub fn attach(&mut self, interface: &str) -> Result<(), BpfError> {
        let program = verify(&mut self.ebpf, self.mode.program())?;
        self.attachment = Some(attach(program, interface)?);
        Ok(())
    }

    /// Where it is attached.
    pub fn attachment(&self) -> Option<&Attachment> {
        self.attachment.as_ref()
    }

    /// Sends to these replicas from now on.
    pub fn set_targets(&mut self, targets: &[Target]) -> Result<(), BpfError> {
        if targets.len() > MAX_REPLICAS {
            let text = format!("more than {MAX_REPLICAS} replicas of one group");
            return Err(BpfError::TooMany(text));
        }
        // What is not there any more goes first: a copy too few is a loss like any other.
        for place in 0..self.devices {
            map_mut!(self.ebpf, "replicas", DevMap<_>)?
                .set(place, NOWHERE, None, 0)
                .map_err(map_error("replicas"))?;
        }
        map_mut!(self.ebpf, "ports", Array<_, [u8; PORTS]>)?
            .set(0, ports(targets), 0)
            .map_err(map_error::<MapError>("ports"))?;
        self.devices = targets.len() as u32;
        let addressed = self.mode != Mode::Limit;
        let name = "sequencer_address";
        let program = loaded(&self.ebpf, name)?.fd().map_err(load_error(name))?;
        let fd = program.try_clone();
        let fd = fd.map_err(map_error("replicas"))?;
        for (place, target) in (0..).zip(targets) {
            map_mut!(self.ebpf, "replicas", DevMap<_>)?
                .set(place, target.ifindex, addressed.then_some(&fd), 0)
                .map_err(map_error("replicas"))?;
        }
        Ok(())
    }

    /// Stamps in this session from now on. When this returns nothing is stamped in the
    /// former one any more.
    pub fn begin(&mut self, grant: &Grant<'_>) -> Result<(), BpfError> {
        let ordered = self
            .keys
            .ordered_state(self.number, grant.formation, grant.session);
        let mut state = [0; SESSION];
        state[..8].copy_from_slice(&grant.formation.to_be_bytes());
        state[8..16].copy_from_slice(&grant.session.to_be_bytes());
        state[16..24].copy_from_slice(&grant.not_before.as_nanos().to_ne_bytes());
        state[24..32].copy_from_slice(&grant.ahead_ns.to_ne_bytes());
        put_state(&mut state[32..64], &ordered);
        for (bytes, last) in state[LAST..].chunks_exact_mut(8).zip(grant.last) {
            bytes.copy_from_slice(&last.to_ne_bytes());
        }
        self.session = install(&mut self.ebpf, state)?;
        Ok(())
    }

    /// Stamps nothing until the next session: requests go to the kernel. The last numbers
    /// given; no more are.
    pub fn end(&mut self) -> Result<[u64; MAX_GROUPS], BpfError> {
        let next = install(&mut self.ebpf, [0; SESSION])?;
        let numbers = self.numbers();
        self.session = next;
        numbers
    }

    /// The last number given to `group` in the present session.
    pub fn last(&self, group: GroupId) -> Result<u64, BpfError> {
        let numbers = self.numbers()?;
        Ok(numbers.get(usize::from(group)).copied().unwrap_or(0))
    }

    fn numbers(&self) -> Result<[u64; MAX_GROUPS], BpfError> {
        let state = self.session.get(&0, 0).map_err(map_error("session"))?;
        let (words, _) = state[LAST..].as_chunks::<8>();
        Ok(std::array::from_fn(|group| {
            u64::from_ne_bytes(words[group])
        }))
    }

    /// What it has done so far.
    pub fn counters(&self) -> Result<SequencerCounters, BpfError> {
        let [
            stamped,
            passed,
            malformed,
            unauthentic,
            stranger,
            replayed,
            unstamped,
        ] = counters(&self.ebpf)?;
        Ok(SequencerCounters {
            stamped,
            passed,
            malformed,
            unauthentic,
            stranger,
            replayed,
            unstamped,
        })
    }

    /// Forgets which requests of the client at `place` were seen.
    pub fn forget(&mut self, place: u32) -> Result<(), BpfError> {
        map_mut!(self.ebpf, "windows", Array<_, [u8; WINDOW]>)?
            .set(place, [0; WINDOW], 0)
            .map_err(map_error::<MapError>("windows"))
    }

    /// Runs the program on a frame that arrived nowhere: what it makes of it.
    pub fn try_frame(&self, frame: &[u8]) -> Result<TestRunOutcome, BpfError> {
        self.run(self.mode.program(), frame)
    }

    /// Addresses a stamped frame to the first target, as its copy would be.
    pub fn try_address(&self, frame: &[u8]) -> Result<TestRunOutcome, BpfError> {
        self.run("probe_address", frame)
    }

    fn run(&self, name: &'static str, frame: &[u8]) -> Result<TestRunOutcome, BpfError> {
        test_run(loaded(&self.ebpf, name)?, frame, 1, TestRunMode::Dry).map_err(load_error(name))
    }
}

/// Puts a new session object in the place of the old. The kernel returns from that when no
/// program uses the old one any more.
fn install(
    ebpf: &mut Ebpf,
    state: [u8; SESSION],
) -> Result<Array<MapData, [u8; SESSION]>, BpfError> {
    let failed = map_error::<MapError>;
    let mut session = Array::create(1, 0).map_err(failed("session"))?;
    session.set(0, state, 0).map_err(failed("session"))?;
    map_mut!(ebpf, "sessions", ArrayOfMaps<_, Array<MapData, [u8; SESSION]>>)?
        .set(0, &session, 0)
        .map_err(failed("sessions"))?;
    Ok(session)
}

fn set_clients(ebpf: &mut Ebpf, clients: &[u16]) -> Result<(), BpfError> {
    if clients.len() > MAX_CLIENTS {
        let text = format!("more than {MAX_CLIENTS} clients of one sequencer");
        return Err(BpfError::TooMany(text));
    }
    for (sender, place) in clients.iter().zip(1u16..) {
        map_mut!(ebpf, "clients", Array<_, u16>)?
            .set(u32::from(*sender), place, 0)
            .map_err(map_error::<MapError>("clients"))?;
    }
    Ok(())
}

/// The replicas by the interfaces towards them, as the program reads them: all interfaces,
/// how many replicas are behind each, and who.
fn ports(targets: &[Target]) -> [u8; PORTS] {
    let mut found: Vec<(u32, Vec<&Target>)> = Vec::new();
    for target in targets {
        match found.iter_mut().find(|(index, _)| *index == target.ifindex) {
            Some((_, port)) => port.push(target),
            None => found.push((target.ifindex, vec![target])),
        }
    }
    let mut all = [0; PORTS];
    let (indices, rest) = all.split_at_mut(4 * MAX_REPLICAS);
    let (counts, places) = rest.split_at_mut(4 * MAX_REPLICAS);
    let indices = indices.chunks_exact_mut(4).zip(counts.chunks_exact_mut(4));
    let places = places.chunks_exact_mut(PORT);
    for (((index, count), place), (ifindex, port)) in indices.zip(places).zip(&found) {
        index.copy_from_slice(&ifindex.to_ne_bytes());
        count.copy_from_slice(&(port.len() as u32).to_ne_bytes());
        for (bytes, target) in place.chunks_exact_mut(TARGET).zip(port) {
            put_target(bytes, target);
        }
    }
    all
}

fn put_target(bytes: &mut [u8], target: &Target) {
    let address = target.address.ip().octets();
    let [a, b, c, d] = address.map(u32::from);
    let sum = (a << 8 | b) + (c << 8 | d);
    let sum = (sum & 0xffff) + (sum >> 16);
    bytes[..6].copy_from_slice(&target.mac);
    bytes[6..12].copy_from_slice(&target.from);
    bytes[12..16].copy_from_slice(&address);
    bytes[16..18].copy_from_slice(&target.address.port().to_be_bytes());
    bytes[18..20].copy_from_slice(&(sum as u16).to_be_bytes());
}

fn put_state(bytes: &mut [u8], state: &SipState) {
    for (bytes, word) in bytes.chunks_exact_mut(8).zip(state.words()) {
        bytes.copy_from_slice(&word.to_ne_bytes());
    }
}
