//! Copies of regions between machines over UDP: the drivers of `stateplane_region::sync`.
//!
//! A [`Source`] sends a region of this machine to the receivers that its [`Sender`] was told
//! of: the region's scope. A [`Copy`] receives one and is its writer here; another sender can
//! pass it on. All are turned by their owner, wait for nothing, and authenticate as all
//! messages between nodes do.

mod copy;
mod sender;
mod source;

pub use copy::Copy;
pub use sender::Sender;
pub use source::Source;

/// Datagrams taken from a socket in one turn.
const ENOUGH: usize = 256;
/// Bytes of a datagram that any path between nodes takes whole: what IPv6 demands, less
/// its header and that of UDP (RFC 8200, 5).
pub const DATAGRAM: usize = 1280 - 40 - 8;

/// What a socket has seen.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Heard {
    /// Taken in.
    pub taken: u64,
    /// Of nobody known, forged, replayed, or malformed.
    pub refused: u64,
    /// Lost on purpose.
    pub lost: u64,
    /// What came by the sender's group.
    pub by_group: u64,
}

/// Loses datagrams on purpose, to see what loss costs: one in so many (0: none), at random.
#[derive(Clone, Copy, Default, Debug)]
struct Loss {
    one_in: u32,
    draw: u64,
}

impl Loss {
    fn strikes(&mut self) -> bool {
        if self.one_in == 0 {
            return false;
        }
        // A multiplicative generator (Lehmer's, with the multiplier of Steele and Vigna).
        self.draw = (self.draw | 1).wrapping_mul(0xd134_2543_de82_ef95);
        (self.draw >> 33).is_multiple_of(u64::from(self.one_in))
    }
}

fn count(heard: &mut Heard, taken: bool) {
    if taken {
        heard.taken += 1;
    } else {
        heard.refused += 1;
    }
}

#[cfg(test)]
mod tests;
