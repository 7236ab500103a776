//! Reads without a slot: what the state is, and how far the log reaches. Why a
//! client may trust f+1 such answers is said in `client::read`.

use alloc::vec::Vec;

use stateplane_base::{ClientId, Time};
use stateplane_state::Application;
use stateplane_wire::group::{Address, Body, OpResult, Outcome, Read, ReadReply, Results};

use super::{Replica, Status};
use crate::{Mark, Mutation, Peer};

impl<A: Application> Replica<A> {
    /// The leader answers from its state; a follower says that it follows, and how far.
    pub(super) fn on_read(&mut self, now: Time, at: Address, m: &Read) {
        // While members change, f+1 of the new ones do not speak for the former.
        if self.status != Status::Normal || !self.decides() {
            return;
        }
        if !self.is_leader() {
            return self.read_reply(at, m, Results::new());
        }
        // A leader that orders executes what is final, and at first does not know what of
        // its log is: its state may lack what its predecessor answered.
        let inherited = self.start.as_ref().map_or(0, |start| start.summary.len);
        if self.executed < inherited && !self.config.broken(Mutation::ReadAtTakeover) {
            return self.marks.hit(Mark::ReadEarly);
        }
        let clock = self.clock(now).unwrap_or(self.log_time);
        let room = self.config.limits.reply_bytes;
        let (mut part, mut bytes) = (Results::new(), 0);
        for (id, op) in m.batch.iter().filter(|(_, op)| op.is_all()) {
            let mut reply = core::mem::take(&mut self.scratch);
            let current = self.app.read(clock, op.bytes, &mut reply);
            let outcome = if !current {
                self.marks.hit(Mark::ReadOutdated);
                Outcome::Refused
            } else if reply.len() > room {
                self.long_answer(m.client, id, core::mem::take(&mut reply))
            } else {
                Outcome::Done {
                    earlier: None,
                    result: reply[..].into(),
                }
            };
            reply.clear();
            self.scratch = reply;
            let result = OpResult { id, outcome };
            if bytes + result.size() > room && !part.is_empty() {
                self.read_reply(at, m, core::mem::take(&mut part));
                bytes = 0;
            }
            bytes += result.size();
            part.push(result);
        }
        self.read_reply(at, m, part);
    }

    /// An answer that does not fit a datagram, to be asked for part by part.
    fn long_answer(&mut self, client: ClientId, id: u64, reply: Vec<u8>) -> Outcome {
        let (slot, most) = (self.executed, self.config.limits.answer_bytes);
        match self.answers.keep(client, id, slot, reply, most) {
            Some(whole) => {
                self.marks.hit(Mark::ReadLong);
                let earlier = None;
                Outcome::Long { earlier, whole }
            }
            None => {
                self.marks.hit(Mark::ReadTooLong);
                Outcome::Refused
            }
        }
    }

    fn read_reply(&mut self, at: Address, m: &Read, results: Results) {
        // A leader that orders by itself executes what is final, and its log goes on.
        let slot = if self.is_leader() {
            self.executed
        } else {
            self.log.len()
        };
        let reply = ReadReply {
            view: self.view,
            session: self.session,
            slot,
            replica: self.me,
            quorum: u8::try_from(self.members.quorum()).expect("a group is small"),
            client: m.client,
            serial: m.serial,
            results,
        };
        self.send(Peer::Client(m.client, at), Body::ReadReply(reply));
    }
}
