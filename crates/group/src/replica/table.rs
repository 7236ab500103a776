//! The client table: at-most-once execution.
//!
//! Replicated with the log (each replica executes the same slots at the same
//! log times, so the tables are equal) and part of every snapshot. Per client
//! it caches the results of the ids from `done_below` on; everything below has
//! been answered. A client that would need more room is refused, and so is a
//! new client while no old one has been idle long enough to be forgotten.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use stateplane_base::{ClientId, LogTime};
use stateplane_wire::codec::{Malformed, Reader, Writer};
use stateplane_wire::group::Slot;

use crate::Limits;

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Row {
    done_below: u64,
    last_seen: LogTime,
    bytes: usize,
    /// By id: in which slot it was executed, and what came of it.
    results: BTreeMap<u64, (Slot, Vec<u8>)>,
}

impl Row {
    fn size(results: &BTreeMap<u64, (Slot, Vec<u8>)>) -> usize {
        results.values().map(|(_, result)| result.len()).sum()
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

#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct ClientTable {
    rows: BTreeMap<ClientId, Row>,
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
            row.last_seen = now;
            if done_below > row.done_below {
                row.done_below = done_below;
                let keep = row.results.split_off(&done_below);
                row.results = keep;
                row.bytes = Row::size(&row.results);
            }
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
        self.rows.insert(
            client,
            Row {
                done_below,
                last_seen: now,
                bytes: 0,
                results: BTreeMap::new(),
            },
        );
        admission
    }

    /// What to do with operation `id` of an admitted client.
    pub(super) fn look(&self, client: ClientId, id: u64, limits: &Limits) -> Verdict<'_> {
        let Some(row) = self.rows.get(&client) else {
            return Verdict::Refused;
        };
        if let Some((slot, result)) = row.results.get(&id) {
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
        let (slot, result) = self.rows.get(&client)?.results.get(&id)?;
        Some((*slot, result))
    }

    /// Remembers the result of an operation executed in `slot`.
    pub(super) fn store(&mut self, client: ClientId, id: u64, slot: Slot, result: Vec<u8>) {
        let row = self
            .rows
            .get_mut(&client)
            .expect("results are stored for admitted clients");
        row.bytes += result.len();
        let before = row.results.insert(id, (slot, result));
        assert!(before.is_none(), "an operation is executed once");
    }

    /// Appends the table to a snapshot.
    pub(super) fn encode(&self, w: &mut Writer<'_>) {
        w.u64(self.rows.len() as u64);
        for (client, row) in &self.rows {
            w.u64(client.0);
            w.u64(row.done_below);
            w.u64(row.last_seen.as_nanos());
            w.u64(row.results.len() as u64);
            for (id, (slot, result)) in &row.results {
                w.u64(*id);
                w.u64(*slot);
                w.string(result);
            }
        }
    }

    /// Reads a table from a snapshot.
    pub(super) fn decode(r: &mut Reader<'_>, limits: &Limits) -> Result<Self, Malformed> {
        let clients = r.u64()?;
        if clients > limits.clients as u64 {
            return Err(Malformed("client table too large"));
        }
        let mut table = Self::default();
        for _ in 0..clients {
            let client = ClientId(r.u64()?);
            let done_below = r.u64()?;
            let last_seen = LogTime::from_nanos(r.u64()?);
            let count = r.u64()?;
            if count > limits.window {
                return Err(Malformed("client window too large"));
            }
            let mut results = BTreeMap::new();
            for _ in 0..count {
                results.insert(r.u64()?, (r.u64()?, r.string()?.to_vec()));
            }
            let bytes = Row::size(&results);
            table.rows.insert(
                client,
                Row {
                    done_below,
                    last_seen,
                    bytes,
                    results,
                },
            );
        }
        Ok(table)
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
        table.store(c, 1, 5, vec![9]);
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
        table.store(ClientId(1), 4, 8, vec![1, 2, 3]);
        let mut bytes = vec![];
        table.encode(&mut Writer::new(&mut bytes));
        let mut r = Reader::new(&bytes);
        assert_eq!(ClientTable::decode(&mut r, &limits), Ok(table));
        assert_eq!(r.remaining(), 0);
    }
}
