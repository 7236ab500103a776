//! What a driver drives: one function at work, or a chain of them.

use alloc::rc::Rc;
use alloc::vec::Vec;

use stateplane_base::{Reason, Time};
use stateplane_flow::fast::KeyMask;
use stateplane_flow::{FlowAction, FlowKey, PortId};

use crate::context::{StateError, Ticket};
use crate::counters::Counters;
use crate::function::NetworkFunction;
use crate::local::LocalTables;
use crate::runtime::{Disposition, Effect, FrameId, Glance, Parked, Session, Sight};

/// The face that functions at work show to their driver: frames, replies and time in; dispositions and
/// effects out. [`Runtime`](crate::runtime::Runtime) explains it, for one function; a [`Chain`](crate::chain::Chain) has the same.
pub trait Driven {
    /// Its functions.
    type Function: NetworkFunction;

    /// The first part of what becomes of a frame that arrived on `port`: the first `len` bytes of
    /// `buffer`, whose whole room may be used for an answer.
    fn glance(&mut self, now: Time, port: PortId, buffer: &mut [u8], len: usize) -> Glance;

    /// The second part, for a burst: finds what is known of the packets' flows.
    fn seek(&self, port: PortId, glances: &mut [Glance]);

    /// The rest, for the same frame, before time passes.
    fn proceed(
        &mut self,
        now: Time,
        port: PortId,
        frame: FrameId,
        buffer: &mut [u8],
        glance: &Glance,
    ) -> Disposition;

    /// A parked frame was released. It may have to wait again.
    fn release(
        &mut self,
        now: Time,
        frame: FrameId,
        parked: &Parked,
        buffer: &mut [u8],
    ) -> Disposition;

    /// The store answered, or did not in time.
    fn on_reply(&mut self, now: Time, ticket: Ticket, result: Result<Vec<u8>, StateError>);

    /// When [`Self::on_timer`] wants to be called.
    fn next_timer(&self) -> Option<Time>;

    /// Time passed. `sight`: the fast path's, or `&()` if there is none.
    fn on_timer(&mut self, now: Time, sight: &dyn Sight);

    /// The next thing to do, if there is one.
    fn poll_effect(&mut self) -> Option<Effect>;

    /// The fast path gave all flows up.
    fn offer_again(&mut self);

    /// No more packets will come.
    fn stop(&mut self, now: Time);

    /// Gives functions the store's committed tables that lie on this machine.
    fn set_local(&mut self, tables: Rc<dyn LocalTables>);

    /// For drops that the driver decides about (no route, no neighbour, full ring).
    fn count_drop(&mut self, reason: Reason);

    /// What was counted so far.
    fn counted(&self) -> Counters;

    /// Cached flows.
    fn flows(&self) -> usize;

    /// Up to `limit` cached decisions that satisfy `filter`.
    fn sessions(
        &self,
        now: Time,
        limit: usize,
        filter: impl Fn(&FlowKey, &FlowAction) -> bool,
    ) -> Vec<Session>;

    /// The functions, from inside to outside.
    fn functions(&self) -> impl Iterator<Item = &Self::Function>;

    /// The functions, to change their view of the world.
    fn functions_mut(&mut self) -> impl Iterator<Item = &mut Self::Function>;

    /// What of a packet that comes by `port` makes its flow. `None`: that cannot be said.
    fn key_mask(&self, port: PortId) -> Option<KeyMask>;

    /// Asserts the invariants.
    fn check(&self);
}
