//! What a group may be told: size, time spans, limits.

use core::time::Duration;

use stateplane_wire::group::{GroupId, MAX_REPLICAS};

/// Who decides the order of operations.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Protocol {
    /// The network: a sequencer stamps, replicas answer without talking to each other.
    Nopaxos,
    /// The leader: Viewstamped Replication (Multi-Paxos with a stable leader), for
    /// comparison and where there is no sequencer. One replica of it is a server
    /// that is not replicated.
    Vr {
        /// Slots one Prepare carries at most; 1 = no batching.
        batch: u16,
    },
}

/// Everything a core needs to know about its group.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct GroupConfig {
    /// Number of replicas the group forms with: those of the first seats. 2f+1 of them
    /// survive the loss of f.
    pub n: u8,
    /// Number of sequencers: one in force, the others stand by.
    pub sequencers: u8,
    /// Number of seats: replicas that are, or may become, members.
    pub seats: u8,
    /// The group's number in ordered messages.
    pub group: GroupId,
    /// Who decides the order.
    pub protocol: Protocol,
    /// Time spans.
    pub timing: Timing,
    /// Bounds.
    pub limits: Limits,
    /// Where the counters of a new group start.
    pub origin: Origin,
    /// The rule broken on purpose, if any.
    #[cfg(feature = "mutations")]
    pub(crate) broken: Option<crate::Mutation>,
}

impl GroupConfig {
    /// A group of `n` replicas on a local network.
    ///
    /// # Panics
    /// Unless 1 <= n <= 9: a group's size is fixed by its operator.
    pub fn new(n: u8) -> Self {
        assert!(
            n >= 1 && usize::from(n) <= MAX_REPLICAS,
            "a group has 1 to {MAX_REPLICAS} replicas"
        );
        Self {
            n,
            sequencers: 1,
            seats: n,
            group: 0,
            protocol: Protocol::Nopaxos,
            timing: Timing::default(),
            limits: Limits::default(),
            origin: Origin::default(),
            #[cfg(feature = "mutations")]
            broken: None,
        }
    }

    /// The same group, ordered by its leader.
    #[must_use]
    pub const fn vr(mut self, batch: u16) -> Self {
        self.protocol = Protocol::Vr { batch };
        self
    }

    /// Whether the leader decides the order.
    pub(crate) const fn leader_orders(&self) -> bool {
        matches!(self.protocol, Protocol::Vr { .. })
    }

    /// The same group with `spares` seats more, whose replicas become members only when
    /// an operator adds them.
    ///
    /// # Panics
    /// If there are more seats than a group may have.
    #[must_use]
    pub fn with_spares(self, spares: u8) -> Self {
        let seats = self.n.saturating_add(spares);
        assert!(
            usize::from(seats) <= MAX_REPLICAS,
            "a group has at most {MAX_REPLICAS} seats"
        );
        Self { seats, ..self }
    }
}

/// Where the counters of a new group start: at zero, but tests start them near the ends of
/// their ranges. Slots and views end at 2^62 ([`crate::Replica`] refuses messages beyond),
/// which takes a century at a billion a second, a session's numbers at
/// [`LAST_NUMBER`](stateplane_wire::oum::LAST_NUMBER), which takes two years; a group that got
/// there would stand still rather than begin anew.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Origin {
    /// The slot before the first one, and the number before each session's first.
    pub slot: u64,
    /// The view before the first with a session.
    pub view: u64,
}

/// Time spans; the defaults suit a local network.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Timing {
    /// Leader to followers: life sign and sync point.
    pub heartbeat: Duration,
    /// A follower that hears no heartbeat for so long votes for the next view.
    pub silence: Duration,
    /// The longest that a missing number is waited for; how long, is learned.
    pub reorder: Duration,
    /// At most between requests for missing slots, else some round trips; after two requests,
    /// the leader decides.
    pub gap_retry: Duration,
    /// Between repetitions of a vote, a view's start or a snapshot request.
    pub resend: Duration,
    /// Patience with a view that does not start; grows with each attempt.
    pub view_patience: Duration,
    /// Between the turns that deal with a snapshot.
    pub snapshot: Duration,
    /// Between a booting replica's announcements.
    pub boot: Duration,
    /// A boot or hint heard longer ago than this is history.
    pub boot_memory: Duration,
    /// Sequencer: after its last stamp it says how far it got.
    pub tail: Duration,
    /// ... and again at this interval.
    pub tail_idle: Duration,
    /// A leader that hears nothing from the sequencer for so long invites another one.
    pub sequencer_silence: Duration,
    /// Client: first patience with a request; then adapts.
    pub retry: Duration,
    /// Client: longest patience.
    pub retry_max: Duration,
    /// Client: after this the outcome is unknown.
    pub deadline: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        let ms = Duration::from_millis;
        Self {
            heartbeat: ms(5),
            silence: ms(40),
            reorder: ms(1),
            gap_retry: ms(3),
            resend: ms(10),
            view_patience: ms(40),
            snapshot: ms(1),
            boot: ms(20),
            boot_memory: ms(200),
            tail: ms(1),
            tail_idle: ms(10),
            sequencer_silence: ms(50),
            retry: ms(10),
            retry_max: ms(50),
            deadline: ms(2000),
        }
    }
}

/// Bounds on everything that could grow.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Limits {
    /// Slots between the sync point and the end of the log.
    pub unsynced: u64,
    /// The leader moves the sync point at least once in so many slots.
    pub sync_every: u64,
    /// Final slots kept for replicas that lag.
    pub retain: u64,
    /// Memory of the log.
    pub log_bytes: usize,
    /// Ordered messages kept ahead of a gap, or while a view changes.
    pub stash: usize,
    /// Slots asked for at once.
    pub fetch: u64,
    /// Payload of one datagram between replicas.
    pub chunk: usize,
    /// Snapshot pieces asked for at once.
    pub chunks: u16,
    /// Size of a snapshot: the largest store and the largest client table fit.
    pub snapshot_bytes: u64,
    /// Rows of a snapshot that one turn of a replica deals with, about.
    pub snapshot_rows: usize,
    /// Bytes of records on disk after which a checkpoint replaces them.
    pub journal_bytes: usize,
    /// Clients in the client table.
    pub clients: usize,
    /// Log time after which an idle client may be forgotten for a new one.
    pub client_idle: Duration,
    /// Operations a client has outstanding.
    pub window: u64,
    /// Cached results of one client.
    pub client_bytes: usize,
    /// Size of an operation, and of a result.
    pub operation: usize,
    /// Longer operations travel in pieces, longer results in parts.
    pub whole: usize,
    /// Size of a piece or part: the grid they lie on.
    pub piece: usize,
    /// Pieces of an operation, or parts of a result, under way at once.
    pub pieces: usize,
    /// Memory of the client table for operations whose pieces are not all there, and for results
    /// that travel in parts.
    pub long_bytes: usize,
    /// Memory of a leader for long answers to reads without a slot.
    pub answer_bytes: usize,
    /// Size of a request's batch.
    pub batch_bytes: usize,
    /// Payload of one reply datagram.
    pub reply_bytes: usize,
}

impl Limits {
    /// Bytes one client takes in a snapshot at most.
    pub(crate) fn client_row(&self) -> usize {
        // A result is taken while there is room, so the last one may exceed it.
        let results = self.client_bytes + self.operation + (self.window as usize + 2) * 20;
        results + 2 * self.operation + 64
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            unsynced: 8192,
            sync_every: 256,
            retain: 8192,
            log_bytes: 128 << 20,
            stash: 4096,
            fetch: 128,
            chunk: 1200,
            chunks: 32,
            snapshot_bytes: 4 << 30,
            snapshot_rows: 2048,
            journal_bytes: 64 << 20,
            clients: 1024,
            client_idle: Duration::from_secs(60),
            window: 1024,
            client_bytes: 8 << 20,
            operation: 4 << 20,
            whole: 8 << 10,
            piece: 1152,
            pieces: 128,
            long_bytes: 256 << 20,
            answer_bytes: 16 << 20,
            batch_bytes: 1200,
            reply_bytes: 1200,
        }
    }
}
