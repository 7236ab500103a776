//! Telling the switches that this instance lives.
//!
//! The worker's loop calls [`Heartbeat::due`] itself: if the loop hangs, the
//! switches hear silence, which is what they should hear.

use std::net::SocketAddrV4;
use std::time::Duration;

use stateplane_base::Time;
use stateplane_wire::envelope::Kind;
use stateplane_wire::heartbeat::{Beat, State};

use crate::channel::{Channel, Counters};

/// The last word before the end is said this often, because datagrams get lost.
const FAREWELLS: usize = 3;

/// Datagrams heard before a beat.
const BATCH: usize = 16;

/// Sends a beat to every switch, on time.
#[derive(Debug)]
pub struct Heartbeat {
    channel: Option<Channel>,
    /// Each switch, and this instance's index there.
    switches: Vec<(SocketAddrV4, u16)>,
    every: Duration,
    next: Time,
    state: State,
}

impl Heartbeat {
    /// Beats towards `switches` through `channel`.
    pub fn new(channel: Channel, switches: Vec<(SocketAddrV4, u16)>, every: Duration) -> Self {
        Self {
            channel: Some(channel),
            switches,
            every,
            next: Time::ZERO,
            state: State::Serving,
        }
    }

    /// For an instance that no switch steers to.
    pub fn silent() -> Self {
        Self {
            channel: None,
            switches: Vec::new(),
            every: Duration::MAX,
            next: Time::MAX,
            state: State::Serving,
        }
    }

    /// Sends the beats that are due. Call it in every turn of the loop, but not
    /// before the instance is able to serve.
    pub fn due(&mut self, now: Time) {
        if now < self.next {
            return;
        }
        // A switch that takes this life for a former one says so.
        if let Some(channel) = &mut self.channel {
            // Whatever is wrong with the socket shows when it sends.
            let _ = channel.receive(BATCH, |_| ());
        }
        // After a delay the rhythm starts anew: beats are not made up for.
        self.next = now + self.every;
        self.beat();
    }

    /// Says goodbye: the switches send the flows elsewhere at once.
    pub fn drain(&mut self) {
        self.state = State::Draining;
        for _ in 0..FAREWELLS {
            self.beat();
        }
    }

    /// When the next beat is due.
    pub fn next(&self) -> Time {
        self.next
    }

    /// Sent and failed datagrams.
    pub fn counters(&self) -> Counters {
        self.channel
            .as_ref()
            .map(Channel::counters)
            .unwrap_or_default()
    }

    fn beat(&mut self) {
        let Some(channel) = &mut self.channel else {
            return;
        };
        for &(switch, instance) in &self.switches {
            let beat = Beat {
                instance,
                state: self.state,
            };
            channel.send(switch, Kind::Heartbeat, &beat.encode());
        }
        channel.flush();
    }
}
