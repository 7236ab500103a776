//! Regions on other machines: deltas of changed lines over a network that loses,
//! duplicates and reorders.
//!
//! State machines without a socket or a clock: an [`Export`] is fed the region's versions
//! and turns them into datagrams, an [`Import`] turns datagrams into versions of a copy.
//!
//! * **A version is what crosses, or nothing.** What leads from one version to another is
//!   cut into pieces. A receiver collects them aside and changes its copy when it has all
//!   of them, so that its readers never see less (Tasvir wrote into its copy as packets
//!   came, and published halves of versions as soon as one packet was lost).
//! * **No history.** The sender remembers for each line the version that changed it last.
//!   What leads from *any* older version to the present one follows from that: for one
//!   that missed a piece, one that was away, and one that comes late (from nothing: all
//!   lines that are not zero).
//! * **Receivers say what they have**, with every version they complete and once in a
//!   while; what they lack they name piece by piece. A receiver that falls silent is
//!   forgotten after its lease and holds nobody up.
//! * **Flow control.** The sender takes up the next version when all receivers have this
//!   one, or after [`Timing::hold`]: more changes then make larger steps, not more of them.
//!   It sends at most [`Timing::burst`] bytes a turn.
//! * **Identity.** A version is named by the writer's epoch and its number, so copies
//!   survive a restart of the sender. Where the epochs differ all is sent anew.
//! * **Relays.** Who received a version can send it on ([`Export::pass_on`]): a region then
//!   leaves its writer's machine once for each rack, say, instead of once for each machine. A
//!   receiver may have several senders ([`Parents`]): the first that is alive is asked.

mod export;
mod import;
mod message;
mod mutation;
mod parents;
mod peer;
mod relay;
mod seal;
mod took;
mod way;

use std::time::Duration;

pub use export::{Export, Outgoing, PEERS_MAX, Sent, To};
pub use import::{Import, Step, Taken};
pub use message::{Malformed, Mark};
pub use parents::{Asked, Parents};
pub use seal::{Life, Sealed};

use crate::name::Name;

/// Which version of a region: of which writer, and its number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct At {
    /// The writer's epoch.
    pub epoch: u64,
    /// The version; 0: none.
    pub version: u64,
}

/// How patient both sides are. One for all regions of a deployment, or each its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timing {
    /// How far apart versions are taken up, at least.
    pub interval: Duration,
    /// How long one waits for what should have come, before one asks: about half the
    /// round trip.
    pub patience: Duration,
    /// How long a receiver that lacks something may keep the next version from the others.
    pub hold: Duration,
    /// A receiver not heard for so long is forgotten; it says that it lives three times
    /// as often.
    pub lease: Duration,
    /// Bytes sent in one turn, at most (but always a datagram).
    pub burst: usize,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            interval: Duration::from_millis(1),
            patience: Duration::from_millis(1),
            hold: Duration::from_millis(20),
            lease: Duration::from_secs(1),
            burst: 64 << 10,
        }
    }
}

/// The number that stands for a region's name on the wire.
pub fn region_id(name: &Name) -> u64 {
    crate::spec::schema(name.as_str())
}

#[cfg(test)]
mod tests;
