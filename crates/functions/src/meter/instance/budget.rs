//! What an allowance lets pass here: reserved at the store before it is spent.

use alloc::rc::Rc;
use core::cell::RefCell;
use core::time::Duration;

use stateplane_base::Time;
use stateplane_lease::Owner;

use super::State;
use super::accounts::Account;
use super::decide::reserved;
use super::upkeep::heard;
use crate::context::{Allow, Context, StateError};
use crate::function::Meter;
use crate::meter::config::Allowance;
use crate::meter::ops::{Reserve, Reserved};

/// This process keeps one of so many parts of what is reserved at once for what comes its way: most
/// pass in front of it.
const HERE: u64 = 4;
/// Who has nothing left asks again after so many intervals: another owner may give something back.
const EMPTY: u32 = 10;

type Shared = Rc<RefCell<State>>;

/// One subscriber's.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    pub(super) allowance: Allowance,
    /// Bytes that this process may let pass. What may pass in front of it is the meter's limit.
    pub(super) here: u64,
    /// The period of what was reserved.
    pub(super) period: u64,
    /// When that may not be spent any more.
    pub(super) ends: Time,
    /// A reservation is under way.
    pub(super) asking: bool,
    /// The store had nothing left: not to be asked again before then.
    pub(super) empty_until: Time,
    /// The period is all but over: what is reserved could not be spent in time.
    pub(super) pause_until: Time,
}

impl Budget {
    pub(super) fn new(allowance: Allowance) -> Self {
        Self {
            allowance,
            here: 0,
            period: 0,
            ends: Time::ZERO,
            asking: false,
            empty_until: Time::ZERO,
            pause_until: Time::ZERO,
        }
    }

    /// Bytes that this process may let pass at this moment.
    pub(super) fn spendable(&self, now: Time) -> u64 {
        if now < self.ends { self.here } else { 0 }
    }

    /// Whether nothing may pass, and it is of no use to ask.
    pub(super) fn is_empty(&self, now: Time) -> bool {
        now < self.empty_until && self.spendable(now) == 0
    }

    /// Whether more should be reserved before what there is has been spent, or ends.
    pub(super) fn runs_low(&self, now: Time, in_front: Option<u64>, interval: Duration) -> bool {
        let slice = self.allowance.slice();
        let asks = now >= self.empty_until && now >= self.pause_until && now < self.ends;
        let low = in_front.is_some_and(|left| left < slice / 2) || self.here < slice / (2 * HERE);
        asks && (low || self.ends < now + 2 * interval)
    }
}

/// Reserves one more part of a subscriber's allowance, `bytes` at least. One at a time.
pub(super) fn reserve(state: &Shared, cx: &Context, slot: u32, bytes: u64) {
    let (wanted, token) = {
        let mut shared = state.borrow_mut();
        let (instance, fingerprint) = (shared.config.instance, shared.fingerprint);
        let token = shared.accounts.token(slot);
        let Some(account) = shared.accounts.at_mut(slot) else {
            return;
        };
        let (epoch, partition) = (account.epoch, account.partition);
        let subscriber = account.subscriber;
        let Some(budget) = account.budget.as_mut().filter(|budget| !budget.asking) else {
            return;
        };
        budget.asking = true;
        let wanted = Reserve {
            owner: Owner { instance, epoch },
            partition,
            fingerprint,
            want: budget.allowance.slice().max(bytes),
            subscriber,
        };
        (wanted, token)
    };
    let (state, link) = (Rc::clone(state), cx.clone());
    cx.spawn(async move {
        let sent = link.now();
        let reply = link.call(&wanted).await;
        heard(&state, &reply);
        let slot = state.borrow().accounts.slot_of(token);
        if let Some(slot) = slot {
            spend(&state, &link, slot, sent, bytes, reply);
            link.signal(reserved(slot));
        }
    });
}

/// Shares out what was reserved between this process and what passes in front of it.
fn spend(
    state: &Shared,
    cx: &Context,
    slot: u32,
    sent: Time,
    bytes: u64,
    reply: Result<Reserved, StateError>,
) {
    let mut shared = state.borrow_mut();
    let (lease, interval) = (shared.config.lease, shared.config.interval);
    let Some(account) = shared.accounts.at_mut(slot) else {
        return;
    };
    let in_front = account.in_front();
    let Account {
        budget,
        limit,
        seen,
        leaving,
        ..
    } = account;
    let Some(budget) = budget else {
        return;
    };
    budget.asking = false;
    let Ok(reply) = reply else {
        return;
    };
    // The period ends by the store's clock; ours may be slower.
    let ends = sent + lease.usable(reply.span);
    if reply.period != budget.period {
        // What is left of the former period ends with it.
        (budget.here, budget.period) = (0, reply.period);
        *limit = seen.used();
    }
    budget.ends = ends;
    let now = cx.now();
    if ends <= now {
        budget.pause_until = now + reply.span;
    }
    if reply.granted == 0 {
        cx.allow(Meter(slot), Allow::Until(*limit));
        // Asked again in the next period; or soon, for what another owner may give back.
        budget.empty_until = ends.min(now + EMPTY * interval).max(now + interval);
        return;
    }
    let slice = budget.allowance.slice();
    let here = match cx.has_fast_path() && !*leaving {
        false => reply.granted,
        true if in_front >= slice / 2 => reply.granted,
        true => (slice / HERE)
            .saturating_sub(budget.here)
            .max(bytes)
            .min(reply.granted),
    };
    budget.here = budget.here.saturating_add(here);
    *limit = limit.saturating_add(reply.granted - here);
    if !*leaving {
        cx.allow(Meter(slot), Allow::Until(*limit));
    }
}
