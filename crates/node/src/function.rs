//! What a function's workers are given, and what they publish.
//!
//! [`crate::run`] prepares everything that can fail (sockets, identities) and
//! hands a [`FunctionSetup`] to the role's own thread, which owns it from then on.

use std::collections::{BTreeMap, HashSet};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;
use stateplane_base::Incarnation;
use stateplane_state::op::{Operation, ReplyError};
use tokio::sync::oneshot;

use crate::client::{Missed, StateClient};
use crate::config;
use crate::heartbeat::Heartbeat;
use crate::regions::keeper::Home;
use crate::regions::local::Local;
use crate::regions::telemetry::Sheet;
use crate::status::{Publisher, RoleStatus};
use crate::stop::Stop;
use crate::worker::Outcome;

/// Questions that wait for the worker's attention; more are refused.
const MAX_QUESTIONS: usize = 16;
/// The store answers an operator within this, or has not answered.
const PATIENCE: Duration = Duration::from_millis(1500);

/// What one worker has for itself.
#[derive(Debug)]
pub struct WorkerSetup {
    /// Its name: that of the node, or of a further worker ([`config::Node::workers`]).
    pub name: String,
    /// The processor it is bound to, if any. The first one's thread is already.
    pub cpu: Option<usize>,
    /// Seeds the choice of ports.
    pub seed: u64,
    /// The store.
    pub state: StateClient,
    /// Its committed tables on this machine, if they are shared.
    pub local: Option<Local>,
    /// Questions to answer between batches.
    pub questions: Receiver<Question>,
}

/// Everything an instance needs.
#[derive(Debug)]
pub struct FunctionSetup {
    /// This life of the instance: fences its port blocks.
    pub incarnation: Incarnation,
    /// How a switch steers when all instances live, and which of them this one is.
    /// `None` if no switch steers to it.
    pub(crate) home: Option<Home>,
    /// The same, when the switch says otherwise.
    pub(crate) homes: Option<Receiver<Home>>,
    /// Which interfaces to serve.
    pub interfaces: config::Function,
    /// What to do, from inside to outside.
    pub work: Vec<Work>,
    /// How its lease is kept.
    pub lease: config::Lease,
    /// Bounds of parking.
    pub park: config::Park,
    /// What passes in the kernel.
    pub fast_path: config::FastPath,
    /// Its workers.
    pub workers: Vec<WorkerSetup>,
    /// A worker that has not turned for so long is stuck, and its instance dead to the switches.
    pub dead: Duration,
    /// To be called in every turn of the loop once the instance can serve.
    pub heartbeat: Heartbeat,
    /// Where the status goes.
    pub status: Publisher<FunctionStatus>,
    /// When raised: `heartbeat.drain()`, finish what is parked, return.
    pub stop: Stop,
}

/// What a function does.
#[derive(Clone, Debug)]
pub enum Work {
    /// Translates.
    Nat(config::Nat),
    /// Counts.
    Meter(config::Meter),
}

/// What a function publishes.
#[derive(Clone, Debug, Default, Serialize)]
pub struct FunctionStatus {
    /// What it runs, from inside to outside.
    pub runs: Vec<String>,
    /// Its interfaces serve packets.
    pub attached: bool,
    /// The store knows this instance and it owns ports.
    pub registered: bool,
    /// The store does not answer.
    pub store_silent: bool,
    /// Draining before the end.
    pub draining: bool,
    /// Its workers, the first one first: everything else is their sum.
    pub workers: Vec<WorkerStatus>,
    /// The interfaces, and how packets reach the worker (driver, mode).
    pub interfaces: BTreeMap<String, InterfaceStatus>,
    /// Flows in the instance's own table.
    pub flows: u64,
    /// Packets that wait for state now.
    pub parked: u64,
    /// Operations sent to the store and not yet answered.
    pub store_pending: u64,
    /// The leases it holds or wants.
    pub leases: Vec<LeaseView>,
    /// Of a meter.
    pub meter: Option<MeterView>,
    /// What passes in front of the worker, if anything does.
    pub fast_path: Option<FastPathStatus>,
    /// Why nothing does, if so.
    pub fast_path_off: Option<String>,
    /// Packets dropped, by reason.
    pub drops: BTreeMap<String, u64>,
    /// Everything else that is counted, by name.
    pub counters: BTreeMap<String, u64>,
}

/// One worker's part of what the function publishes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct WorkerStatus {
    /// Its name.
    pub name: String,
    /// The queues of each interface that it serves.
    pub queues: [Vec<u32>; 2],
    /// The processor it is bound to, if any.
    pub cpu: Option<usize>,
    /// The store knows it and it owns ports.
    pub registered: bool,
    /// Frames received from inside and from outside.
    pub received: [u64; 2],
    /// Frames sent there.
    pub sent: [u64; 2],
    /// Flows in its table.
    pub flows: u64,
    /// Decisions that it asked the store for.
    pub decisions: u64,
    /// Packets dropped.
    pub dropped: u64,
    /// Turns whose entries of the fast path had to wait for another worker's.
    pub waited: u64,
}

/// One lease as `show leases` prints it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LeaseView {
    /// What it covers.
    pub covers: String,
    /// `asking`, `waiting`, `held`, `lapsed` or `leaving`.
    pub state: String,
    /// The grant's number: later ones are larger, and fence earlier ones.
    pub epoch: Option<u64>,
    /// How long it may still be used, on the instance's own clock.
    pub left_ms: u64,
}

/// What a meter says of itself; its accounts are in the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct MeterView {
    /// Subscribers that are active here.
    pub active: u64,
    /// Packets that passed and could not be told to the store: another instance had taken over.
    pub lost_packets: u64,
    /// Their bytes.
    pub lost_bytes: u64,
}

/// One interface of a function.
#[derive(Clone, Debug, Default, Serialize)]
pub struct InterfaceStatus {
    /// `inside` or `outside`.
    pub side: String,
    /// Who forwards packets of known flows, and how the others reach the worker.
    pub mode: String,
    /// Frames received.
    pub received: u64,
    /// Frames sent.
    pub sent: u64,
}

/// The fast path of a function.
#[derive(Clone, Debug, Default, Serialize)]
pub struct FastPathStatus {
    /// Packets it forwarded.
    pub hits: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Of all packets for the function, those that it forwarded, in percent.
    pub share: f64,
    /// Packets that it left to the worker, by reason.
    pub punts: BTreeMap<String, u64>,
    /// Slots of its table of flows.
    pub slots: u64,
    /// Of these, those that are in use: more come with the flows.
    pub slots_in_use: u64,
    /// Of these, those that hold a flow.
    pub flows: u64,
    /// Flows that found no slot, and stayed with the worker.
    pub full: u64,
    /// Entries that were moved to make room.
    pub moved: u64,
    /// Decisions written or prolonged.
    pub installed: u64,
    /// Decisions taken back.
    pub withdrawn: u64,
    /// Times that all were taken back at once: routes changed, or the worker stops.
    pub revoked: u64,
    /// Decisions whose lease was not held any more.
    pub unowned: u64,
    /// Decisions for which there is no way out.
    pub wayless: u64,
    /// Next hops in use.
    pub next_hops: u64,
    /// Destinations whose next hop it knows.
    pub destinations: u64,
    /// Next hops and destinations for which there was no room.
    pub ways_full: u64,
}

impl RoleStatus for FunctionStatus {
    fn readiness(&self) -> Result<(), String> {
        match (self.attached, self.registered, self.draining) {
            (_, _, true) => Err("draining".to_owned()),
            (false, _, _) => Err("its interfaces are not attached".to_owned()),
            (_, false, _) => Err("the store has not answered its registration".to_owned()),
            _ if self.store_silent => {
                Err("the store does not answer: known flows pass, new ones cannot".to_owned())
            }
            _ => Ok(()),
        }
    }

    fn count(&self, out: &mut Sheet) {
        out.level("flows", "flows", self.flows);
        out.level("parked", "packets", self.parked);
        out.level("store-pending", "operations", self.store_pending);
        for interface in self.interfaces.values() {
            let side = &interface.side;
            out.count(&format!("{side}.received"), "frames", interface.received);
            out.count(&format!("{side}.sent"), "frames", interface.sent);
        }
        if let Some(fast) = &self.fast_path {
            out.count("fast-path.hits", "packets", fast.hits);
            out.count("fast-path.bytes", "bytes", fast.bytes);
            out.level("fast-path.flows", "flows", fast.flows);
            out.count("fast-path.full", "flows", fast.full);
            out.counts("fast-path.punts", "packets", &fast.punts);
        }
        if let Some(meter) = &self.meter {
            out.level("meter.active", "subscribers", meter.active);
            out.count("meter.lost", "bytes", meter.lost_bytes);
        }
        out.counts("drops", "packets", &self.drops);
        out.counts("counters", "events", &self.counters);
    }
}

/// Something only the worker can answer, because only it has the flow table and talks to the store.
#[derive(Debug)]
pub enum Question {
    /// The sessions, at most `limit` of them.
    Sessions {
        /// How many at most.
        limit: usize,
        /// Where the answer goes; the asker may be gone.
        answer: oneshot::Sender<Vec<SessionView>>,
    },
    /// An operation for the store.
    Store {
        /// As bytes.
        op: Vec<u8>,
        /// It only reads.
        reads: bool,
        /// Where the reply goes.
        answer: oneshot::Sender<Outcome>,
    },
}

/// One session as `show sessions` prints it. `None` where the function has no
/// such thing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct SessionView {
    /// `tcp`, `udp` or `icmp`.
    pub protocol: String,
    /// The subscriber's endpoint, `address:port`.
    pub inside: String,
    /// The public endpoint it is translated to.
    pub outside: String,
    /// The other end.
    pub remote: Option<String>,
    /// The session's state in the function's words, e.g. `established`.
    pub state: String,
    /// Since the last packet.
    pub idle_ms: Option<u64>,
    /// Until the decision must be confirmed by the store.
    pub valid_ms: Option<u64>,
    /// Packets in both directions.
    pub packets: Option<u64>,
}

/// The asking end of the workers' questions.
#[derive(Clone, Debug)]
pub struct Desk(Vec<SyncSender<Question>>);

impl Desk {
    /// A desk, and the end of it of each of so many workers.
    pub fn for_each(workers: usize) -> (Self, Vec<Receiver<Question>>) {
        let ends = (0..workers).map(|_| sync_channel(MAX_QUESTIONS));
        let (senders, receivers) = ends.unzip();
        (Self(senders), receivers)
    }

    /// Asks all workers for sessions, each once: a mapping may be known to several. `None` if one of
    /// them is too busy or gone.
    pub async fn sessions(&self, limit: usize) -> Option<Vec<SessionView>> {
        let mut sessions: Vec<SessionView> = Vec::new();
        let mut known = HashSet::new();
        for worker in &self.0 {
            let (answer, answered) = oneshot::channel();
            worker.try_send(Question::Sessions { limit, answer }).ok()?;
            let more = answered.await.ok()?.into_iter();
            let more = more.filter(|one| known.insert((one.protocol.clone(), one.inside.clone())));
            sessions.extend(more.collect::<Vec<_>>());
        }
        sessions.truncate(limit);
        Some(sessions)
    }

    /// Has the store execute an operation.
    pub async fn ask_store<O: Operation>(&self, op: &O) -> Result<O::Reply, Unanswered> {
        let (answer, answered) = oneshot::channel();
        let question = Question::Store {
            op: op.encode(),
            reads: O::READS,
            answer,
        };
        // Any worker's store is the store.
        let worker = self.0.first().ok_or(Unanswered::Busy)?;
        worker.try_send(question).map_err(|_| Unanswered::Busy)?;
        let answered = tokio::time::timeout(PATIENCE, answered).await;
        let outcome = answered.ok().and_then(Result::ok);
        let reply = match outcome {
            Some(Ok(reply)) => reply,
            Some(Err(Missed::NotAsked)) => return Err(Unanswered::Busy),
            Some(Err(Missed::Unknown)) | None => return Err(Unanswered::Silent),
        };
        O::decode_reply(&reply).map_err(Unanswered::Wrong)
    }
}

/// Why the store did not do what was asked, as far as we know.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Unanswered {
    /// Nothing was asked.
    #[error("the worker or its store has too much to do: ask again")]
    Busy,
    /// It may have been done.
    #[error("the store did not answer in time; it may have been done")]
    Silent,
    /// It was not done.
    #[error(transparent)]
    Wrong(ReplyError),
}

/// The counters part of a function's status.
pub fn counters_of(status: &Value) -> Value {
    serde_json::json!({ "drops": status["drops"], "counters": status["counters"] })
}
