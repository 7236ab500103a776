//! What a holder promises.

use std::time::Duration;

use proptest::prelude::*;
use stateplane_base::Time;
use stateplane_lease::holder::{Denied, Loss, Reply, Request};
use stateplane_lease::ops::{BATCH, List, Migrate, Release};
use stateplane_lease::{HolderConfig, InstanceId, OnExpiry, Partition};

use crate::harness::{Host, LENGTH, Log, P, life};

const MS: Duration = Duration::from_millis(1);

#[test]
fn a_lease_counts_from_the_question_less_drift_and_margin() {
    let mut log = Log::new();
    let mut host = Host::new(1);
    host.core.acquire(host.now, P);
    let asked = host.now;
    host.pass(&mut log, Duration::from_secs(3)); // the question is under way for long
    host.settle(&mut log);
    let held = host.core.usable(host.now, P).expect("it is ours");
    // 10 s / 1.001 is 9.99 s; the steps of two clocks are 20 ms.
    let least = asked + Duration::from_millis(9_970);
    assert!((least - MS..=least + MS).contains(&held.until), "{held:?}");
    assert_eq!(host.published, Some((1, held.until)));
}

#[test]
fn who_was_stopped_finds_its_lease_over_before_anything_else() {
    let mut log = Log::new();
    let mut host = Host::holding(&mut log, 1);
    let held = host.core.usable(host.now, P).expect("held");
    // No timer has fired and nothing was received.
    assert!(host.core.usable(held.until - MS, P).is_some());
    assert_eq!(host.core.usable(held.until, P), None);
    let late = held.until + Duration::from_secs(60);
    assert_eq!(host.core.write(late, P, vec![1], 1), Err(Denied::NotHeld));
    assert_eq!(host.core.read(late, P, 1), Err(Denied::NotHeld));
    // Nobody took it meanwhile, so it goes on under the same epoch.
    host.pass(&mut log, Duration::from_secs(60));
    assert_eq!(host.lost, [Loss::Lapsed]);
    host.settle(&mut log);
    assert_eq!(
        host.core.usable(host.now, P).map(|held| held.epoch),
        Some(1)
    );
}

#[test]
fn renewals_grow_with_neither_flows_nor_partitions() {
    let mut log = Log::new();
    let mut host = Host::new(1);
    let partitions = (0..BATCH as u64).map(Partition);
    for partition in partitions.clone() {
        assert!(host.core.acquire(host.now, partition));
    }
    host.settle(&mut log);
    let mut asked = 0;
    for _ in 0..120 {
        host.pass(&mut log, Duration::from_millis(500));
        asked += host.asks.len();
        let renewals = host
            .asks
            .values()
            .all(|ask| matches!(ask, Request::Renew(_)));
        assert!(renewals, "{:?}", host.asks);
        host.settle(&mut log);
    }
    // A minute of 10 s leases, each renewed at about its half.
    assert!((10..=16).contains(&asked), "{asked} questions in a minute");
    for partition in partitions {
        assert!(host.core.usable(host.now, partition).is_some());
    }
}

#[test]
fn a_planned_move_does_not_wait_and_hands_over_the_newest_state() {
    let mut log = Log::new();
    let (mut a, mut b) = (Host::holding(&mut log, 1), Host::new(2));
    a.write(b"newest", 1);
    let heir = InstanceId(2);
    let partition = P;
    log.run(&Migrate::wish(partition, heir))
        .expect("it is lent");
    assert!(log.acquire(3).0.is_err(), "promised to another");
    // The write is answered, and says that the partition is asked back.
    a.settle(&mut log);
    assert_eq!(
        (a.left.as_slice(), a.lost.as_slice()),
        (&[1][..], &[Loss::AskedBack][..])
    );
    assert_eq!(a.core.usable(a.now, P), None);
    assert_eq!(a.published, Some((0, Time::ZERO)));
    // No time has passed.
    assert!(b.core.acquire(b.now, P));
    b.settle(&mut log);
    assert_eq!(b.core.usable(b.now, P).map(|held| held.epoch), Some(2));
    assert_eq!(log.acquire(2).1, b"newest");
}

/// Who has packets for it wants it back at once: for a while in vain.
#[test]
fn what_was_moved_by_order_stays() {
    let mut log = Log::new();
    let (mut a, mut b) = (Host::holding(&mut log, 1), Host::new(2));
    let stays = 3 * LENGTH;
    let order = |heir, stays| Migrate {
        partition: P,
        heir: InstanceId(heir),
        stays,
    };
    log.run(&order(2, stays)).expect("it is lent");
    // While it is on its way already.
    log.run(&Migrate::wish(P, InstanceId(1))).expect("heard");
    a.core.asked_back(a.now, P, 1);
    a.settle(&mut log);
    assert!(log.acquire(1).0.is_err(), "promised to another");
    b.core.acquire(b.now, P);
    b.settle(&mut log);
    let held = |host: &Host| host.core.usable(host.now, P).map(|held| held.epoch);
    assert_eq!(held(&b), Some(2));
    let asked = log.run(&Migrate::wish(P, InstanceId(1))).expect("heard");
    assert!(!asked.asked_back, "it stays");
    // An order is another matter.
    let asked = log.run(&order(2, stays)).expect("heard");
    assert!(!asked.asked_back, "it is there");
    let asked = log.run(&order(1, stays)).expect("heard");
    assert!(asked.asked_back, "somewhere else");
}

#[test]
fn an_order_bars_no_take_over_and_ends() {
    for dies in [false, true] {
        let mut log = Log::new();
        let first = log.acquire(1).0.expect("free");
        let order = Migrate {
            partition: P,
            heir: InstanceId(2),
            stays: 5 * LENGTH,
        };
        log.run(&order).expect("it is lent");
        log.run(&Release {
            instance: InstanceId(1),
            holdings: vec![(P, first.epoch)],
        });
        log.acquire(2).0.expect("it is the heir");
        if dies {
            log.now = log.now + LENGTH;
            log.acquire(1).0.expect("nobody alive has it");
            let asked = log.run(&Migrate::wish(P, InstanceId(3))).expect("heard");
            assert!(asked.asked_back, "the order is void");
            continue;
        }
        for _ in 0..10 {
            log.now = log.now + LENGTH / 2;
            let asked = log.run(&Migrate::wish(P, InstanceId(1))).expect("heard");
            let stays = log.acquire(2).0.is_ok();
            assert_eq!(asked.asked_back, !stays);
        }
        log.acquire(2)
            .0
            .expect_err("promised to who has packets for it");
    }
}

#[test]
fn who_is_asked_back_stops_before_the_store_hears_of_it() {
    let mut log = Log::new();
    let mut a = Host::holding(&mut log, 1);
    a.write(b"1", 1);
    a.core.asked_back(a.now, P, 1);
    a.collect();
    assert_eq!(a.published, Some((0, Time::ZERO)));
    assert_eq!(a.core.usable(a.now, P), None);
    let releases = |a: &Host| {
        a.asks
            .values()
            .any(|ask| matches!(ask, Request::Release(_)))
    };
    assert!(!releases(&a), "its write is not stored yet");
    let (id, request) = a.asks.pop_first().expect("the write is asked");
    let reply = log.serve(life(1), request);
    a.reply(id, reply);
    assert!(releases(&a));
    assert_eq!(a.left, [1]);
}

#[test]
fn without_contact_the_fast_path_ends_or_goes_on_as_configured() {
    for (on_expiry, passes) in [(OnExpiry::Closed, false), (OnExpiry::Open, true)] {
        let mut log = Log::new();
        let mut config = HolderConfig::default();
        config.on_expiry = on_expiry;
        let mut host = Host::with(1, config);
        host.core.acquire(host.now, P);
        host.settle(&mut log);
        host.pass(&mut log, LENGTH); // nobody answers
        let (epoch, until) = host.published.expect("told");
        assert_eq!((epoch, host.now < until), (1, passes));
        assert_eq!(
            host.core.usable(host.now, P),
            None,
            "nothing new in any case"
        );
        // Once another owner is known of, nothing passes any more.
        assert!(log.acquire(2).0.is_ok());
        host.settle(&mut log);
        assert_eq!(
            (host.published, host.lost.last()),
            (Some((0, Time::ZERO)), Some(&Loss::Fenced))
        );
    }
}

#[test]
fn reads_wait_behind_the_writes_they_saw() {
    let mut log = Log::new();
    let mut host = Host::holding(&mut log, 1);
    host.core.read(host.now, P, 1).expect("held");
    host.collect();
    assert_eq!(host.left, [1], "nothing is under way");
    host.write(b"x", 2);
    host.core.read(host.now, P, 3).expect("held");
    host.collect();
    assert_eq!(host.left, [1]);
    host.settle(&mut log);
    assert_eq!(host.left, [1, 2, 3]);
}

#[test]
fn the_list_says_who_holds_what() {
    let mut log = Log::new();
    let mut host = Host::new(1);
    for partition in [3, 1, 2].map(Partition) {
        host.core.acquire(host.now, partition);
    }
    host.settle(&mut log);
    let from = Partition(2);
    let page = log.run(&List { from, limit: 10 });
    let listed: Vec<_> = page
        .leases
        .iter()
        .map(|(p, grant)| (p.0, grant.owner.epoch))
        .collect();
    assert_eq!((page.now, listed), (log.now, vec![(2, 3), (3, 1)]));
    assert!(
        page.leases
            .iter()
            .all(|(_, grant)| grant.ends == log.now + LENGTH)
    );
}

/// A step of two holders that share a partition: who, what, and for how long time passes.
fn steps() -> impl Strategy<Value = Vec<(usize, u8, u64)>> {
    prop::collection::vec((0..2_usize, 0..8_u8, 0..3_000_u64), 1..200)
}

proptest! {
    /// Over hundreds of steps: never two users, and what left is kept in the order it left.
    #[test]
    fn two_holders_take_turns(steps in steps()) {
        let mut log = Log::new();
        let mut hosts = [Host::new(1), Host::new(2)];
        let (mut copies, mut made) = ([Vec::new(), Vec::new()], 0_u8);
        for (n, what, millis) in steps {
            let host = &mut hosts[n];
            let now = host.now;
            match what {
                0 => drop(host.core.acquire(now, P)),
                1 => host.core.give_up(now, P),
                2 | 3 if made < u8::MAX => {
                    if host.core.usable(now, P).is_some() {
                        made += 1;
                        copies[n].push(made);
                        host.core.write(now, P, copies[n].clone(), made.into()).expect("usable");
                    }
                }
                4 => {
                    // The oldest question is lost, or its answer is.
                    if let Some((id, request)) = host.asks.pop_first() {
                        if millis % 2 == 0 {
                            log.serve(life(n as u64 + 1), request);
                        }
                        host.reply(id, Reply::Nothing);
                    }
                }
                5 | 6 => {
                    let held = host.core.epoch(P);
                    host.settle(&mut log);
                    if held != host.core.epoch(P) {
                        copies[n].clone_from(&log.newest);
                    }
                }
                _ => {
                    log.now = log.now + Duration::from_millis(millis);
                    for host in &mut hosts {
                        host.now = host.now + Duration::from_millis(millis);
                    }
                    hosts[n].core.on_timer(now + Duration::from_millis(millis));
                }
            }
            hosts[n].collect();
            let users = hosts.iter().filter(|host| host.core.usable(host.now, P).is_some());
            prop_assert!(users.count() <= 1);
            let newest = &log.newest;
            for output in hosts.iter().flat_map(|host| &host.left) {
                let output = u8::try_from(*output).expect("few");
                prop_assert!(newest.contains(&output), "{output} left, {newest:?} is kept");
            }
            prop_assert!(newest.is_sorted());
        }
    }
}
