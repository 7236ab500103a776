//! Mappings and their ends.

use alloc::vec::Vec;

use stateplane_flow::{Endpoint, Protocol};
use stateplane_state::{Counters, Ordered, Refusal, Table, TimerKind, Tx};
use zerocopy::{FromBytes, IntoBytes};

use super::rows::{InsideKey, MappingRow, OutsideKey, PortRow};
use super::{Nat, QUARANTINE};
use crate::nat::ops::mapping::{
    Bind, Bound, Cursor, Found, List, Lookup, MAX_PAGE, Page, Refresh, RefreshItem, Refreshed,
};
use crate::nat::ops::{Class, Mapping, NatRefusal, block_of};

/// Rows one listing looks at, so that quarantined ports cannot make a page expensive.
const SCAN_LIMIT: usize = 1024;

impl Nat {
    /// Returns the mapping an inside endpoint has, or makes the proposed one.
    pub(super) fn bind(
        &self,
        tx: &mut Tx<'_>,
        arguments: &[u8],
        reply: &mut Vec<u8>,
    ) -> Result<(), Refusal> {
        let wanted = Bind::from_arguments(arguments).ok_or(Refusal::BadArguments)?;
        let Bind {
            owner,
            protocol,
            inside,
            outside,
        } = wanted;
        if protocol != Protocol::IcmpEcho && inside.port == 0 {
            return Err(Refusal::BadArguments);
        }
        let now = tx.now();
        let class = Class::initial(protocol);
        let key = InsideKey::new(protocol, inside);
        if tx.contains(self.mappings, &key) {
            let mapping = self.keep_alive(tx, &key, class)?;
            Bound {
                now,
                mapping,
                created: false,
            }
            .write(reply);
            return Ok(());
        }
        if !self.config.has_address(outside.addr) || !self.config.ports.contains(&outside.port) {
            return Err(NatRefusal::OutsideRange.into());
        }
        self.check_block(tx, owner, outside.addr, block_of(outside.port))?;
        let port = OutsideKey::new(protocol, outside);
        match tx.get(self.ports, &port)? {
            Some(row) if row.serves().is_some() => return Err(NatRefusal::PortBusy.into()),
            Some(_) => return Err(NatRefusal::PortQuarantined.into()),
            None => {}
        }
        let quota = 0..=i64::from(self.config.limit_per_subscriber);
        self.subscribers
            .add(tx, &key.addr, 1, quota)
            .map_err(|refusal| match refusal {
                Refusal::OutOfRange => NatRefusal::Quota.into(),
                other => other,
            })?;
        let expires = now + self.config.timeouts.of(class);
        let mapping = Mapping {
            protocol,
            class,
            inside,
            outside,
            expires,
            created: now,
        };
        let timer = tx.arm(self.expire, &key, expires)?;
        tx.put(self.mappings, &key, &MappingRow::new(&mapping, timer))?;
        tx.put(self.ports, &port, &PortRow::live(key))?;
        Bound {
            now,
            mapping,
            created: true,
        }
        .write(reply);
        Ok(())
    }

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

    /// Lists mappings in the order of their outside endpoints.
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
        for (seen, (port, row)) in tx.scan(self.ports, &from).enumerate() {
            if seen == SCAN_LIMIT || page.mappings.len() == limit {
                let mut next = Cursor::default();
                next.0.copy_from_slice(port.as_bytes());
                page.next = Some(next);
                break;
            }
            if let Some(inside) = row.serves() {
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
    /// away (it will look again when it fires), and replaced only when the end comes nearer.
    fn keep_alive(
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

/// What the end of a mapping touches.
#[derive(Clone, Copy)]
pub(super) struct Ends {
    pub(super) mappings: Table<InsideKey, MappingRow>,
    pub(super) ports: Table<OutsideKey, PortRow, Ordered>,
    pub(super) subscribers: Counters<[u8; 4]>,
    pub(super) unquarantine: TimerKind,
}

impl Ends {
    /// Looks whether a mapping has ended, and if so, puts its outside endpoint in quarantine. If
    /// traffic has moved the end away since the timer was armed, it answers when to look again.
    pub(super) fn expire(
        self,
        tx: &mut Tx<'_>,
        kind: TimerKind,
        key: &[u8],
    ) -> Result<(), Refusal> {
        let key = InsideKey::ref_from_bytes(key).map_err(|_| Refusal::Corrupt)?;
        let mut row = *tx.get(self.mappings, key)?.ok_or(Refusal::Corrupt)?;
        if row.expires() > tx.now() {
            row.set_timer(tx.arm(kind, key, row.expires())?);
            tx.put(self.mappings, key, &row)?;
            return Ok(());
        }
        tx.remove(self.mappings, key);
        self.subscribers.add(tx, &key.addr, -1, 0..=i64::MAX)?;
        let port = OutsideKey::new(key.protocol()?, row.outside());
        tx.put(self.ports, &port, &PortRow::quarantined(*key))?;
        tx.arm(self.unquarantine, &port, row.expires() + QUARANTINE)?;
        Ok(())
    }
}

/// Ends a port's quarantine.
pub(super) fn unquarantine(
    tx: &mut Tx<'_>,
    ports: Table<OutsideKey, PortRow, Ordered>,
    key: &[u8],
) -> Result<(), Refusal> {
    let key = OutsideKey::ref_from_bytes(key).map_err(|_| Refusal::Corrupt)?;
    tx.remove(ports, key);
    Ok(())
}
