//! Queues: first in, first out.

use zerocopy::byteorder::network_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::refusal::Refusal;
use crate::registry::{RegisterError, Registry};
use crate::table::{Key, Record, Table, TableSpec};
use crate::tx::Tx;

/// Where a queue begins and ends: its items are numbered `head..tail`.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy, Default)]
#[repr(C)]
pub(crate) struct Ends {
    head: U64,
    tail: U64,
}

/// A set of queues, one for each key, with items of type `T`. An empty queue takes no room.
pub struct Queues<K: ?Sized, T: ?Sized> {
    ends: Table<K, Ends>,
    /// Under the item's number followed by the queue's key.
    items: Table<[u8], T>,
}

impl<K: ?Sized, T: ?Sized> Clone for Queues<K, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<K: ?Sized, T: ?Sized> Copy for Queues<K, T> {}

impl<K: Record + ?Sized, T: Record + ?Sized> Queues<K, T> {
    /// Adds the queues to a registry as two tables; `items.rows` bounds all queues together.
    pub fn register(
        registry: &mut Registry,
        ends: TableSpec,
        items: TableSpec,
    ) -> Result<Self, RegisterError> {
        Ok(Self {
            ends: registry.table(ends)?,
            items: registry.table(items)?,
        })
    }

    fn ends(self, tx: &Tx<'_>, key: &K) -> Result<(u64, u64), Refusal> {
        let ends = tx.get(self.ends, key)?.copied().unwrap_or_default();
        let (head, tail) = (ends.head.get(), ends.tail.get());
        if head <= tail {
            Ok((head, tail))
        } else {
            Err(Refusal::Corrupt)
        }
    }

    /// How many items a queue has.
    pub fn len(self, tx: &Tx<'_>, key: &K) -> Result<u64, Refusal> {
        self.ends(tx, key).map(|(head, tail)| tail - head)
    }

    /// How many items all queues have together.
    pub fn total(self, tx: &Tx<'_>) -> usize {
        tx.len(self.items)
    }

    /// Appends an item and returns how many there are now.
    pub fn push(self, tx: &mut Tx<'_>, key: &K, item: &T) -> Result<u64, Refusal> {
        let (head, tail) = self.ends(tx, key)?;
        let next = tail.checked_add(1).ok_or(Refusal::OutOfRange)?;
        tx.put(self.items, &*item_key(tail, key), item)?;
        tx.put(
            self.ends,
            key,
            &Ends {
                head: head.into(),
                tail: next.into(),
            },
        )?;
        Ok(next - head)
    }

    /// Takes the oldest item and hands its bytes to `read`; `None` if there is none.
    pub fn pop<R>(
        self,
        tx: &mut Tx<'_>,
        key: &K,
        read: impl FnOnce(&T) -> R,
    ) -> Result<Option<R>, Refusal> {
        let (head, tail) = self.ends(tx, key)?;
        if head == tail {
            return Ok(None);
        }
        let at = item_key(head, key);
        let item = read(tx.get(self.items, &*at)?.ok_or(Refusal::Corrupt)?);
        tx.remove(self.items, &*at);
        if head + 1 == tail {
            tx.remove(self.ends, key);
        } else {
            tx.put(
                self.ends,
                key,
                &Ends {
                    head: (head + 1).into(),
                    tail: tail.into(),
                },
            )?;
        }
        Ok(Some(item))
    }
}

fn item_key<K: Record + ?Sized>(number: u64, key: &K) -> Key {
    Key::join(&number.to_be_bytes(), key.as_bytes())
}
