//! The client table: at-most-once execution.
//!
//! Replicated with the log (each replica executes the same slots at the same
//! log times, so the tables are equal) and part of every snapshot. Per client
//! it caches the results of the ids from `done_below` on; everything below has
//! been answered. A client that would need more room is refused, and so is a
//! new client while no old one has been idle long enough to be forgotten.
//!
//! # Operations in pieces
//! Each piece takes a slot, like an operation. A client has one [`Assembly`] at most: that of
//! the newest operation in pieces it began. The slot that brings the last piece executes the
//! whole; nothing else knows of pieces, so replay, rollback and snapshots treat a
//! half-assembled operation as any other state. It is dropped when its client begins a newer
//! one, gives it up (`done_below`) or is forgotten. Assemblies and long results of all clients
//! share [`Limits::long_bytes`]; who finds no room there is refused, after idle clients were
//! forgotten.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::sync::Arc;
use alloc::vec::Vec;

use stateplane_base::{Blob, ClientId, LogTime};
use stateplane_wire::codec::{Malformed, Reader, Writer};
use stateplane_wire::group::{OpResult, Outcome, Piece, Slot, Whole};

use super::assembly::{self, Assembly};
use crate::Limits;

/// Bytes of a client in a snapshot: what is before its results, and before each.
const ROW_HEADER: usize = 37;
const RESULT_HEADER: usize = 20;
/// Bytes that take about as long to write as a row of a table.
const ROW_BYTES: usize = 512;

/// In which slot an operation was executed, and what came of it. Most results fit in place.
type Executed = (Slot, Blob<22>);

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Row {
    done_below: u64,
    last_seen: LogTime,
    bytes: usize,
    /// How many results there are.
    count: usize,
    /// For the ids from `done_below` on. Ids come almost in order, so a ring holds them with
    /// few gaps, and no allocation for each.
    results: VecDeque<Option<Executed>>,
    /// The long ones among them, and what each is known by.
    wholes: BTreeMap<u64, Whole>,
    /// The operation whose pieces are coming.
    assembly: Option<Arc<Assembly>>,
}

impl Row {
    const fn new(done_below: u64, last_seen: LogTime) -> Self {
        Self {
            done_below,
            last_seen,
            bytes: 0,
            count: 0,
            results: VecDeque::new(),
            wholes: BTreeMap::new(),
            assembly: None,
        }
    }

    /// Its share of [`Limits::long_bytes`].
    #[inline]
    fn long(&self) -> usize {
        let begun = self.assembly.as_ref().map_or(0, |a| a.len());
        if self.wholes.is_empty() {
            return begun;
        }
        let results = self.wholes.values().map(|whole| whole.len as usize);
        begun + results.sum::<usize>()
    }

    fn place(&self, id: u64) -> Option<usize> {
        usize::try_from(id.checked_sub(self.done_below)?).ok()
    }

    fn get(&self, id: u64) -> Option<&Executed> {
        self.results.get(self.place(id)?)?.as_ref()
    }

    /// Remembers an outcome; the one it had before. The id is within the window.
    fn set(&mut self, id: u64, slot: Slot, result: &[u8], limits: &Limits) -> Option<Executed> {
        let place = self.place(id).expect("what is done is not executed");
        if result.len() > limits.whole {
            self.wholes.insert(id, Whole::of(result));
        }
        if place >= self.results.len() {
            self.results.resize(place + 1, None);
        }
        self.bytes += result.len();
        self.count += 1;
        self.results[place].replace((slot, result.into()))
    }

    /// Forgets the outcomes that its client has, and what it gave up.
    fn forget_below(&mut self, id: u64) {
        self.assembly.take_if(|assembly| assembly.id < id);
        if self.wholes.first_key_value().is_some_and(|(w, _)| *w < id) {
            self.wholes = self.wholes.split_off(&id);
        }
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

    /// Bytes it takes in a snapshot, after its length.
    fn encoded_size(&self) -> usize {
        let assembly = self.assembly.as_ref().map_or(0, |a| a.encoded_size());
        ROW_HEADER - 4 + self.count * RESULT_HEADER + self.bytes + assembly
    }

    /// All outcomes by id.
    fn outcomes(&self) -> impl Iterator<Item = (u64, &Executed)> {
        let numbered = (self.done_below..).zip(&self.results);
        numbered.filter_map(|(id, outcome)| Some((id, outcome.as_ref()?)))
    }
}

/// An operation that was executed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Known<'a> {
    /// In this slot,
    pub(super) slot: Slot,
    /// with this result
    pub(super) result: &'a [u8],
    /// which, if it is long, is known by this.
    pub(super) whole: Option<Whole>,
}

impl Known<'_> {
    /// What its client is told in a reply for `slot`.
    pub(super) fn told(&self, id: u64, slot: Slot) -> OpResult {
        let earlier = Some(self.slot).filter(|s| *s != slot);
        let outcome = match self.whole {
            Some(whole) => Outcome::Long { earlier, whole },
            None => Outcome::Done {
                earlier,
                result: self.result.into(),
            },
        };
        OpResult { id, outcome }
    }
}

/// What to do with an operation.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) enum Verdict<'a> {
    /// It is new.
    Execute,
    /// It was executed.
    Cached(Known<'a>),
    /// Its client has its answer.
    Forgotten,
    /// There is no room for its result.
    Refused,
}

/// What became of a piece.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) enum Assembled {
    /// Others are missing, the first of them at this offset.
    Kept { missing: u32, again: bool },
    /// It was the last one missing.
    Whole(Vec<u8>),
    /// Its client has begun a newer one.
    Superseded,
    /// There is no room, or it is not of the grid.
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
    /// What all rows have of [`Limits::long_bytes`].
    long: usize,
}

impl ClientTable {
    /// Number of clients.
    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Changes a client's row.
    fn change<R>(&mut self, client: ClientId, change: impl FnOnce(&mut Row) -> R) -> Option<R> {
        let row = Arc::make_mut(self.rows.get_mut(&client)?);
        let before = row.long();
        let result = change(row);
        self.long = self.long + row.long() - before;
        Some(result)
    }

    fn remove(&mut self, client: ClientId) {
        if let Some(row) = self.rows.remove(&client) {
            self.long -= row.long();
        }
    }

    /// Starts a request of `client` at log time `now`.
    pub(super) fn admit(
        &mut self,
        client: ClientId,
        done_below: u64,
        now: LogTime,
        limits: &Limits,
    ) -> Admission {
        let known = self.change(client, |row| {
            row.last_seen = now;
            row.forget_below(done_below);
        });
        self.make_room(1, now, limits);
        if known.is_some() {
            return Admission::Known;
        }
        let mut admission = Admission::Added;
        if self.rows.len() >= limits.clients {
            match self.idle(now, limits, |_| true) {
                Some(id) => self.remove(id),
                None => return Admission::Refused,
            }
            admission = Admission::AddedByEviction;
        }
        self.rows
            .insert(client, Arc::new(Row::new(done_below, now)));
        admission
    }

    /// The client that has been idle longest, if that is long enough to be forgotten.
    fn idle(
        &self,
        now: LogTime,
        limits: &Limits,
        which: impl Fn(&Row) -> bool,
    ) -> Option<ClientId> {
        let rows = self.rows.iter().filter(|(_, row)| which(row));
        let (seen, id) = rows.map(|(id, row)| (row.last_seen, *id)).min()?;
        (now.since(seen) >= limits.client_idle).then_some(id)
    }

    /// Whether so many bytes more find room, after idle clients were forgotten if need be.
    fn make_room(&mut self, bytes: usize, now: LogTime, limits: &Limits) -> bool {
        while self.long + bytes > limits.long_bytes {
            match self.idle(now, limits, |row| row.long() > 0) {
                Some(id) => self.remove(id),
                None => return false,
            }
        }
        true
    }

    /// What to do with operation `id` of an admitted client.
    pub(super) fn look(&self, client: ClientId, id: u64, limits: &Limits) -> Verdict<'_> {
        let Some(row) = self.rows.get(&client) else {
            return Verdict::Refused;
        };
        if let Some(known) = self.cached(client, id) {
            return Verdict::Cached(known);
        }
        if id < row.done_below {
            return Verdict::Forgotten;
        }
        let window_full = id - row.done_below >= limits.window;
        if window_full || row.bytes >= limits.client_bytes || self.long >= limits.long_bytes {
            Verdict::Refused
        } else {
            Verdict::Execute
        }
    }

    /// Keeps a piece of an operation that is to be executed.
    pub(super) fn assemble(
        &mut self,
        client: ClientId,
        id: u64,
        piece: &Piece<'_>,
        now: LogTime,
        limits: &Limits,
        last_completes: bool,
    ) -> Assembled {
        let Some(row) = self.rows.get(&client) else {
            return Assembled::Refused;
        };
        let begun = row.assembly.as_ref();
        match begun {
            Some(newer) if newer.id > id => return Assembled::Superseded,
            _ if !assembly::fits(piece, limits) => return Assembled::Refused,
            Some(same) if same.id == id && same.len() != piece.whole as usize => {
                return Assembled::Refused;
            }
            Some(same) if same.id == id => {}
            older => {
                let freed = older.map_or(0, |a| a.len());
                let more = (piece.whole as usize).saturating_sub(freed);
                if !self.make_room(more, now, limits) {
                    return Assembled::Refused;
                }
                let new = Arc::new(Assembly::new(id, piece.whole, limits));
                self.change(client, |row| row.assembly = Some(new));
            }
        }
        let kept = self.change(client, |row| {
            let mut begun = row.assembly.take()?;
            let assembly = Arc::make_mut(&mut begun);
            let again = !assembly.take(piece, limits);
            let missing = assembly.missing(limits);
            let end = piece.offset as usize + piece.bytes.len();
            let last = last_completes && end == assembly.len();
            if missing == assembly.len() || last {
                return Some(Assembled::Whole(Arc::unwrap_or_clone(begun).into_bytes()));
            }
            row.assembly = Some(begun);
            let missing = u32::try_from(missing).expect("within its length");
            Some(Assembled::Kept { missing, again })
        });
        kept.flatten().unwrap_or(Assembled::Refused)
    }

    /// What is known of an operation, without judging.
    pub(super) fn cached(&self, client: ClientId, id: u64) -> Option<Known<'_>> {
        let row = self.rows.get(&client)?;
        let (slot, result) = row.get(id)?;
        Some(Known {
            slot: *slot,
            result,
            whole: row.wholes.get(&id).copied(),
        })
    }

    /// Remembers the result of an operation executed in `slot`.
    pub(super) fn store(
        &mut self,
        client: ClientId,
        id: u64,
        slot: Slot,
        result: &[u8],
        limits: &Limits,
    ) {
        let before = self
            .change(client, |row| row.set(id, slot, result, limits))
            .expect("results are stored for admitted clients");
        assert!(before.is_none(), "an operation is executed once");
    }

    /// Asserts that the sum kept up to date is that of the rows.
    pub(super) fn check(&self) {
        let long: usize = self.rows.values().map(|row| row.long()).sum();
        assert_eq!(self.long, long, "the memory of long operations and results");
    }

    /// Bytes that all rows take in a snapshot.
    pub(super) fn encoded_size(&self) -> usize {
        self.rows.values().map(|row| 4 + row.encoded_size()).sum()
    }

    /// Moves the first client into a snapshot; how many rows it counts for.
    pub(super) fn encode_first(&mut self, w: &mut Writer<'_>) -> Option<usize> {
        let (client, row) = self.rows.pop_first()?;
        self.long -= row.long();
        let size = row.encoded_size();
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
        w.u8(row.assembly.is_some().into());
        if let Some(assembly) = &row.assembly {
            assembly.encode(w);
        }
        Some(row.count + size / ROW_BYTES)
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
            if !known || row.set(id, slot, result, limits).is_some() {
                return Err(Malformed("client window"));
            }
        }
        row.assembly = match r.u8()? {
            0 => None,
            1 => Some(Arc::new(Assembly::decode(r, limits)?)),
            _ => return Err(Malformed("client assembly")),
        };
        let last = self.rows.last_key_value().map(|(last, _)| *last);
        if last >= Some(client) {
            return Err(Malformed("clients are not in order"));
        }
        self.long += row.long();
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
        table.store(c, 1, 5, &[9], &limits);
        let known = Known {
            slot: 5,
            result: &[9],
            whole: None,
        };
        assert_eq!(table.look(c, 1, &limits), Verdict::Cached(known));
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
        table.store(ClientId(1), 4, 8, &[1, 2, 3], &limits);
        table.store(ClientId(1), 6, 9, &[4; 100], &limits);
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
