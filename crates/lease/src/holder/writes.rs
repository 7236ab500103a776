//! A partition's writes on their way to the store, and the packets that wait for them.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

/// A packet, or whatever else must wait; the caller's number.
pub type Output = u64;

/// Where a write is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Place {
    /// Not asked yet.
    Here,
    /// With the store.
    There,
    /// The store sent it back because it was early, or did not answer.
    Returned,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Pending {
    state: Vec<u8>,
    /// The write's own packet, and those that read what it wrote.
    outputs: Vec<Output>,
    place: Place,
}

/// The writes of one epoch that are not acknowledged, in the order of their sequence.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Writes {
    epoch: u64,
    /// The last one that is acknowledged.
    acknowledged: u64,
    pending: VecDeque<Pending>,
}

impl Writes {
    /// Those of another epoch are none of ours: their packets are given back.
    pub(super) fn resume(&mut self, epoch: u64, sequence: u64) -> Vec<Output> {
        if self.epoch == epoch {
            return Vec::new();
        }
        let outputs = self.discard();
        (self.epoch, self.acknowledged) = (epoch, sequence);
        outputs
    }

    /// Gives all packets back that still wait.
    pub(super) fn discard(&mut self) -> Vec<Output> {
        self.pending.drain(..).flat_map(|p| p.outputs).collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.pending.len()
    }

    /// Adds a write and its packet. `None`: the epoch's numbers are used up.
    pub(super) fn push(&mut self, state: Vec<u8>, output: Output) -> Option<u64> {
        let sequence = self
            .acknowledged
            .checked_add(self.pending.len() as u64)?
            .checked_add(1)?;
        self.pending.push_back(Pending {
            state,
            outputs: Vec::from([output]),
            place: Place::Here,
        });
        Some(sequence)
    }

    /// Lets a packet wait for the writes that it may have seen. False: there are none.
    pub(super) fn behind(&mut self, output: Output) -> bool {
        self.pending
            .back_mut()
            .map(|last| last.outputs.push(output))
            .is_some()
    }

    /// The next write to ask for, with its sequence. What came back is asked again only once it is
    /// the oldest: else the store would send it back again.
    pub(super) fn ask(&mut self) -> Option<(u64, Vec<u8>)> {
        let due = |(i, p): &(usize, &mut Pending)| match p.place {
            Place::Here => true,
            Place::There => false,
            Place::Returned => *i == 0,
        };
        let (i, pending) = self.pending.iter_mut().enumerate().find(due)?;
        pending.place = Place::There;
        Some((self.acknowledged + 1 + i as u64, pending.state.clone()))
    }

    /// A write came to nothing.
    pub(super) fn returned(&mut self, epoch: u64, sequence: u64) {
        let at = sequence.checked_sub(self.acknowledged + 1);
        let at = at.and_then(|at| usize::try_from(at).ok());
        let pending = at.and_then(|at| self.pending.get_mut(at));
        if let Some(pending) = pending.filter(|_| epoch == self.epoch) {
            pending.place = Place::Returned;
        }
    }

    /// The store has applied everything up to `sequence`: the packets that may leave.
    pub(super) fn acknowledged(&mut self, epoch: u64, sequence: u64) -> Vec<Output> {
        let mut outputs = Vec::new();
        while epoch == self.epoch
            && self.acknowledged < sequence
            && let Some(pending) = self.pending.pop_front()
        {
            self.acknowledged += 1;
            outputs.extend(pending.outputs);
        }
        outputs
    }
}
