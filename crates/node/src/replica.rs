//! A replica's loop: ordered operations in, replies out.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use serde::Serialize;
use stateplane_base::{Incarnation, Time};
use stateplane_group::{Alarm, Effect, Role};
use stateplane_host::clock;
use stateplane_state::Store;
use tracing::{info, warn};

use crate::channel::{self, Channel};
use crate::config::{self, Config, Io};
use crate::disk::{self, Disk, DiskStatus};
use crate::failure::Failure;
use crate::members::{MembersStatus, Wish, Wishes};
use crate::peers::Peers;
use crate::regions::share::{Share, SharedStatus};
use crate::regions::telemetry::Sheet;
use crate::status::{Publisher, RoleStatus};
use crate::stop::Stop;
use crate::turn::{self, Turn};

/// Datagrams handled before answers are sent.
const BATCH: usize = 64;

/// How soon the next turn comes while shared tables are being copied.
const SOON: Duration = Duration::from_millis(1);

/// The role of a replica that is no member of the group.
const SPARE: &str = "spare";

/// What a replica publishes.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ReplicaStatus {
    /// Its number in the group.
    pub id: u8,
    /// What it does: `booting`, `follower`, `leader`, `spare`, ...
    pub role: String,
    /// It leads the group.
    pub leader: bool,
    /// It works: it is in a view that has started, with the view's log.
    pub normal: bool,
    /// The life of the group (0: none yet).
    pub formation: u64,
    /// The view it is in or votes for.
    pub view: u64,
    /// The session in force.
    pub session: u64,
    /// Last slot of its log.
    pub log: u64,
    /// First slots dropped from it, because they are final everywhere.
    pub log_base: u64,
    /// Memory of the log.
    pub log_bytes: u64,
    /// Everything up to this slot is final.
    pub commit: u64,
    /// Everything up to this slot is executed here.
    pub executed: u64,
    /// Slots known to exist and not received yet.
    pub missing: u64,
    /// Followers that entered this view (leader only).
    pub followers: u64,
    /// Who belongs to the group.
    pub members: MembersStatus,
    /// Clients remembered for at-most-once execution.
    pub clients: u64,
    /// A snapshot is being received.
    pub receiving: bool,
    /// The time of the last executed operation, nanoseconds since 1970.
    pub log_time_ns: u64,
    /// The store's tables.
    pub tables: Vec<TableStatus>,
    /// Bytes of all rows and timers, about, and how many they may have.
    pub store_bytes: u64,
    /// See `store_bytes`.
    pub store_max_bytes: u64,
    /// Timers armed.
    pub timers: u64,
    /// Rare events, by name.
    pub marks: BTreeMap<&'static str, u64>,
    /// What the operator should know, by name and how often.
    pub alarms: BTreeMap<&'static str, u64>,
    /// Authentic datagrams that are not the group's business.
    pub ignored: u64,
    /// Its journal, if it keeps one.
    pub disk: Option<DiskStatus>,
    /// Tables that others on its machine read in place.
    pub shared: Option<SharedStatus>,
    /// Datagrams.
    pub datagrams: channel::Counters,
}

/// One table of the store.
#[derive(Clone, Debug, Serialize)]
pub struct TableStatus {
    /// Its name.
    pub name: String,
    /// Rows it has.
    pub rows: u64,
    /// Rows it may have.
    pub max_rows: u64,
}

impl RoleStatus for ReplicaStatus {
    fn readiness(&self) -> Result<(), String> {
        if self.normal || self.role == SPARE {
            Ok(())
        } else {
            Err(format!("it is {}", self.role))
        }
    }

    fn count(&self, out: &mut Sheet) {
        out.largest("view", "views", self.view);
        out.largest("log", "slots", self.log);
        out.largest("commit", "slots", self.commit);
        out.largest("executed", "slots", self.executed);
        out.level("missing", "slots", self.missing);
        out.largest("clients", "clients", self.clients);
        out.level("log-bytes", "bytes", self.log_bytes);
        out.level("store-bytes", "bytes", self.store_bytes);
        for table in &self.tables {
            out.largest(&format!("rows.{}", table.name), "rows", table.rows);
        }
        out.counts("marks", "events", &self.marks);
        out.counts("alarms", "alarms", &self.alarms);
        out.count("ignored", "datagrams", self.ignored);
        out.datagrams(&self.datagrams);
    }
}

/// A replica ready to run.
pub struct Replica {
    id: u8,
    core: stateplane_group::Replica<Store>,
    peers: Peers,
    channel: Channel,
    disk: Option<Disk>,
    share: Option<Share>,
    wishes: Wishes,
    told: (&'static str, u64),
    ignored: u64,
    alarms: BTreeMap<&'static str, u64>,
    status: Publisher<ReplicaStatus>,
}

impl Replica {
    /// A replica of the configured group: without memory, or with that of its disk.
    ///
    /// # Panics
    /// If the (checked) configuration does not name `node` as a replica.
    pub fn new(
        config: &Config,
        node: &str,
        life: Incarnation,
        channel: Channel,
        status: Publisher<ReplicaStatus>,
        wishes: Receiver<Wish>,
    ) -> Result<Self, Failure> {
        let peers = Peers::new(config, node, config::Role::Replica);
        let me = peers.me().expect("a checked replica is listed");
        // Where the leader orders, its operations bear the time of day of its start plus
        // what our own clock counts, which nobody sets.
        let (core, disk) = disk::replica(config, node, peers.group_config(), me, life)?;
        let mut core = core.with_day(clock::now(), clock::wall());
        let share = Share::new(config, node, core.app_mut())?;
        let alarms = BTreeMap::new();
        Ok(Self {
            id: me.0,
            core,
            peers,
            channel,
            disk,
            share,
            wishes: Wishes::new(wishes),
            told: ("", 0),
            ignored: 0,
            alarms,
            status,
        })
    }

    /// Serves until asked to stop.
    pub fn run(mut self, io: Io, stop: &Stop) -> Result<(), Failure> {
        turn::serve(&mut self, io, stop)
    }

    /// All inputs of the turn were taken: what they changed goes to disk at once, then
    /// everything leaves. After an error nothing leaves any more.
    fn carry_out(&mut self) -> io::Result<()> {
        while let Some(effect) = self.core.poll_effect() {
            match effect {
                Effect::Send { to, msg } => self.peers.send(&mut self.channel, to, &msg),
                Effect::Persist(what) => {
                    let disk = self.disk.as_mut();
                    disk.expect("only replicas with disks ask for it")
                        .persist(what)?;
                }
                Effect::Reconfigured { ticket, answer } => {
                    info!(ticket, answer = answer.name(), "change of members");
                    self.wishes.answered(ticket, answer);
                }
                Effect::Alarm(alarm) => {
                    let name = alarm_name(alarm);
                    warn!(alarm = name, "replica");
                    *self.alarms.entry(name).or_default() += 1;
                }
            }
        }
        self.channel.flush();
        Ok(())
    }

    /// Whether a replica without memory is none that the group misses.
    fn outside(&self, core: &stateplane_group::ReplicaStatus) -> bool {
        let known = core.members.size() > 0;
        let initial = self.id < self.peers.group_config().n;
        !core.members.has(self.id) && (known || !initial)
    }

    fn publish(&mut self) {
        let core = self.core.inspect();
        let outside = core.role == Role::Booting && self.outside(&core);
        let role = if outside { SPARE } else { core.role.name() };
        if self.told != (role, core.view) {
            self.told = (role, core.view);
            info!(
                role,
                view = core.view,
                session = core.session,
                log = core.log_len,
                "replica"
            );
        }
        let store = self.core.app();
        let totals = store.totals();
        let tables = store.summary().into_iter().map(|table| TableStatus {
            name: table.name.to_owned(),
            rows: table.rows as u64,
            max_rows: table.max_rows as u64,
        });
        let marks = self.core.marks().iter();
        let marks = marks
            .filter(|(_, n)| *n > 0)
            .map(|(mark, n)| (mark.name(), n))
            .collect();
        let status = ReplicaStatus {
            id: self.id,
            role: role.to_owned(),
            leader: core.role == Role::Leader,
            normal: matches!(core.role, Role::Leader | Role::Follower),
            formation: core.formation,
            view: core.view,
            session: core.session,
            log: core.log_len,
            log_base: core.log_base,
            log_bytes: core.log_bytes as u64,
            commit: core.commit,
            executed: core.executed,
            missing: core.missing,
            followers: core.followers as u64,
            members: MembersStatus::of(&core),
            clients: core.clients as u64,
            receiving: core.receiving,
            log_time_ns: core.log_time.as_nanos(),
            tables: tables.collect(),
            store_bytes: totals.bytes as u64,
            store_max_bytes: totals.max_bytes as u64,
            timers: totals.timers as u64,
            marks,
            alarms: self.alarms.clone(),
            ignored: self.ignored,
            disk: self.disk.as_ref().map(Disk::status),
            shared: self.share.as_ref().map(Share::status),
            datagrams: self.channel.counters(),
        };
        self.status.update(|s| *s = status);
    }
}

impl Turn for Replica {
    const NAME: &'static str = "replica";
    const NICE: i32 = -5;

    fn fd(&self) -> BorrowedFd<'_> {
        self.channel.fd()
    }

    fn next(&self) -> Time {
        if self.share.as_ref().is_some_and(Share::is_busy) {
            return clock::now() + SOON;
        }
        let core = self.core.next_timer().unwrap_or(Time::MAX);
        core.min(self.status.next())
    }

    fn hear(&mut self, now: Time) -> io::Result<usize> {
        let Self {
            core,
            peers,
            channel,
            ignored,
            ..
        } = self;
        channel.receive(BATCH, |heard| match peers.hear(heard) {
            Some((peer, message)) => core.on_message(now, peer, message),
            None => *ignored += 1,
        })
    }

    fn act(&mut self, now: Time) -> io::Result<()> {
        if self.core.next_timer().is_some_and(|due| due <= now) {
            self.core.on_timer(now);
        }
        self.wishes.grant(now, &mut self.core);
        self.carry_out()?;
        if let Some(share) = &mut self.share {
            let progress = self.core.progress();
            share.turn(self.core.app_mut(), progress);
        }
        if self.status.due(now) {
            self.publish();
        }
        Ok(())
    }
}

fn alarm_name(alarm: Alarm) -> &'static str {
    match alarm {
        Alarm::IncarnationReused => "incarnation-reused",
        Alarm::SnapshotRefused => "snapshot-refused",
        Alarm::SnapshotTooLarge => "snapshot-too-large",
        Alarm::Dismissed => "dismissed",
    }
}
