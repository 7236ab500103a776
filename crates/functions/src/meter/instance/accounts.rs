//! Subscribers that are active here: what passed of each since the store was told, and how much more
//! may pass without asking it.

use alloc::vec::Vec;
use core::net::Ipv4Addr;

use hashbrown::HashMap;
use stateplane_base::Time;
use stateplane_flow::fast::Metered;
use stateplane_lease::Partition;

use super::budget::Budget;
use crate::context::{Allow, Context};
use crate::function::{Meter, Token};
use crate::meter::ops::{Item, Tally};
use crate::table::Keyed;

/// One subscriber.
#[derive(Debug)]
pub(super) struct Account {
    pub(super) subscriber: Ipv4Addr,
    pub(super) partition: Partition,
    /// The lease it is counted under.
    pub(super) epoch: u64,
    /// What passed and was not written yet.
    pub(super) passed: Tally,
    /// What passed in front of us, as far as we have seen.
    pub(super) seen: Metered,
    /// How many bytes may pass there in all.
    pub(super) limit: u64,
    /// None: nothing limits it.
    pub(super) budget: Option<Budget>,
    pub(super) active: Time,
    /// Nothing passes any more; it goes with its last write.
    pub(super) leaving: bool,
}

impl Account {
    /// Takes in what the fast path counted.
    pub(super) fn collect(&mut self, now: Time, metered: Metered) {
        let mut news = Tally::default();
        for side in 0..2 {
            news.packets[side] = metered.packets[side].saturating_sub(self.seen.packets[side]);
            news.bytes[side] = metered.bytes[side].saturating_sub(self.seen.bytes[side]);
        }
        if !news.is_empty() {
            self.active = now;
        }
        self.passed.add(&news);
        self.seen = metered;
    }

    /// Bytes that may still pass in front of us.
    pub(super) fn in_front(&self) -> u64 {
        self.limit.saturating_sub(self.seen.used())
    }

    /// What is to be told to the store: what passed, and with the last word what will not be spent.
    pub(super) fn take(&mut self, now: Time) -> Option<Item> {
        let passed = core::mem::take(&mut self.passed);
        let mut item = Item {
            subscriber: self.subscriber,
            passed,
            period: 0,
            returned: 0,
        };
        let in_front = self.in_front();
        if self.leaving
            && let Some(budget) = &mut self.budget
            && now < budget.ends
        {
            item.period = budget.period;
            item.returned = budget.here.saturating_add(in_front);
            budget.here = 0;
            self.limit = self.seen.used();
        }
        (!passed.is_empty() || item.returned > 0).then_some(item)
    }
}

/// All of them, by number and by subscriber.
#[derive(Debug)]
pub(super) struct Accounts {
    slots: Vec<Option<Account>>,
    /// Uses of each slot so far: a token of a former use is none of the present one.
    uses: Vec<u32>,
    free: Vec<u32>,
    by_subscriber: HashMap<Ipv4Addr, u32, Keyed>,
    max: usize,
}

impl Accounts {
    pub(super) fn new(max: usize, hash_key: [u64; 2]) -> Self {
        Self {
            slots: Vec::new(),
            uses: Vec::new(),
            free: Vec::new(),
            by_subscriber: HashMap::with_hasher(Keyed(hash_key)),
            max,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.by_subscriber.len()
    }

    /// The number of slots ever used.
    pub(super) fn slots(&self) -> u32 {
        self.slots.len() as u32
    }

    pub(super) fn find(&self, subscriber: Ipv4Addr) -> Option<u32> {
        self.by_subscriber.get(&subscriber).copied()
    }

    pub(super) fn at(&self, slot: u32) -> Option<&Account> {
        self.slots.get(slot as usize)?.as_ref()
    }

    pub(super) fn at_mut(&mut self, slot: u32) -> Option<&mut Account> {
        self.slots.get_mut(slot as usize)?.as_mut()
    }

    pub(super) fn token(&self, slot: u32) -> Token {
        let uses = self.uses.get(slot as usize).copied().unwrap_or(0);
        Token(u64::from(uses) << 32 | u64::from(slot))
    }

    /// The account's number, if it is still the one that the token was given out for.
    pub(super) fn slot_of(&self, token: Token) -> Option<u32> {
        let slot = token.0 as u32;
        let same = self.uses.get(slot as usize).copied()? == (token.0 >> 32) as u32;
        (same && self.at(slot).is_some()).then_some(slot)
    }

    /// One more account, whose meter begins anew. `None`: there is no room.
    pub(super) fn insert(&mut self, account: Account, cx: &Context) -> Option<u32> {
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None if self.slots.len() < self.max => {
                self.slots.push(None);
                self.uses.push(0);
                (self.slots.len() - 1) as u32
            }
            None => return None,
        };
        cx.allow(Meter(slot), Allow::Nothing);
        if account.limit > 0 {
            cx.allow(Meter(slot), Allow::Until(account.limit));
        }
        self.uses[slot as usize] = self.uses[slot as usize].wrapping_add(1);
        self.by_subscriber.insert(account.subscriber, slot);
        self.slots[slot as usize] = Some(account);
        Some(slot)
    }

    pub(super) fn remove(&mut self, slot: u32) -> Option<Account> {
        let account = self.slots.get_mut(slot as usize)?.take()?;
        self.by_subscriber.remove(&account.subscriber);
        self.free.push(slot);
        Some(account)
    }

    /// The numbers of a partition's accounts.
    pub(super) fn of(&self, partition: Partition) -> Vec<u32> {
        let all = self.slots.iter().enumerate();
        let mine = all.filter(|(_, account)| {
            account
                .as_ref()
                .is_some_and(|account| account.partition == partition)
        });
        mine.map(|(slot, _)| slot as u32).collect()
    }
}
