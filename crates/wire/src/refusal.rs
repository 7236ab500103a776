//! What is told to a node whose datagrams are taken for those of a former life.
//!
//! A life is named by the time of day at its start, so that a later one has a higher name
//! and [`ReplayGuard`](crate::envelope::ReplayGuard) knows what to refuse. A node that starts
//! with its clock set back has a lower name than its former life. Whoever refuses its
//! datagrams says so, and the node goes on under a name above the one that was known.
//!
//! ```text
//!  0                8                16       18
//! +----------------+----------------+--------+
//! | refused life   | known life     | sender |     of whom both are lives
//! +----------------+----------------+--------+
//! ```
//!
//! A client says hello to all replicas when it starts, and again until it hears them: they
//! know its lives even if it only ever speaks to a sequencer that tells nobody anything, as
//! one in the network.
//!
//! # Why this opens no way for replays
//! * A refusal changes nothing at whoever sends it: the guard goes on refusing every
//!   datagram of a life below the known one, for ever. All that happens is that its subject
//!   takes another name, above the known one, under which it has not sent anything yet. So
//!   (life, counter) still never repeats, and what was recorded of any former life stays
//!   worthless.
//! * Refusals themselves pass no guard, because two nodes that were both set back refuse
//!   each other, and would never hear why. Instead a refusal is believed only by the life it
//!   names, under the cluster's key, and that life ends with it. Played again, to this or
//!   any later life, it is about somebody else.
//! * Played *first* (caught, held back), it says what is true: that life was refused there.
//! * Who plays datagrams of a former life has a refusal sent that no present life believes.
//!   Who plays them to a node that has just started, and knows nobody, makes it know a life
//!   that was: the present one is refused, takes a name above, and is heard. The known
//!   life comes from an authentic datagram, so no name above all that ever were can be forced
//!   upon anybody, and this comes to an end.
//! * The name above the known one must not be one that another node knows already. It is
//!   drawn at random from some millions.
//! * A process that was believed dead and goes on, while its successor is there, must not
//!   silence that one: nothing is told before several datagrams of the former life arrived
//!   with none of the known one in between.

/// Bytes of an encoded [`Refusal`].
pub const LEN: usize = 18;

/// "To us, this life of yours is a former one."
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// The life that was refused.
    pub refused: u64,
    /// The later one that is known.
    pub known: u64,
    /// Whose lives they are.
    pub sender: u16,
}

impl Refusal {
    /// The bytes.
    pub fn encode(self) -> [u8; LEN] {
        let mut bytes = [0; LEN];
        bytes[..8].copy_from_slice(&self.refused.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.known.to_be_bytes());
        bytes[16..].copy_from_slice(&self.sender.to_be_bytes());
        bytes
    }

    /// `None` unless `bytes` are exactly one refusal, of a life below the known one.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; LEN] = bytes.try_into().ok()?;
        let (refused, rest) = bytes.split_first_chunk()?;
        let (known, sender) = rest.split_first_chunk()?;
        let refusal = Self {
            refused: u64::from_be_bytes(*refused),
            known: u64::from_be_bytes(*known),
            sender: u16::from_be_bytes(sender.try_into().ok()?),
        };
        (refusal.refused < refusal.known).then_some(refusal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_refusal_survives_its_bytes(refused: u64, known: u64, sender: u16) {
            let refusal = Refusal { refused, known, sender };
            let back = Refusal::decode(&refusal.encode());
            prop_assert_eq!(back, (refused < known).then_some(refusal));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Some(refusal) = Refusal::decode(&bytes) {
                prop_assert_eq!(&refusal.encode()[..], &bytes[..]);
            }
        }
    }
}
