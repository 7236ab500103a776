//! The six faults found in the public store of RedPlane, as scenarios that must not go wrong here.

use std::time::Duration;

use stateplane_base::LogTime;
use stateplane_lease::grant::Write as Does;
use stateplane_lease::holder::{Loss, Output, Reply, RequestId};
use stateplane_lease::ops::{Acquire, Write};
use stateplane_lease::{Grant, Owner, Partition, Refused, Terms};

use crate::harness::{Host, LENGTH, Log, P, life};

#[test]
fn b1_a_new_owners_writes_are_applied_whatever_the_former_one_numbered() {
    let mut log = Log::new();
    let a = log.acquire(1).0.expect("free");
    for sequence in 1..=101 {
        log.write(1, a.epoch, sequence, b"a").expect("in turn");
    }
    log.now = log.now + LENGTH;
    let (b, state) = log.acquire(2);
    let b = b.expect("it has lapsed");
    assert_eq!((state.as_slice(), b.sequence), (&b"a"[..], 0));
    assert!(b.epoch > a.epoch);
    for (sequence, state) in [(1, b"b1"), (2, b"b2")] {
        let lent = log.write(2, b.epoch, sequence, state).expect("in turn");
        assert_eq!(lent.sequence, sequence);
    }
    log.now = log.now + LENGTH;
    assert_eq!(log.acquire(3).1, b"b2");
}

#[test]
fn b2_no_write_is_acknowledged_unapplied_when_sequences_end() {
    let (terms, now) = (Terms::new(LENGTH), LogTime::from_millis(1));
    let epoch = |n| move || Ok::<u64, Refused>(n);
    let first = Grant::request(None, &terms, now, life(1), epoch(1)).expect("free");
    let mut grant = Grant {
        sequence: u64::MAX - 1,
        ..first
    };
    let owner = grant.owner;
    assert_eq!(grant.write(&terms, now, owner, u64::MAX), Ok(Does::Apply));
    for sequence in [0, 1, 2] {
        let wrapped = grant.write(&terms, now, owner, sequence);
        assert_eq!(wrapped, Err(Refused::Spent));
    }
    // The holder gives such an epoch up and gets another.
    let mut log = Log::new();
    let mut host = Host::holding(&mut log, 1);
    host.write(b"x", 9);
    let (id, _) = host.asks.pop_first().expect("the write is asked");
    host.reply(id, Reply::One(Err(Refused::Spent)));
    host.settle(&mut log);
    let held = host.core.usable(host.now, P).expect("acquired anew");
    assert_eq!((held.epoch, host.lost), (2, vec![Loss::Spent]));
    assert_eq!(host.left, [], "what was not stored did not leave");
}

#[test]
fn b3_nobody_gets_what_is_lent() {
    let mut log = Log::new();
    let a = log.acquire(1).0.expect("free");
    let ends = log.now + LENGTH;
    log.now = log.now + LENGTH / 2;
    assert_eq!(log.acquire(2).0, Err(Refused::Held { ends }));
    assert!(log.write(1, a.epoch, 1, b"a").is_ok());
    assert_eq!(log.write(2, a.epoch, 2, b"b"), Err(Refused::Fenced));
    // The write has renewed A's lease; without contact it lapses, and A is fenced.
    log.now = ends;
    assert!(log.acquire(2).0.is_err());
    log.now = log.now + LENGTH / 2;
    assert!(log.acquire(2).0.is_ok());
    assert_eq!(log.write(1, a.epoch, 2, b"a"), Err(Refused::Fenced));
}

#[test]
fn b4_of_a_burst_every_acknowledged_write_is_in_every_copy() {
    // Four writes on their way at once arrive in every order.
    let orders = (0..24_usize).map(|n| {
        let mut rest = vec![0, 1, 2, 3];
        [n / 6, n / 2 % 3, n % 2, 0].map(|i| rest.remove(i))
    });
    for order in orders {
        let (mut log, mut copy) = (Log::new(), Log::new());
        let mut host = Host::holding(&mut log, 1);
        assert!(copy.acquire(1).0.is_ok());
        for output in 1..=4 {
            host.write(&(1..=output as u8).collect::<Vec<_>>(), output);
        }
        let mut asks: Vec<_> = std::mem::take(&mut host.asks)
            .into_iter()
            .map(Some)
            .collect();
        for at in order {
            let (id, request) = asks[at].take().expect("each arrives once");
            copy.serve(life(1), request.clone());
            let reply = log.serve(life(1), request);
            host.reply(id, reply);
            assert_applied(&mut copy, &host.left);
        }
        while let Some((id, request)) = host.asks.pop_first() {
            copy.serve(life(1), request.clone());
            let reply = log.serve(life(1), request);
            host.reply(id, reply);
            assert_applied(&mut copy, &host.left);
        }
        assert_eq!(host.left, [1, 2, 3, 4], "{order:?}");
    }
}

/// What left is in the copy's state.
fn assert_applied(copy: &mut Log, left: &[Output]) {
    let state = copy.acquire(1).1;
    assert!(
        left.len() <= state.len(),
        "{left:?} left, {state:?} is kept"
    );
}

#[test]
fn b5_a_lost_answer_stops_nobody() {
    let mut log = Log::new();
    let mut host = Host::holding(&mut log, 1);
    host.write(b"1", 1);
    let (lost, request) = host.asks.pop_first().expect("the write is asked");
    log.serve(life(1), request); // executed; the answer is lost
    // Meanwhile others are served, and our own writes too.
    let other = Acquire {
        life: life(2),
        partition: Partition(8),
    };
    assert!(log.run(&other).answer.is_ok());
    host.write(b"12", 2);
    host.settle(&mut log);
    // The second one's answer says that the first is stored.
    assert_eq!(host.left, [1, 2]);
    host.reply(lost, Reply::Nothing);
    host.pass(&mut log, Duration::from_secs(1));
    host.settle(&mut log);
    assert_eq!(host.left, [1, 2]);
    assert_eq!(log.acquire(1).1, b"12");
}

#[test]
fn b6_an_acknowledgement_counts_for_who_asked_alone() {
    let mut log = Log::new();
    let mut host = Host::holding(&mut log, 1);
    host.write(b"mine", 1);
    let (&id, _) = host.asks.first_key_value().expect("the write is asked");
    // Another's acknowledgement, under the same number.
    let other = Partition(8);
    let life = life(2);
    let partition = other;
    let lent = log.run(&Acquire { life, partition }).answer.expect("free");
    let owner = Owner {
        instance: life.instance,
        epoch: lent.epoch,
    };
    let theirs = log.run(&Write {
        owner,
        partition,
        sequence: 1,
        state: b"theirs",
    });
    host.reply(id, Reply::One(theirs));
    host.reply(RequestId(99), Reply::One(theirs));
    assert_eq!(host.left, [], "nothing of ours is stored");
}
