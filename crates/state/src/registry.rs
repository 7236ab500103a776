//! What a store consists of: its tables, its timers' handlers and its procedures.

use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::builtin;
use crate::hash::Fingerprint;
use crate::op::ProcedureId;
use crate::refusal::Refusal;
use crate::state::TableShape;
use crate::table::{Ordered, Table, TableSpec};
use crate::timers::TimerKind;
use crate::tx::Tx;

/// The code of a procedure: reads its arguments, works through the transaction, and appends its
/// reply's body. It must be deterministic: no clock but [`Tx::now`], no randomness, no hash order.
pub type Procedure = dyn Fn(&mut Tx<'_>, &[u8], &mut Vec<u8>) -> Result<(), Refusal> + Send + Sync;

/// The code of a timer: gets its own kind, so that it can arm itself again, and its key.
pub type Handler = dyn Fn(&mut Tx<'_>, TimerKind, &[u8]) -> Result<(), Refusal> + Send + Sync;

/// Why something was not registered. All of these are mistakes of the program, found as it starts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RegisterError {
    /// Two procedures have the same identity.
    #[error("procedures {first} and {second} have the same identity")]
    SameProcedure {
        /// The one registered first.
        first: &'static str,
        /// The one refused.
        second: &'static str,
    },
    /// Two tables or two timers have the same name.
    #[error("{0} is registered twice")]
    SameName(&'static str),
    /// More tables or timers than can be numbered.
    #[error("too many tables or timers")]
    TooMany,
}

#[derive(Clone)]
struct Named {
    id: ProcedureId,
    name: &'static str,
    run: Arc<Procedure>,
}

/// Tables, timers and procedures of a store. Every replica must register the same ones in the same
/// order; [`Registry::fingerprint`] tells.
#[derive(Clone, Default)]
pub struct Registry {
    tables: Vec<TableShape>,
    timers: Vec<(&'static str, Arc<Handler>)>,
    /// Sorted by identity.
    procedures: Vec<Named>,
    configuration: u64,
}

impl Registry {
    /// A registry without anything.
    pub fn empty() -> Self {
        Self::default()
    }

    /// A registry with the builtin procedures: keys and values, counters, queues and pools.
    pub fn builtin() -> Self {
        let mut registry = Self::empty();
        builtin::register(&mut registry).expect("the builtin names differ from each other");
        registry
    }

    /// Adds a table.
    pub fn table<K: ?Sized, V: ?Sized>(
        &mut self,
        spec: TableSpec,
    ) -> Result<Table<K, V>, RegisterError> {
        self.add_table(spec, false).map(Table::new)
    }

    /// Adds a table that can be listed in the order of its keys.
    pub fn ordered_table<K: ?Sized, V: ?Sized>(
        &mut self,
        spec: TableSpec,
    ) -> Result<Table<K, V, Ordered>, RegisterError> {
        self.add_table(spec, true).map(Table::new)
    }

    fn add_table(&mut self, spec: TableSpec, ordered: bool) -> Result<u16, RegisterError> {
        let TableSpec {
            name,
            rows: max_rows,
        } = spec;
        if self.tables.iter().any(|table| table.name == name) {
            return Err(RegisterError::SameName(name));
        }
        let index = u16::try_from(self.tables.len()).map_err(|_| RegisterError::TooMany)?;
        self.tables.push(TableShape {
            name,
            ordered,
            max_rows,
        });
        Ok(index)
    }

    /// Adds a kind of timer. A handler that refuses leaves no trace, and its timer is spent.
    pub fn timer(
        &mut self,
        name: &'static str,
        handler: impl Fn(&mut Tx<'_>, TimerKind, &[u8]) -> Result<(), Refusal> + Send + Sync + 'static,
    ) -> Result<TimerKind, RegisterError> {
        if self.timers.iter().any(|timer| timer.0 == name) {
            return Err(RegisterError::SameName(name));
        }
        let index = u16::try_from(self.timers.len()).map_err(|_| RegisterError::TooMany)?;
        self.timers.push((name, Arc::new(handler)));
        Ok(TimerKind(index))
    }

    /// Adds version `version` of the procedure `name`. Other versions may stand beside it, so that
    /// instances and replicas need not be replaced at the same moment.
    pub fn register(
        &mut self,
        name: &'static str,
        version: u16,
        procedure: impl Fn(&mut Tx<'_>, &[u8], &mut Vec<u8>) -> Result<(), Refusal>
        + Send
        + Sync
        + 'static,
    ) -> Result<ProcedureId, RegisterError> {
        let id = ProcedureId::of(name, version);
        match self.procedures.binary_search_by_key(&id, |known| known.id) {
            Ok(at) => {
                let first = self.procedures[at].name;
                Err(RegisterError::SameProcedure {
                    first,
                    second: name,
                })
            }
            Err(at) => {
                self.procedures.insert(
                    at,
                    Named {
                        id,
                        name,
                        run: Arc::new(procedure),
                    },
                );
                Ok(id)
            }
        }
    }

    /// Takes in the fingerprint of a configuration that procedures depend on, so that stores with
    /// different configurations are told apart.
    pub fn depend_on(&mut self, fingerprint: u64) {
        self.configuration = Fingerprint::new(4)
            .number(self.configuration)
            .number(fingerprint)
            .finish();
    }

    /// A fingerprint of the tables, timers and configuration: what a snapshot's bytes depend on.
    pub fn fingerprint(&self) -> u64 {
        let mut hash = Fingerprint::new(5).number(self.configuration);
        for table in &self.tables {
            hash = hash
                .bytes(table.name.as_bytes())
                .number(table.ordered.into());
        }
        for (name, _) in &self.timers {
            hash = hash.bytes(name.as_bytes());
        }
        hash.finish()
    }

    pub(crate) fn tables(&self) -> &[TableShape] {
        &self.tables
    }

    pub(crate) fn timer_kinds(&self) -> usize {
        self.timers.len()
    }

    pub(crate) fn handler(&self, kind: u16) -> &Handler {
        &*self.timers[usize::from(kind)].1
    }

    pub(crate) fn procedure(&self, id: ProcedureId) -> Option<&Procedure> {
        let at = self
            .procedures
            .binary_search_by_key(&id, |known| known.id)
            .ok()?;
        Some(&*self.procedures[at].run)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_order_matters() {
        let mut registry = Registry::empty();
        registry.register("a", 1, |_, _, _| Ok(())).expect("new");
        registry
            .register("a", 2, |_, _, _| Ok(()))
            .expect("another version");
        assert_eq!(
            registry.register("a", 1, |_, _, _| Ok(())),
            Err(RegisterError::SameProcedure {
                first: "a",
                second: "a"
            })
        );
        registry
            .table::<[u8], [u8]>(TableSpec::new("t", 1))
            .expect("new");
        let twice = registry.ordered_table::<[u8], [u8]>(TableSpec::new("t", 1));
        assert_eq!(twice.err(), Some(RegisterError::SameName("t")));
        registry.timer("x", |_, _, _| Ok(())).expect("new");
        assert_eq!(
            registry.timer("x", |_, _, _| Ok(())),
            Err(RegisterError::SameName("x"))
        );

        let before = registry.fingerprint();
        registry.depend_on(1);
        assert_ne!(registry.fingerprint(), before);
    }

    #[test]
    fn different_names_with_one_hash_collide_loudly() {
        // Found by search: two names whose hashes agree.
        let (a, b) = COLLIDING;
        assert_eq!(ProcedureId::of(a, 1), ProcedureId::of(b, 1));
        let mut registry = Registry::empty();
        registry.register(a, 1, |_, _, _| Ok(())).expect("new");
        assert_eq!(
            registry.register(b, 1, |_, _, _| Ok(())),
            Err(RegisterError::SameProcedure {
                first: a,
                second: b
            })
        );
    }

    const COLLIDING: (&str, &str) = ("p2039599", "p2222382");
}
