//! Long results, part by part: those in the client table, and a leader's long answers to reads
//! without a slot, of which the last few are kept. Whose parts a client may put together is
//! said in `client::pull`; a replica says of each which result it is a part of, and no more.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use stateplane_base::ClientId;
use stateplane_state::Application;
use stateplane_wire::group::{Address, Body, ResultPart, ResultRequest, Slot, Whole};

use super::Replica;
use crate::{Mark, Peer};

/// A long answer to a read.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Answer {
    client: ClientId,
    id: u64,
    /// The state after this slot was read.
    slot: Slot,
    whole: Whole,
    bytes: Vec<u8>,
}

/// The last long answers to reads.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Answers {
    /// Oldest first.
    kept: VecDeque<Answer>,
    bytes: usize,
}

impl Answers {
    /// Keeps an answer within `most` bytes in place of older ones; what it is known by.
    pub(super) fn keep(
        &mut self,
        client: ClientId,
        id: u64,
        slot: Slot,
        bytes: Vec<u8>,
        most: usize,
    ) -> Option<Whole> {
        if bytes.len() > most {
            return None;
        }
        // Asked again, it is answered anew.
        if let Some(at) = self
            .kept
            .iter()
            .position(|a| (a.client, a.id) == (client, id))
        {
            let gone = self.kept.remove(at);
            self.bytes -= gone.map_or(0, |a| a.bytes.len());
        }
        while self.bytes + bytes.len() > most {
            let gone = self.kept.pop_front();
            self.bytes -= gone.map_or(0, |a| a.bytes.len());
        }
        self.bytes += bytes.len();
        let whole = Whole::of(&bytes);
        self.kept.push_back(Answer {
            client,
            id,
            slot,
            whole,
            bytes,
        });
        Some(whole)
    }

    fn find(&self, client: ClientId, id: u64) -> Option<&Answer> {
        let mut newest = self.kept.iter().rev();
        newest.find(|a| (a.client, a.id) == (client, id))
    }

    /// Memory it takes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl<A: Application> Replica<A> {
    /// Parts of a long result, if we have it.
    pub(super) fn on_result_request(&mut self, at: Address, m: &ResultRequest) {
        let (client, id) = (m.client, m.id);
        let executed = self.table.cached(client, id);
        let executed = executed.and_then(|k| Some((k.slot, k.whole?, k.result)));
        let read = || {
            let answer = self.answers.find(client, id)?;
            Some((answer.slot, answer.whole, &answer.bytes[..]))
        };
        let Some((slot, whole, result)) = executed.or_else(read) else {
            return self.marks.hit(Mark::PartsNotHere);
        };
        let limits = &self.config.limits;
        let rest = result.get(m.offset as usize..).unwrap_or_default();
        let asked = usize::from(m.parts).min(limits.pieces);
        let offsets = (m.offset..).step_by(limits.piece);
        let parts: Vec<_> = offsets
            .zip(rest.chunks(limits.piece))
            .take(asked)
            .map(|(offset, bytes)| ResultPart {
                client,
                id,
                slot,
                whole,
                offset,
                bytes: bytes.to_vec(),
            })
            .collect();
        for part in parts {
            self.send(Peer::Client(client, at), Body::ResultPart(part));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    #[test]
    fn newer_answers_take_the_place_of_older_ones() {
        let mut answers = Answers::default();
        let mut keep = |id, len| answers.keep(ClientId(1), id, 5, vec![id as u8; len], 100);
        assert_eq!(keep(1, 40), Some(Whole::of(&[1; 40])));
        assert_eq!(keep(2, 101), None, "longer than all may be");
        assert!(keep(3, 40).is_some() && keep(1, 50).is_some() && keep(4, 30).is_some());
        let found = |id| answers.find(ClientId(1), id).map(|a| a.bytes.len());
        assert_eq!([found(1), found(3), found(4)], [Some(50), None, Some(30)]);
        assert_eq!(answers.bytes(), 80);
    }
}
