//! One machine of the virtual world: a clock, a socket and perhaps a process.
use crate::clients::Finished;
use crate::clock::NodeClock;
use crate::datagram;
use crate::dice::Dice;
use crate::disk::Found;
use crate::disks::Storage;
use crate::layout::Kind;
use crate::plan::{Fault, MS, Plan};
use crate::recorder::{Recorder, Story};
use crate::shared::Shared;
use crate::standby::Heard;
use crate::store;
use crate::workload::Way;
use core::time::Duration;
use stateplane_base::{Incarnation, LogTime, ReplicaId, Time};
use stateplane_group::{
    self as group, Change, Client, Disk, Effect, GroupConfig, Marks, Membership, Mutation, Peer,
    Protocol, Replica, ReplicaStatus, RequestId, Sequencer, Stance,
};
use stateplane_state::{Application, Store};
use stateplane_wire::envelope::ReplayGuard;
use stateplane_wire::group::Message;
use stateplane_wire::oum::{Groups, Stamp, client_id};
use std::cell::RefCell;
use std::rc::Rc;

/// The core that runs on a machine.
pub(crate) enum Role {
    Replica(Box<Replica<Recorder<Store>>>),
    Sequencer(Box<Sequencer>),
    Client(Box<Client>),
}

/// A common time of day, and one just before 64 bits of nanoseconds end.
const TODAY: u64 = 1_700_000_000_000 * MS;
const LATE: u64 = u64::MAX - 10_000 * MS;

/// A machine.
pub(crate) struct Node {
    /// What runs there; `None` while it is down.
    pub role: Option<Role>,
    pub clock: NodeClock,
    /// By how much the machine's idea of the time of day is off, which only
    /// the sequencer uses.
    day_skew: u64,
    /// By how much it can be off at most.
    skew: u64,
    /// The time of day when the run begins.
    day: u64,
    /// The life of the process: higher at every start.
    pub incarnation: u64,
    /// Datagrams sent in this life.
    pub counter: u64,
    /// The earliest wake-up that is planned.
    pub wake: Option<u64>,
    /// On its own clock, what was planned for last.
    pub due: Time,
    pub paused: bool,
    /// What the socket holds while the process is paused.
    pub backlog: Vec<(datagram::Shared, bool)>,
    pub guard: ReplayGuard,
    /// Which requests it saw.
    pub requests: ReplayGuard,
    /// What a replica has executed.
    pub story: Rc<RefCell<Story>>,
    /// A client's operations without an outcome, with their records.
    pub asked: Vec<(RequestId, usize)>,
    /// Fingerprint of the story last compared with the other replicas'.
    pub looked: u64,
    /// A replica's state when it was last looked at, in this life.
    pub seen: Option<Stance>,
    /// What a replica last heard of the sequencer in force, in this life.
    pub heard: Option<Heard>,
    /// A replica that runs and, since it started, has been a full member once.
    pub sound: bool,
    /// A copy of its tables as others see it, in this life.
    pub shared: Option<Shared>,
    /// A replica's disk, if it has one.
    pub storage: Option<Storage>,
}

impl Node {
    pub(crate) fn new(plan: &Plan, dice: &mut Dice) -> Self {
        let rate = dice.real(0.7, 1.4);
        let rate = if plan.faults.has(Fault::Drift) {
            rate
        } else {
            1.0
        };
        let life = dice.between(1, 1 << 40);
        let near = plan.near.is_some();
        // Hours, where the time of day leaves room for them.
        let skew = if near { 100 * MS } else { 7_200_000 * MS };
        Self {
            role: None,
            clock: NodeClock::new(dice.between(1, 1_000_000 * MS), rate),
            day: if near { LATE } else { TODAY },
            day_skew: dice.between(0, skew),
            skew,
            incarnation: if near {
                u64::MAX - (1 << 41) + life
            } else {
                life
            },
            counter: 0,
            wake: None,
            due: Time::ZERO,
            paused: false,
            backlog: Vec::new(),
            guard: ReplayGuard::default(),
            requests: ReplayGuard::default(),
            story: Rc::default(),
            asked: Vec::new(),
            looked: 0,
            seen: None,
            heard: None,
            sound: false,
            shared: None,
            storage: None,
        }
    }

    /// The machine's clocks leap; true time does not.
    pub(crate) fn leap(&mut self, own: u64, day: i64) {
        self.clock.leap(own);
        self.day_skew = self.day_skew.saturating_add_signed(day);
        self.wake = None;
    }

    /// The process and all its memory are gone.
    pub(crate) fn stop(&mut self) {
        self.role = None;
        self.paused = false;
        self.sound = false;
        self.wake = None;
        self.counter = 0;
        self.backlog.clear();
        self.guard = ReplayGuard::default();
        self.requests = ReplayGuard::default();
        self.story = Rc::default();
        self.looked = 0;
        self.seen = None;
        self.shared = None;
        self.heard = None;
    }

    /// A new life begins; its number is higher than all before.
    pub(crate) fn rise(&mut self, dice: &mut Dice) {
        self.stop();
        self.incarnation += dice.between(1, 1 << 20);
        // The clock may have been set, by hours, while the process was down.
        self.day_skew = dice.between(0, self.skew);
    }

    /// What the machine takes for the time of day.
    pub(crate) fn day(&self, now: u64) -> LogTime {
        LogTime::from_nanos(self.day + now + self.day_skew)
    }

    /// When the process wants to be woken, on its own clock.
    pub(crate) fn next_timer(&self) -> Option<Time> {
        match self.role.as_ref()? {
            Role::Replica(core) => core.next_timer(),
            Role::Sequencer(core) => core.next_timer(),
            Role::Client(core) => core.next_timer(),
        }
    }
}

/// The process of a machine.
impl Node {
    /// Lets the process handle a message, and asserts its invariants.
    #[inline]
    pub(crate) fn hear(&mut self, now: u64, from: Peer, message: Message) {
        let local = self.clock.local(now);
        match self.role.as_mut() {
            Some(Role::Replica(core)) => core.on_message(local, from, message),
            Some(Role::Sequencer(core)) => core.on_message(local, from, message),
            Some(Role::Client(core)) => core.on_message(local, from, message),
            None => {}
        }
        self.check();
    }

    /// Lets the process do what is due, and asserts its invariants.
    pub(crate) fn fire(&mut self, now: u64) {
        let local = self.clock.local(now);
        match self.role.as_mut() {
            Some(Role::Replica(core)) => core.on_timer(local),
            Some(Role::Sequencer(core)) => core.on_timer(local),
            Some(Role::Client(core)) => core.on_timer(local),
            None => {}
        }
        self.check();
    }

    /// Lets a sequencer number a request for these groups.
    pub(crate) fn stamp(&mut self, now: u64, groups: &Groups) -> Option<Stamp> {
        let (local, day) = (self.clock.local(now), self.day(now));
        match self.role.as_mut() {
            Some(Role::Sequencer(core)) => core.stamp(local, day, groups),
            _ => None,
        }
    }

    fn check(&self) {
        match &self.role {
            Some(Role::Replica(core)) => core.check(),
            Some(Role::Sequencer(core)) => core.check(),
            Some(Role::Client(core)) => core.check(),
            None => {}
        }
    }

    /// The next thing the process wants done.
    pub(crate) fn poll(&mut self) -> Option<Effect> {
        match self.role.as_mut()? {
            Role::Replica(core) => core.poll_effect(),
            Role::Sequencer(core) => core.poll_effect(),
            Role::Client(core) => core.poll_effect(),
        }
    }

    /// Gives a message back that was sent.
    #[inline]
    pub(crate) fn take_back(&mut self, message: Message) {
        if let Some(Role::Client(core)) = self.role.as_mut() {
            core.take_back(message);
        }
    }

    /// The next outcome a client learned.
    pub(crate) fn finished(&mut self) -> Option<Finished> {
        let Some(Role::Client(core)) = self.role.as_mut() else {
            return None;
        };
        let (id, reply) = core.poll_done()?;
        let place = self.asked.iter().position(|(asked, _)| *asked == id);
        let (_, record) = self.asked.swap_remove(place.expect("what ends was asked"));
        Some(Finished {
            record,
            committed: reply.ok(),
        })
    }

    /// Hands an operation to a client; false if it is busy or no client.
    pub(crate) fn submit(&mut self, now: u64, op: Vec<u8>, record: usize, way: Way) -> bool {
        let local = self.clock.local(now);
        let Some(Role::Client(core)) = self.role.as_mut() else {
            return false;
        };
        let taken = match way {
            Way::Slot => core.submit(local, op),
            Way::Read => core.submit_read(local, op),
        };
        let Ok(id) = taken else {
            return false;
        };
        self.asked.push((id, record));
        true
    }

    /// The client's operations without an outcome are nobody's any more.
    pub(crate) fn forget(&mut self) -> Vec<usize> {
        let asked = std::mem::take(&mut self.asked);
        asked.into_iter().map(|(_, record)| record).collect()
    }

    /// Counts of the rare branches the process took.
    pub(crate) fn marks(&self) -> Option<&Marks> {
        Some(match self.role.as_ref()? {
            Role::Replica(core) => core.marks(),
            Role::Sequencer(core) => core.marks(),
            Role::Client(core) => core.marks(),
        })
    }
}

/// What runs on machine `index` when it starts.
pub(crate) fn role(
    index: usize,
    kind: Kind,
    config: GroupConfig,
    node: &Node,
    now: u64,
    found: Option<Found>,
    dice: &mut Dice,
) -> Result<Role, String> {
    let (secret, life) = ([dice.word(), dice.word()], node.incarnation);
    Ok(match kind {
        Kind::Replica(number) => {
            let me = ReplicaId(u8::try_from(number).expect("replicas are few"));
            let app = Recorder::new(store::empty(secret), Rc::clone(&node.story));
            let day = node.day(now);
            let (life, now) = (Incarnation(life), node.clock.local(now));
            let core = match found {
                None => Replica::new(config, me, life, app),
                Some(Found::Blank) => Replica::with_disk(config, me, life, Disk::Blank, app),
                Some(Found::Lost) => Replica::with_disk(config, me, life, Disk::Lost, app),
                Some(Found::Memory(memory)) => Replica::recover(config, me, &memory, app, now)
                    .map_err(|error| format!("recover: {error}"))?,
            };
            Role::Replica(Box::new(core.with_day(now, day)))
        }
        Kind::Sequencer(i) => {
            let me = u8::try_from(i).expect("sequencers are few");
            Role::Sequencer(Box::new(Sequencer::new(config, me, secret[0])))
        }
        Kind::Client(_) => {
            let sender = u16::try_from(index).expect("nodes are few");
            let id = client_id(sender, Incarnation(life));
            Role::Client(Box::new(Client::new(config, id, secret[0])))
        }
    })
}

/// The group's configuration: the default one, or one whose limits are so
/// small that logs are truncated and snapshots travel in many pieces.
pub(crate) fn config(plan: &Plan, mutation: Option<Mutation>) -> GroupConfig {
    let mut config = GroupConfig::new(plan.replicas).with_spares(plan.spares);
    config.protocol = plan.protocol;
    // Where the leader orders, the machines that could sequence have nothing to do.
    config.sequencers = match plan.protocol {
        Protocol::Nopaxos => plan.sequencers,
        Protocol::Vr { .. } => 0,
    };
    config.timing.deadline = Duration::from_millis(1_000);
    config.origin = plan.near.unwrap_or_default();
    if plan.small_limits {
        let limits = &mut config.limits;
        (limits.unsynced, limits.retain) = (48, 12);
        (limits.stash, limits.fetch) = (64, 12);
        (limits.chunk, limits.chunks) = (300, 3);
        limits.snapshot_rows = 40;
        (limits.batch_bytes, limits.reply_bytes) = (150, 150);
        limits.journal_bytes = 4_000;
        (limits.whole, limits.piece, limits.pieces) = (100, 48, 10);
        (limits.operation, limits.client_bytes) = (1_000, 3_000);
        (limits.long_bytes, limits.answer_bytes) = (6_000, 1_000);
    }
    match mutation {
        None => config,
        Some(mutation) => config
            .breaking(mutation)
            .expect("this build can break rules"),
    }
}

/// What the world wants to know of a replica; equal for all replicas of a
/// group that is at rest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Status {
    /// It belongs to the group with its present life.
    pub member: bool,
    /// It is in a view that has started.
    pub normal: bool,
    pub view: u64,
    pub last_normal: u64,
    pub members: Membership,
    pub len: u64,
    pub commit: u64,
    pub executed: u64,
}

impl Node {
    fn replica(&self) -> Option<&Replica<Recorder<Store>>> {
        match self.role.as_ref()? {
            Role::Replica(core) => Some(core),
            _ => None,
        }
    }

    pub(crate) fn inspect(&self) -> Option<ReplicaStatus> {
        self.replica().map(|core| core.inspect())
    }

    /// What a replica is, and how far.
    pub(crate) fn stance(&self) -> Option<Stance> {
        self.replica().map(|core| core.stance())
    }

    /// A replica's state in brief.
    pub(crate) fn status(&self) -> Option<Status> {
        let seen = self.inspect()?;
        Some(Status {
            member: seen.role != group::Role::Booting,
            normal: matches!(seen.role, group::Role::Leader | group::Role::Follower),
            view: seen.view,
            last_normal: seen.last_normal,
            members: seen.members,
            len: seen.log_len,
            commit: seen.commit,
            executed: seen.executed,
        })
    }

    /// The newest view a member has been in, and whom it takes for its members.
    pub(crate) fn membership(&self) -> Option<(u64, Membership)> {
        let core = self.replica()?;
        let seen = core.stance();
        let member = seen.role != group::Role::Booting;
        member.then(|| (seen.progress.view, *core.members()))
    }

    /// Asks a replica for another membership.
    pub(crate) fn reconfigure(&mut self, now: u64, change: Change) {
        let local = self.clock.local(now);
        if let Some(Role::Replica(core)) = self.role.as_mut() {
            core.reconfigure(local, 0, change);
        }
    }

    /// The view a replica leads, if it leads one.
    pub(crate) fn leads(&self) -> Option<u64> {
        let seen = self.stance()?;
        (seen.role == group::Role::Leader).then_some(seen.view)
    }

    /// A replica's state for people.
    pub(crate) fn describe(&self) -> String {
        match self.inspect() {
            None => "down".to_owned(),
            Some(s) => format!(
                "{}{} view {} (log of {}) session {} slots {}..{} commit {} executed {} missing {}",
                s.role.name(),
                if s.receiving { " receiving" } else { "" },
                s.view,
                s.last_normal,
                s.session,
                s.log_base,
                s.log_len,
                s.commit,
                s.executed,
                s.missing
            ),
        }
    }

    /// The store's fingerprint.
    pub(crate) fn digest(&self) -> Option<u64> {
        self.replica().map(|core| core.app().digest())
    }
}
