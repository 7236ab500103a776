//! Tables: rows of bytes under keys of bytes, and the typed handles procedures use.

use core::marker::PhantomData;

use stateplane_base::Blob;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// A row's key: most of network state fit in place.
pub(crate) type Key = Blob<22>;
/// A row's value.
pub(crate) type Value = Blob<46>;

/// What may be a key or a value: a fixed layout without padding, or plain bytes (`[u8]`).
pub trait Record: FromBytes + IntoBytes + Immutable + KnownLayout + Unaligned {}

impl<T: FromBytes + IntoBytes + Immutable + KnownLayout + Unaligned + ?Sized> Record for T {}

/// Marks a table whose rows are only found by their key.
pub enum Unordered {}
/// Marks a table whose rows can also be listed in the byte order of their keys.
pub enum Ordered {}

/// A procedure's handle on one table of the store.
pub struct Table<K: ?Sized, V: ?Sized, Order = Unordered> {
    pub(crate) index: u16,
    types: PhantomData<fn(&K, &V, Order)>,
}

impl<K: ?Sized, V: ?Sized, Order> Table<K, V, Order> {
    pub(crate) const fn new(index: u16) -> Self {
        Self {
            index,
            types: PhantomData,
        }
    }
}

impl<K: ?Sized, V: ?Sized, Order> Clone for Table<K, V, Order> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<K: ?Sized, V: ?Sized, Order> Copy for Table<K, V, Order> {}

/// What a table is called and how large it may grow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TableSpec {
    /// Its name, unique in the store.
    pub name: &'static str,
    /// Most rows it may have; the store's own limit may be lower.
    pub rows: usize,
}

impl TableSpec {
    /// A table with at most `rows` rows.
    pub const fn new(name: &'static str, rows: usize) -> Self {
        Self { name, rows }
    }
}
