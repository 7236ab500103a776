//! The NAT's tables as they are read outside of the store, from a copy of its rows.

use stateplane_flow::{Endpoint, Protocol};
use stateplane_state::settled::TableName;
use zerocopy::{FromBytes, IntoBytes};

use super::rows::{InsideKey, MappingRow, OutsideKey, PortRow};
use crate::local::LocalTables;
use crate::nat::ops::Mapping;
use stateplane_base::LogTime;

/// The table of mappings, by inside endpoint.
pub const MAPPINGS: &str = "nat.mappings";
/// The table of outside endpoints in use.
pub const PORTS: &str = "nat.ports";

/// A mapping, and the log time at which it was alive.
pub(in crate::nat) type Seen = (Mapping, LogTime);

/// The mapping that an inside endpoint had.
pub(in crate::nat) fn by_inside(
    tables: &dyn LocalTables,
    protocol: Protocol,
    inside: Endpoint,
) -> Option<Seen> {
    of_key(tables, &InsideKey::new(protocol, inside))
}

/// The mapping that an outside endpoint belonged to. What the one table says is only where to
/// look: the mapping itself must name the endpoint, since the two rows may be of two moments.
pub(in crate::nat) fn by_outside(
    tables: &dyn LocalTables,
    protocol: Protocol,
    outside: Endpoint,
) -> Option<Seen> {
    let mut row = [0; size_of::<PortRow>()];
    let key = OutsideKey::new(protocol, outside);
    let found = tables.get(TableName::of(PORTS), key.as_bytes(), &mut row)?;
    let port = PortRow::ref_from_bytes(row.get(..found.len)?).ok()?;
    let seen = of_key(tables, port.serves()?)?;
    let same = seen.0.outside == outside && seen.0.protocol == protocol;
    same.then_some(seen)
}

fn of_key(tables: &dyn LocalTables, key: &InsideKey) -> Option<Seen> {
    let mut row = [0; size_of::<MappingRow>()];
    let found = tables.get(TableName::of(MAPPINGS), key.as_bytes(), &mut row)?;
    let row = MappingRow::ref_from_bytes(row.get(..found.len)?).ok()?;
    // A row is removed when it ends, so one that is there is alive.
    Some((row.mapping(key).ok()?, found.at))
}
