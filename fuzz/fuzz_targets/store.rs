//! The store: any operations at any times, and snapshots of any bytes.
//!
//! The first byte chooses: operations, or a snapshot as it is, or the snapshot of a store
//! in use with some bytes changed. Operations are `procedure, time, length, arguments`.
#![no_main]

use std::net::Ipv4Addr;

use libfuzzer_sys::fuzz_target;
use stateplane_base::LogTime;
use stateplane_functions::nat::ops;
use stateplane_functions::nat::procedures::{NatStateConfig, register};
use stateplane_state::builtin::{counter, kv, pool, queue, redis};
use stateplane_state::op::Operation;
use stateplane_state::{Application, Limits, ProcedureId, Registry, Store, op};

const PROCEDURES: [ProcedureId; 20] = [
    ops::REGISTER,
    ops::TAKE_BLOCK,
    ops::RENEW,
    ops::RELEASE,
    ops::BIND,
    ops::LOOKUP,
    ops::REFRESH,
    ops::LIST,
    kv::Get::PROCEDURE,
    kv::Put::PROCEDURE,
    kv::Delete::PROCEDURE,
    kv::CompareAndSet::PROCEDURE,
    counter::Add::PROCEDURE,
    queue::Push::PROCEDURE,
    queue::Pop::PROCEDURE,
    queue::Len::PROCEDURE,
    pool::Create::PROCEDURE,
    pool::Take::PROCEDURE,
    pool::Give::PROCEDURE,
    redis::codec::RUN,
];

fn store() -> Store {
    let pool = Ipv4Addr::new(198, 51, 100, 1);
    let mut registry = Registry::builtin();
    let config = NatStateConfig::new(vec![pool..=pool]);
    register(&mut registry, &config).expect("a usual configuration");
    let limits = Limits {
        rows: 64,
        timers: 64,
        memory_bytes: 1 << 16,
        ..Limits::default()
    };
    Store::new(registry, limits)
}

/// Executes what `data` says and answers the store after it.
fn used(mut data: &[u8]) -> Store {
    let mut store = store();
    let mut at = 1_000_000_000u64;
    let mut reply = Vec::new();
    while let Some((&[which, pause, length], rest)) = data.split_first_chunk::<3>() {
        let (arguments, rest) = rest.split_at(usize::from(length).min(rest.len()));
        data = rest;
        at += u64::from(pause) * 100_000_000;
        let operation = match PROCEDURES.get(usize::from(which)) {
            Some(procedure) => op::encode(*procedure, arguments),
            None => arguments.to_vec(),
        };
        store.execute(LogTime::from_nanos(at), &operation, &mut reply);
        assert!(!reply.is_empty() && reply.len() <= Limits::default().reply_bytes);
    }
    store.check();
    store
}

/// A restored store is the one the snapshot was taken of.
fn restored(bytes: &[u8]) {
    let mut copy = store();
    let before = copy.digest();
    match copy.restore(bytes) {
        Ok(()) => {
            copy.check();
            // The checksum, which ends it, is not looked at in this build.
            let again = copy.snapshot();
            let end = again.len() - 8;
            assert_eq!(again.len(), bytes.len());
            assert_eq!(again[..end], bytes[..end], "two snapshots of one state");
        }
        Err(_) => assert_eq!(
            copy.digest(),
            before,
            "a refused snapshot changed the store"
        ),
    }
}

fuzz_target!(|data: &[u8]| {
    match data.split_first() {
        Some((0, bytes)) => restored(bytes),
        Some((1, rest)) => {
            let (flips, rest) = rest.split_at(rest.len().min(6));
            let mut bytes = used(rest).snapshot();
            for flip in flips.chunks_exact(3) {
                let at = usize::from(flip[0]) << 8 | usize::from(flip[1]);
                let at = at % bytes.len();
                bytes[at] ^= flip[2];
            }
            restored(&bytes);
        }
        Some((_, rest)) => {
            let store = used(rest);
            let bytes = store.snapshot();
            let mut copy = self::store();
            copy.restore(&bytes).expect("its own snapshot");
            copy.check();
            assert_eq!((copy.digest(), copy.snapshot()), (store.digest(), bytes));
        }
        None => {}
    }
});
