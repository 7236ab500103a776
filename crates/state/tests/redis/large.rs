//! Values of up to a MiB.

use std::cell::RefCell;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use stateplane_state::{Application, Limits, Registry, Store};

use crate::harness::{Ours, Reply, Theirs, Words};

/// Bytes that are unlike any part of themselves.
fn bytes(len: usize, salt: u8) -> Vec<u8> {
    let word = |n: u32| n.wrapping_mul(0x9e37_79b9).to_be_bytes();
    let mut bytes: Vec<u8> = (0..len as u32).step_by(4).flat_map(word).collect();
    bytes.truncate(len);
    bytes.iter_mut().for_each(|byte| *byte ^= salt);
    bytes
}

fn value() -> impl Strategy<Value = Vec<u8>> {
    let len = prop_oneof![
        2 => 0..64usize,
        2 => 1_000..10_000usize,
        2 => 10_000..120_000usize,
        1 => Just(1 << 20),
    ];
    (len, any::<u8>()).prop_map(|(len, salt)| bytes(len, salt))
}

fn command() -> impl Strategy<Value = Words> {
    let key = || (0..3u8).prop_map(|n| vec![b'k', b'0' + n]);
    let at = || (0..150_000u32).prop_map(|n| n.to_string().into_bytes());
    let name = |name: &str| name.as_bytes().to_vec();
    let flush = prop::sample::select(vec!["del", "get", "strlen", "llen", "hgetall", "lpop"]);
    prop_oneof![
        3 => (key(), value()).prop_map(move |(k, v)| vec![name("set"), k, v]),
        3 => (flush, key()).prop_map(move |(n, k)| vec![name(n), k]),
        2 => (key(), value()).prop_map(move |(k, v)| vec![name("getset"), k, v]),
        2 => (key(), prop::collection::vec(any::<u8>(), 0..30_000))
            .prop_map(move |(k, v)| vec![name("append"), k, v]),
        2 => (key(), at(), at()).prop_map(move |(k, a, b)| vec![name("getrange"), k, a, b]),
        1 => (key(), at(), prop::collection::vec(any::<u8>(), 0..5_000))
            .prop_map(move |(k, a, v)| vec![name("setrange"), k, a, v]),
        1 => (key(), key(), key()).prop_map(move |(a, b, c)| vec![name("mget"), a, b, c]),
        1 => (key(), value(), key(), value())
            .prop_map(move |(a, v, b, w)| vec![name("mset"), a, v, b, w]),
        1 => (key(), value()).prop_map(move |(k, v)| vec![name("hset"), k, name("f"), v]),
        2 => (key(), value(), value()).prop_map(move |(k, v, w)| vec![name("rpush"), k, v, w]),
        1 => key().prop_map(move |k| vec![name("lrange"), k, name("0"), name("-1")]),
    ]
}

/// Commands of one operation, two where both fit.
fn operations(log: &[Words]) -> impl Iterator<Item = &[Words]> {
    log.chunks(2).flat_map(|two| {
        let bytes: usize = two.iter().flatten().map(Vec::len).sum();
        let fits = bytes + 1_000 < Limits::default().op_bytes;
        two.chunks(if fits { 2 } else { 1 })
    })
}

/// What one operation leaves for another, because enough was said, follows in the next.
fn run_all(ours: &mut Ours, commands: &[Words]) -> Vec<Reply> {
    let mut said = Vec::new();
    while said.len() < commands.len() {
        let (executed, replies) = ours
            .run(0, &[], &commands[said.len()..])
            .expect("not refused");
        assert!(executed > 0, "each operation gets on");
        said.extend(replies);
    }
    said
}

/// What exceeds what a store takes is said to, and Redis takes it.
fn exceeds(reply: &Reply) -> bool {
    matches!(reply, Reply::Error(text) if text.contains("maximum allowed size") || text.contains("longer than"))
}

#[test]
fn large_values_are_answered_as_by_redis() {
    let Some(theirs) = Theirs::start().map(RefCell::new) else {
        return;
    };
    let mut runner = TestRunner::new(Config {
        cases: 25,
        failure_persistence: None,
        max_shrink_iters: 200,
        ..Config::default()
    });
    let log = prop::collection::vec(command(), 1..30);
    let result = runner.run(&log, |log| {
        let mut theirs = theirs.borrow_mut();
        theirs.ask(&[b"FLUSHALL".to_vec()]);
        let mut ours = Ours::new();
        for part in operations(&log) {
            for (words, ours) in part.iter().zip(run_all(&mut ours, part)) {
                if exceeds(&ours) {
                    return Ok(());
                }
                let theirs = theirs.ask(words);
                let name = words[0].escape_ascii().to_string();
                prop_assert!(ours == theirs, "{} of {} words", name, words.len());
            }
        }
        ours.store.check();
        let (mut pieces, mut copy) = (
            Vec::new(),
            Store::new(Registry::builtin(), Limits::default()),
        );
        ours.store.begin_snapshot();
        while !ours.store.continue_snapshot(3, &mut pieces) {}
        copy.restore(&pieces).expect("its own snapshot");
        prop_assert_eq!(copy.digest(), ours.store.digest());
        Ok(())
    });
    result.unwrap_or_else(|failure| panic!("{failure}"));
}

#[test]
fn what_is_too_large_is_refused_and_leaves_no_trace() {
    let mut ours = Ours::new();
    let mib = bytes(1 << 20, 1);
    let set = |value: &[u8]| vec![b"set".to_vec(), b"a".to_vec(), value.to_vec()];
    assert_eq!(
        run_all(&mut ours, &[set(&mib)]),
        [Reply::Status("OK".to_owned())]
    );
    let digest = ours.store.digest();
    let more = [b"append".to_vec(), b"a".to_vec(), vec![0; 1_000]].to_vec();
    assert!(exceeds(&run_all(&mut ours, &[more])[0]));
    assert!(exceeds(&run_all(&mut ours, &[set(&vec![0; 2 << 20])])[0]));
    let five = [&b"mget"[..], b"a", b"a", b"a", b"a", b"a"].map(<[u8]>::to_vec);
    assert!(exceeds(&run_all(&mut ours, &[five.to_vec()])[0]), "5 MiB");
    assert_eq!(ours.store.digest(), digest);
    let gets = vec![vec![b"get".to_vec(), b"a".to_vec()]; 3];
    assert_eq!(
        run_all(&mut ours, &gets),
        vec![Reply::Bulk(mib); 3],
        "one after the other"
    );
}

#[test]
fn commands_that_exceed_an_operation_together_are_told_so() {
    let rpush = [
        b"rpush".to_vec(),
        b"l".to_vec(),
        bytes(1 << 20, 1),
        bytes(1 << 20, 2),
    ];
    let log = [rpush.to_vec(), rpush.to_vec()];
    assert!(Ours::new().run(0, &[], &log).is_err());
    assert_eq!(operations(&log).count(), 2);
    let mut ours = Ours::new();
    let replies: Vec<_> = operations(&log)
        .flat_map(|part| run_all(&mut ours, part))
        .collect();
    assert_eq!(replies, [Reply::Int(2), Reply::Int(4)]);
}
