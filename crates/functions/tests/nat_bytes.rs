//! The NAT's operations as bytes: their documented form, and what becomes of any other.

use std::net::Ipv4Addr;
use std::time::Duration;

use proptest::prelude::*;
use stateplane_base::LogTime;
use stateplane_flow::{Endpoint, Protocol};
use stateplane_functions::nat::ops::{
    self, Bind, Binding, Class, Cursor, InstanceId, List, Lookup, Operation, Owner, Refresh,
    RefreshItem, Register, Release, Renew, TakeBlock,
};
use stateplane_functions::nat::procedures::{self, NatStateConfig};
use stateplane_state::op::encode;
use stateplane_state::{Application, Limits, ProcedureId, Refusal, Registry, Store, TableSpec};

const PUBLIC: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);

const PROCEDURES: [ProcedureId; 8] = [
    ops::REGISTER,
    ops::RENEW,
    ops::RELEASE,
    ops::TAKE_BLOCK,
    ops::BIND,
    ops::LOOKUP,
    ops::REFRESH,
    ops::LIST,
];

fn inside(port: u16) -> Endpoint {
    Endpoint {
        addr: Ipv4Addr::new(10, 0, 0, 1),
        port,
    }
}

fn outside(port: u16) -> Endpoint {
    Endpoint { addr: PUBLIC, port }
}

fn config() -> NatStateConfig {
    NatStateConfig {
        max_mappings: 1000,
        ..NatStateConfig::new(vec![PUBLIC..=PUBLIC])
    }
}

fn store() -> Store {
    let mut registry = Registry::empty();
    procedures::register(&mut registry, &config()).unwrap();
    Store::new(registry, Limits::default())
}

/// A store with the NAT's tables and timers, but a procedure `forge` that writes any row and arms
/// any timer: `| table or timer 1 | key length 1 | key | value |`.
fn forge() -> Store {
    type Bytes = [u8];
    let mut registry = Registry::empty();
    registry.depend_on(config().fingerprint());
    let hashed = |registry: &mut Registry, name| {
        registry
            .table::<Bytes, Bytes>(TableSpec::new(name, 1000))
            .unwrap()
    };
    let mappings = hashed(&mut registry, "nat.mappings");
    let ports = hashed(&mut registry, "nat.ports");
    let subscribers = hashed(&mut registry, "nat.subscribers");
    let kinds = ["nat.unquarantine", "nat.expire"]
        .map(|name| registry.timer(name, |_, _, _| Ok(())).unwrap());
    let [owners, leases, blocks] =
        ["nat.owners", "nat.leases", "nat.blocks"].map(|name| hashed(&mut registry, name));
    let taken = registry
        .ordered_table::<Bytes, Bytes>(TableSpec::new("nat.taken", 1000))
        .unwrap();
    let others = [owners, leases, blocks, hashed(&mut registry, "nat.epochs")];
    registry
        .register("forge", 1, move |tx, arguments, _| {
            let [what, len, rest @ ..] = arguments else {
                return Err(Refusal::BadArguments);
            };
            let (key, value) = rest
                .split_at_checked(usize::from(*len))
                .ok_or(Refusal::BadArguments)?;
            match *what {
                0 => drop(tx.put(mappings, key, value)?),
                1 => drop(tx.put(ports, key, value)?),
                2 => drop(tx.put(subscribers, key, value)?),
                n @ 3..=6 => drop(tx.put(others[usize::from(n - 3)], key, value)?),
                7 => drop(tx.put(taken, key, value)?),
                n => {
                    let delay = Duration::from_secs(value.len() as u64);
                    tx.arm(kinds[usize::from(n % 2)], key, tx.now() + delay)?;
                }
            }
            Ok(())
        })
        .unwrap();
    Store::new(registry, Limits::default())
}

/// Rows mostly of the right lengths and always of few values, so that they refer to each other.
fn row() -> impl Strategy<Value = Vec<u8>> {
    let lengths = [
        (7, 40),
        (7, 8),
        (4, 8),
        (8, 16),
        (8, 28),
        (5, 8),
        (4, 8),
        (5, 0),
        (14, 3),
        (7, 9),
    ];
    let byte = prop::sample::select(vec![0u8, 0, 0, 1, 1, 4, 6, 17, 255]);
    (0..10u8).prop_flat_map(move |what| {
        let (key, value) = lengths[usize::from(what)];
        let odd = prop_oneof![15 => Just(0usize), 1 => Just(1usize)];
        (
            prop::collection::vec(byte.clone(), key),
            odd.prop_flat_map({
                let byte = byte.clone();
                move |odd| prop::collection::vec(byte.clone(), value + odd)
            }),
        )
            .prop_map(move |(key, value)| {
                // The counter of epochs is one row.
                let key = if what == 6 { b"last".to_vec() } else { key };
                [&[what, key.len() as u8][..], &key, &value].concat()
            })
    })
}

/// Operations well formed but for their numbers.
fn arguments() -> impl Strategy<Value = (usize, Vec<u8>)> {
    let lengths = [24, 16, 16, 22, 48, 8, 32, 10];
    let byte = prop::sample::select(vec![0u8, 0, 0, 1, 1, 4, 6, 17, 255]);
    (0..8usize).prop_flat_map(move |which| {
        let bytes = prop::collection::vec(byte.clone(), lengths[which]);
        (Just(which), bytes)
    })
}

proptest! {
    #[test]
    fn any_arguments_are_answered(
        calls in prop::collection::vec(
            (any::<u64>(), 0..8usize, prop::collection::vec(any::<u8>(), 0..70)), 1..40)
    ) {
        let (mut store, mut reply) = (store(), Vec::new());
        for (now, which, bytes) in calls {
            store.execute(LogTime::from_nanos(now), &encode(PROCEDURES[which], &bytes), &mut reply);
            prop_assert_ne!(&reply, &[Refusal::UnknownProcedure.code()]);
            prop_assert_ne!(&reply, &[Refusal::Corrupt.code()]);
            store.check();
        }
    }

    #[test]
    fn rows_that_contradict_each_other_are_refused_without_harm(
        rows in prop::collection::vec(row(), 0..60),
        calls in prop::collection::vec((0..400u64, arguments()), 0..40),
    ) {
        let (mut forge, mut store, mut reply) = (forge(), store(), Vec::new());
        for row in rows {
            forge.execute(LogTime::ZERO, &encode(ProcedureId::of("forge", 1), &row), &mut reply);
            prop_assert_eq!(&reply, &[0]);
        }
        store.restore(&forge.snapshot()).unwrap();
        let mut now = LogTime::ZERO;
        for (wait, (which, bytes)) in calls {
            now = now + Duration::from_secs(wait);
            store.execute(now, &encode(PROCEDURES[which], &bytes), &mut reply);
            store.check();
        }
    }

    #[test]
    fn any_reply_is_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
        let mut reply = vec![0];
        reply.extend(bytes);
        let _ = Register::decode_reply(&reply);
        let _ = Renew::decode_reply(&reply);
        let _ = TakeBlock::decode_reply(&reply);
        let _ = Release::decode_reply(&reply);
        let _ = Bind::decode_reply(&reply);
        let _ = Lookup::decode_reply(&reply);
        let _ = Refresh::decode_reply(&reply);
        let _ = List::decode_reply(&reply);
    }
}

#[test]
fn operations_have_their_documented_sizes() {
    let owner = Owner {
        instance: InstanceId(1),
        epoch: 2,
    };
    let binding = Binding {
        protocol: Protocol::Tcp,
        inside: inside(0x0102),
        outside: outside(3),
    };
    let bind = Bind {
        owner,
        bindings: vec![binding; ops::bind::MAX_BINDINGS],
    };
    let bytes = bind.encode();
    assert_eq!(bytes.len(), 4 + 16 + 16 * ops::bind::MAX_BINDINGS);
    assert_eq!(
        bytes[4..20],
        [0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2]
    );
    assert_eq!(bytes[20..24], [6, 0, 0, 0]);
    assert_eq!(bytes[24..30], [10, 0, 0, 1, 1, 2]);
    assert_eq!(bytes[30..36], [198, 51, 100, 1, 0, 3]);
    let item = RefreshItem {
        class: Class::Icmp,
        inside: inside(1),
        outside: outside(2),
    };
    let batch = Refresh {
        items: vec![item; ops::mapping::REFRESH_BATCH],
    };
    assert_eq!(batch.encode().len(), 4 + 16 * ops::mapping::REFRESH_BATCH);
    assert_eq!(
        Lookup {
            protocol: Protocol::Udp,
            outside: outside(1)
        }
        .encode()
        .len(),
        4 + 8
    );
    assert_eq!(
        List {
            from: Cursor::default(),
            limit: 1
        }
        .encode()
        .len(),
        4 + 10
    );
}
