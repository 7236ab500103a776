//! The client: many outstanding operations, each done when a majority of the
//! replicas, the leader among them, put its request into the same slot of the
//! same view (paper, section 5.2). What only reads can do without a slot, see
//! [`read`]; operations and results longer than a datagram, see [`upload`] and [`pull`].
//!
//! An operation keeps its request id through all repetitions, so the replicas'
//! client table executes it once. One that got no majority by its deadline ends
//! as [`Unknown`]: it may or may not have been executed, now or later.

mod deadlines;
mod pull;
mod read;
mod tallies;
mod tally;
#[cfg(test)]
mod tests;
mod upload;

use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;
use core::time::Duration;

use stateplane_base::{ClientId, ReplicaId, Ring, Time};
use stateplane_wire::group::{
    Address, Batch, Body, Formation, Message, Request, Slot, View, leader_of,
};

use crate::round_trip::RoundTrip;
use crate::{Effect, GroupConfig, Mark, Marks, Peer};
use deadlines::Deadlines;
use pull::Pull;
use read::Asking;
use tallies::Tallies;
use upload::Uploads;

/// Batches kept for later requests at most.
const SPARE_BATCHES: usize = 64;

/// An operation of this client.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RequestId(pub u64);

/// The client takes no more operations now.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum Busy {
    /// Too many are outstanding.
    #[error("too many operations outstanding")]
    Outstanding,
    /// This one will never fit.
    #[error("operation too large")]
    TooLarge,
}

/// The deadline passed without a majority.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
#[error("the operation's outcome is unknown")]
pub struct Unknown;

/// An operation took effect.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Committed {
    /// The application's answer.
    pub reply: Vec<u8>,
    /// Where.
    pub place: Place,
}

/// The place of an operation in the one order of its group.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Place {
    /// The life of the group, which numbers its slots anew.
    pub formation: Formation,
    /// The view in which a majority answered for it; it may have been executed before.
    pub view: View,
    /// The slot it was executed in. Operations that share a slot were executed in the order
    /// of their ids.
    pub slot: Slot,
    /// It took no slot, but read the state after `slot`.
    pub read: bool,
}

/// What a client tells about itself.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct ClientStatus {
    /// Operations without an outcome.
    pub outstanding: usize,
    /// Present patience with a request.
    pub patience: Duration,
    /// The newest view seen in a reply.
    pub view: View,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Pending {
    op: Vec<u8>,
    submitted: Time,
    due: Time,
    tries: u32,
    way: Way,
}

/// How an operation gets its answer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Way {
    /// From the log.
    Slot,
    /// From the replicas' present state.
    Read,
}

/// The client core.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Client {
    config: GroupConfig,
    id: ClientId,
    next: u64,
    pending: Ring<Pending>,
    /// Submitted, not yet sent.
    fresh: Vec<u64>,
    /// Empty, in memory that was used before.
    spare: Vec<Batch>,
    /// The same, without a slot.
    fresh_reads: Vec<u64>,
    /// Reads under way, by serial.
    askings: BTreeMap<u64, Asking>,
    /// The last serial.
    asked: u64,
    due: Deadlines,
    uploads: Uploads,
    /// Long results on their way.
    pulls: BTreeMap<u64, Pull>,
    /// When the group is told that we have a long result, if nothing else tells it before.
    release: Option<Time>,
    tallies: Tallies,
    round_trip: RoundTrip,
    view: View,
    /// VR: whom we take for the leader.
    leader: ReplicaId,
    /// When an answer came last.
    heard: Time,
    /// The sequencer in force, as far as we know.
    sequencer: u8,
    /// Perhaps another orders: nothing was heard for as long as a try.
    unheard: bool,
    jitter: u64,
    effects: VecDeque<Effect>,
    done: VecDeque<(RequestId, Result<Committed, Unknown>)>,
    marks: Marks,
}

impl Client {
    /// A client that just started: `id` is never reused, `seed` decorrelates
    /// the retries of different clients.
    pub fn new(config: GroupConfig, id: ClientId, seed: u64) -> Self {
        Self {
            config,
            id,
            next: 1,
            pending: Ring::default(),
            fresh: Vec::new(),
            spare: Vec::new(),
            fresh_reads: Vec::new(),
            askings: BTreeMap::new(),
            asked: 0,
            due: Deadlines::default(),
            uploads: Uploads::default(),
            pulls: BTreeMap::new(),
            release: None,
            tallies: Tallies::default(),
            round_trip: RoundTrip::default(),
            view: 0,
            leader: ReplicaId(0),
            heard: Time::ZERO,
            sequencer: 0,
            unheard: false,
            jitter: seed,
            effects: VecDeque::new(),
            done: VecDeque::new(),
            marks: Marks::default(),
        }
    }

    /// Takes an operation. Those taken before the next [`Self::poll_effect`]
    /// share datagrams.
    pub fn submit(&mut self, now: Time, op: Vec<u8>) -> Result<RequestId, Busy> {
        let id = self.take(now, op, Way::Slot)?;
        match self.in_pieces(id.0) {
            true => self.upload(now, id.0),
            false => self.fresh.push(id.0),
        }
        Ok(id)
    }

    fn take(&mut self, now: Time, op: Vec<u8>, way: Way) -> Result<RequestId, Busy> {
        if op.len() > self.config.limits.operation {
            return Err(Busy::TooLarge);
        }
        if self.room() == 0 {
            return Err(Busy::Outstanding);
        }
        let id = self.next;
        self.next += 1;
        let due = now + self.patience(0);
        self.pending.insert(
            id,
            Pending {
                op,
                submitted: now,
                due,
                tries: 0,
                way,
            },
        );
        self.due.insert((due, id));
        Ok(RequestId(id))
    }

    /// How many more operations it takes now.
    pub fn room(&self) -> u64 {
        // The replicas cache results for a window of ids above the oldest.
        let ids = self.next.saturating_sub(self.done_below());
        let taken = ids.max(self.done.len() as u64);
        self.config.limits.window.saturating_sub(taken)
    }

    fn done_below(&self) -> u64 {
        self.pending.first().unwrap_or(self.next)
    }

    /// Patience with the given number of tries behind us: three smoothed round
    /// trips, doubled with each try, a little scattered.
    fn patience(&mut self, tries: u32) -> Duration {
        let timing = &self.config.timing;
        let base = self.round_trip.late().map_or(timing.retry, |late| {
            late.clamp(timing.retry / 4, timing.retry_max)
        });
        let span = base.saturating_mul(1 << tries.min(6)).min(timing.retry_max);
        self.jitter = self
            .jitter
            .wrapping_mul(0x5851_f42d_4c95_7f2d)
            .wrapping_add(0x1405_7b7e_f767_814f);
        let eighths = u32::try_from(self.jitter >> 62).expect("two bits");
        span + span / 16 * eighths
    }

    /// Sends the given operations, as many per datagram as fit.
    fn send(&mut self, ids: &[u64]) {
        if ids.is_empty() {
            return;
        }
        let done_below = self.done_below();
        let mut batch = self.blank();
        for id in ids {
            let Some(pending) = self.pending.get(id) else {
                continue;
            };
            let size = batch.size() + pending.op.len() + Batch::OVERHEAD;
            if !batch.is_empty() && size > self.config.limits.batch_bytes
                || !batch.push(*id, &pending.op)
            {
                let next = self.blank();
                self.request(done_below, core::mem::replace(&mut batch, next));
                let op = self.pending.get(id).map(|p| &p.op[..]);
                let fits = batch.push(*id, op.unwrap_or_default());
                assert!(fits, "an operation within limits fits an empty batch");
            }
        }
        if !batch.is_empty() {
            self.request(done_below, batch);
        }
    }

    /// An empty batch, in memory that was used before if there is some.
    fn blank(&mut self) -> Batch {
        self.spare.pop().unwrap_or_default()
    }

    /// Takes back a message that was sent, so that its memory serves again. A driver that
    /// does not give it back pays with an allocation a request.
    pub fn take_back(&mut self, msg: Message) {
        if let Body::Request(Request { mut batch, .. }) = msg.body
            && self.spare.len() < SPARE_BATCHES
        {
            batch.clear();
            self.spare.push(batch);
        }
    }

    fn request(&mut self, done_below: u64, batch: Batch) {
        self.release = None;
        let request = Request {
            client: self.id,
            done_below,
            reply_to: Address::default(),
            batch,
        };
        let msg = Message {
            formation: 0,
            body: Body::Request(request),
        };
        let (count, in_force) = match self.config.leader_orders() {
            true => (self.config.seats, self.leader.0),
            false => (self.config.sequencers, self.sequencer),
        };
        let peer = |number| match self.config.leader_orders() {
            true => Peer::Replica(ReplicaId(number)),
            false => Peer::Sequencer(number),
        };
        if self.unheard {
            // Only the one in force takes it; the others drop it.
            for other in (0..count).filter(|number| *number != in_force) {
                let (to, msg) = (peer(other), msg.clone());
                self.effects.push_back(Effect::Send { to, msg });
            }
        }
        let to = peer(in_force);
        self.effects.push_back(Effect::Send { to, msg });
    }

    /// Handles a reply.
    pub fn on_message(&mut self, now: Time, from: Peer, msg: Message) {
        let Peer::Replica(ReplicaId(replica)) = from else {
            return;
        };
        let ours = |said: u8, client: ClientId, quorum: u8| {
            said == replica && client == self.id && quorum > 0
        };
        match msg.body {
            Body::Reply(m) if ours(m.replica, m.client, m.quorum) => {
                // Without sequencers there is none to be named.
                let known = m.sequencer < self.config.sequencers || self.config.leader_orders();
                if m.view >= self.view && known {
                    (self.view, self.sequencer) = (m.view, m.sequencer);
                    self.leader = ReplicaId(leader_of(m.view));
                    self.heard = now;
                }
                self.count(now, msg.formation, m);
            }
            Body::ResultPart(m) if m.client == self.id => self.on_part(now, m),
            Body::ReadReply(m) if ours(m.replica, m.client, m.quorum) => {
                self.on_read_reply(now, msg.formation, m);
            }
            _ => {}
        }
    }

    fn finish(&mut self, now: Time, id: u64, outcome: Committed) {
        let Some(pending) = self.pending.remove(&id) else {
            return;
        };
        self.due.remove(&(pending.due, id));
        if pending.tries == 0 {
            // Karn: a repeated request's reply measures nothing.
            self.round_trip.measured(now.since(pending.submitted));
        }
        self.done.push_back((RequestId(id), Ok(outcome)));
        self.end_pull(now, id);
        self.end_upload(now, id);
    }

    fn give_up(&mut self, now: Time, id: u64) {
        self.pending.remove(&id);
        self.done.push_back((RequestId(id), Err(Unknown)));
        self.marks.hit(Mark::UnknownOutcome);
        self.end_pull(now, id);
        self.end_upload(now, id);
    }

    /// When [`Self::on_timer`] wants to be called.
    pub fn next_timer(&self) -> Option<Time> {
        let due = self.due.first().map(|(at, _)| *at);
        due.into_iter().chain(self.release).min()
    }

    /// For the model checker: the patience with all that is pending ends at `now`, which is
    /// the time of everything else, too.
    #[cfg(feature = "model")]
    pub fn fire(&mut self, now: Time) {
        self.due.fire(now);
        self.pending.iter_mut().for_each(|(_, p)| p.due = now);
        self.on_timer(now);
    }

    /// Repeats what is due and gives up what is overdue.
    pub fn on_timer(&mut self, now: Time) {
        let (mut again, mut reads, mut pieces) = (Vec::new(), Vec::new(), Vec::new());
        while let Some(&(at, id)) = self.due.first().filter(|(at, _)| *at <= now) {
            self.due.remove(&(at, id));
            let overdue = self.waits_since(id) + self.config.timing.deadline;
            if overdue <= now {
                self.give_up(now, id);
                continue;
            }
            let pending = self.pending.get_mut(&id).expect("what is due is pending");
            pending.tries = pending.tries.saturating_add(1);
            let tries = pending.tries;
            let due = (now + self.patience(tries)).min(overdue);
            self.pending.get_mut(&id).expect("still there").due = due;
            self.due.insert((due, id));
            if self.pulls.contains_key(&id) && !self.pull_again(now, id) {
                continue;
            }
            if self.reads_on(id) {
                reads.push(id);
            } else if self.in_pieces(id) {
                pieces.push(id);
            } else {
                again.push(id);
                self.marks.hit(Mark::Retransmitted);
            }
        }
        if !again.is_empty() || !pieces.is_empty() {
            let silent = now.since(self.heard) >= self.config.timing.retry;
            self.unheard = silent;
            if silent && self.config.leader_orders() {
                self.marks.hit(Mark::LeaderSought);
            }
        }
        #[cfg(feature = "mutations")]
        if self.config.broken(crate::Mutation::RetryRenamed) {
            self.send_renamed(&again);
        }
        self.send(&again);
        pieces.into_iter().for_each(|id| self.upload_again(id));
        self.unheard = false;
        self.ask(&reads);
        self.release(now);
    }

    /// [`crate::Mutation::RetryRenamed`]: the same operations, as if they were others.
    #[cfg(feature = "mutations")]
    fn send_renamed(&mut self, ids: &[u64]) {
        let ops: Vec<_> = ids
            .iter()
            .map(|id| pending_op(&self.pending, *id))
            .collect();
        for op in ops {
            let mut batch = Batch::default();
            let done_below = self.done_below();
            if self.next - done_below < self.config.limits.window && batch.push(self.next, &op) {
                self.next += 1;
                self.request(done_below, batch);
            }
        }
    }

    /// The next thing to do.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        if !self.fresh.is_empty() {
            let mut fresh = core::mem::take(&mut self.fresh);
            self.send(&fresh);
            fresh.clear();
            self.fresh = fresh;
        }
        if !self.fresh_reads.is_empty() {
            let mut fresh = core::mem::take(&mut self.fresh_reads);
            self.ask(&fresh);
            fresh.clear();
            self.fresh_reads = fresh;
        }
        self.effects.pop_front()
    }

    /// The next outcome.
    pub fn poll_done(&mut self) -> Option<(RequestId, Result<Committed, Unknown>)> {
        self.done.pop_front()
    }

    /// How often each rare branch was taken.
    pub const fn marks(&self) -> &Marks {
        &self.marks
    }

    /// A view of its state.
    pub fn inspect(&self) -> ClientStatus {
        let patience = self.round_trip.late().unwrap_or(self.config.timing.retry);
        ClientStatus {
            outstanding: self.pending.len(),
            patience,
            view: self.view,
        }
    }

    /// Asserts what must always hold.
    ///
    /// # Panics
    /// When it does not.
    pub fn check(&self) {
        assert_eq!(
            self.pending.len(),
            self.due.len(),
            "every pending operation has one deadline"
        );
        assert!(
            self.next - self.done_below() <= self.config.limits.window,
            "ids stay within the window"
        );
        assert!(
            self.tallies.len() <= self.config.limits.window as usize * 2,
            "tallies are bounded"
        );
        assert!(self.tallies.is_sound(), "every tally can be found");
        assert!(
            self.askings.len() <= self.config.limits.window as usize,
            "reads under way are bounded"
        );
        self.check_uploads();
        self.check_pulls();
    }
}

#[cfg(feature = "mutations")]
fn pending_op(pending: &Ring<Pending>, id: u64) -> Vec<u8> {
    pending.get(&id).map(|p| p.op.clone()).unwrap_or_default()
}
