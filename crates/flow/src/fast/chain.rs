//! A chain of functions as one action.

use super::key::Kind;
use super::layout::TTL_MAX;
use super::settings::KeyMask;
use crate::{Endpoint, FlowAction};

/// Why a chain's actions stay apart: the slow path applies them one after the other.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Apart {
    /// A chain of no function sends nothing anywhere.
    #[error("a chain without functions has no action")]
    Empty,
    /// More hops than an action counts.
    #[error("the chain counts {0} hops, an action at most {TTL_MAX}")]
    Hops(u8),
}

/// The action that does at once what `actions` do one after the other to packets of this kind, and
/// sends them where the last one does.
///
/// What a later function writes replaces what an earlier one wrote, and each that routes counts as
/// a hop. An echo has one identifier, so there the last port that is written counts,
/// whichever end's it is.
pub fn compose(
    kind: Kind,
    actions: impl IntoIterator<Item = FlowAction>,
) -> Result<FlowAction, Apart> {
    let mut actions = actions.into_iter();
    let mut whole = actions.next().ok_or(Apart::Empty)?;
    for next in actions {
        // What the next one writes of an echo's identifier.
        let echo = next.destination.or(next.source);
        let echo = echo.filter(|_| kind == Kind::Echo).map(|end| end.port);
        let after = |first: Option<Endpoint>, next: Option<Endpoint>| {
            let end = next.or(first)?;
            let port = echo.unwrap_or(end.port);
            Some(Endpoint { port, ..end })
        };
        whole = FlowAction {
            source: after(whole.source, next.source),
            destination: after(whole.destination, next.destination),
            ttl: whole.ttl.saturating_add(next.ttl),
            out: next.out,
        };
    }
    match whole.ttl {
        ttl if ttl > TTL_MAX => Err(Apart::Hops(ttl)),
        _ => Ok(whole),
    }
}

/// Whether an entry whose packets count at a meter has room for what this rewrites: one port's number.
pub fn has_room_for(action: &FlowAction) -> bool {
    let ends = action.source.zip(action.destination);
    ends.is_none_or(|(source, destination)| source.port == destination.port)
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
