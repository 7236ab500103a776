//! Mappings' ends.
//!
//! What ends at the same moment has one timer: its key is the keys of all of them. Such a timer is
//! not taken away for one of them, so when it fires it looks only at mappings whose row names this
//! moment; the others got a timer of their own meanwhile.

use alloc::vec::Vec;

use stateplane_base::LogTime;
use stateplane_state::{Counters, Refusal, Table, TimerId, TimerKind, Tx};
use zerocopy::FromBytes;

use super::QUARANTINE;
use super::rows::{InsideKey, MappingRow, OutsideKey, PortRow};

/// Groups keys by the moment they end at, in the order of time.
pub(super) fn ends_together(
    mut all: Vec<(LogTime, InsideKey)>,
    mut each: impl FnMut(LogTime, &[InsideKey]) -> Result<(), Refusal>,
) -> Result<(), Refusal> {
    all.sort_by_key(|(ends, _)| *ends);
    let mut keys = Vec::with_capacity(all.len());
    for group in all.chunk_by(|a, b| a.0 == b.0) {
        keys.clear();
        keys.extend(group.iter().map(|(_, key)| *key));
        each(group[0].0, &keys)?;
    }
    Ok(())
}

/// Notes in a mapping's row which timer looks at it.
pub(super) fn set_timer(
    tx: &mut Tx<'_>,
    mappings: Table<InsideKey, MappingRow>,
    key: &InsideKey,
    timer: TimerId,
) -> Result<(), Refusal> {
    let mut row = *tx.get(mappings, key)?.ok_or(Refusal::Corrupt)?;
    row.set_timer(timer);
    tx.put(mappings, key, &row).map(|_| ())
}

/// What the end of a mapping touches.
#[derive(Clone, Copy)]
pub(super) struct Ends {
    pub(super) mappings: Table<InsideKey, MappingRow>,
    pub(super) ports: Table<OutsideKey, PortRow>,
    pub(super) subscribers: Counters<[u8; 4]>,
    pub(super) unquarantine: TimerKind,
}

impl Ends {
    /// Looks which of these mappings have ended, and puts their outside endpoints in quarantine. If
    /// traffic has moved an end away since the timer was armed, it looks again then.
    pub(super) fn expire(
        self,
        tx: &mut Tx<'_>,
        kind: TimerKind,
        keys: &[u8],
    ) -> Result<(), Refusal> {
        let keys = <[InsideKey]>::ref_from_bytes(keys).map_err(|_| Refusal::Corrupt)?;
        let (mut live, mut over) = (Vec::new(), Vec::new());
        for key in keys {
            match tx.get(self.mappings, key)? {
                Some(row) if row.timer().deadline() != tx.now() => {}
                Some(row) if row.expires() > tx.now() => live.push((row.expires(), *key)),
                Some(_) => over.push(self.end(tx, key)?),
                None => {}
            }
        }
        if !over.is_empty() {
            tx.arm(self.unquarantine, &over[..], tx.now() + QUARANTINE)?;
        }
        ends_together(live, |ends, keys| {
            let timer = match (tx.arm(kind, keys, ends)?, keys) {
                (own, [_]) => own,
                (shared, _) => MappingRow::shared(shared.deadline()),
            };
            keys.iter()
                .try_for_each(|key| set_timer(tx, self.mappings, key, timer))
        })
    }

    /// Ends a mapping: where others saw it, to rest.
    fn end(self, tx: &mut Tx<'_>, key: &InsideKey) -> Result<OutsideKey, Refusal> {
        let row = *tx.get(self.mappings, key)?.ok_or(Refusal::Corrupt)?;
        let port = OutsideKey::new(key.protocol()?, row.outside());
        tx.remove(self.mappings, key);
        self.subscribers.add(tx, &key.addr, -1, 0..=i64::MAX)?;
        tx.put(self.ports, &port, &PortRow::quarantined(*key))?;
        Ok(port)
    }
}

/// Ends ports' quarantine.
pub(super) fn unquarantine(
    tx: &mut Tx<'_>,
    ports: Table<OutsideKey, PortRow>,
    keys: &[u8],
) -> Result<(), Refusal> {
    let keys = <[OutsideKey]>::ref_from_bytes(keys).map_err(|_| Refusal::Corrupt)?;
    for key in keys {
        tx.remove(ports, key);
    }
    Ok(())
}
