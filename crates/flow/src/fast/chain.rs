//! A chain of functions as one action.

use core::net::Ipv4Addr;

use super::action::{Action, Guard, Hop};
use super::key::Kind;
use super::layout::TTL_MAX;
use super::settings::KeyMask;
use crate::FlowAction;

/// Why a chain's actions stay apart: the slow path applies them one after the other.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Apart {
    /// A chain of no function sends nothing anywhere.
    #[error("a chain without functions has no action")]
    Empty,
    /// More hops than an action counts.
    #[error("the chain counts {0} hops, an action at most {TTL_MAX}")]
    Hops(usize),
}

/// The action that does at once what `actions` do one after the other to packets of this kind.
///
/// What a later function writes replaces what an earlier one wrote, and each that routes counts as
/// a hop. An echo has one identifier, so there the last port that is written counts,
/// whichever end's it is.
pub fn compose(
    kind: Kind,
    actions: &[FlowAction],
    hop: Hop,
    guard: Guard,
) -> Result<Action<Ipv4Addr>, Apart> {
    if actions.is_empty() {
        return Err(Apart::Empty);
    }
    let hops = actions.iter().filter(|action| action.dec_ttl).count();
    let mut whole = Action::forward(hop, guard);
    whole.ttl = u8::try_from(hops)
        .ok()
        .filter(|&hops| hops <= TTL_MAX)
        .ok_or(Apart::Hops(hops))?;
    for action in actions {
        whole.source = action.source.map(|end| end.addr).or(whole.source);
        whole.destination = action.destination.map(|end| end.addr).or(whole.destination);
        let ports = [action.source, action.destination].map(|end| end.map(|end| end.port));
        match kind {
            Kind::Echo => whole.destination_port = ports[1].or(ports[0]).or(whole.destination_port),
            Kind::Tcp | Kind::Udp => {
                whole.source_port = ports[0].or(whole.source_port);
                whole.destination_port = ports[1].or(whole.destination_port);
            }
        }
    }
    Ok(whole)
}

impl KeyMask {
    /// What makes a flow for a chain of two functions: what does for either. What the second one sees
    /// was written by the first, whose decision the key determines, or lies in the packet.
    #[must_use]
    pub const fn and_then(self, next: KeyMask) -> KeyMask {
        KeyMask {
            source: self.source || next.source,
            source_port: self.source_port || next.source_port,
            destination: self.destination || next.destination,
            destination_port: self.destination_port || next.destination_port,
        }
    }
}
