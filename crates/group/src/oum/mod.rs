//! Ordered unreliable multicast, the receiver's side (NOPaxos, Li et al., OSDI 2016,
//! section 4): messages that a sequencer has numbered come out in the order of their
//! numbers, and where one is lost, *that* comes out in its place.
//!
//! [`Receiver`] is fed with stamped messages, with tails ("I gave numbers up to n") and with
//! beginnings of sessions, and yields [`Delivery`]s:
//! * a message, in its turn
//! * a *drop notification* for numbers that did not arrive within some patience
//! * the end of a session, after which numbers begin anew
//!
//! Between a session's beginning and its end each number is delivered exactly once, as a
//! message or within a drop notification, and in order, whatever the network loses,
//! repeats or puts into another order. Receivers of one group may differ only in which numbers
//! are messages. Everything that is kept is bounded.
//!
//! *Who may begin a session* is not decided here. A stamp proves that a sequencer believed to
//! be in force, not that it was: stamps of a session nobody announced wait for it. (In the
//! paper a message of a later session ends the present one, because a controller is trusted
//! to have set it up.)
//!
//! It has three layers, each of use alone:
//! * [`Window`]: places in a row
//! * [`Inbox`]: numbers of sessions to places. The replica is built on it and not on
//!   `Receiver`: its leader turns a loss into an agreement, which may find the message after
//!   all, and its views decide which of the numbers of a session that ended count
//! * [`Receiver`]: patience, and what comes out
//!
//! The sequencer's side is [`crate::Sequencer`], the packets are [`stateplane_wire::oum`].
//! `examples/ordered_multicast.rs` puts them together.

mod inbox;
mod receiver;
mod window;

pub use inbox::{Age, Inbox, SessionId, Stamped};
pub use receiver::{Delivery, Receiver};
pub use window::{Put, Window};
