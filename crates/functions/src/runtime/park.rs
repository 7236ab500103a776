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

/// The packets that wait for one decision, in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Queue {
    packets: VecDeque<Waiting>,
}

impl Queue {
    pub(super) fn push(&mut self, packet: Waiting) {
        debug_assert!(
            self.packets
                .back()
                .is_none_or(|last| last.since <= packet.since)
        );
        self.packets.push_back(packet);
    }

    /// When the oldest packet came.
    pub(super) fn oldest(&self) -> Option<Time> {
        self.packets.front().map(|packet| packet.since)
    }

    /// Takes the oldest packet if it came at or before `time`.
    pub(super) fn pop_until(&mut self, time: Time) -> Option<Waiting> {
        self.packets.pop_front_if(|packet| packet.since <= time)
    }

    /// Takes all packets.
    pub(super) fn take(&mut self) -> VecDeque<Waiting> {
        core::mem::take(&mut self.packets)
    }

    /// Takes the packets that go one way; the others keep their places.
    pub(super) fn take_way(&mut self, way: Way) -> VecDeque<Waiting> {
        let all = self.take();
        let (taken, kept) = all.into_iter().partition(|packet| packet.way == way);
        self.packets = kept;
        taken
    }

    pub(super) fn len(&self) -> usize {
        self.packets.len()
    }
}
