//! The commands of Redis against Redis itself: random sequences through the store's procedure and
//! through a real `redis-server`, command by command the same replies.

mod harness;
mod large;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::time::Duration;

use harness::{Ours, Reply, Theirs, Words};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use stateplane_base::LogTime;
use stateplane_state::builtin::redis::Command;
use stateplane_state::builtin::redis::codec::{self, ABORTED, TRANSACTION, Watched};
use stateplane_state::op;
use stateplane_state::{Application, Limits, Refusal, Registry, Store};

fn key() -> impl Strategy<Value = String> {
    // Few keys, so that kinds clash; one empty and one that does not fit in place.
    let long = "a key longer than fits in place".to_owned();
    prop_oneof![
        8 => (0..5u8).prop_map(|n| format!("k{n}")),
        1 => Just(String::new()),
        1 => Just(long),
    ]
}

fn value() -> impl Strategy<Value = String> {
    prop_oneof![
        2 => (-3..30i64).prop_map(|n| n.to_string()),
        2 => "[a-c]{0,3}",
        1 => Just(i64::MAX.to_string()),
        1 => Just(i64::MIN.to_string()),
        1 => "[ab]{60}",
        1 => prop::sample::select(vec!["01", "-0", "1.5", " 1", "+1"]).prop_map(str::to_owned),
    ]
}

/// Sixteenths, which decimals and binary fractions say exactly, in several spellings.
fn sixteenths() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => (-99_999..99_999i64).prop_map(|n| (n as f64 / 16.0).to_string()),
        1 => prop::sample::select(vec!["+.5", "5.", "3e2", "-25E-2", "00.750", "-0.0"])
            .prop_map(str::to_owned),
    ]
}

/// No numbers at all.
fn nonsense() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["", ".", "1.5x", " 1", "1e", "abc", "1 "]).prop_map(str::to_owned)
}

fn index() -> impl Strategy<Value = String> {
    (-7..7i64).prop_map(|n| n.to_string())
}

/// What follows `SET key value`.
fn set_options() -> impl Strategy<Value = Vec<String>> {
    let option = prop::sample::select(vec![
        "",
        "",
        "NX",
        "XX",
        "GET",
        "KEEPTTL",
        "EX 1000",
        "px 900000",
        "EXAT 4000000000",
        "PXAT 4000000000000",
        "EX 0",
        "EX x",
        "PX -1",
        "EX",
        "nonsense",
    ]);
    prop::collection::vec(option, 0..3).prop_map(|options| {
        let words = options.iter().flat_map(|option| option.split_whitespace());
        words.map(str::to_owned).collect()
    })
}

fn words(name: &str, rest: impl IntoIterator<Item = String>) -> Words {
    let rest = rest.into_iter().map(String::into_bytes);
    [name.as_bytes().to_vec()].into_iter().chain(rest).collect()
}

fn named(names: &'static [&'static str]) -> impl Strategy<Value = &'static str> {
    prop::sample::select(names)
}

fn string_command() -> impl Strategy<Value = Words> {
    let one = named(&[
        "get", "strlen", "incr", "decr", "getdel", "ttl", "exists", "type",
    ]);
    let two = named(&["append", "setnx", "getset", "incrby", "decrby"]);
    let many = named(&["mset", "msetnx"]);
    let ends = named(&["setex", "psetex"]);
    let pairs = prop::collection::vec((key(), value()), 1..4);
    let getex = named(&[
        "",
        "PERSIST",
        "EX 1000",
        "PXAT 4000000000000",
        "EX 0",
        "EXAT 1",
        "NX",
    ]);
    prop_oneof![
        4 => (one, key()).prop_map(|(name, key)| words(name, [key])),
        4 => (two, key(), value()).prop_map(|(name, key, value)| words(name, [key, value])),
        4 => (key(), value(), set_options())
            .prop_map(|(key, value, options)| words("set", [key, value].into_iter().chain(options))),
        1 => prop::collection::vec(key(), 1..4).prop_map(|keys| words("mget", keys)),
        2 => (many, pairs)
            .prop_map(|(name, pairs)| words(name, pairs.into_iter().flat_map(|(k, v)| [k, v]))),
        1 => (ends, key(), named(&["1000000", "0", "x"]), value())
            .prop_map(|(name, key, span, value)| words(name, [key, span.into(), value])),
        1 => (named(&["getrange", "substr"]), key(), index(), index())
            .prop_map(|(name, key, from, to)| words(name, [key, from, to])),
        1 => (key(), index(), value())
            .prop_map(|(key, at, value)| words("setrange", [key, at, value])),
        2 => (named(&["f0", "f1"]), sixteenths())
            .prop_map(|(key, by)| words("incrbyfloat", [key.to_owned(), by])),
        1 => (key(), nonsense()).prop_map(|(key, by)| words("incrbyfloat", [key, by])),
        1 => named(&["f0", "f1"]).prop_map(|key| words("get", [key.to_owned()])),
        1 => (key(), getex).prop_map(|(key, option)| {
            words("getex", [key].into_iter().chain(option.split_whitespace().map(str::to_owned)))
        }),
    ]
}

fn key_command() -> impl Strategy<Value = Words> {
    let many = named(&["del", "unlink", "exists", "touch"]);
    let one = named(&["expiretime", "pexpiretime", "ttl", "persist", "type"]);
    let expire = named(&["expire", "pexpire", "expireat", "pexpireat"]);
    let when = named(&[
        "1000000",
        "5000000000",
        "0",
        "-5",
        "x",
        "9223372036854775807",
    ]);
    let unless = named(&["", "NX", "xx", "GT", "LT", "NX XX", "GT LT"]);
    prop_oneof![
        3 => (many, prop::collection::vec(key(), 1..3)).prop_map(|(name, keys)| words(name, keys)),
        3 => (one, key()).prop_map(|(name, key)| words(name, [key])),
        3 => (expire, key(), when, unless).prop_map(|(name, key, when, unless)| {
            // Which of two spans from now ends later depends on when exactly each began.
            let absolute = unless.contains('T') && !name.ends_with("at");
            let name = if absolute { "expireat" } else { name };
            let options = unless.split_whitespace().map(str::to_owned);
            words(name, [key, when.to_owned()].into_iter().chain(options))
        }),
        2 => (named(&["rename", "renamenx"]), key(), key())
            .prop_map(|(name, from, to)| words(name, [from, to])),
        1 => Just(words("dbsize", [])),
        1 => named(&["*", "k[1-3]", "?2", "a*"])
            .prop_map(|pattern| words("keys", [pattern.to_owned()])),
    ]
}

fn hash_command() -> impl Strategy<Value = Words> {
    let one = named(&["hgetall", "hkeys", "hvals", "hlen"]);
    let field = || "[a-d]";
    let pairs = prop::collection::vec((field(), value()), 1..5);
    let flat = |pairs: Vec<(String, String)>| pairs.into_iter().flat_map(|(f, v)| [f, v]);
    prop_oneof![
        3 => (named(&["hset", "hmset"]), key(), pairs)
            .prop_map(move |(name, key, pairs)| words(name, [key].into_iter().chain(flat(pairs)))),
        2 => (one, key()).prop_map(|(name, key)| words(name, [key])),
        2 => (named(&["hget", "hexists", "hstrlen"]), key(), field())
            .prop_map(|(name, key, field)| words(name, [key, field])),
        2 => (named(&["hsetnx", "hincrby"]), key(), field(), value())
            .prop_map(|(name, key, field, value)| words(name, [key, field, value])),
        1 => (field(), sixteenths()).prop_map(|(field, by)| {
            words("hincrbyfloat", ["fh".to_owned(), field, by])
        }),
        1 => (key(), field(), nonsense())
            .prop_map(|(key, field, by)| words("hincrbyfloat", [key, field, by])),
        2 => (named(&["hdel", "hmget"]), key(), prop::collection::vec(field(), 1..4))
            .prop_map(|(name, key, fields)| words(name, [key].into_iter().chain(fields))),
    ]
}

/// How long Redis waits in vain; the store does not.
fn patience() -> impl Strategy<Value = String> {
    named(&["0.001", "1e-3", "0.001", "-1", "x"]).prop_map(str::to_owned)
}

fn list_command() -> impl Strategy<Value = Words> {
    let push = named(&["lpush", "rpush", "lpushx", "rpushx"]);
    let end = || named(&["left", "RIGHT", "up"]);
    let side = named(&["before", "AFTER", "beside"]);
    prop_oneof![
        5 => (push, key(), prop::collection::vec("[a-c]", 1..5))
            .prop_map(|(name, key, items)| words(name, [key].into_iter().chain(items))),
        2 => (named(&["lpop", "rpop", "llen"]), key()).prop_map(|(name, key)| words(name, [key])),
        1 => (named(&["lpop", "rpop", "lindex"]), key(), index())
            .prop_map(|(name, key, n)| words(name, [key, n])),
        2 => (named(&["lrange", "ltrim"]), key(), index(), index())
            .prop_map(|(name, key, from, to)| words(name, [key, from, to])),
        2 => (named(&["lset", "lrem"]), key(), index(), "[a-c]")
            .prop_map(|(name, key, at, item)| words(name, [key, at, item])),
        1 => (key(), side, "[a-c]", "[a-d]")
            .prop_map(|(key, side, pivot, item)| words("linsert", [key, side.into(), pivot, item])),
        1 => (key(), key(), end(), end())
            .prop_map(|(from, to, a, b)| words("lmove", [from, to, a.into(), b.into()])),
        1 => (key(), key()).prop_map(|(from, to)| words("rpoplpush", [from, to])),
        1 => (named(&["blpop", "brpop"]), prop::collection::vec(key(), 1..3), patience())
            .prop_map(|(name, keys, span)| words(name, keys.into_iter().chain([span]))),
        1 => (key(), key(), end(), end(), patience()).prop_map(|(from, to, a, b, span)| {
            words("blmove", [from, to, a.into(), b.into(), span])
        }),
        1 => (key(), key(), patience())
            .prop_map(|(from, to, span)| words("brpoplpush", [from, to, span])),
    ]
}

fn set_command() -> impl Strategy<Value = Words> {
    let member = || "[a-e]";
    prop_oneof![
        3 => (named(&["sadd", "srem", "smismember"]), key(), prop::collection::vec(member(), 1..4))
            .prop_map(|(name, key, members)| words(name, [key].into_iter().chain(members))),
        1 => (named(&["smembers", "scard"]), key()).prop_map(|(name, key)| words(name, [key])),
        1 => (key(), member()).prop_map(|(key, member)| words("sismember", [key, member])),
        1 => (key(), key(), member())
            .prop_map(|(from, to, member)| words("smove", [from, to, member])),
    ]
}

fn command() -> impl Strategy<Value = Words> {
    let arity = named(&["get", "set", "hset", "lmove", "mset", "expire", "dbsize"]);
    prop_oneof![
        6 => string_command(),
        4 => key_command(),
        5 => hash_command(),
        7 => list_command(),
        3 => set_command(),
        1 => (arity, prop::collection::vec(value(), 0..6)).prop_filter_map(
            "means something else there",
            |(name, rest)| {
                let words = words(name, rest);
                let admits = Command::named(name.as_bytes())?.shape().admits(words.len());
                (!admits).then_some(words)
            },
        ),
    ]
}

/// What may differ: the order of what has none, and rounded or running times.
fn comparable(words: &[Vec<u8>], reply: Reply) -> Reply {
    match (words[0].as_slice(), reply) {
        (b"hkeys" | b"hvals" | b"keys", Reply::Array(mut all)) => {
            all.sort();
            Reply::Array(all)
        }
        (b"ttl", Reply::Int(seconds)) => Reply::Int(seconds / 1_000),
        (b"expiretime" | b"pexpiretime", Reply::Int(at)) => Reply::Int(at / 10_000_000),
        (_, Reply::Error(text)) if text.starts_with("ERR Unsupported option") => {
            Reply::Error("ERR Unsupported option".to_owned())
        }
        (_, reply) => reply,
    }
}

fn shown(words: &[Vec<u8>]) -> String {
    let words: Vec<_> = words.iter().map(|w| w.escape_ascii().to_string()).collect();
    words.join(" ")
}

#[test]
fn random_commands_are_answered_as_by_redis() {
    let Some(theirs) = Theirs::start().map(RefCell::new) else {
        return;
    };
    let mut runner = TestRunner::new(Config {
        cases: 300,
        failure_persistence: None,
        ..Config::default()
    });
    let log = prop::collection::vec(command(), 1..80);
    let result = runner.run(&log, |log| {
        let mut theirs = theirs.borrow_mut();
        theirs.ask(&[b"FLUSHALL".to_vec()]);
        let mut ours = Ours::new();
        // One operation of many commands or many of one: the same.
        let mut said = Vec::new();
        for part in log.chunks(7) {
            let (executed, replies) = ours.run(0, &[], part).expect("not refused");
            prop_assert_eq!(usize::from(executed), part.len());
            said.extend(replies);
        }
        for (n, (words, ours)) in log.iter().zip(said).enumerate() {
            let ours = comparable(words, ours);
            let theirs = comparable(words, theirs.ask(words));
            let before: Vec<_> = log[..=n].iter().map(|words| shown(words)).collect();
            prop_assert_eq!(ours, theirs, "after {}", before.join("; "));
        }
        ours.store.check();
        let mut copy = Store::new(Registry::builtin(), Limits::default());
        copy.restore(&ours.store.snapshot())
            .expect("its own snapshot");
        prop_assert_eq!(copy.digest(), ours.store.digest());
        Ok(())
    });
    result.unwrap_or_else(|failure| panic!("{failure}"));
}

#[test]
fn what_has_ended_is_gone_and_swept() {
    let mut ours = Ours::new();
    for n in 0..1_000 {
        ours.ask(&[
            "set",
            &format!("k{n}"),
            "v",
            "PX",
            &(1 + n % 50).to_string(),
        ]);
    }
    ours.ask(&["set", "stays", "v", "EX", "1000"]);
    ours.ask(&["rpush", "list", "a"]);
    ours.ask(&["pexpire", "list", "10"]);
    ours.now = ours.now + Duration::from_millis(51);
    assert_eq!(ours.ask(&["mget", "k0", "k49", "stays"]), {
        let stays = Reply::Bulk(b"v".to_vec());
        Reply::Array(vec![Reply::Nil, Reply::Nil, stays])
    });
    assert_eq!(ours.ask(&["llen", "list"]), Reply::Int(0));
    assert_eq!(ours.ask(&["rpush", "list", "b"]), Reply::Int(1));
    ours.now = ours.now + Duration::from_millis(10);
    assert_eq!(ours.ask(&["dbsize"]), Reply::Int(2));
    assert_eq!(ours.ask(&["ttl", "list"]), Reply::Int(-1));
    ours.store.check();
}

#[test]
fn large_collections_leave_nothing_behind() {
    let mut ours = Ours::new();
    ours.ask(&["set", "other", "1"]);
    let rows = |ours: &Ours| {
        ours.store
            .summary()
            .iter()
            .map(|table| table.rows)
            .sum::<usize>()
    };
    let before = rows(&ours);
    for n in 0..700 {
        let n = n.to_string();
        ours.ask(&["rpush", "list", &n]);
        ours.ask(&["hset", "hash", &n, &n]);
        ours.ask(&["sadd", "set", &n]);
    }
    ours.ask(&["set", "list", "now a string"]);
    assert_eq!(ours.ask(&["del", "list", "hash", "set"]), Reply::Int(3));
    ours.now = ours.now + Duration::from_millis(100);
    ours.ask(&["get", "other"]);
    assert_eq!(rows(&ours), before);
    ours.ask(&["flushall"]);
    assert_eq!(rows(&ours), 0);
    ours.store.check();
}

/// All that a walk meets.
fn walk(ours: &mut Ours, command: &[&str], options: &[&str]) -> Vec<Reply> {
    let (mut cursor, mut met) = ("0".to_owned(), Vec::new());
    loop {
        let words = [command, &[&cursor], options].concat();
        let Reply::Array(answer) = ours.ask(&words) else {
            panic!("not an array");
        };
        let [Reply::Bulk(next), Reply::Array(page)] = &answer[..] else {
            panic!("not a cursor and a page: {answer:?}");
        };
        met.extend_from_slice(page);
        cursor = String::from_utf8(next.clone()).expect("a number");
        if cursor == "0" {
            return met;
        }
    }
}

#[test]
fn walks_meet_everything_that_stays() {
    let mut ours = Ours::new();
    for n in 0..500 {
        ours.ask(&["set", &format!("key:{n}"), "v"]);
        ours.ask(&["hset", "hash", &format!("field:{n}"), "v"]);
        ours.ask(&["sadd", "set", &format!("member:{n}")]);
    }
    let distinct = |met: Vec<Reply>| met.into_iter().collect::<BTreeSet<_>>().len();
    assert_eq!(distinct(walk(&mut ours, &["scan"], &[])), 502);
    let strings = ["COUNT", "33", "TYPE", "string", "MATCH", "key:1*"];
    assert_eq!(distinct(walk(&mut ours, &["scan"], &strings)), 111);
    assert_eq!(
        distinct(walk(&mut ours, &["hscan", "hash"], &["count", "7"])),
        501
    );
    assert_eq!(
        distinct(walk(&mut ours, &["sscan", "set"], &["match", "*:49*"])),
        11
    );
    assert!(matches!(ours.ask(&["randomkey"]), Reply::Bulk(_)));
    let mut popped = BTreeSet::new();
    for _ in 0..5 {
        let Reply::Set(members) = ours.ask(&["spop", "set", "100"]) else {
            panic!("not a set");
        };
        popped.extend(members);
    }
    assert_eq!(
        (popped.len(), ours.ask(&["exists", "set"])),
        (500, Reply::Int(0))
    );
}

fn commands(lines: &[&str]) -> Vec<Words> {
    let words = |line: &&str| {
        line.split(' ')
            .map(|word| word.as_bytes().to_vec())
            .collect()
    };
    lines.iter().map(words).collect()
}

#[test]
fn a_transaction_runs_whole_unless_a_watched_key_has_changed() {
    let mut ours = Ours::new();
    ours.ask(&["set", "a", "1"]);
    let version = |ours: &mut Ours, key: &str| match ours.ask(&["~versions", key]) {
        Reply::Array(versions) => match &versions[..] {
            [Reply::Bulk(version)] => String::from_utf8_lossy(version).parse().expect("a number"),
            _ => panic!("not one version"),
        },
        _ => panic!("not an array"),
    };
    let watched = |key: &str, version| Watched {
        key: key.as_bytes().to_vec(),
        version,
    };
    let seen = watched("a", version(&mut ours, "a"));
    let absent = watched("b", version(&mut ours, "b"));
    assert_eq!(absent.version, 0);
    let both = [seen.clone(), absent];
    let body = commands(&["incr a", "lpush a x", "incr a"]);
    let (executed, said) = ours.run(TRANSACTION, &both, &body).expect("not refused");
    assert_eq!(executed, 3, "an error within does not end it");
    assert_eq!((&said[0], &said[2]), (&Reply::Int(2), &Reply::Int(3)));
    assert!(matches!(said[1], Reply::Error(_)));
    let (executed, _) = ours.run(TRANSACTION, &both, &body).expect("not refused");
    assert_eq!(executed, ABORTED, "the key has changed");
    // Set to what it was, or deleted and set again: changed all the same.
    let seen = watched("a", version(&mut ours, "a"));
    ours.ask(&["del", "a"]);
    ours.ask(&["set", "a", "3"]);
    let (executed, _) = ours.run(TRANSACTION, &[seen], &body).expect("not refused");
    assert_eq!(executed, ABORTED);
    assert_eq!(ours.ask(&["get", "a"]), Reply::Bulk(b"3".to_vec()));
}

#[test]
fn what_does_not_fit_into_a_reply_is_not_executed() {
    let mut ours = Ours::with(Limits {
        reply_bytes: 100,
        ..Limits::default()
    });
    let long = "x".repeat(60);
    let set = format!("set a {long}");
    let all = commands(&[&set, "getset a 1", "append a 2", "getset a 3"]);
    let (executed, said) = ours.run(0, &[], &all).expect("not refused");
    assert_eq!((executed, said.len()), (4, 4));
    let gets = commands(&[&set, "get a", "getdel a", "get a"]);
    let (executed, said) = ours.run(0, &[], &gets).expect("not refused");
    assert_eq!((executed, said.len()), (2, 2), "the third left no trace");
    assert_eq!(ours.ask(&["exists", "a"]), Reply::Int(1));
    let refused = ours.run(TRANSACTION, &[], &gets);
    assert_eq!(refused, Err(Refusal::ReplyTooLarge));
    // Alone it never fits.
    for n in 0..50 {
        ours.ask(&["rpush", "l", &n.to_string()]);
    }
    let Reply::Error(text) = ours.ask(&["lrange", "l", "0", "-1"]) else {
        panic!("it cannot fit");
    };
    assert!(text.contains("longer than 100 bytes"), "{text}");
}

#[test]
fn limits_are_told_and_leave_no_trace() {
    let mut ours = Ours::with(Limits {
        rows: 3,
        value_bytes: 50,
        ..Limits::default()
    });
    let error = |reply| match reply {
        Reply::Error(text) => text,
        other => panic!("not an error: {other:?}"),
    };
    assert!(error(ours.ask(&["set", "a", &"x".repeat(34)])).contains("(33 bytes)"));
    let digest = ours.store.digest();
    let oom = error(ours.ask(&["mset", "a", "1", "b", "1", "c", "1", "d", "1"]));
    assert!(oom.starts_with("OOM "), "{oom}");
    assert_eq!(ours.store.digest(), digest, "all or nothing");
    let key = "k".repeat(Limits::default().key_bytes);
    assert!(error(ours.ask(&["set", &key, "v"])).contains("longer than"));
    ours.store.check();
}

/// What an operation of one command says without a slot; `None`: it needs one.
fn read(ours: &mut Ours, clock: LogTime, line: &str) -> Option<Vec<u8>> {
    let (mut op, words) = (Vec::new(), commands(&[line]).remove(0));
    let command = Command::named(&words[0]).expect("a command");
    codec::begin(0, &[], &mut op);
    codec::push_command(command, words[1..].iter().map(Vec::as_slice), &mut op);
    let mut reply = Vec::new();
    let answered = ours.store.read(clock, &op, &mut reply);
    answered.then_some(reply)
}

#[test]
fn reads_need_no_slot_until_a_key_has_ended() {
    let mut ours = Ours::new();
    ours.ask(&["mset", "a", "1", "b", "1"]);
    ours.ask(&["pexpire", "b", "100"]);
    let (now, digest) = (ours.now, ours.store.digest());
    let said = read(&mut ours, now, "get b").expect("it has not ended");
    assert!(said.ends_with(b"$1\r\n1\r\n"));
    for command in Command::ALL {
        let shape = command.shape();
        let line = [shape.name, " a", " a", " a", " a", " a"];
        let line = line[..usize::from(shape.arity.unsigned_abs())].concat();
        let said = read(&mut ours, now, &line).expect("nothing has ended");
        let refused = op::decode_reply(&said).is_err();
        assert!(!refused || shape.writes, "{line} reads");
        assert_eq!(ours.store.digest(), digest, "{line} left a trace");
    }
    let late = now + Duration::from_millis(101);
    assert_eq!(
        read(&mut ours, late, "get b"),
        None,
        "only the log's time ends it"
    );
}

proptest! {
    #[test]
    fn any_bytes_are_a_valid_operation(flags in 0..3u8, bytes: Vec<u8>) {
        let mut ours = Ours::new();
        ours.ask(&["rpush", "l", "a", "b"]);
        let mut reply = Vec::new();
        let arguments = [&[flags][..], &bytes].concat();
        ours.store.execute(ours.now, &op::encode(codec::RUN, &arguments), &mut reply);
        ours.store.check();
    }
}
