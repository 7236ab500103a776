//! What an operator may want changed in a group's membership, and what the group says.

use core::fmt;

use super::{Membership, Slot};
use crate::codec::{Malformed, Reader, Writer};

/// On the wire: no seat.
const NOBODY: u8 = u8::MAX;

/// A change of the membership: one seat less, one more, or one for another.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Change {
    /// The seat that leaves.
    pub out: Option<u8>,
    /// The seat that joins.
    pub into: Option<u8>,
}

impl Change {
    pub(super) fn encode(self, ticket: u64, w: &mut Writer<'_>) {
        w.u64(ticket);
        w.u8(self.out.unwrap_or(NOBODY));
        w.u8(self.into.unwrap_or(NOBODY));
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        let mut seat = || match r.u8()? {
            NOBODY => Ok(None),
            seat if seat < 16 => Ok(Some(seat)),
            _ => Err(Malformed("seat")),
        };
        Ok(Self {
            out: seat()?,
            into: seat()?,
        })
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.out, self.into) {
            (Some(out), Some(into)) => write!(f, "replace {out} by {into}"),
            (Some(out), None) => write!(f, "remove {out}"),
            (None, Some(into)) => write!(f, "add {into}"),
            (None, None) => f.write_str("nothing"),
        }
    }
}

/// Defines [`Answer`] with the names used in JSON and its numbers on the wire.
macro_rules! answers {
    ($($name:ident = $number:literal, $text:literal, $doc:literal;)*) => {
        /// What a replica says to a change.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum Answer { $(#[doc = $doc] $name,)* }

        impl Answer {
            /// The name used in JSON.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            pub(super) fn encode(self, ticket: u64, w: &mut Writer<'_>) {
                w.u64(ticket);
                w.u8(match self { $(Self::$name => $number,)* });
            }

            pub(super) fn decode(r: &mut Reader<'_>) -> Result<Self, Malformed> {
                match r.u8()? {
                    $($number => Ok(Self::$name),)*
                    _ => Err(Malformed("answer")),
                }
            }
        }
    };
}

answers! {
    Accepted = 0, "accepted", "It is on its way.";
    NotTheLeader = 1, "not-the-leader", "Whom we asked does not lead, or whom we would ask is not known: ask again.";
    HandsOver = 2, "hands-over", "The leader is to leave, and lets another lead first: ask again.";
    InProgress = 3, "in-progress", "Another change is not complete.";
    UnknownSeat = 4, "unknown-seat", "The configuration has no such seat.";
    AlreadyMember = 5, "already-a-member", "The seat that is to join has joined.";
    NotAMember = 6, "not-a-member", "The seat that is to leave has left.";
    NotHeard = 7, "not-heard", "The replica that is to join does not announce itself.";
    NoMajority = 8, "no-majority", "Too few of those that would remain are heard.";
    Nothing = 9, "nothing", "No seat is to join and none to leave.";
}

/// Leader to a replica that is to become a member: "get the state".
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Learn {
    /// A state below this slot is of no use.
    pub floor: Slot,
    /// Those that have it.
    pub members: Membership,
}

impl Learn {
    pub(super) fn encode(self, w: &mut Writer<'_>) {
        w.u64(self.floor);
        self.members.encode(w);
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Self {
            floor: r.u64()?,
            members: Membership::decode(r)?,
        })
    }
}
