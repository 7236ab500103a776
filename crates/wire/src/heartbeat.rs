//! What a function instance tells a switch every few milliseconds: "I am
//! serving". It is sent from the loop that moves the packets, so that a hung
//! loop falls silent.
//!
//! Who sent it, in which life and in which order are the envelope's sender,
//! incarnation and counter.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-------------------------------+---------------+---------------+
//! |    instance (big-endian)      |     state     |       0       |
//! +-------------------------------+---------------+---------------+
//! ```
//!
//! `instance` is the sender's place in the switch's list; a switch ignores a
//! beat whose place differs from its own list, because then the two nodes run
//! with different configurations.

/// Bytes of an encoded [`Beat`].
pub const LEN: usize = 4;

/// One heartbeat.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Beat {
    /// The sender's place in the switch's list of instances.
    pub instance: u16,
    /// Whether it wants packets.
    pub state: State,
}

/// Whether an instance wants packets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// It serves.
    Serving,
    /// It is about to stop: send its flows elsewhere, now.
    Draining,
}

impl Beat {
    /// The bytes of this beat.
    pub fn encode(self) -> [u8; LEN] {
        let [high, low] = self.instance.to_be_bytes();
        let state = match self.state {
            State::Serving => 0,
            State::Draining => 1,
        };
        [high, low, state, 0]
    }

    /// `None` unless `bytes` are exactly one beat.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let [high, low, state, 0] = *bytes else {
            return None;
        };
        let state = match state {
            0 => State::Serving,
            1 => State::Draining,
            _ => return None,
        };
        Some(Self {
            instance: u16::from_be_bytes([high, low]),
            state,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_beat_survives_the_wire() {
        for state in [State::Serving, State::Draining] {
            let beat = Beat {
                instance: 0x0102,
                state,
            };
            assert_eq!(Beat::decode(&beat.encode()), Some(beat));
        }
        assert_eq!(
            Beat {
                instance: 0x0102,
                state: State::Draining
            }
            .encode(),
            [1, 2, 1, 0]
        );
    }

    #[test]
    fn anything_else_is_refused() {
        for bytes in [
            &[][..],
            &[0, 0, 0],
            &[0, 0, 2, 0],
            &[0, 0, 0, 1],
            &[0, 0, 0, 0, 0],
        ] {
            assert_eq!(Beat::decode(bytes), None, "{bytes:?}");
        }
    }
}
