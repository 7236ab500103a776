//! What an instance does apart from packets: registers, keeps its lease, takes blocks,
//! refreshes mappings.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::net::Ipv4Addr;
use core::time::Duration;

use stateplane_base::{Reason, Time};
use stateplane_flow::{Protocol, steering};

use super::config::NatConfig;
use super::decide::{back_flow, mapped, out_flow};
use super::records::Due;
use super::{Problem, State, event};
use crate::context::{Context, StateError};
use crate::function::Token;
use crate::nat::ops::block::MAX_CANDIDATES;
use crate::nat::ops::mapping::REFRESH_BATCH;
use crate::nat::ops::{
    Lease, Lookup, NatRefusal, Owner, Refresh, RefreshItem, Register, Release, Renew, TakeBlock,
};

/// Pause after a failed registration or renewal.
const RETRY: Duration = Duration::from_millis(250);
/// Pause after a refusal that people may have to undo.
const RETRY_REFUSED: Duration = Duration::from_secs(5);
/// How long not to ask again for blocks of an address that has none left.
const EXHAUSTED: Duration = Duration::from_secs(1);
/// The same if the store did not answer.
const UNANSWERED: Duration = Duration::from_millis(20);

type Shared = Rc<RefCell<State>>;

/// Gives all blocks back; from now on nothing is proposed any more.
pub(super) fn stop(state: &Shared, cx: &Context) {
    let mut shared = state.borrow_mut();
    shared.stopped = true;
    shared.contact_at = Time::MAX;
    shared.ports.clear();
    let Some(owner) = shared.owner.take() else {
        return;
    };
    let task = cx.clone();
    cx.spawn(async move {
        // If this is lost, the lease runs out.
        let _ = task.call(&Release { owner }).await;
    });
}

/// Registers, or renews the lease; one at a time.
pub(super) fn contact(state: &Shared, cx: &Context) {
    state.borrow_mut().contact_at = Time::MAX;
    if state.borrow().stopped {
        return;
    }
    let (state, task) = (Rc::clone(state), cx.clone());
    cx.spawn(async move {
        let owner = state.borrow().owner;
        let sent = task.now();
        let granted = match owner {
            Some(owner) => task.call(&Renew { owner }).await,
            None => {
                let NatConfig {
                    instance,
                    incarnation,
                    fingerprint,
                    ..
                } = state.borrow().config;
                task.call(&Register {
                    instance,
                    incarnation,
                    fingerprint,
                })
                .await
            }
        };
        let now = task.now();
        let mut shared = state.borrow_mut();
        match granted {
            _ if shared.stopped => {}
            Ok(lease) => shared.granted(sent, &lease),
            Err(error) => shared.refused(now, error),
        }
        drop(shared);
        task.signal(event::REGISTRATION);
    });
}

impl State {
    /// A lease counts from when it was asked for.
    fn granted(&mut self, sent: Time, lease: &Lease) {
        let span = lease.ends.since(lease.now);
        self.owner = Some(Owner {
            instance: self.config.instance,
            epoch: lease.epoch,
        });
        self.lease_until = self.lease_until.max(sent + span);
        self.contact_at = self.lease_until - span / 2;
        self.problem = None;
        self.unanswered = false;
    }

    fn refused(&mut self, now: Time, error: StateError) {
        let refusal = match error {
            StateError::Refused(refusal) => NatRefusal::from_refusal(refusal),
            _ => None,
        };
        self.contact_at = now + RETRY;
        self.unanswered = error == StateError::Unavailable;
        match refusal {
            Some(NatRefusal::ConfigMismatch) => {
                self.problem = Some(Problem::ConfigMismatch);
                self.contact_at = now + RETRY_REFUSED;
            }
            Some(NatRefusal::Fenced) => self.forget_owner(now),
            _ => {}
        }
    }

    fn forget_owner(&mut self, now: Time) {
        self.owner = None;
        self.lease_until = Time::ZERO;
        self.ports.clear();
        // Another process of our name, or a store that lost everything: do not fight.
        self.problem = Some(Problem::Replaced);
        self.contact_at = now + RETRY_REFUSED;
    }

    /// Blocks to take, those that steer home first, in random order.
    fn candidates(&mut self, address: Ipv4Addr) -> Vec<u8> {
        let mut blocks: Vec<u8> = self.config.blocks().collect();
        blocks.retain(|&index| !self.ports.owns(address, index));
        self.rng.shuffle(&mut blocks);
        blocks.sort_by_key(|&index| !steers_home(self.home.as_ref(), address, index));
        blocks.truncate(MAX_CANDIDATES);
        blocks
    }
}

/// Whether answers to this block's ports come back to us, as far as we know.
fn steers_home(home: Option<&(steering::Table, u8)>, address: Ipv4Addr, index: u8) -> bool {
    home.is_none_or(|(table, me)| table.owner_of_block(address.to_bits(), u16::from(index)) == *me)
}

/// A later life of this instance took over; or so the store says.
pub(super) fn fenced(state: &Shared, cx: &Context) {
    let mut shared = state.borrow_mut();
    // Several decisions may hear of it; the first one does the work.
    if shared.owner.is_some() {
        shared.forget_owner(cx.now());
    }
}

/// Waits until we are registered and hold a lease.
pub(super) async fn registered(state: &Shared, cx: &Context) -> Result<Owner, Reason> {
    loop {
        {
            let mut shared = state.borrow_mut();
            match shared.owner {
                Some(owner) if shared.lease_until > cx.now() => return Ok(owner),
                _ if shared.stopped || shared.problem == Some(Problem::ConfigMismatch) => {
                    return Err(Reason::StoreUnavailable);
                }
                // Renew now instead of later; unless that is under way or was tried just now.
                Some(_)
                    if shared.contact_at != Time::MAX && shared.contact_at > cx.now() + RETRY =>
                {
                    shared.contact_at = cx.now();
                }
                _ => {}
            }
        }
        if state.borrow().contact_at <= cx.now() {
            contact(state, cx);
        }
        cx.wait(event::REGISTRATION).await;
    }
}

/// A port to propose; takes a block if there is none, and one in advance when the ports
/// run short.
pub(super) async fn propose(
    state: &Shared,
    cx: &Context,
    protocol: Protocol,
    address: Ipv4Addr,
    hold: Duration,
) -> Option<u16> {
    loop {
        let picked = {
            let State {
                ports, rng, home, ..
            } = &mut *state.borrow_mut();
            let home = |index| steers_home(home.as_ref(), address, index);
            ports.pick(cx.now(), protocol, address, hold, home, rng)
        };
        let asking = picked.want_block && take_block(state, cx, address);
        if picked.port.is_some() || !asking {
            return picked.port;
        }
        cx.wait(event::block(address)).await;
    }
}

/// Begins to take a block of an address, unless that is under way. False: not now.
fn take_block(state: &Shared, cx: &Context, address: Ipv4Addr) -> bool {
    let mut shared = state.borrow_mut();
    if shared.taking.contains(&address) {
        return true;
    }
    if shared
        .exhausted
        .get(&address)
        .is_some_and(|&until| cx.now() < until)
    {
        return false;
    }
    shared.exhausted.remove(&address);
    let candidates = shared.candidates(address);
    let Some(owner) = shared.owner.filter(|_| !candidates.is_empty()) else {
        return false;
    };
    shared.taking.insert(address);
    let (state, task) = (Rc::clone(state), cx.clone());
    cx.spawn(async move {
        let sent = task.now();
        let taken = task
            .call(&TakeBlock {
                owner,
                address,
                candidates,
            })
            .await;
        let now = task.now();
        let mut shared = state.borrow_mut();
        shared.taking.remove(&address);
        match taken {
            Ok(block) if shared.owner == Some(owner) => {
                shared.ports.add(address, block.index);
                let span = block.lease.ends.since(block.lease.now);
                shared.lease_until = shared.lease_until.max(sent + span);
            }
            Ok(_) => {} // of a registration that is over
            Err(error) => {
                let pause = match error {
                    StateError::Refused(_) => EXHAUSTED,
                    _ => UNANSWERED,
                };
                shared.exhausted.insert(address, now + pause);
                if let StateError::Refused(refusal) = error
                    && NatRefusal::from_refusal(refusal) == Some(NatRefusal::Fenced)
                    && shared.owner == Some(owner)
                {
                    shared.exhausted.remove(&address);
                    shared.refused(now, error);
                }
            }
        }
        drop(shared);
        task.signal(event::block(address));
    });
    true
}

/// Refreshes what is due: in batches what has traffic from inside, one by one what has
/// traffic only from outside.
pub(super) fn refresh(state: &Shared, cx: &Context) {
    let due = state.borrow_mut().records.due(cx.now());
    let (kept, asked): (Vec<Due>, Vec<Due>) = due
        .into_iter()
        .partition(|due| matches!(due, Due::Refresh(_)));
    for batch in kept.chunks(REFRESH_BATCH) {
        cx.spawn(refresh_batch(Rc::clone(state), cx.clone(), batch.to_vec()));
    }
    for due in asked {
        cx.spawn(ask(Rc::clone(state), cx.clone(), due));
    }
}

async fn refresh_batch(state: Shared, cx: Context, batch: Vec<Due>) {
    let items: Vec<RefreshItem> = batch
        .iter()
        .filter_map(|due| {
            let shared = state.borrow();
            let record = shared.records.get(due.token())?;
            let (class, inside, outside) = (record.class(), record.inside, record.outside);
            Some(RefreshItem {
                class,
                inside,
                outside,
            })
        })
        .collect();
    let sent = cx.now();
    let Ok(refreshed) = cx
        .call(&Refresh {
            items: items.clone(),
        })
        .await
    else {
        let mut shared = state.borrow_mut();
        batch
            .into_iter()
            .for_each(|due| shared.records.unasked(due));
        return;
    };
    for (item, expires) in items.iter().zip(&refreshed.expires) {
        let protocol = item.class.protocol();
        let mut shared = state.borrow_mut();
        // It may have been replaced meanwhile.
        let Some(token) = shared.records.find(protocol, item.inside, item.outside) else {
            continue;
        };
        match expires.map(|expires| expires.since(refreshed.now)) {
            Some(left) => shared.confirmed(&cx, token, sent, left),
            None => shared.gone(&cx, token),
        }
    }
}

/// Asks whether a mapping still exists without keeping it alive.
async fn ask(state: Shared, cx: Context, due: Due) {
    let token = due.token();
    let Some((protocol, inside, outside)) = state
        .borrow()
        .records
        .get(token)
        .map(|record| (record.protocol, record.inside, record.outside))
    else {
        return;
    };
    let sent = cx.now();
    match cx.call(&Lookup { protocol, outside }).await {
        Ok(found) => match found.mapping.filter(|mapping| mapping.inside == inside) {
            Some(mapping) => {
                let left = mapping.expires.since(found.now);
                state.borrow_mut().confirmed(&cx, token, sent, left);
            }
            None => state.borrow_mut().gone(&cx, token),
        },
        Err(_) => state.borrow_mut().records.unasked(due),
    }
}

impl State {
    /// The store says that a mapping lives on.
    fn confirmed(&mut self, cx: &Context, token: Token, sent: Time, left: Duration) {
        let (until, check_at) = self.validity(sent, left);
        self.records.prolong(token, until, check_at);
        let Some(&record) = self.records.get(token) else {
            return;
        };
        let both = mapped(record.inside, record.outside, record.valid_until, token);
        cx.install(out_flow(record.protocol, record.inside), both.out);
        cx.install(back_flow(record.protocol, record.outside), both.back);
        self.still_used((record.protocol, record.outside), sent, left);
    }

    /// The store does not know a mapping any more.
    fn gone(&mut self, cx: &Context, token: Token) {
        if let Some(record) = self.records.remove(token) {
            cx.forget(out_flow(record.protocol, record.inside));
            cx.forget(back_flow(record.protocol, record.outside));
        }
    }
}
