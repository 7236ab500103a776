//! What has happened and must never happen.
//!
//! `Linearizability` and `SyncSafety` are the invariants of the TLA+ model that the authors of
//! NOPaxos published, by their names there:
//! * **Linearizability**: no two different values are ever *committed* in one slot. A value is
//!   committed when f+1 replicas, the leader of the view among them, have replied to a client
//!   that it is in that slot, in one view. Whether a client heard of it does not matter. What
//!   the leader has in the slots before is committed with it: its answer depends on them.
//! * **SyncSafety**: every slot up to a replica's sync point holds what is committed. Here: what
//!   any other replica's sync point covers and what is committed by replies, wherever known.
//!
//! Ours:
//! * **LeaderCompleteness**: a leader in office has what was committed in its view or before.
//! * **OneLeader**: a view is led by one life of one replica.
//! * **AtMostOnce**: no replica executes an operation twice.
//! * **Monotone**: views and sync points of a life never go back. (A session may: that of a
//!   view which its leader alone entered was never granted.)
//! * **Answers**: what a client is told is committed.
//! * **SameExecution**: what replicas have executed up to their sync points is one sequence.
//! * **Assertions**: the cores' own.
use stateplane_wire::group::{Entry, Formation, Slot, View};
use std::collections::BTreeMap;

/// The names of the invariants.
pub const INVARIANTS: &[&str] = &[
    "Linearizability",
    "SyncSafety",
    "LeaderCompleteness",
    "OneLeader",
    "AtMostOnce",
    "Monotone",
    "Answers",
    "SameExecution",
    "Assertions",
];

/// What a slot holds, in short.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Value(u64);

impl Value {
    pub(crate) fn of(entry: &Entry) -> Self {
        match entry {
            Entry::Noop => Self(0),
            Entry::Value { request, .. } => Self(crate::state::fingerprint(request) | 1),
        }
    }
}

/// Who has replied that a value is in a slot.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Vote {
    pub(crate) formation: Formation,
    pub(crate) view: View,
    pub(crate) slot: Slot,
    pub(crate) value: Value,
}

const LEADER: u16 = 1 << 15;

/// What must be remembered of a run.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct History {
    /// One bit per replica that replied, and the topmost if the leader did.
    replies: BTreeMap<Vote, u16>,
    /// What the leader had before a slot that it replied for.
    prefixes: BTreeMap<Vote, Vec<(Slot, Value)>>,
    /// What is committed by replies, and the first view it was committed in.
    committed: BTreeMap<(Formation, Slot), (View, Value)>,
    /// What some replica's sync point covers.
    synced: BTreeMap<(Formation, Slot), Value>,
    /// The longest sequence of operations executed up to a sync point.
    executed: Vec<u8>,
    /// Who led which view: a replica and its life.
    leaders: BTreeMap<(Formation, View), (u8, u64)>,
    /// The first broken invariant, and how.
    pub(crate) broken: Option<(&'static str, String)>,
}

impl History {
    pub(crate) fn fail(&mut self, invariant: &'static str, how: String) {
        self.broken.get_or_insert((invariant, how));
    }

    /// Whether something was committed by replies.
    pub(crate) fn committed_any(&self) -> bool {
        !self.committed.is_empty()
    }

    /// How many views were led.
    pub(crate) fn views(&self) -> usize {
        self.leaders.len()
    }

    /// A replica replied to a client.
    pub(crate) fn reply(
        &mut self,
        vote: Vote,
        replica: u8,
        prefix: Option<Vec<(Slot, Value)>>,
        quorum: usize,
    ) {
        let leads = prefix.is_some();
        if let Some(prefix) = prefix {
            self.prefixes.entry(vote).or_insert(prefix);
        }
        let replied = self.replies.entry(vote).or_default();
        *replied |= 1 << replica | if leads { LEADER } else { 0 };
        let majority = (*replied & !LEADER).count_ones() as usize >= quorum;
        if !majority || *replied & LEADER == 0 {
            return;
        }
        let before = self.prefixes.get(&vote).cloned().unwrap_or_default();
        for (slot, value) in before.into_iter().chain([(vote.slot, vote.value)]) {
            self.commit((vote.formation, slot), vote.view, value);
        }
    }

    fn commit(&mut self, place: (Formation, Slot), view: View, value: Value) {
        let (_, known) = *self.committed.entry(place).or_insert((view, value));
        if known != value {
            let how = format!("two values are committed in slot {}", place.1);
            self.fail("Linearizability", how);
        }
        self.agree(place);
    }

    /// A replica's sync point covers a slot that holds `value`.
    pub(crate) fn sync(&mut self, formation: Formation, slot: Slot, value: Value) {
        let place = (formation, slot);
        let known = *self.synced.entry(place).or_insert(value);
        if known != value {
            let how = format!("two values are synchronised in slot {slot}");
            self.fail("SyncSafety", how);
        }
        self.agree(place);
    }

    fn agree(&mut self, place: (Formation, Slot)) {
        let (committed, synced) = (self.committed.get(&place), self.synced.get(&place));
        if let (Some((_, committed)), Some(synced)) = (committed, synced)
            && committed != synced
        {
            let how = format!("slot {} is synchronised, not as committed", place.1);
            self.fail("SyncSafety", how);
        }
    }

    /// A client was told that its operation took effect.
    pub(crate) fn answer(&mut self, formation: Formation, slot: Slot) {
        if !self.committed.contains_key(&(formation, slot)) {
            let how = format!("a client was answered for slot {slot}, which is not committed");
            self.fail("Answers", how);
        }
    }

    /// A replica has executed this up to its sync point.
    pub(crate) fn execute(&mut self, executed: &[u8]) {
        let common = executed.len().min(self.executed.len());
        if executed[..common] != self.executed[..common] {
            let how = format!("{executed:?} and {:?} were executed", self.executed);
            self.fail("SameExecution", how);
        } else if executed.len() > common {
            self.executed = executed.to_vec();
        }
    }

    /// A life of a replica leads a view; `holds` answers what its log holds, if it is there
    /// to be looked at.
    pub(crate) fn lead(
        &mut self,
        formation: Formation,
        view: View,
        who: (u8, u64),
        len: Slot,
        holds: impl Fn(Slot) -> Option<Value>,
    ) {
        let leader = *self.leaders.entry((formation, view)).or_insert(who);
        if leader != who {
            self.fail("OneLeader", format!("{leader:?} and {who:?} lead {view}"));
        }
        let before = self
            .committed
            .iter()
            .filter(|((f, _), (v, _))| *f == formation && *v <= view);
        let lost = before
            .filter(|((_, slot), (_, value))| {
                *slot > len || holds(*slot).is_some_and(|v| v != *value)
            })
            .map(|((_, slot), _)| *slot)
            .next();
        if let Some(slot) = lost {
            let how = format!("the leader of view {view} lacks what is committed in slot {slot}");
            self.fail("LeaderCompleteness", how);
        }
    }
}
