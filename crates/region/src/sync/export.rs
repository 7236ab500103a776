//! The sender: versions in, datagrams out.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use stateplane_base::Time;

use super::message::{
    Mark, Message, PIECE_HEAD, Piece, RUN_HEAD, Report, decode, encode_announce, encode_still,
    run_head,
};
use super::mutation::{Mutation, broken};
use super::peer::Peer;
use super::took::Took;
use super::way::Way;
use super::{At, Malformed, Timing};
use crate::memory::LINE;

/// Receivers of one region.
pub const PEERS_MAX: usize = 64;
/// Ways kept for the present version.
const WAYS_MAX: usize = 16;
/// Pieces that wait to be sent.
const QUEUE_MAX: usize = 1 << 20;
/// A way of so few pieces is sent again rather than asked about.
const FEW: usize = 4;
/// A receiver that held the others up to no avail lets them go on so many times as long.
const REST: u32 = 4;

/// Numbers of the receivers that a datagram is for.
pub type To = Arc<[u16]>;

/// One datagram's body, and whom it is for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outgoing {
    /// Receivers. More than one: multicast, where there is one.
    pub to: To,
    /// To be sealed and sent.
    pub body: Vec<u8>,
}

/// What a sender has done.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Sent {
    /// Versions taken up.
    pub versions: u64,
    /// Pieces of versions, to however many receivers each.
    pub pieces: u64,
    /// Of these, pieces that a receiver had named as missing.
    pub repairs: u64,
    /// Times that a receiver was led on from a version of its own, or from nothing.
    pub caught_up: u64,
    /// Receivers reminded because they were silent.
    pub reminders: u64,
}

/// The sender's side of one region.
#[derive(Debug)]
pub struct Export {
    region: u64,
    timing: Timing,
    /// Bytes of runs in a piece.
    room: usize,
    image: Vec<u8>,
    len: usize,
    /// The version that changed each line last.
    changed: Vec<u64>,
    took: Took,
    at: At,
    day_ns: u64,
    /// When the present version was last known to be all there is.
    current: Time,
    /// When the present version was taken up.
    since: Option<Time>,
    peers: BTreeMap<u16, Peer>,
    /// Cut into pieces: what leads from a base to the present version.
    ways: BTreeMap<u64, Arc<Way>>,
    queue: VecDeque<Job>,
    announce: BTreeSet<u16>,
    /// Receivers that have the present version and are to hear that it is still that.
    still: BTreeSet<u16>,
    /// Whether the network makes of one datagram as many as there are receivers.
    multicast: bool,
    /// Bytes that this turn may still send, and when the next begins.
    left: usize,
    next_turn: Time,
    marks: BTreeSet<Mark>,
    sent: Sent,
}

#[derive(Debug)]
struct Job {
    to: To,
    base: u64,
    index: u32,
}

impl Export {
    /// A sender of the region of this number. `datagram` bounds the bytes of a body.
    ///
    /// # Panics
    /// If a datagram could not hold a line.
    pub fn new(region: u64, timing: Timing, datagram: usize) -> Self {
        assert!(datagram >= PIECE_HEAD + RUN_HEAD + LINE, "room for a line");
        Self {
            region,
            timing,
            room: datagram - PIECE_HEAD,
            image: Vec::new(),
            len: 0,
            changed: Vec::new(),
            took: Took::default(),
            at: At::default(),
            day_ns: 0,
            current: Time::ZERO,
            since: None,
            peers: BTreeMap::new(),
            ways: BTreeMap::new(),
            queue: VecDeque::new(),
            announce: BTreeSet::new(),
            still: BTreeSet::new(),
            multicast: false,
            left: timing.burst,
            next_turn: Time::ZERO,
            marks: BTreeSet::new(),
            sent: Sent::default(),
        }
    }

    /// What is for several receivers is sent once, to all of them: it counts once, too,
    /// against [`Timing::burst`].
    pub fn send_once(&mut self) {
        self.multicast = true;
    }

    /// Whether the next version should be taken up now: an interval has passed, and the
    /// receivers have the present one or have had their time.
    pub fn is_ready(&self, now: Time) -> bool {
        let Some(since) = self.since else {
            return true;
        };
        let waits =
            |peer: &Peer| peer.has < self.at && now >= peer.rests && now < since + peer.hold;
        now >= since + self.timing.interval && !self.peers.values().any(waits)
    }

    /// Takes up a version of the region: its bytes, which it is, when it was published.
    /// One that is not newer is passed over. It counts as all there is at this moment,
    /// unless [`Export::checked`] says otherwise.
    pub fn update(&mut self, now: Time, bytes: &[u8], at: At, day_ns: u64) {
        if at <= self.at || at.version == 0 {
            return;
        }
        for peer in self.peers.values_mut().filter(|peer| peer.has < self.at) {
            if now >= peer.rests {
                peer.rests = now + peer.hold * REST;
                peer.hold = (peer.hold * 2).min(self.timing.lease);
                self.marks.insert(Mark::WentOn);
            }
        }
        self.sent.versions += 1;
        let former = self.at;
        (self.at, self.day_ns, self.since) = (at, day_ns, Some(now));
        self.current = now;
        self.compare(bytes, former.epoch == at.epoch);
        self.ways.clear();
        self.queue.clear();
        // Those that keep up share one way; the others ask for theirs.
        let keeps_up = |(number, peer): (&u16, &Peer)| (peer.has == former).then_some(*number);
        let together: Vec<u16> = self.peers.iter().filter_map(keeps_up).collect();
        if !together.is_empty() && former.version > 0 {
            let base = self.base(former);
            self.send_way(together.into(), base);
        }
    }

    /// Says when the version that was taken up was last known to be all there is: a writer
    /// that rests still says so, one that is gone does not. Receivers learn how long ago
    /// that is.
    pub fn checked(&mut self, current: Time) {
        self.current = current;
    }

    fn age_ns(&self, now: Time) -> u64 {
        u64::try_from(now.since(self.current).as_nanos()).unwrap_or(u64::MAX)
    }

    /// Which lines are other than before.
    fn compare(&mut self, bytes: &[u8], same_writer: bool) {
        let lines = bytes.len().div_ceil(LINE);
        if !same_writer || self.len != bytes.len() {
            self.len = bytes.len();
            self.image = vec![0; lines * LINE];
            self.image[..bytes.len()].copy_from_slice(bytes);
            // Zeros too: who has an older version may have something else there.
            self.changed = vec![self.at.version; lines];
            self.took.begin(self.at.version);
            return;
        }
        self.took.add(self.at.version);
        let pairs = self.image.chunks_exact_mut(LINE).zip(bytes.chunks(LINE));
        for ((mine, new), changed) in pairs.zip(&mut self.changed) {
            let mine = &mut mine[..new.len()];
            if mine != new {
                mine.copy_from_slice(new);
                *changed = self.at.version;
            }
        }
    }

    /// From where a receiver that has this can be led on; 0: from nothing.
    fn base(&self, has: At) -> u64 {
        let writer = has.epoch == self.at.epoch || broken(Mutation::EpochsAreOne);
        let known = writer && has.version <= self.at.version && self.knows_since(has.version);
        if known { has.version } else { 0 }
    }

    fn knows_since(&self, version: u64) -> bool {
        self.took.knows_since(version) || broken(Mutation::AnyVersionWasHad)
    }

    fn way(&mut self, base: u64) -> Arc<Way> {
        if let Some(way) = self.ways.get(&base) {
            return Arc::clone(way);
        }
        if self.ways.len() >= WAYS_MAX {
            self.ways.pop_first();
        }
        let way = Arc::new(self.cut(base));
        self.ways.insert(base, Arc::clone(&way));
        way
    }

    /// The lines that lead from `base` to the present version, cut.
    fn cut(&self, base: u64) -> Way {
        let zero = |line: usize| self.image[line * LINE..][..LINE].iter().all(|b| *b == 0);
        let needed = |line: &usize| {
            if base == 0 {
                !zero(*line)
            } else if broken(Mutation::NewestChangesOnly) {
                self.changed[*line] == self.at.version
            } else {
                self.changed[*line] > base
            }
        };
        Way::new((0..self.changed.len()).filter(needed), self.room)
    }

    fn send_way(&mut self, to: To, base: u64) {
        let pieces = self.way(base).pieces.len() as u32;
        self.enqueue(&to, base, 0..pieces);
    }

    fn enqueue(&mut self, to: &To, base: u64, pieces: std::ops::Range<u32>) {
        for index in pieces {
            if self.queue.len() >= QUEUE_MAX {
                return; // what is not sent is asked for again
            }
            let to = Arc::clone(to);
            self.queue.push_back(Job { to, base, index });
        }
    }

    /// A receiver's message. `from` is its number, by which [`Outgoing`] names it.
    pub fn on_message(&mut self, now: Time, from: u16, body: &[u8]) -> Result<(), Malformed> {
        match decode(body)? {
            Message::Report(report) if report.region == self.region => {
                self.on_report(now, from, &report);
            }
            Message::Farewell { region } if region == self.region => {
                self.peers.remove(&from);
                self.forget();
            }
            _ => {}
        }
        Ok(())
    }

    /// Drops what is for receivers that are not known any more.
    fn forget(&mut self) {
        let peers = &self.peers;
        self.queue
            .retain(|job| job.to.iter().any(|to| peers.contains_key(to)));
        self.announce.retain(|to| peers.contains_key(to));
        self.still.retain(|to| peers.contains_key(to));
    }

    fn on_report(&mut self, now: Time, from: u16, report: &Report) {
        if !self.peers.contains_key(&from) && self.peers.len() >= PEERS_MAX {
            return;
        }
        let hold = self.timing.hold;
        let peer = self.peers.entry(from).or_insert_with(|| Peer::new(hold));
        (peer.has, peer.heard) = (report.has, now);
        // One that has more than this, from another sender, needs nothing either.
        if report.has >= self.at {
            (peer.hold, peer.rests) = (hold, Time::ZERO);
            self.announce.remove(&from);
            // What came lately said how old it was.
            let due = peer.served.max(peer.reassured) + self.timing.lease / 4;
            let is_equal = report.has == self.at && self.at.version > 0;
            if is_equal && now >= due && !broken(Mutation::NobodyReassured) {
                self.still.insert(from);
            }
            return;
        }
        // What is under way need not be sent twice.
        let lately = now < peer.served + self.timing.patience / 2;
        if self.at.version == 0 || lately || self.queue.iter().any(|job| job.to.contains(&from)) {
            return;
        }
        let base = self.base(report.has);
        let to: To = Arc::new([from]);
        match report.collects {
            // What it collects leads on from where it is, or from before that.
            Some(c)
                if c.version == self.at.version && c.base <= base && self.knows_since(c.base) =>
            {
                let way = self.way(c.base);
                if way.number != c.way && !broken(Mutation::WaysAreOne) {
                    // Of a former life of this sender: what is left of it nobody has.
                    self.sent.caught_up += 1;
                    self.send_way(to, c.base);
                    return;
                }
                self.marks.insert(Mark::Repaired);
                let pieces = way.pieces.len() as u32;
                for (first, count) in &report.gaps {
                    let end = first.saturating_add(*count).min(pieces);
                    self.sent.repairs += u64::from(end.saturating_sub(*first));
                    self.enqueue(&to, c.base, *first..end);
                }
            }
            _ => {
                let from_nothing = base == 0;
                self.sent.caught_up += 1;
                self.marks.insert(if from_nothing {
                    Mark::FromNothing
                } else {
                    Mark::OwnWay
                });
                self.send_way(to, base);
            }
        }
    }

    /// What time brings: a new turn, receivers that have fallen silent or say nothing.
    pub fn on_time(&mut self, now: Time) {
        if now >= self.next_turn {
            self.next_turn = now + self.timing.patience / 4;
            self.left = self.timing.burst;
        }
        let before = self.peers.len();
        let lease = self.timing.lease;
        self.peers.retain(|_, peer| now < peer.heard + lease);
        if self.peers.len() < before {
            self.marks.insert(Mark::Forgotten);
            self.forget();
        }
        if self.queue.is_empty() && self.at.version > 0 {
            let silent = |(number, peer): (&u16, &Peer)| {
                (peer.has < self.at && now >= self.reminder(peer)).then_some(*number)
            };
            let silent: Vec<u16> = self.peers.iter().filter_map(silent).collect();
            silent
                .into_iter()
                .for_each(|number| self.remind(now, number));
        }
    }

    /// When a receiver that does not say it has the present version is reminded. A short
    /// way is sent again whole, once a round trip has passed; a long one is announced,
    /// soon, since the receiver must ask for it first.
    fn reminder(&self, peer: &Peer) -> Time {
        let patience = self.timing.patience;
        if self.is_short(peer) {
            peer.served + patience * 5 / 2
        } else {
            peer.served.max(peer.reminded) + patience
        }
    }

    fn is_short(&self, peer: &Peer) -> bool {
        let way = self.ways.get(&self.base(peer.has));
        way.is_some_and(|way| way.pieces.len() <= FEW)
    }

    /// Everything to a receiver was lost, or its report was.
    fn remind(&mut self, now: Time, number: u16) {
        let Some(peer) = self.peers.get_mut(&number) else {
            return;
        };
        peer.reminded = now;
        self.sent.reminders += 1;
        let peer = &self.peers[&number];
        if self.is_short(peer) {
            self.send_way(Arc::new([number]), self.base(peer.has));
        } else {
            self.announce.insert(number);
        }
    }

    /// The next datagram, if this turn may still send one.
    pub fn poll(&mut self, now: Time) -> Option<Outgoing> {
        if self.left == 0 {
            return None;
        }
        let mut body = Vec::new();
        let to: To = if let Some(number) = self.announce.pop_first() {
            encode_announce(self.region, self.at, &mut body);
            Arc::new([number])
        } else if let Some(number) = self.still.pop_first() {
            encode_still(self.region, self.at, self.age_ns(now), &mut body);
            if let Some(peer) = self.peers.get_mut(&number) {
                peer.reassured = now;
            }
            Arc::new([number])
        } else {
            let job = self.queue.pop_front()?;
            self.write_piece(now, &job, &mut body);
            self.sent.pieces += 1;
            for number in job.to.iter() {
                if let Some(peer) = self.peers.get_mut(number) {
                    peer.served = now;
                }
            }
            job.to
        };
        let times = if self.multicast { 1 } else { to.len() };
        self.left = self.left.saturating_sub(body.len() * times);
        Some(Outgoing { to, body })
    }

    fn write_piece(&mut self, now: Time, job: &Job, out: &mut Vec<u8>) {
        let way = self.way(job.base);
        let head = Piece {
            region: self.region,
            at: self.at,
            base: job.base,
            day_ns: self.day_ns,
            age_ns: self.age_ns(now),
            len: self.len as u64,
            index: job.index,
            count: way.pieces.len() as u32,
            way: way.number,
            runs: &[],
        };
        head.encode_head(out);
        for (first, count) in &way.pieces[job.index as usize] {
            let (first, count) = (*first as usize, *count as usize);
            out.extend_from_slice(&run_head(first, count).to_be_bytes());
            out.extend_from_slice(&self.image[first * LINE..(first + count) * LINE]);
        }
    }

    /// When [`Export::on_time`] should be called next, at the latest.
    pub fn next_timer(&self) -> Time {
        let waiting = self.announce.len() + self.still.len() + self.queue.len();
        if waiting > 0 {
            return self.next_turn;
        }
        let due = self.peers.values().map(|peer| {
            let forget = peer.heard + self.timing.lease;
            // Before there is a version nobody is reminded of any.
            if peer.has >= self.at || self.at.version == 0 {
                forget
            } else {
                forget.min(self.reminder(peer))
            }
        });
        due.min().unwrap_or(Time::MAX)
    }

    /// The version that is being sent.
    pub fn at(&self) -> At {
        self.at
    }

    /// What was done so far.
    pub fn sent(&self) -> Sent {
        self.sent
    }

    /// Receivers, and what they said they have.
    pub fn peers(&self) -> impl Iterator<Item = (u16, At)> {
        self.peers.iter().map(|(number, peer)| (*number, peer.has))
    }

    /// Rare branches that were taken.
    pub fn marks(&self) -> impl Iterator<Item = Mark> {
        self.marks.iter().copied()
    }
}
