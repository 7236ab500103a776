//! What keeps a writer that was replaced from being taken for the one in force.

use std::fmt;
use std::sync::Arc;

use crate::board::Board;

/// A later writer has been promised the region: what this one writes nobody will read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("fenced: the region was given to a writer of epoch {by}")]
pub struct Fenced {
    /// The epoch of the later writer.
    pub by: u64,
}

/// A region's place on the board.
#[derive(Clone, Debug)]
pub(crate) struct Seat {
    board: Arc<Board>,
    slot: usize,
}

impl Seat {
    pub(crate) fn new(board: Arc<Board>, slot: usize) -> Self {
        Self { board, slot }
    }

    /// The epoch that readers should have.
    #[inline]
    pub(crate) fn current(&self) -> u64 {
        self.board.current(self.slot)
    }
}

/// A writer's place, which it gives up when it ends.
pub(crate) struct Fence {
    seat: Seat,
    epoch: u64,
    release: Box<dyn Fn() + Send>,
}

impl Fence {
    pub(crate) fn new(seat: Seat, epoch: u64, release: impl Fn() + Send + 'static) -> Self {
        Self {
            seat,
            epoch,
            release: Box::new(release),
        }
    }

    #[inline]
    pub(crate) fn check(&self) -> Result<(), Fenced> {
        let by = self.seat.board.claimed(self.seat.slot);
        if by == self.epoch {
            Ok(())
        } else {
            Err(Fenced { by })
        }
    }
}

impl Drop for Fence {
    fn drop(&mut self) {
        (self.release)();
    }
}

impl fmt::Debug for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}, epoch {}", self.seat, self.epoch)
    }
}
