//! What nobody needs any more. Freeing a large table takes long, so it is done a few rows at a time.

use alloc::vec::Vec;

use crate::rows::Rows;
use crate::timers::Timers;

/// Tables and timers to be freed.
#[derive(Default)]
pub(crate) struct Waste {
    pub(crate) rows: Vec<Rows>,
    pub(crate) timers: Vec<Timers>,
}

impl Waste {
    /// Takes in other waste.
    pub(crate) fn append(&mut self, mut other: Self) {
        self.rows.append(&mut other.rows);
        self.timers.append(&mut other.timers);
    }

    /// Frees about `rows` rows; true if nothing is left.
    pub(crate) fn shed(&mut self, rows: usize) -> bool {
        let mut left = rows;
        while left > 0 {
            let gone = if let Some(rows) = self.rows.last_mut() {
                rows.shed(left)
            } else if let Some(timers) = self.timers.last_mut() {
                timers.shed(left)
            } else {
                return true;
            };
            if gone == 0 && self.rows.pop().is_none() {
                self.timers.pop();
            }
            left = left.saturating_sub(gone);
        }
        false
    }
}
