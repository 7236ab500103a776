//! How large a store may grow.

/// A bound on everything. What would exceed one is refused; nothing is evicted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Bytes of one operation.
    pub op_bytes: usize,
    /// Bytes of one reply, the status included.
    pub reply_bytes: usize,
    /// Bytes of one key in any table or timer.
    pub key_bytes: usize,
    /// Bytes of one value in any table.
    pub value_bytes: usize,
    /// Rows of any one table; a table may declare fewer.
    pub rows: usize,
    /// Timers armed at once.
    pub timers: usize,
    /// Bytes of all keys and values together, a fixed share for each row's own cost included.
    pub memory_bytes: usize,
}

impl Limits {
    /// What one row or timer costs besides the bytes of its key and value, about.
    pub(crate) const ROW_COST: usize = 64;

    /// The same, but within what a snapshot's length fields can say.
    pub(crate) fn encodable(self) -> Self {
        Self {
            key_bytes: self.key_bytes.min(usize::from(u16::MAX)),
            value_bytes: self.value_bytes.min(i32::MAX as usize),
            ..self
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            op_bytes: 4 << 20,
            reply_bytes: 4 << 20,
            key_bytes: 1 << 10,
            // A MiB, and what a procedure keeps with it.
            value_bytes: (1 << 20) + 256,
            rows: 4 << 20,
            timers: 4 << 20,
            memory_bytes: 2 << 30,
        }
    }
}
