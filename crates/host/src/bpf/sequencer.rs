//! `xdp/sequencer.c`: the sequencer in the network. It speaks the packets of
//! [`stateplane_wire::oum`], byte for byte as the Rust code does, which a test compares.
//!
//! The user-space agent asks for sessions and tells tails; what it hands to
//! [`Sequencer::begin`] is stamped by the program until [`Sequencer::end`].

use std::fmt;
use std::net::SocketAddrV4;

use aya::Ebpf;
use aya::maps::{Array, ArrayOfMaps, DevMap, MapData, MapError};
use aya::programs::{ProgramError, Xdp};
use stateplane_base::LogTime;
use stateplane_wire::oum::{GroupId, Keys, SipState};

use super::{
    Attachment, BpfError, TestRunMode, TestRunOutcome, attach, counters, load, map_error, map_mut,
    object, test_run, verify,
};

/// Groups the program numbers: those below this one.
pub const MAX_GROUPS: usize = 16;
/// Replicas it sends to at most.
pub const MAX_REPLICAS: usize = 9;
/// Clients it knows at most.
pub const MAX_CLIENTS: usize = 1024;

/// In a device map: no entry.
const NOWHERE: u32 = 0;

const SETTINGS: usize = 40;
const SESSION: usize = 56 + 8 * MAX_GROUPS;
const TARGET: usize = 20;
const PORT: usize = 8 + TARGET * MAX_REPLICAS;
const CLIENT: usize = 8;
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

/// A client: its sender number and where answers to it go.
pub type Client = (u16, SocketAddrV4);

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
    /// Dropped: there was no session, or no such group.
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
}

impl Mode {
    const fn program(self) -> &'static str {
        match self {
            Self::Authentic => "sequencer_stamp",
            Self::Bare => "sequencer_bare",
            Self::Forward => "sequencer_forward",
        }
    }
}

/// A loaded sequencer. Dropping it, or the end of the process, stops it.
pub struct Sequencer {
    ebpf: Ebpf,
    mode: Mode,
    keys: Keys,
    session: Array<MapData, [u8; SESSION]>,
    ports: u32,
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
    /// Loads it, attached to nothing and without a session.
    pub fn load(me: &Identity, clients: &[Client], mode: Mode) -> Result<Self, BpfError> {
        let mut ebpf = load("sequencer", object!("sequencer"))?;
        let mut settings = [0; SETTINGS];
        settings[..4].copy_from_slice(&me.address.ip().octets());
        settings[4..6].copy_from_slice(&me.address.port().to_be_bytes());
        settings[6] = me.number;
        put_state(&mut settings[8..40], &me.keys.request_state());
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
            keys: me.keys.clone(),
            session,
            ports: 0,
            devices: 0,
            attachment: None,
        })
    }

    /// Attaches it to the interface that requests come in by.
    pub fn attach(&mut self, interface: &str) -> Result<(), BpfError> {
        self.attachment = Some(attach(self.program_mut()?, interface)?);
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
        let mut ports: Vec<(u32, Vec<&Target>)> = Vec::new();
        for target in targets {
            match ports.iter_mut().find(|(index, _)| *index == target.ifindex) {
                Some((_, port)) => port.push(target),
                None => ports.push((target.ifindex, vec![target])),
            }
        }
        // What is not there any more goes first: a copy too few is a loss like any other.
        for place in 0..self.devices {
            map_mut!(self.ebpf, "replicas", DevMap<_>)?
                .set(place, NOWHERE, None, 0)
                .map_err(map_error("replicas"))?;
        }
        for (place, (ifindex, port)) in (0..).zip(&ports) {
            self.set_port(place, *ifindex, port)?;
        }
        for place in (0..self.ports).skip(ports.len()) {
            self.set_port(place, 0, &[])?;
        }
        self.ports = ports.len() as u32;
        self.devices = targets.len() as u32;
        let name = "sequencer_address";
        let program: &Xdp = self
            .ebpf
            .program(name)
            .expect("the embedded object has the program")
            .try_into()
            .map_err(load_error)?;
        let fd = program.fd().map_err(load_error)?.try_clone();
        let fd = fd.map_err(map_error("replicas"))?;
        for (place, target) in (0..).zip(targets) {
            map_mut!(self.ebpf, "replicas", DevMap<_>)?
                .set(place, target.ifindex, Some(&fd), 0)
                .map_err(map_error("replicas"))?;
        }
        Ok(())
    }

    fn set_port(&mut self, place: u32, ifindex: u32, targets: &[&Target]) -> Result<(), BpfError> {
        let mut port = [0; PORT];
        port[..4].copy_from_slice(&ifindex.to_ne_bytes());
        port[4..8].copy_from_slice(&(targets.len() as u32).to_ne_bytes());
        for (bytes, target) in port[8..].chunks_exact_mut(TARGET).zip(targets) {
            bytes[..6].copy_from_slice(&target.mac);
            bytes[6..12].copy_from_slice(&target.from);
            bytes[12..16].copy_from_slice(&target.address.ip().octets());
            bytes[16..18].copy_from_slice(&target.address.port().to_be_bytes());
        }
        map_mut!(self.ebpf, "ports", Array<_, [u8; PORT]>)?
            .set(place, port, 0)
            .map_err(map_error::<MapError>("ports"))
    }

    /// Sets how far log time is ahead of the kernel's monotonic clock.
    pub fn set_clock(&mut self, offset_ns: u64) -> Result<(), BpfError> {
        map_mut!(self.ebpf, "clock_offset", Array<_, u64>)?
            .set(0, offset_ns, 0)
            .map_err(map_error::<MapError>("clock_offset"))
    }

    /// Stamps in a session from now on, after the numbers `last` and at times not before
    /// `not_before`. When this returns nothing is stamped in the former one any more.
    pub fn begin(
        &mut self,
        formation: u64,
        session: u64,
        not_before: LogTime,
        last: &[u64; MAX_GROUPS],
    ) -> Result<(), BpfError> {
        let mut state = [0; SESSION];
        state[..8].copy_from_slice(&formation.to_be_bytes());
        state[8..16].copy_from_slice(&session.to_be_bytes());
        state[16..24].copy_from_slice(&not_before.as_nanos().to_ne_bytes());
        put_state(
            &mut state[24..56],
            &self.keys.ordered_state(formation, session),
        );
        for (bytes, last) in state[56..].chunks_exact_mut(8).zip(last) {
            bytes.copy_from_slice(&last.to_ne_bytes());
        }
        self.session = install(&mut self.ebpf, state)?;
        Ok(())
    }

    /// Stamps nothing until the next session. When this returns no more numbers are given,
    /// and what [`Self::last`] said before it is all.
    pub fn end(&mut self) -> Result<(), BpfError> {
        self.session = install(&mut self.ebpf, [0; SESSION])?;
        Ok(())
    }

    /// The last number given to `group` in the present session.
    pub fn last(&self, group: GroupId) -> Result<u64, BpfError> {
        let state = self.session.get(&0, 0).map_err(map_error("session"))?;
        let at = 56 + 8 * usize::from(group);
        let bytes = state.get(at..at + 8).and_then(|b| b.try_into().ok());
        Ok(bytes.map_or(0, u64::from_ne_bytes))
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

    /// Addresses a frame to the first target, as its copy would be.
    pub fn try_address(&self, frame: &[u8]) -> Result<TestRunOutcome, BpfError> {
        self.run("probe_address", frame)
    }

    fn run(&self, name: &str, frame: &[u8]) -> Result<TestRunOutcome, BpfError> {
        let program = self
            .ebpf
            .program(name)
            .expect("the embedded object has the program");
        let xdp = program.try_into().map_err(load_error)?;
        test_run(xdp, frame, 1, TestRunMode::Dry).map_err(load_error)
    }

    fn program_mut(&mut self) -> Result<&mut Xdp, BpfError> {
        self.ebpf
            .program_mut(self.mode.program())
            .expect("the embedded object has the program")
            .try_into()
            .map_err(load_error)
    }
}

fn load_error(error: ProgramError) -> BpfError {
    BpfError::Load {
        program: "sequencer",
        source: error.into(),
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

fn set_clients(ebpf: &mut Ebpf, clients: &[Client]) -> Result<(), BpfError> {
    if clients.len() > MAX_CLIENTS {
        let text = format!("more than {MAX_CLIENTS} clients of one sequencer");
        return Err(BpfError::TooMany(text));
    }
    for ((sender, address), place) in clients.iter().zip(1u16..) {
        let mut client = [0; CLIENT];
        client[..4].copy_from_slice(&address.ip().octets());
        client[4..6].copy_from_slice(&address.port().to_be_bytes());
        client[6..].copy_from_slice(&place.to_ne_bytes());
        map_mut!(ebpf, "clients", Array<_, [u8; CLIENT]>)?
            .set(u32::from(*sender), client, 0)
            .map_err(map_error::<MapError>("clients"))?;
    }
    Ok(())
}

fn put_state(bytes: &mut [u8], state: &SipState) {
    for (bytes, word) in bytes.chunks_exact_mut(8).zip(state.words()) {
        bytes.copy_from_slice(&word.to_ne_bytes());
    }
}
