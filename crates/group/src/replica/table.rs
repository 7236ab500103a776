//! The client table: at-most-once execution.
//!
//! Replicated with the log (each replica executes the same slots at the same
//! log times, so the tables are equal) and part of every snapshot. Per client
//! it caches the results of the ids from `done_below` on; everything below has
//! been answered. A client that would need more room is refused, and so is a
//! new client while no old one has been idle long enough to be forgotten.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::sync::Arc;

use stateplane_base::{Blob, ClientId, LogTime};
use stateplane_wire::codec::{Malformed, Reader, Writer};
use stateplane_wire::group::Slot;

use crate::Limits;

/// Bytes of a client in a snapshot: what is before its results, and before each.
const ROW_HEADER: usize = 36;
const RESULT_HEADER: usize = 20;

/// In which slot an operation was executed, and what came of it. Most results fit in place.
type Outcome = (Slot, Blob<22>);

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Row {
    done_below: u64,
    last_seen: LogTime,
    bytes: usize,
    /// How many results there are.
    count: usize,
    /// For the ids from `done_below` on. Ids come almost in order, so a ring holds them with
    /// few gaps, and no allocation for each.
    results: VecDeque<Option<Outcome>>,
}

impl Row {
    const fn new(done_below: u64, last_seen: LogTime) -> Self {
        Self {
            done_below,
            last_seen,
            bytes: 0,
            count: 0,
            results: VecDeque::new(),
        }
    }

    fn place(&self, id: u64) -> Option<usize> {
        usize::try_from(id.checked_sub(self.done_below)?).ok()
    }

    fn get(&self, id: u64) -> Option<&Outcome> {
        self.results.get(self.place(id)?)?.as_ref()
    }

    /// Remembers an outcome; the one it had before. The id is within the window.
    fn set(&mut self, id: u64, slot: Slot, result: &[u8]) -> Option<Outcome> {
        let place = self.place(id).expect("what is done is not executed");
        if place >= self.results.len() {
            self.results.resize(place + 1, None);
        }
        self.bytes += result.len();
        self.count += 1;
        self.results[place].replace((slot, result.into()))
    }

    /// Forgets the outcomes that its client has.
    fn forget_below(&mut self, id: u64) {
        while self.done_below < id {
            let Some(gone) = self.results.pop_front() else {
                self.done_below = id;
                break;
            };
            if let Some((_, result)) = gone {
                self.bytes -= result.len();
                self.count -= 1;
            }
            self.done_below += 1;
        }
    }

    /// All outcomes by id.
    fn outcomes(&self) -> impl Iterator<Item = (u64, &Outcome)> {
        let numbered = (self.done_below..).zip(&self.results);
        numbered.filter_map(|(id, outcome)| Some((id, outcome.as_ref()?)))
    }
}

/// What to do with an operation.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) enum Verdict<'a> {
    /// It is new.
    Execute,
    /// It was executed in this slot, with this result.
    Cached(Slot, &'a [u8]),
    /// Its client has its answer.
    Forgotten,
    /// There is no room for its result.
    Refused,
}

/// What became of a request's client.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) enum Admission {
    Known,
    Added,
    AddedByEviction,
    Refused,
}

/// All clients. A copy is cheap and shares the rows until they change.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct ClientTable {
    rows: BTreeMap<ClientId, Arc<Row>>,
}

impl ClientTable {
    /// Number of clients.
    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Starts a request of `client` at log time `now`.
    pub(super) fn admit(
        &mut self,
        client: ClientId,
        done_below: u64,
        now: LogTime,
        limits: &Limits,
    ) -> Admission {
        if let Some(row) = self.rows.get_mut(&client) {
            let row = Arc::make_mut(row);
            row.last_seen = now;
            row.forget_below(done_below);
            return Admission::Known;
        }
        let mut admission = Admission::Added;
        if self.rows.len() >= limits.clients {
            let idle = self.rows.iter().map(|(id, row)| (row.last_seen, *id)).min();
            match idle.filter(|(seen, _)| now.since(*seen) >= limits.client_idle) {
                Some((_, id)) => self.rows.remove(&id),
                None => return Admission::Refused,
            };
            admission = Admission::AddedByEviction;
        }
        self.rows
            .insert(client, Arc::new(Row::new(done_below, now)));
        admission
    }

    /// What to do with operation `id` of an admitted client.
    pub(super) fn look(&self, client: ClientId, id: u64, limits: &Limits) -> Verdict<'_> {
        let Some(row) = self.rows.get(&client) else {
            return Verdict::Refused;
        };
        if let Some((slot, result)) = row.get(id) {
            return Verdict::Cached(*slot, result);
        }
        if id < row.done_below {
            return Verdict::Forgotten;
        }
        let window_full = id - row.done_below >= limits.window;
        if window_full || row.bytes >= limits.client_bytes {
            Verdict::Refused
        } else {
            Verdict::Execute
        }
    }

    /// The cached result, without judging.
    pub(super) fn cached(&self, client: ClientId, id: u64) -> Option<(Slot, &[u8])> {
        let (slot, result) = self.rows.get(&client)?.get(id)?;
        Some((*slot, result))
    }

    /// Remembers the result of an operation executed in `slot`.
    pub(super) fn store(&mut self, client: ClientId, id: u64, slot: Slot, result: &[u8]) {
        let row = self
            .rows
            .get_mut(&client)
            .expect("results are stored for admitted clients");
        let before = Arc::make_mut(row).set(id, slot, result);
        assert!(before.is_none(), "an operation is executed once");
    }

    /// Bytes that all rows take in a snapshot.
    pub(super) fn encoded_size(&self) -> usize {
        let row = |row: &Arc<Row>| ROW_HEADER + row.count * RESULT_HEADER + row.bytes;
        self.rows.values().map(row).sum()
    }

    /// Moves the first client into a snapshot; how many results it has.
    pub(super) fn encode_first(&mut self, w: &mut Writer<'_>) -> Option<usize> {
        let (client, row) = self.rows.pop_first()?;
        let size = ROW_HEADER - 4 + row.count * RESULT_HEADER + row.bytes;
        w.u32(u32::try_from(size).expect("a client's memory is bounded"));
        w.u64(client.0);
        w.u64(row.done_below);
        w.u64(row.last_seen.as_nanos());
        w.u64(row.count as u64);
        for (id, (slot, result)) in row.outcomes() {
            w.u64(id);
            w.u64(*slot);
            w.string(result);
        }
        Some(row.count)
    }

    /// Reads the next client from a snapshot, without the length before it.
    pub(super) fn decode_next(
        &mut self,
        r: &mut Reader<'_>,
        limits: &Limits,
    ) -> Result<(), Malformed> {
        let client = ClientId(r.u64()?);
        let mut row = Row::new(r.u64()?, LogTime::from_nanos(r.u64()?));
        let count = r.u64()?;
        if count > limits.window {
            return Err(Malformed("client window too large"));
        }
        for _ in 0..count {
            let (id, slot, result) = (r.u64()?, r.u64()?, r.string()?);
            let known = id >= row.done_below && id - row.done_below < limits.window;
            if !known || row.set(id, slot, result).is_some() {
                return Err(Malformed("client window"));
            }
        }
        let last = self.rows.last_key_value().map(|(last, _)| *last);
        if last >= Some(client) {
            return Err(Malformed("clients are not in order"));
        }
        self.rows.insert(client, Arc::new(row));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use core::time::Duration;

    fn limits() -> Limits {
        Limits {
            clients: 2,
            window: 4,
            client_idle: Duration::from_secs(1),
            ..Limits::default()
        }
    }

    #[test]
    fn an_operation_is_executed_once_and_answered_until_done() {
        let (mut table, limits, c) = (ClientTable::default(), limits(), ClientId(7));
        assert_eq!(table.admit(c, 1, LogTime::ZERO, &limits), Admission::Added);
        assert_eq!(table.look(c, 1, &limits), Verdict::Execute);
        table.store(c, 1, 5, &[9]);
        assert_eq!(table.look(c, 1, &limits), Verdict::Cached(5, &[9]));
        assert_eq!(
            table.look(c, 5, &limits),
            Verdict::Refused,
            "beyond the window"
        );
        assert_eq!(table.admit(c, 2, LogTime::ZERO, &limits), Admission::Known);
        assert_eq!(table.look(c, 1, &limits), Verdict::Forgotten);
        assert_eq!(table.admit(c, 1, LogTime::ZERO, &limits), Admission::Known);
        assert_eq!(
            table.look(c, 1, &limits),
            Verdict::Forgotten,
            "an old request does not move the mark back"
        );
    }

    #[test]
    fn only_an_idle_client_makes_room() {
        let (mut table, limits) = (ClientTable::default(), limits());
        let at = LogTime::from_millis;
        table.admit(ClientId(1), 1, at(0), &limits);
        table.admit(ClientId(2), 1, at(500), &limits);
        assert_eq!(
            table.admit(ClientId(3), 1, at(900), &limits),
            Admission::Refused
        );
        assert_eq!(
            table.admit(ClientId(3), 1, at(1000), &limits),
            Admission::AddedByEviction
        );
        assert_eq!(table.look(ClientId(1), 1, &limits), Verdict::Refused);
    }

    #[test]
    fn a_table_survives_a_snapshot() {
        let (mut table, limits) = (ClientTable::default(), limits());
        table.admit(ClientId(1), 3, LogTime::from_millis(5), &limits);
        table.store(ClientId(1), 4, 8, &[1, 2, 3]);
        table.store(ClientId(1), 6, 9, &[4; 100]);
        table.admit(ClientId(2), 1, LogTime::from_millis(6), &limits);
        let (mut bytes, mut rows) = (vec![], table.clone());
        while rows.encode_first(&mut Writer::new(&mut bytes)).is_some() {}
        assert_eq!(bytes.len(), table.encoded_size());
        let mut copy = ClientTable::default();
        let (mut r, mut again) = (Reader::new(&bytes), Reader::new(&bytes[4..]));
        while r.remaining() > 0 {
            let mut row = Reader::new(r.string().expect("as written"));
            assert_eq!(copy.decode_next(&mut row, &limits), Ok(()));
            assert_eq!(row.remaining(), 0);
        }
        assert_eq!(copy, table);
        assert!(copy.decode_next(&mut again, &limits).is_err(), "once each");
    }
}
