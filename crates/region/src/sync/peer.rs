//! A receiver, as its sender knows it.

use std::time::Duration;

use stateplane_base::Time;

use super::At;

/// A receiver.
#[derive(Debug)]
pub(super) struct Peer {
    /// What it said it has.
    pub(super) has: At,
    pub(super) heard: Time,
    /// When pieces were last sent to it, and when it was last reminded.
    pub(super) served: Time,
    pub(super) reminded: Time,
    /// When it was last told that what it has is all there is.
    pub(super) reassured: Time,
    /// How long it may hold the others up, and until when it may not at all.
    pub(super) hold: Duration,
    pub(super) rests: Time,
}

impl Peer {
    /// One that was never heard.
    pub(super) fn new(hold: Duration) -> Self {
        Self {
            has: At::default(),
            heard: Time::ZERO,
            served: Time::ZERO,
            reminded: Time::ZERO,
            reassured: Time::ZERO,
            hold,
            rests: Time::ZERO,
        }
    }
}
