//! One slot's operations: each executed once, and what its client is told.

use alloc::vec::Vec;

use stateplane_base::{ClientId, LogTime};
use stateplane_state::Application;
use stateplane_wire::group::{Entry, OpResult, Outcome, Piece, Request, Results, Slot};

use super::Replica;
use super::table::{Admission, Assembled, ClientTable, Verdict};
use crate::{GroupConfig, Mark, Marks, Mutation};

/// What executing a slot touches.
struct Execution<'a, A> {
    app: &'a mut A,
    table: &'a mut ClientTable,
    marks: &'a mut Marks,
    config: &'a GroupConfig,
    /// Empty: where results are written first.
    scratch: &'a mut Vec<u8>,
    slot: Slot,
    at: LogTime,
}

impl<A: Application> Replica<A> {
    /// Executes one slot and hands out its operations' results.
    fn execute_next(&mut self, each: impl FnMut(OpResult)) {
        let slot = self.executed + 1;
        self.executed = slot;
        let entry = self
            .log
            .get(slot)
            .expect("only slots in the log are executed");
        let Entry::Value { time, request } = entry else {
            return;
        };
        // A sequencer's clock may be behind its predecessor's; the log's is not.
        self.log_time = self.log_time.max(*time);
        let mut execution = Execution {
            app: &mut self.app,
            table: &mut self.table,
            marks: &mut self.marks,
            config: &self.config,
            scratch: &mut self.scratch,
            slot,
            at: self.log_time,
        };
        execution.admit(request);
        let operations = request.batch.iter();
        operations
            .filter_map(|(id, piece)| execution.one(request.client, id, &piece))
            .for_each(each);
    }

    /// Executes one slot, to answer it.
    pub(super) fn execute_for_reply(&mut self) -> Results {
        let operations = match self.log.get(self.executed + 1) {
            Some(Entry::Value { request, .. }) => request.batch.len(),
            _ => 0,
        };
        let mut results = Results::with_capacity(operations);
        self.execute_next(|result| results.push(result));
        results
    }

    /// Executes up to `slot`.
    pub(super) fn execute_to(&mut self, slot: Slot) {
        while self.executed < slot {
            self.execute_next(drop);
        }
    }
}

impl<A: Application> Execution<'_, A> {
    fn admit(&mut self, request: &Request) {
        let (done_below, limits) = (request.done_below, &self.config.limits);
        match self
            .table
            .admit(request.client, done_below, self.at, limits)
        {
            Admission::Known | Admission::Added => {}
            Admission::AddedByEviction => self.marks.hit(Mark::TableEvicted),
            Admission::Refused => self.marks.hit(Mark::TableRefused),
        }
    }

    /// An operation or a piece of one.
    fn one(&mut self, client: ClientId, id: u64, piece: &Piece<'_>) -> Option<OpResult> {
        match self.table.look(client, id, &self.config.limits) {
            Verdict::Execute if piece.is_all() => Some(self.execute(client, id, piece.bytes)),
            Verdict::Execute => self.assemble(client, id, piece),
            Verdict::Cached(known) => {
                self.marks.hit(Mark::TableReply);
                Some(known.told(id, self.slot))
            }
            Verdict::Forgotten => {
                self.marks.hit(Mark::TableForgotten);
                None
            }
            Verdict::Refused => {
                self.marks.hit(Mark::TableRefused);
                let outcome = Outcome::Refused;
                Some(OpResult { id, outcome })
            }
        }
    }

    fn assemble(&mut self, client: ClientId, id: u64, piece: &Piece<'_>) -> Option<OpResult> {
        let limits = &self.config.limits;
        let early = self.config.broken(Mutation::IncompleteExecutes);
        let assembled = self
            .table
            .assemble(client, id, piece, self.at, limits, early);
        let outcome = match assembled {
            Assembled::Whole(op) => {
                self.marks.hit(Mark::PiecesComplete);
                return Some(self.execute(client, id, &op));
            }
            Assembled::Kept { missing, again } => {
                if again {
                    self.marks.hit(Mark::PieceRepeated);
                }
                let offset = piece.offset;
                Outcome::Kept { offset, missing }
            }
            Assembled::Superseded => {
                self.marks.hit(Mark::PieceSuperseded);
                return None;
            }
            Assembled::Refused => {
                self.marks.hit(Mark::PieceRefused);
                Outcome::Refused
            }
        };
        Some(OpResult { id, outcome })
    }

    fn execute(&mut self, client: ClientId, id: u64, op: &[u8]) -> OpResult {
        let limits = &self.config.limits;
        self.app.execute(self.at, op, self.scratch);
        let (len, result) = (self.scratch.len(), &self.scratch[..]);
        let mut outcome = Outcome::Done {
            earlier: None,
            result: result.into(),
        };
        if !self.config.broken(Mutation::NoClientTable) {
            self.table.store(client, id, self.slot, result, limits);
            if len > limits.whole
                && let Some(known) = self.table.cached(client, id)
            {
                self.marks.hit(Mark::LongResult);
                outcome = known.told(id, self.slot).outcome;
            }
        }
        self.scratch.clear();
        OpResult { id, outcome }
    }
}
