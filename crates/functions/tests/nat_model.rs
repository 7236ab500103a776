//! The NAT's procedures against a plain model: random operations of two instances, with times that
//! hit deadlines exactly, and after each one equal replies and the promised uniqueness.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;

use proptest::prelude::*;
use stateplane_base::{Incarnation, LogTime};
use stateplane_flow::{Endpoint, Protocol};
use stateplane_functions::nat::ops::{
    Bind, Binding, Class, Cursor, InstanceId, List, Lookup, Mapping, NatRefusal, Operation, Owner,
    Refresh, RefreshItem, Register, Release, Renew, ReplyError, TakeBlock, block_of,
};
use stateplane_functions::nat::procedures::{self, NatStateConfig, QUARANTINE, Timeouts};
use stateplane_state::{Application, Limits, Registry, Store};

const PUBLIC: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const QUOTA: usize = 3;

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

fn config() -> NatStateConfig {
    NatStateConfig {
        ports: 1030..=1535,
        timeouts: Timeouts {
            udp: secs(30),
            icmp: secs(5),
            tcp_transitory: secs(10),
            tcp_established: secs(100),
        },
        limit_per_subscriber: QUOTA as u32,
        max_mappings: 1000,
        block_lease: secs(10),
        orphan_quarantine: secs(40),
        ..NatStateConfig::new(vec![PUBLIC..=PUBLIC])
    }
}

fn store() -> Store {
    let mut registry = Registry::empty();
    procedures::register(&mut registry, &config()).unwrap();
    Store::new(registry, Limits::default())
}

/// An instance (0 or 1) and how many epochs ago it was its present life.
type Who = (u64, u64);

#[derive(Clone, Debug)]
enum Op {
    Register(u64, u64),
    Renew(Who),
    Release(Who),
    Take(Who, Vec<u8>),
    Bind(Who, Vec<(Protocol, Endpoint, u16)>),
    Lookup(Protocol, u16),
    Refresh(Vec<(Class, Endpoint, u16)>),
}

fn op() -> impl Strategy<Value = Op> {
    let who = || (0..2u64, prop_oneof![9 => Just(0u64), 1 => 1..3u64]);
    let protocol = || {
        prop::sample::select(vec![
            Protocol::Tcp,
            Protocol::Tcp,
            Protocol::Udp,
            Protocol::IcmpEcho,
        ])
    };
    let inside = || {
        (1..3u8, 5000..5005u16).prop_map(|(host, port)| Endpoint {
            addr: Ipv4Addr::new(10, 0, 0, host),
            port,
        })
    };
    // Below the range, its first, two of block 4, two of block 5, and beyond the range.
    let outside = || {
        prop::sample::select(vec![
            1029, 1030, 1031, 1100, 1279, 1280, 1281, 1300, 1535, 1536,
        ])
    };
    let class = prop::sample::select(vec![
        Class::Transitory,
        Class::Established,
        Class::Established,
        Class::Closing,
        Class::Udp,
        Class::Icmp,
    ]);
    let blocks = prop::collection::vec(prop::sample::select(vec![3u8, 4, 4, 5, 5, 6]), 1..4);
    let bindings = prop::collection::vec((protocol(), inside(), outside()), 1..5);
    prop_oneof![
        2 => (0..2u64, 0..3u64).prop_map(|(i, life)| Op::Register(i, life)),
        4 => who().prop_map(Op::Renew),
        1 => who().prop_map(Op::Release),
        4 => (who(), blocks).prop_map(|(who, blocks)| Op::Take(who, blocks)),
        12 => (who(), bindings).prop_map(|(who, bindings)| Op::Bind(who, bindings)),
        4 => (protocol(), outside()).prop_map(|(p, o)| Op::Lookup(p, o)),
        4 => prop::collection::vec((class, inside(), outside()), 0..4).prop_map(Op::Refresh),
    ]
}

/// Steps that land on deadlines, and one that lands just before or after them.
fn log() -> impl Strategy<Value = Vec<(Duration, Op)>> {
    let wait = prop::sample::select(vec![
        Duration::ZERO,
        Duration::ZERO,
        Duration::ZERO,
        Duration::from_nanos(1),
        secs(1),
        secs(5),
        secs(5),
        secs(10) - Duration::from_nanos(1),
        secs(30),
        secs(119),
    ]);
    prop::collection::vec((wait, op()), 1..300)
}

#[derive(PartialEq, Debug)]
enum Answer {
    Lease(u64, LogTime),
    Block(u8, LogTime),
    Bound(Vec<Result<(Class, Endpoint, LogTime, bool), NatRefusal>>),
    Found(Option<Mapping>),
    Refreshed(Vec<Option<LogTime>>),
    Done,
    Refused(NatRefusal),
}

#[derive(Clone, Copy)]
struct ModelLease {
    ends: LogTime,
    clean: LogTime,
}

#[derive(Default)]
struct Model {
    now: LogTime,
    epoch: u64,
    /// Instance -> (life, epoch).
    present: BTreeMap<u64, (u64, u64)>,
    leases: BTreeMap<u64, ModelLease>,
    blocks: BTreeMap<u8, u64>,
    live: BTreeMap<(Protocol, Endpoint), Mapping>,
    quarantine: BTreeMap<(Protocol, u16), LogTime>,
}

impl Model {
    fn pass_time(&mut self, to: LogTime) {
        self.now = to;
        for mapping in self.live.values().filter(|mapping| mapping.expires <= to) {
            let key = (mapping.protocol, mapping.outside.port);
            self.quarantine.insert(key, mapping.expires + QUARANTINE);
        }
        self.live.retain(|_, mapping| mapping.expires > to);
        self.quarantine.retain(|_, until| *until > to);
    }

    /// The owner meant by an operation; an instance that never registered has epoch zero.
    fn owner(&self, (instance, ago): Who) -> Owner {
        let epoch = self.present.get(&instance).map_or(0, |life| life.1);
        Owner {
            instance: InstanceId(instance),
            epoch: epoch.saturating_sub(ago),
        }
    }

    fn is_present(&self, owner: Owner) -> bool {
        self.present
            .get(&owner.instance.0)
            .is_some_and(|life| life.1 == owner.epoch)
    }

    fn prolong(&mut self, owner: Owner) -> Result<LogTime, NatRefusal> {
        if !self.is_present(owner) {
            return Err(NatRefusal::Fenced);
        }
        let ends = self.now + secs(10);
        self.leases.insert(
            owner.epoch,
            ModelLease {
                ends,
                clean: ends + secs(40),
            },
        );
        Ok(ends)
    }

    fn take(&mut self, owner: Owner, candidates: &[u8]) -> Result<Answer, NatRefusal> {
        let ends = self.prolong(owner)?;
        let mut refusal = NatRefusal::OutsideRange;
        for &index in candidates.iter().filter(|index| (4..=5).contains(*index)) {
            if let Some(epoch) = self.blocks.get(&index) {
                let lease = self.leases[epoch];
                if self.now < lease.clean {
                    let held =
                        self.now < lease.ends && self.present.values().any(|life| life.1 == *epoch);
                    if !held {
                        refusal = NatRefusal::BlocksQuarantined;
                    } else if refusal == NatRefusal::OutsideRange {
                        refusal = NatRefusal::BlocksTaken;
                    }
                    continue;
                }
            }
            self.blocks.insert(index, owner.epoch);
            return Ok(Answer::Block(index, ends));
        }
        Err(refusal)
    }

    fn bind(
        &mut self,
        owner: Owner,
        protocol: Protocol,
        inside: Endpoint,
        port: u16,
    ) -> Result<(Mapping, bool), NatRefusal> {
        let class = Class::initial(protocol);
        let expires = self.now + config().timeouts.of(class);
        if let Some(mapping) = self.live.get_mut(&(protocol, inside)) {
            if expires > mapping.expires {
                (mapping.class, mapping.expires) = (class, expires);
            }
            return Ok((*mapping, false));
        }
        if !config().ports.contains(&port) {
            return Err(NatRefusal::OutsideRange);
        }
        if !self.is_present(owner) {
            return Err(NatRefusal::Fenced);
        }
        if self.now >= self.leases[&owner.epoch].ends {
            return Err(NatRefusal::LeaseEnded);
        }
        if self.blocks.get(&block_of(port)) != Some(&owner.epoch) {
            return Err(NatRefusal::NotBlockOwner);
        }
        if self
            .live
            .values()
            .any(|m| m.protocol == protocol && m.outside.port == port)
        {
            return Err(NatRefusal::PortBusy);
        }
        if self.quarantine.contains_key(&(protocol, port)) {
            return Err(NatRefusal::PortQuarantined);
        }
        if self
            .live
            .keys()
            .filter(|key| key.1.addr == inside.addr)
            .count()
            == QUOTA
        {
            return Err(NatRefusal::Quota);
        }
        let outside = Endpoint { addr: PUBLIC, port };
        let mapping = Mapping {
            protocol,
            class,
            inside,
            outside,
            expires,
            created: self.now,
        };
        self.live.insert((protocol, inside), mapping);
        Ok((mapping, true))
    }

    fn refresh(&mut self, class: Class, inside: Endpoint, port: u16) -> Option<LogTime> {
        let expires = self.now + config().timeouts.of(class);
        let mapping = self.live.get_mut(&(class.protocol(), inside))?;
        if mapping.outside.port != port {
            return None;
        }
        if class == Class::Closing || expires > mapping.expires {
            (mapping.class, mapping.expires) = (class, expires);
        }
        Some(mapping.expires)
    }

    fn execute(&mut self, op: &Op) -> Result<Answer, NatRefusal> {
        Ok(match op {
            Op::Register(instance, life) => {
                if self
                    .present
                    .get(instance)
                    .is_none_or(|present| present.0 != *life)
                {
                    self.epoch += 1;
                    self.present.insert(*instance, (*life, self.epoch));
                }
                let owner = self.owner((*instance, 0));
                Answer::Lease(owner.epoch, self.prolong(owner)?)
            }
            Op::Renew(who) => {
                let owner = self.owner(*who);
                Answer::Lease(owner.epoch, self.prolong(owner)?)
            }
            Op::Release(who) => {
                let owner = self.owner(*who);
                if !self.is_present(owner) {
                    return Err(NatRefusal::Fenced);
                }
                let lease = ModelLease {
                    ends: self.now,
                    clean: self.now + secs(40),
                };
                self.leases.insert(owner.epoch, lease);
                self.present.remove(&owner.instance.0);
                Answer::Done
            }
            Op::Take(who, candidates) => {
                // What is refused leaves no trace, so it prolongs no lease either.
                let leases = self.leases.clone();
                let taken = self.take(self.owner(*who), candidates);
                if taken.is_err() {
                    self.leases = leases;
                }
                taken?
            }
            Op::Bind(who, bindings) => {
                let owner = self.owner(*who);
                let each = bindings.iter().map(|(protocol, inside, port)| {
                    let (mapping, made) = self.bind(owner, *protocol, *inside, *port)?;
                    Ok((mapping.class, mapping.outside, mapping.expires, made))
                });
                Answer::Bound(each.collect())
            }
            Op::Lookup(protocol, port) => {
                let serves = |m: &&Mapping| m.protocol == *protocol && m.outside.port == *port;
                Answer::Found(self.live.values().find(serves).copied())
            }
            Op::Refresh(items) => {
                let each = items
                    .iter()
                    .map(|(class, inside, port)| self.refresh(*class, *inside, *port));
                Answer::Refreshed(each.collect())
            }
        })
    }
}

fn call<O: Operation>(store: &mut Store, now: LogTime, op: &O) -> Result<O::Reply, NatRefusal> {
    let mut reply = Vec::new();
    store.execute(now, &op.encode(), &mut reply);
    O::decode_reply(&reply).map_err(|error: ReplyError| {
        NatRefusal::from_error(error).unwrap_or_else(|| panic!("{error}"))
    })
}

fn bind(
    store: &mut Store,
    model: &Model,
    owner: Owner,
    bindings: &[(Protocol, Endpoint, u16)],
) -> Answer {
    let now = model.now;
    let binding = |&(protocol, inside, port): &(Protocol, Endpoint, u16)| Binding {
        protocol,
        inside,
        outside: Endpoint { addr: PUBLIC, port },
    };
    let bindings = bindings.iter().map(binding).collect();
    let bound = call(store, now, &Bind { owner, bindings });
    let bound = bound.expect("each binding is answered by itself");
    let each = bound.into_iter().map(|answer| {
        let bound = answer.map_err(|refusal| {
            NatRefusal::from_refusal(refusal).unwrap_or_else(|| panic!("{refusal}"))
        })?;
        assert_eq!(bound.now, now);
        Ok((bound.class, bound.outside, bound.expires, bound.made))
    });
    Answer::Bound(each.collect())
}

fn execute(store: &mut Store, model: &Model, op: &Op) -> Result<Answer, NatRefusal> {
    let now = model.now;
    let public = |port| Endpoint { addr: PUBLIC, port };
    Ok(match op {
        Op::Register(instance, life) => {
            let (instance, incarnation) = (InstanceId(*instance), Incarnation(*life));
            let fingerprint = config().fingerprint();
            let lease = call(
                store,
                now,
                &Register {
                    instance,
                    incarnation,
                    fingerprint,
                },
            )?;
            Answer::Lease(lease.epoch, lease.ends)
        }
        Op::Renew(who) => {
            let lease = call(
                store,
                now,
                &Renew {
                    owner: model.owner(*who),
                },
            )?;
            assert_eq!(lease.now, now);
            Answer::Lease(lease.epoch, lease.ends)
        }
        Op::Release(who) => {
            call(
                store,
                now,
                &Release {
                    owner: model.owner(*who),
                },
            )?;
            Answer::Done
        }
        Op::Take(who, candidates) => {
            let (owner, candidates) = (model.owner(*who), candidates.clone());
            let taken = call(
                store,
                now,
                &TakeBlock {
                    owner,
                    address: PUBLIC,
                    candidates,
                },
            )?;
            Answer::Block(taken.index, taken.lease.ends)
        }
        Op::Bind(who, bindings) => bind(store, model, model.owner(*who), bindings),
        Op::Lookup(protocol, port) => {
            let lookup = Lookup {
                protocol: *protocol,
                outside: public(*port),
            };
            Answer::Found(call(store, now, &lookup)?.mapping)
        }
        Op::Refresh(items) => {
            let item = |&(class, inside, port): &(Class, Endpoint, u16)| RefreshItem {
                class,
                inside,
                outside: public(port),
            };
            let items = items.iter().map(item).collect();
            Answer::Refreshed(call(store, now, &Refresh { items })?.expires)
        }
    })
}

/// All mappings, three to a page.
fn list(store: &mut Store, now: LogTime) -> Vec<Mapping> {
    let (mut all, mut from) = (Vec::new(), Cursor::default());
    loop {
        let page = call(store, now, &List { from, limit: 3 }).unwrap();
        assert!(page.mappings.len() <= 3);
        all.extend(page.mappings);
        match page.next {
            Some(next) => from = next,
            None => return all,
        }
    }
}

fn refused(result: Result<Answer, NatRefusal>) -> Answer {
    result.unwrap_or_else(Answer::Refused)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn replies_and_mappings_are_those_of_the_model(log in log()) {
        let (mut store, mut model) = (store(), Model::default());
        let mut now = LogTime::from_millis(1);
        for (wait, op) in &log {
            now = now + *wait;
            model.pass_time(now);
            let answer = refused(execute(&mut store, &model, op));
            prop_assert_eq!(answer, refused(model.execute(op)), "{:?} at {:?}", op, now);

            let listed = list(&mut store, now);
            let expected: BTreeSet<_> = model.live.keys().collect();
            let insides: BTreeSet<_> = listed.iter().map(|m| (m.protocol, m.inside)).collect();
            let outsides: BTreeSet<_> = listed.iter().map(|m| (m.protocol, m.outside)).collect();
            prop_assert_eq!(insides.iter().collect::<BTreeSet<_>>(), expected);
            prop_assert_eq!(insides.len(), listed.len());
            prop_assert_eq!(outsides.len(), listed.len(), "two mappings share an outside endpoint");
            store.check();
        }
        prop_assert_eq!(store.totals().tally.misfired, 0);
    }

    #[test]
    fn a_snapshot_in_the_middle_changes_nothing(log in log(), cut in 0..300usize) {
        let (mut one, mut two, mut model) = (store(), store(), Model::default());
        let mut now = LogTime::from_millis(1);
        for (at, (wait, op)) in log.iter().enumerate() {
            if at == cut {
                let mut restored = store();
                restored.restore(&two.snapshot()).unwrap();
                two = restored;
            }
            now = now + *wait;
            model.pass_time(now);
            let _ = model.execute(op);
            prop_assert_eq!(
                refused(execute(&mut one, &model, op)),
                refused(execute(&mut two, &model, op))
            );
            prop_assert_eq!(one.digest(), two.digest());
        }
        prop_assert_eq!(one.snapshot(), two.snapshot());
    }
}
