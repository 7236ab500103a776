//! Operations longer than a datagram: sent in pieces, each an item of a request.
//!
//! One operation at a time; others wait their turn, and shorter ones pass. The pieces under
//! way are limited by a window, which grows with each piece that arrives and falls back when
//! one is overdue, as TCP's does (RFC 5681), so that neither the network nor other clients
//! suffer. What came through is known from the replies: a majority has the piece, and its
//! leader says where the first missing one lies. So a lost piece is sent again alone, and
//! pieces that the group forgot (it had no room left for an idle client) are noticed.
//!
//! An operation is overdue when nothing of it has come through for as long as any operation
//! may take: what is long may take longer.

use alloc::collections::{BTreeSet, VecDeque};
use alloc::vec;
use alloc::vec::Vec;

use stateplane_base::Time;
use stateplane_wire::group::{Batch, Formation, Piece, Slot, View};

use super::Client;
use crate::Mark;

/// The window at first, and after a loss.
const FIRST_WINDOW: usize = 8;
/// So many later pieces overtake one that is lost (RFC 5681, section 3.2).
const OVERTAKEN: i64 = 3;

/// The operations longer than a datagram.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Uploads {
    current: Option<Upload>,
    waiting: VecDeque<u64>,
    /// When a piece of any came through last.
    progress: Time,
}

/// An operation whose pieces are under way.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Upload {
    id: u64,
    /// Which pieces the group has.
    kept: Vec<bool>,
    /// It has all before this one.
    first: usize,
    /// How many it has, and how many it had at most.
    count: usize,
    best: usize,
    flying: BTreeSet<usize>,
    /// All before this one were sent.
    next: usize,
    window: usize,
    /// The newest place in the log at which we know what is missing.
    newest: Option<(Formation, View, Slot)>,
    /// The missing piece that others overtake, and how many did.
    overtaken: (usize, i64),
}

impl Upload {
    fn new(id: u64, pieces: usize) -> Self {
        Self {
            id,
            kept: vec![false; pieces],
            first: 0,
            count: 0,
            best: 0,
            flying: BTreeSet::new(),
            next: 0,
            window: FIRST_WINDOW,
            newest: None,
            overtaken: (0, 0),
        }
    }

    fn keep(&mut self, piece: usize) {
        self.flying.remove(&piece);
        if let Some(kept) = self.kept.get_mut(piece).filter(|kept| !**kept) {
            *kept = true;
            self.count += 1;
        }
    }

    /// Takes note of what a leader said at some place of the log; true if pieces are gone.
    fn learn(&mut self, at: (Formation, View, Slot), missing: usize) -> bool {
        let later = |(formation, view, slot)| formation != at.0 || (view, slot) < (at.1, at.2);
        if !self.newest.is_none_or(later) {
            return false;
        }
        self.newest = Some(at);
        let gone = self.kept.get(missing).is_some_and(|kept| *kept);
        if gone {
            self.kept[missing..].fill(false);
            self.count = self.kept.iter().filter(|kept| **kept).count();
            self.next = missing;
        }
        (self.first..missing.min(self.kept.len())).for_each(|piece| self.keep(piece));
        self.first = missing;
        gone
    }

    /// The next piece to send, if the window allows for it.
    fn take_next(&mut self) -> Option<usize> {
        let known = |piece: usize| self.kept[piece] || self.flying.contains(&piece);
        let next = (self.next..self.kept.len()).find(|piece| !known(*piece));
        self.next = next.unwrap_or(self.kept.len());
        let next = next.filter(|_| self.flying.len() < self.window)?;
        self.next = next + 1;
        self.flying.insert(next);
        Some(next)
    }

    /// The missing piece if enough others have overtaken it.
    fn is_overtaken(&mut self, missing: usize, by: usize) -> bool {
        if self.overtaken.0 != missing {
            self.overtaken = (missing, 0);
        }
        if by <= missing || !self.flying.contains(&missing) {
            return false;
        }
        self.overtaken.1 += 1;
        let lost = self.overtaken.1 == OVERTAKEN;
        if lost {
            // What was sent before it is sent again says nothing of it.
            self.overtaken.1 = -i64::try_from(self.flying.len()).unwrap_or(i64::MAX);
        }
        lost
    }
}

impl Client {
    /// Whether this one travels in pieces.
    pub(super) fn in_pieces(&self, id: u64) -> bool {
        let whole = self.config.limits.whole;
        self.pending.get(&id).is_some_and(|p| p.op.len() > whole)
    }

    /// A new operation that travels in pieces.
    pub(super) fn upload(&mut self, now: Time, id: u64) {
        self.uploads.waiting.push_back(id);
        self.next_upload(now);
    }

    /// Begins the next one, if none is under way.
    pub(super) fn next_upload(&mut self, now: Time) {
        while self.uploads.current.is_none() {
            let Some(id) = self.uploads.waiting.pop_front() else {
                return;
            };
            if let Some(pending) = self.pending.get(&id) {
                let pieces = pending.op.len().div_ceil(self.config.limits.piece);
                self.uploads.current = Some(Upload::new(id, pieces));
                self.advance(now, id);
                self.send_pieces();
            }
        }
    }

    /// It has ended.
    pub(super) fn end_upload(&mut self, now: Time, id: u64) {
        if self.uploads.current.take_if(|u| u.id == id).is_some() {
            self.next_upload(now);
        }
    }

    /// Since when nothing was heard of it: one that waits its turn is not forgotten while the
    /// one before it gets on.
    pub(super) fn waits_since(&self, id: u64) -> Time {
        let submitted = self.pending.get(&id).map_or(Time::ZERO, |p| p.submitted);
        match self.in_pieces(id) {
            true => submitted.max(self.uploads.progress),
            false => submitted,
        }
    }

    /// Something of a long operation or result came through.
    pub(super) fn advance(&mut self, now: Time, id: u64) {
        let patience = self.patience(1);
        if let Some(pending) = self.pending.get_mut(&id) {
            self.due.remove(&(pending.due, id));
            // It says nothing of the round trip any more.
            (pending.submitted, pending.tries) = (now, 1);
            pending.due = now + patience;
            self.due.insert((pending.due, id));
        }
    }

    /// A majority has a piece; the first missing one lies at `missing`.
    pub(super) fn on_kept(
        &mut self,
        now: Time,
        at: (Formation, View, Slot),
        id: u64,
        [offset, missing]: [u32; 2],
    ) {
        let grid = self.config.limits.piece;
        let [piece, missing] = [offset, missing].map(|at| at as usize / grid);
        let most = self.config.limits.pieces;
        let Some(upload) = self.uploads.current.as_mut().filter(|u| u.id == id) else {
            return;
        };
        upload.keep(piece);
        upload.window = (upload.window + 1).min(most);
        if upload.learn(at, missing) {
            self.marks.hit(Mark::PiecesLost);
        }
        let lost = upload.is_overtaken(missing, piece);
        let further = upload.count > upload.best;
        if further {
            upload.best = upload.count;
            self.uploads.progress = now;
            self.advance(now, id);
        }
        if lost {
            self.marks.hit(Mark::PieceResent);
            self.send_piece(id, missing);
        }
        self.send_pieces();
    }

    /// Nothing was heard for too long: what is under way counts as lost.
    pub(super) fn upload_again(&mut self, id: u64) {
        let Some(upload) = self.uploads.current.as_mut().filter(|u| u.id == id) else {
            // It was executed, and its result does not come. Or its turn has not come.
            if self.pulls.contains_key(&id) {
                self.send_piece(id, 0);
            }
            return;
        };
        upload.flying.clear();
        upload.next = 0;
        upload.window = (upload.window / 2).max(FIRST_WINDOW);
        upload.overtaken = (0, 0);
        self.marks.hit(Mark::PieceResent);
        // If all are there, any of them brings the outcome.
        let last = upload.kept.len() - 1;
        if upload.count == upload.kept.len() {
            self.send_piece(id, last);
        }
        self.send_pieces();
    }

    fn send_pieces(&mut self) {
        while let Some(upload) = self.uploads.current.as_mut() {
            let id = upload.id;
            let Some(piece) = upload.take_next() else {
                break;
            };
            self.send_piece(id, piece);
        }
    }

    fn send_piece(&mut self, id: u64, number: usize) {
        let (done_below, size) = (self.done_below(), self.config.limits.piece);
        let Some(op) = self.pending.get(&id).map(|p| &p.op) else {
            return;
        };
        let length = |len| u32::try_from(len).expect("an operation is within its limit");
        let Some(bytes) = op.chunks(size).nth(number) else {
            return;
        };
        let piece = Piece {
            whole: length(op.len()),
            offset: length(number * size),
            bytes,
        };
        let mut batch = Batch::default();
        let fits = batch.push_piece(id, piece);
        assert!(fits, "a piece fits an empty batch");
        self.request(done_below, batch);
    }

    /// Asserts what must always hold.
    pub(super) fn check_uploads(&self) {
        let Some(upload) = &self.uploads.current else {
            assert!(self.uploads.waiting.is_empty(), "somebody's turn has come");
            return;
        };
        assert!(self.in_pieces(upload.id), "only long operations");
        assert!(
            upload.flying.len() <= self.config.limits.pieces.max(FIRST_WINDOW),
            "the pieces under way are bounded"
        );
        let kept = upload.kept.iter().filter(|kept| **kept).count();
        assert_eq!(kept, upload.count, "pieces are counted");
    }
}
