//! What an instance does apart from packets. Here: its leases.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::time::Duration;

use stateplane_base::Time;
use stateplane_lease::holder::{Effect, Loss, Reply, Request, RequestId};
use stateplane_lease::ops::{Acquire, Asked, Migrate, Release, Renew};
use stateplane_lease::{Owner, Partition, Refused};

use super::State;
use super::counts;
use super::decide::GRANTED;
use crate::context::{Context, StateError};
use crate::meter::ops::{Commit, MeterRefusal};
use crate::runtime::Sight;

/// Who was asked for a partition wants it back no sooner than this.
const CALM: Duration = Duration::from_secs(1);
/// Who has had no packets for a partition for so long does not want it any more.
const PATIENCE: Duration = Duration::from_secs(1);

type Shared = Rc<RefCell<State>>;

/// Does what is due.
pub(super) fn on_timer(state: &Shared, now: Time, cx: &Context, sight: &dyn Sight) {
    let ticks = now >= state.borrow().tick;
    if ticks {
        let mut shared = state.borrow_mut();
        shared.tick = now + shared.config.interval;
        shared.empty.clear();
    }
    counts::tell(state, now, cx, sight, ticks);
    state.borrow_mut().holder.on_timer(now);
    if ticks {
        want_no_more(state, now);
        listen(state, cx);
    }
    keep(state, cx);
}

/// Gives everything back: from now on nothing passes.
pub(super) fn stop(state: &Shared, cx: &Context) {
    let mut shared = state.borrow_mut();
    shared.stopped = true;
    let held: Vec<Partition> = shared
        .holder
        .inspect(cx.now())
        .iter()
        .map(|v| v.partition)
        .collect();
    for partition in held {
        shared.holder.give_up(cx.now(), partition);
    }
    drop(shared);
    keep(state, cx);
}

/// Does what the leases' holder wants.
pub(super) fn keep(state: &Shared, cx: &Context) {
    loop {
        let Some(effect) = state.borrow_mut().holder.poll_effect() else {
            break;
        };
        match effect {
            Effect::Ask { id, request } => {
                cx.spawn(ask(Rc::clone(state), cx.clone(), id, request));
            }
            Effect::Publish {
                partition,
                epoch,
                until,
            } => cx.publish(partition, epoch, until),
            Effect::Granted { partition, epoch } => granted(state, cx, partition, epoch),
            Effect::Lost { partition, why } => lost(state, cx, partition, why),
            Effect::Release(output) => {
                state.borrow_mut().written.remove(&output);
            }
            Effect::Discard(output) => {
                let mut shared = state.borrow_mut();
                if let Some(tally) = shared.written.remove(&output) {
                    shared.status.lost.add(&tally);
                }
            }
        }
    }
}

/// Partitions that packets waited for in vain are not asked for any more: else who needs one no longer
/// would take it from who does.
fn want_no_more(state: &Shared, now: Time) {
    let mut shared = state.borrow_mut();
    let State { wanted, holder, .. } = &mut *shared;
    wanted.retain(|partition, at| {
        let held = holder.epoch(*partition).is_some();
        let over = now >= *at + PATIENCE;
        if over && !held {
            holder.give_up(now, *partition);
        }
        !over && !held
    });
}

/// What was counted under a former epoch will never be told.
fn granted(state: &Shared, cx: &Context, partition: Partition, epoch: u64) {
    let slots = state.borrow().accounts.of(partition);
    for slot in slots {
        let other = |state: &State| state.accounts.at(slot).is_some_and(|a| a.epoch != epoch);
        if other(&state.borrow()) {
            counts::close(state, cx, slot);
        }
    }
    state.borrow_mut().gone.remove(&partition);
    cx.signal(GRANTED);
}

fn lost(state: &Shared, cx: &Context, partition: Partition, why: Loss) {
    let slots = state.borrow().accounts.of(partition);
    match why {
        // It may come back, and until then what passed is kept.
        Loss::Lapsed => {}
        // Last writes are taken.
        Loss::AskedBack | Loss::GivenUp => {
            state.borrow_mut().gone.insert(partition, cx.now());
        }
        Loss::Fenced | Loss::Spent => {
            for slot in slots {
                counts::close(state, cx, slot);
            }
        }
    }
}

async fn ask(state: Shared, cx: Context, id: RequestId, request: Request) {
    let (life, fingerprint) = {
        let shared = state.borrow();
        (shared.config.life(), shared.fingerprint)
    };
    let instance = life.instance;
    let reply = match request {
        Request::Acquire(partition) => {
            let acquired = cx.call(&Acquire { life, partition }).await;
            let answer = acquired.map(|acquired| acquired.answer);
            if let Ok(Err(Refused::Held { .. })) = answer {
                wish(&state, &cx, partition);
            }
            answer.map(Reply::One)
        }
        Request::Renew(holdings) => {
            let renewed = cx.call(&Renew { instance, holdings }).await;
            renewed.map(Reply::Each)
        }
        Request::Release(holding) => {
            let holdings = Vec::from([holding]);
            let released = cx.call(&Release { instance, holdings }).await;
            released.map(|()| Reply::Released)
        }
        Request::Write {
            holding: (partition, epoch),
            sequence,
            state: items,
        } => {
            let commit = Commit {
                owner: Owner { instance, epoch },
                partition,
                sequence,
                fingerprint,
                items: &items,
            };
            cx.call(&commit).await.map(Reply::One)
        }
    };
    heard(&state, &reply);
    let reply = reply.unwrap_or(Reply::Nothing);
    state.borrow_mut().holder.on_reply(cx.now(), id, reply);
    keep(&state, &cx);
}

pub(super) fn heard<T>(state: &Shared, reply: &Result<T, StateError>) {
    let mut shared = state.borrow_mut();
    let status = &mut shared.status;
    status.store_silent = matches!(reply, Err(StateError::Unavailable));
    status.heard |= reply.is_ok();
    if let Err(StateError::Refused(refusal)) = reply {
        status.mismatch |= *refusal == MeterRefusal::ConfigMismatch.into();
    }
}

/// Another instance holds what our packets need: it is asked to let go, and not too often.
fn wish(state: &Shared, cx: &Context, partition: Partition) {
    let now = cx.now();
    let mut shared = state.borrow_mut();
    let recent = |times: &alloc::collections::BTreeMap<Partition, Time>| {
        times.get(&partition).is_some_and(|&at| now < at + CALM)
    };
    if recent(&shared.gone) || recent(&shared.wished) {
        return;
    }
    shared.wished.insert(partition, now);
    let heir = shared.config.instance;
    drop(shared);
    let link = cx.clone();
    cx.spawn(async move {
        // If it is lost, the next refusal asks again.
        let _ = link.call(&Migrate::wish(partition, heir)).await;
    });
}

/// Asks whether any of our partitions is asked back: who waits for it has packets that wait.
fn listen(state: &Shared, cx: &Context) {
    let instance = {
        let mut shared = state.borrow_mut();
        if shared.listening || shared.stopped {
            return;
        }
        shared.listening = true;
        shared.config.instance
    };
    let (state, link) = (Rc::clone(state), cx.clone());
    cx.spawn(async move {
        let asked = link.call(&Asked { instance }).await;
        heard(&state, &asked);
        let now = link.now();
        {
            let mut shared = state.borrow_mut();
            shared.listening = false;
            let partitions = u64::from(shared.config.state.partitions);
            for (partition, epoch) in asked.unwrap_or_default() {
                match epoch {
                    0 if partition.0 < partitions && !shared.stopped => {
                        shared.wanted.insert(partition, now);
                        shared.holder.acquire(now, partition);
                    }
                    0 => {}
                    epoch => shared.holder.asked_back(now, partition, epoch),
                }
            }
        }
        keep(&state, &link);
    });
}
