//! What an instance does apart from packets: registers, keeps its lease, takes blocks,
//! refreshes mappings.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::net::Ipv4Addr;
use core::time::Duration;

use stateplane_base::{Reason, Time};
use stateplane_flow::{Protocol, steering};
use stateplane_lease::holder::{Effect, Loss, Reply, Request, RequestId};
use stateplane_lease::ops::{Holding, Lent};
use stateplane_lease::{Partition, Refused};

use super::config::NatConfig;
use super::decide::{back_flow, mapped, out_flow};
use super::records::{Due, Record};
use super::{Problem, State, event};
use crate::context::{Context, StateError};
use crate::function::Token;
use crate::nat::ops::block::MAX_CANDIDATES;
use crate::nat::ops::mapping::REFRESH_BATCH;
use crate::nat::ops::{
    Lease, Lookup, NatRefusal, Owner, Refresh, RefreshItem, Register, Release, Renew, TakeBlock,
};
use crate::runtime::Sight;

/// A lease that is over is renewed at once, but not more often than this.
const RETRY: Duration = Duration::from_millis(250);
/// How long not to ask again for blocks of an address that has none left.
const EXHAUSTED: Duration = Duration::from_secs(1);
/// The same if the store did not answer.
const UNANSWERED: Duration = Duration::from_millis(20);

type Shared = Rc<RefCell<State>>;

/// All our blocks have one lease. To the store it is the life's that registered, so the holder
/// needs no more than a name for it.
const BLOCKS: Partition = Partition(0);

/// Registers.
pub(super) fn start(state: &Shared, cx: &Context) {
    state.borrow_mut().lease.acquire(cx.now(), BLOCKS);
    keep(state, cx);
}

/// Gives all blocks back; from now on nothing is proposed any more.
pub(super) fn stop(state: &Shared, cx: &Context) {
    let mut shared = state.borrow_mut();
    shared.stopped = true;
    shared.lease.give_up(cx.now(), BLOCKS);
    drop(shared);
    keep(state, cx);
}

/// Does what the lease's holder wants.
pub(super) fn keep(state: &Shared, cx: &Context) {
    loop {
        let Some(effect) = state.borrow_mut().lease.poll_effect() else {
            return;
        };
        match effect {
            Effect::Ask { id, request } => {
                cx.spawn(ask_store(Rc::clone(state), cx.clone(), id, request));
            }
            Effect::Lost { why, .. } => state.borrow_mut().lost(why),
            // Mappings are immutable, so the fast path needs no owner; writes go to procedures of
            // the NAT's own.
            Effect::Granted { .. }
            | Effect::Publish { .. }
            | Effect::Release(_)
            | Effect::Discard(_) => {}
        }
    }
}

async fn ask_store(state: Shared, cx: Context, id: RequestId, request: Request) {
    let sent = cx.now();
    let (reply, error) = match request {
        Request::Acquire(_) => {
            let NatConfig {
                instance,
                incarnation,
                fingerprint,
                ..
            } = state.borrow().config;
            let register = Register {
                instance,
                incarnation,
                fingerprint,
            };
            let granted = cx.call(&register).await;
            state.borrow_mut().read_clock(sent, &granted);
            one(granted)
        }
        Request::Renew(holdings) => {
            let owner = state.borrow().owner_of(holdings.first());
            let granted = cx.call(&Renew { owner }).await;
            state.borrow_mut().read_clock(sent, &granted);
            let (reply, error) = one(granted);
            match reply {
                Reply::One(answer) => (Reply::Each(Vec::from([answer])), error),
                other => (other, error),
            }
        }
        Request::Release(holding) => {
            let owner = state.borrow().owner_of(Some(&holding));
            // If this is lost, the lease runs out.
            match cx.call(&Release { owner }).await {
                Err(StateError::Unavailable) if state.borrow().stopped => return,
                Err(StateError::Unavailable | StateError::Malformed) => (Reply::Nothing, None),
                Ok(()) | Err(StateError::Refused(_)) => (Reply::Released, None),
            }
        }
        // The NAT's writes are operations of its own.
        Request::Write { .. } => (Reply::Nothing, None),
    };
    let now = cx.now();
    let mut shared = state.borrow_mut();
    shared.heard(error);
    shared.lease.on_reply(now, id, reply);
    drop(shared);
    keep(&state, &cx);
    cx.signal(event::REGISTRATION);
}

/// What the store's word on our lease means to its holder.
fn one(granted: Result<Lease, StateError>) -> (Reply, Option<StateError>) {
    match granted {
        Ok(lease) => (Reply::One(Ok(lent(&lease))), None),
        Err(error) => {
            let refusal = match error {
                StateError::Refused(refusal) => NatRefusal::from_refusal(refusal),
                _ => None,
            };
            let ours_no_more = [NatRefusal::ConfigMismatch, NatRefusal::Fenced];
            let reply = match refusal.filter(|refusal| ours_no_more.contains(refusal)) {
                Some(_) => Reply::One(Err(Refused::Fenced)),
                None => Reply::Nothing,
            };
            (reply, Some(error))
        }
    }
}

fn lent(lease: &Lease) -> Lent {
    Lent {
        epoch: lease.epoch,
        sequence: 0,
        span: lease.ends.since(lease.now),
        asked_back: false,
    }
}

impl State {
    /// Our registration, once there is one.
    pub(super) fn owner(&self) -> Option<Owner> {
        let instance = self.config.instance;
        let epoch = self.lease.epoch(BLOCKS)?;
        Some(Owner { instance, epoch })
    }

    fn owner_of(&self, holding: Option<&Holding>) -> Owner {
        Owner {
            instance: self.config.instance,
            epoch: holding.map_or(0, |holding| holding.1),
        }
    }

    /// An answer also tells the log's time.
    fn read_clock(&mut self, sent: Time, granted: &Result<Lease, StateError>) {
        if let Ok(lease) = granted {
            self.reading.note(sent, lease.now);
        }
    }

    /// Takes note of what came of a registration or renewal.
    fn heard(&mut self, error: Option<StateError>) {
        self.unanswered = error == Some(StateError::Unavailable);
        match error {
            None => self.problem = None,
            Some(StateError::Refused(refusal))
                if NatRefusal::from_refusal(refusal) == Some(NatRefusal::ConfigMismatch) =>
            {
                self.problem = Some(Problem::ConfigMismatch);
            }
            Some(_) => {}
        }
    }

    /// Our blocks may not be used any more.
    fn lost(&mut self, why: Loss) {
        match why {
            // It may come back, and then they are ours still, unless others took them.
            Loss::Lapsed => {}
            Loss::Fenced => {
                // Another process of our name, or a store that lost everything: do not fight.
                self.problem = Some(Problem::Replaced);
                self.ports.clear();
            }
            Loss::AskedBack | Loss::GivenUp | Loss::Spent => self.ports.clear(),
        }
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

/// A later life of this instance took over; or so the store says. Several decisions may hear of
/// it; the holder lets it count once.
pub(super) fn fenced(state: &Shared, cx: &Context, owner: Owner) {
    let mut shared = state.borrow_mut();
    shared.lease.fenced(cx.now(), BLOCKS, owner.epoch);
    drop(shared);
    keep(state, cx);
}

/// Our lease has ended, says the store.
pub(super) fn ended(state: &Shared, cx: &Context, owner: Owner) {
    let mut shared = state.borrow_mut();
    shared.lease.ended(cx.now(), BLOCKS, owner.epoch);
    drop(shared);
    keep(state, cx);
}

/// Waits until we are registered and hold a lease.
pub(super) async fn registered(state: &Shared, cx: &Context) -> Result<Owner, Reason> {
    loop {
        {
            let mut shared = state.borrow_mut();
            match shared.owner() {
                Some(owner) if shared.lease.usable(cx.now(), BLOCKS).is_some() => {
                    return Ok(owner);
                }
                _ if shared.stopped || shared.problem == Some(Problem::ConfigMismatch) => {
                    return Err(Reason::StoreUnavailable);
                }
                // Renew now instead of later; unless that is under way or was tried just now.
                _ => shared.lease.hurry(cx.now(), RETRY),
            }
        }
        keep(state, cx);
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
    let Some(owner) = shared.owner().filter(|_| !candidates.is_empty()) else {
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
            Ok(block) if shared.owner() == Some(owner) => {
                shared.ports.add(address, block.index);
                let lent = lent(&block.lease);
                shared.lease.prolonged(now, BLOCKS, sent, &lent);
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
                    && shared.owner() == Some(owner)
                {
                    shared.exhausted.remove(&address);
                    shared.lease.fenced(now, BLOCKS, owner.epoch);
                }
            }
        }
        drop(shared);
        keep(&state, &task);
        task.signal(event::block(address));
    });
    true
}

/// Refreshes what is due: in batches what has traffic from inside, one by one what has
/// traffic only from outside. What has none comes back from the fast path: the next packet
/// shows that it is used again.
pub(super) fn refresh(state: &Shared, cx: &Context, sight: &dyn Sight) {
    let due = state.borrow_mut().records.due(cx.now(), sight);
    let mut kept = Vec::new();
    for due in due {
        match due {
            Due::Refresh(_) => kept.push(due),
            Due::Ask(_) => cx.spawn(ask(Rc::clone(state), cx.clone(), due)),
            Due::Watch(token) => state.borrow().watch(cx, token),
            Due::Leave(token) => state.borrow().leave(cx, token),
        }
    }
    for batch in kept.chunks(REFRESH_BATCH) {
        cx.spawn(refresh_batch(Rc::clone(state), cx.clone(), batch.to_vec()));
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
        self.install(cx, &record, token);
        self.still_used((record.protocol, record.outside), sent, left);
    }

    fn install(&self, cx: &Context, record: &Record, token: Token) {
        let both = mapped(record.inside, record.outside, record.valid_until, token);
        cx.install(out_flow(record.protocol, record.inside), both.out);
        cx.install(back_flow(record.protocol, record.outside), both.back);
    }

    /// The mapping's packets are to be seen here.
    fn watch(&self, cx: &Context, token: Token) {
        if let Some(record) = self.records.get(token) {
            cx.withdraw(out_flow(record.protocol, record.inside));
            cx.withdraw(back_flow(record.protocol, record.outside));
        }
    }

    /// They need not be any more.
    fn leave(&self, cx: &Context, token: Token) {
        if let Some(&record) = self.records.get(token) {
            self.install(cx, &record, token);
        }
    }

    /// The store does not know a mapping any more.
    fn gone(&mut self, cx: &Context, token: Token) {
        if let Some(record) = self.records.remove(token) {
            cx.forget(out_flow(record.protocol, record.inside));
            cx.forget(back_flow(record.protocol, record.outside));
        }
    }
}
