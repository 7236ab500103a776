//! Mappings found, kept alive and listed.

use alloc::vec::Vec;

use stateplane_flow::Endpoint;
use stateplane_state::{Refusal, Tx};
use zerocopy::{FromBytes, IntoBytes};

use super::Nat;
use super::rows::{InsideKey, MappingRow, OutsideKey, PortRow};
use crate::nat::ops::mapping::{
    Cursor, Found, List, Lookup, MAX_PAGE, Page, Refresh, RefreshItem, Refreshed,
};
use crate::nat::ops::{Class, Mapping};

/// Outside endpoints one listing looks at, so that a page of a pool that is hardly used is not
/// expensive.
const SCAN_LIMIT: usize = 4096;

impl Nat {
    /// Finds a mapping by its outside endpoint. Keeps nothing alive: what comes from outside must
    /// not (RFC 4787 REQ-6 leaves it open; who attacks from outside could hold ports for ever).
    pub(super) fn lookup(
        &self,
        tx: &mut Tx<'_>,
        arguments: &[u8],
        reply: &mut Vec<u8>,
    ) -> Result<(), Refusal> {
        let Lookup { protocol, outside } =
            Lookup::from_arguments(arguments).ok_or(Refusal::BadArguments)?;
        let port = tx.get(self.ports, &OutsideKey::new(protocol, outside))?;
        let mapping = match port.and_then(PortRow::serves) {
            Some(inside) => Some(self.mapping_of(tx, inside)?),
            None => None,
        };
        Found {
            now: tx.now(),
            mapping,
        }
        .write(reply);
        Ok(())
    }

    /// Keeps mappings alive, or tells that they are gone.
    pub(super) fn refresh(
        &self,
        tx: &mut Tx<'_>,
        arguments: &[u8],
        reply: &mut Vec<u8>,
    ) -> Result<(), Refusal> {
        let items = Refresh::from_arguments(arguments).ok_or(Refusal::BadArguments)?;
        Refreshed::write_time(tx.now(), reply);
        for item in items {
            let RefreshItem {
                class,
                inside,
                outside,
            } = item.decode().ok_or(Refusal::BadArguments)?;
            let key = InsideKey::new(class.protocol(), inside);
            let known = self.outside_of(tx, &key)? == Some(outside);
            let expires = if known {
                Some(self.keep_alive(tx, &key, class)?.expires)
            } else {
                None
            };
            Refreshed::write_item(expires, reply);
        }
        Ok(())
    }

    /// Lists mappings in the order of their outside endpoints. All of them are of blocks that
    /// somebody owned when they were made, and what was owned once stays known.
    pub(super) fn list(
        &self,
        tx: &mut Tx<'_>,
        arguments: &[u8],
        reply: &mut Vec<u8>,
    ) -> Result<(), Refusal> {
        let List { from, limit } = List::from_arguments(arguments).ok_or(Refusal::BadArguments)?;
        let limit = usize::from(limit).clamp(1, MAX_PAGE);
        let from = OutsideKey::read_from_bytes(&from.0).map_err(|_| Refusal::BadArguments)?;
        let mut page = Page {
            now: tx.now(),
            next: None,
            mappings: Vec::new(),
        };
        let blocks = tx.scan(self.taken, &from.block());
        let ports = blocks.flat_map(|(block, _)| block.ports());
        for (seen, port) in ports.skip_while(|port| *port < from).enumerate() {
            let inside = tx.get(self.ports, &port)?.and_then(PortRow::serves);
            if seen == SCAN_LIMIT || inside.is_some() && page.mappings.len() == limit {
                let mut next = Cursor::default();
                next.0.copy_from_slice(port.as_bytes());
                page.next = Some(next);
                break;
            }
            if let Some(inside) = inside {
                page.mappings.push(self.mapping_of(tx, inside)?);
            }
        }
        page.write(reply);
        Ok(())
    }

    fn mapping_of(&self, tx: &Tx<'_>, key: &InsideKey) -> Result<Mapping, Refusal> {
        tx.get(self.mappings, key)?
            .ok_or(Refusal::Corrupt)?
            .mapping(key)
    }

    fn outside_of(&self, tx: &Tx<'_>, key: &InsideKey) -> Result<Option<Endpoint>, Refusal> {
        Ok(tx.get(self.mappings, key)?.map(MappingRow::outside))
    }

    /// Notes traffic of `class` on an existing mapping. Its timer is left alone when the end moves
    /// away (it will look again when it fires), and replaced only when the end comes nearer; unless
    /// it is others' as well, then it finds that this mapping has another.
    pub(super) fn keep_alive(
        &self,
        tx: &mut Tx<'_>,
        key: &InsideKey,
        class: Class,
    ) -> Result<Mapping, Refusal> {
        let mut row = *tx.get(self.mappings, key)?.ok_or(Refusal::Corrupt)?;
        let expires = tx.now() + self.config.timeouts.of(class);
        if expires > row.expires() || class == Class::Closing {
            row.set_expires(class, expires);
            if expires < row.timer().deadline() {
                tx.disarm(row.timer());
                row.set_timer(tx.arm(self.expire, key, expires)?);
            }
            tx.put(self.mappings, key, &row)?;
        }
        row.mapping(key)
    }
}
