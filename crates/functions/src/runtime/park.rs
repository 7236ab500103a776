//! Packets that wait for state.

use alloc::collections::VecDeque;

use stateplane_base::Time;
use stateplane_flow::{FlowKey, PortId};

use super::FrameId;
use crate::function::Decision;

/// What [`Runtime::release`](super::Runtime::release) needs to know about a frame that
/// was parked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Parked {
    /// Where it came in.
    pub port: PortId,
    /// How many bytes it has.
    pub len: usize,
    /// The function of a chain where it waited.
    pub(crate) stage: usize,
    /// Its flow.
    pub(crate) flow: FlowKey,
    /// What was decided about it.
    pub(crate) decision: Decision,
}

/// Which of a decision's two flows a packet belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Way {
    /// The flow that is being decided.
    Forward,
    /// The flow of the answers, as announced.
    Reverse,
}

/// One packet that waits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiting {
    pub(super) frame: FrameId,
    pub(super) port: PortId,
    pub(super) len: usize,
    pub(super) since: Time,
    pub(super) way: Way,
}

/// The packets that wait for one decision, in the order in which they came. Mostly it is one, for
/// which nothing is allocated.
#[derive(Debug, Default)]
pub(super) struct Queue {
    first: Option<Waiting>,
    /// Empty if there is no first.
    rest: VecDeque<Waiting>,
}

impl Queue {
    pub(super) fn push(&mut self, packet: Waiting) {
        let last = self.rest.back().or(self.first.as_ref());
        debug_assert!(last.is_none_or(|last| last.since <= packet.since));
        match self.first {
            None => self.first = Some(packet),
            Some(_) => self.rest.push_back(packet),
        }
    }

    /// When the oldest packet came.
    pub(super) fn oldest(&self) -> Option<Time> {
        self.first.map(|packet| packet.since)
    }

    /// Takes the oldest packet if it came at or before `time`.
    pub(super) fn pop_until(&mut self, time: Time) -> Option<Waiting> {
        let oldest = self.first.take_if(|packet| packet.since <= time)?;
        self.first = self.rest.pop_front();
        Some(oldest)
    }

    /// Takes all packets.
    pub(super) fn take(&mut self) -> impl Iterator<Item = Waiting> + use<> {
        let Queue { first, rest } = core::mem::take(self);
        first.into_iter().chain(rest)
    }

    /// Takes the packets that go one way; the others keep their places.
    pub(super) fn take_way(&mut self, way: Way) -> VecDeque<Waiting> {
        let (taken, kept): (VecDeque<_>, VecDeque<_>) =
            self.take().partition(|packet| packet.way == way);
        self.rest = kept;
        self.first = self.rest.pop_front();
        taken
    }

    pub(super) fn len(&self) -> usize {
        usize::from(self.first.is_some()) + self.rest.len()
    }
}
