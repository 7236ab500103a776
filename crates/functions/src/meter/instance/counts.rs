//! What passed, in this process and in front of it, is told to the store.

use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::time::Duration;

use stateplane_base::Time;
use stateplane_lease::Partition;

use super::State;
use super::accounts::Account;
use super::budget;
use super::decide::{GRANTED, flows, reserved};
use crate::context::{Allow, Context};
use crate::function::Meter;
use crate::meter::ops::{ITEM_BYTES, ITEMS, Item, Tally, put_item};
use crate::runtime::Sight;

/// After this, no packet is under way any more that an entry let pass which is not in force.
pub(super) const LINGER: Duration = Duration::from_millis(2);
/// An account without packets goes after this.
const IDLE: Duration = Duration::from_secs(60);

type Shared = Rc<RefCell<State>>;

/// One write: whose, what, and what that adds up to.
struct Told {
    partition: Partition,
    items: Vec<u8>,
    sum: Tally,
}

/// What is told at once, in as many writes as it takes.
#[derive(Default)]
struct Writes {
    all: Vec<Told>,
    /// Each partition's write that has room.
    open: BTreeMap<Partition, usize>,
}

impl Writes {
    fn add(&mut self, partition: Partition, item: &Item) {
        let room = |write: &Told| write.items.len() < ITEMS * ITEM_BYTES;
        let open = self.open.get(&partition).copied();
        let open = open.filter(|at| room(&self.all[*at]));
        let at = open.unwrap_or_else(|| {
            self.open.insert(partition, self.all.len());
            self.all.push(Told {
                partition,
                items: Vec::new(),
                sum: Tally::default(),
            });
            self.all.len() - 1
        });
        put_item(item, &mut self.all[at].items);
        self.all[at].sum.add(&item.passed);
    }
}

/// Takes in what passed and writes it: once an interval, and before partitions are released. With the
/// last write goes what was reserved and not spent.
pub(super) fn tell(state: &Shared, now: Time, cx: &Context, sight: &dyn Sight, ticks: bool) {
    let last = state.borrow().holder.to_finish(now);
    if !ticks && last.is_empty() {
        return;
    }
    let slots = state.borrow().accounts.slots();
    let mut told = Writes::default();
    for slot in 0..slots {
        let Some(partition) = state.borrow().accounts.at(slot).map(|a| a.partition) else {
            continue;
        };
        // They are in order.
        let leaves = last.binary_search(&partition).is_ok();
        if !ticks && !leaves {
            continue;
        }
        if let Some(metered) = sight.metered(Meter(slot)) {
            let mut shared = state.borrow_mut();
            if let Some(account) = shared.accounts.at_mut(slot) {
                account.collect(now, metered);
            }
        }
        let item = match leaves {
            true => last_word(state, cx, now, slot),
            false => word(state, cx, now, slot),
        };
        if let Some(item) = item {
            told.add(partition, &item);
        }
    }
    let mut shared = state.borrow_mut();
    for told in told.all {
        shared.write(now, told);
    }
    for partition in last {
        shared.holder.finish(now, partition);
    }
}

impl State {
    fn write(&mut self, now: Time, told: Told) {
        let Told {
            partition,
            items,
            sum,
        } = told;
        self.writes += 1;
        match self.holder.write(now, partition, items, self.writes) {
            Ok(_) => drop(self.written.insert(self.writes, sum)),
            Err(_) => self.status.lost.add(&sum),
        }
    }
}

/// Nothing passes any more of an account whose partition is about to be released.
fn last_word(state: &Shared, cx: &Context, now: Time, slot: u32) -> Option<Item> {
    let mut shared = state.borrow_mut();
    let account = shared.accounts.at_mut(slot)?;
    if !account.leaving {
        leave(account, slot, cx);
    }
    let item = account.take(now);
    shared.accounts.remove(slot);
    cx.signal(GRANTED);
    item
}

/// What is to be told of an account once an interval, and what else is to be seen to.
fn word(state: &Shared, cx: &Context, now: Time, slot: u32) -> Option<Item> {
    let mut shared = state.borrow_mut();
    let State {
        accounts,
        holder,
        empty,
        config,
        ..
    } = &mut *shared;
    let account = accounts.at_mut(slot)?;
    let partition = account.partition;
    if holder.epoch(partition) != Some(account.epoch) && !holder.lingers(partition) {
        drop(shared);
        close(state, cx, slot);
        return None;
    }
    let in_front = cx.has_fast_path().then(|| account.in_front());
    let mut runs_low = false;
    if let Some(budget) = &account.budget {
        if budget.is_empty(now) {
            empty.insert(account.subscriber);
        }
        if budget.pause_until > Time::ZERO && now >= budget.pause_until {
            cx.signal(reserved(slot));
        }
        let busy = now < account.active + IDLE / 2;
        runs_low = busy && !account.leaving && budget.runs_low(now, in_front, config.interval);
    }
    if !account.leaving && now >= account.active + IDLE {
        // What passes at this moment is seen at the next tick.
        leave(account, slot, cx);
        return None;
    }
    // One write at a time: what passes meanwhile goes with the next.
    let ready = holder.usable(now, partition).is_some() && holder.writes(partition) == 0;
    let item = ready.then(|| account.take(now)).flatten();
    if ready && account.leaving {
        accounts.remove(slot);
        cx.signal(GRANTED);
    }
    drop(shared);
    if runs_low {
        budget::reserve(state, cx, slot, 0);
    }
    item
}

/// No packet passes by this account any more.
fn leave(account: &mut Account, slot: u32, cx: &Context) {
    account.leaving = true;
    cx.allow(Meter(slot), Allow::Until(0));
    flows(account.subscriber).for_each(|flow| cx.forget(flow));
}

/// Forgets an account, and what passed and cannot be told any more.
pub(super) fn close(state: &Shared, cx: &Context, slot: u32) {
    let mut shared = state.borrow_mut();
    if let Some(account) = shared.accounts.remove(slot) {
        shared.status.lost.add(&account.passed);
        cx.allow(Meter(slot), Allow::Until(0));
        flows(account.subscriber).for_each(|flow| cx.forget(flow));
    }
}
