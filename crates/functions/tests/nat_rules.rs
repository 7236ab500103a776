//! The NAT's rules, one by one, at their exact edges.

use std::net::Ipv4Addr;
use std::time::Duration;

use stateplane_base::{Incarnation, LogTime};
use stateplane_flow::{Endpoint, Protocol};
use stateplane_functions::nat::ops::{
    Bind, Binding, Bound, Class, Cursor, InstanceId, List, Lookup, NatRefusal, Operation, Owner,
    Refresh, RefreshItem, Register, Release, Renew, ReplyError, TakeBlock,
};
use stateplane_functions::nat::procedures::{
    self, ConfigError, NatRegisterError, NatStateConfig, QUARANTINE,
};
use stateplane_state::{Application, Limits, Refusal, Registry, Store};

const PUBLIC: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const NANO: Duration = Duration::from_nanos(1);

fn at(secs: u64) -> LogTime {
    LogTime::from_millis(secs * 1000)
}

fn inside(port: u16) -> Endpoint {
    Endpoint {
        addr: Ipv4Addr::new(10, 0, 0, 1),
        port,
    }
}

fn outside(port: u16) -> Endpoint {
    Endpoint { addr: PUBLIC, port }
}

fn binding(protocol: Protocol, from: u16, to: u16) -> Binding {
    Binding {
        protocol,
        inside: inside(from),
        outside: outside(to),
    }
}

struct World {
    store: Store,
    config: NatStateConfig,
}

impl World {
    fn new(change: impl FnOnce(&mut NatStateConfig)) -> Self {
        let mut config = NatStateConfig::new(vec![PUBLIC..=Ipv4Addr::new(198, 51, 100, 2)]);
        config.max_mappings = 1000;
        change(&mut config);
        let mut registry = Registry::empty();
        procedures::register(&mut registry, &config).unwrap();
        Self {
            store: Store::new(registry, Limits::default()),
            config,
        }
    }

    fn call<O: Operation>(&mut self, now: LogTime, op: &O) -> Result<O::Reply, Refusal> {
        let mut reply = Vec::new();
        self.store.execute(now, &op.encode(), &mut reply);
        self.store.check();
        O::decode_reply(&reply).map_err(|error| match error {
            ReplyError::Refused(refusal) => refusal,
            ReplyError::Malformed => panic!("malformed reply"),
        })
    }

    fn register(&mut self, now: LogTime, instance: u64, life: u64) -> Owner {
        let fingerprint = self.config.fingerprint();
        let instance = InstanceId(instance);
        let register = Register {
            instance,
            incarnation: Incarnation(life),
            fingerprint,
        };
        let lease = self.call(now, &register).unwrap();
        assert_eq!(lease.ends, now + self.config.block_lease);
        Owner {
            instance,
            epoch: lease.epoch,
        }
    }

    fn take(&mut self, now: LogTime, owner: Owner, blocks: &[u8]) -> Result<u8, Refusal> {
        let candidates = blocks.to_vec();
        self.call(
            now,
            &TakeBlock {
                owner,
                address: PUBLIC,
                candidates,
            },
        )
        .map(|taken| taken.index)
    }

    fn bind(
        &mut self,
        now: LogTime,
        owner: Owner,
        protocol: Protocol,
        from: u16,
        to: u16,
    ) -> Result<Bound, Refusal> {
        self.bind_each(now, owner, &[binding(protocol, from, to)])
            .remove(0)
    }

    fn bind_each(
        &mut self,
        now: LogTime,
        owner: Owner,
        bindings: &[Binding],
    ) -> Vec<Result<Bound, Refusal>> {
        let bindings = bindings.to_vec();
        let answers = self.call(now, &Bind { owner, bindings });
        answers.expect("bindings are answered one by one")
    }

    fn lookup(&mut self, now: LogTime, protocol: Protocol, port: u16) -> Option<u16> {
        let found = self
            .call(
                now,
                &Lookup {
                    protocol,
                    outside: outside(port),
                },
            )
            .unwrap();
        found.mapping.map(|mapping| mapping.inside.port)
    }

    fn refresh(&mut self, now: LogTime, class: Class, from: u16, to: u16) -> Option<LogTime> {
        let item = RefreshItem {
            class,
            inside: inside(from),
            outside: outside(to),
        };
        self.call(now, &Refresh { items: vec![item] })
            .unwrap()
            .expires[0]
    }
}

fn no(refusal: NatRefusal) -> Option<Refusal> {
    Some(refusal.into())
}

#[test]
fn a_mapping_ends_exactly_then_its_port_rests_exactly() {
    let mut world = World::new(|_| {});
    let owner = world.register(at(0), 1, 1);
    world.take(at(0), owner, &[4]).unwrap();
    let bound = world.bind(at(1), owner, Protocol::Udp, 5000, 1030).unwrap();
    assert!(bound.made);
    assert_eq!(bound.expires, at(301));
    assert_eq!(
        world.lookup(at(301) - NANO, Protocol::Udp, 1030),
        Some(5000)
    );
    assert_eq!(world.lookup(at(301), Protocol::Udp, 1030), None);

    world.call(at(301), &Renew { owner }).unwrap();
    let reuse = world.bind(at(301), owner, Protocol::Udp, 5000, 1030);
    assert_eq!(reuse.err(), no(NatRefusal::PortQuarantined));
    // Other protocols have their own port of the same number.
    world
        .bind(at(301), owner, Protocol::Tcp, 5000, 1030)
        .unwrap();
    let end = at(301) + QUARANTINE;
    world.call(end - NANO, &Renew { owner }).unwrap();
    let early = world.bind(end - NANO, owner, Protocol::Udp, 6000, 1030);
    assert_eq!(early.err(), no(NatRefusal::PortQuarantined));
    assert!(
        world
            .bind(end, owner, Protocol::Udp, 6000, 1030)
            .unwrap()
            .made
    );
}

#[test]
fn two_instances_that_see_one_endpoint_agree() {
    let mut world = World::new(|_| {});
    let (a, b) = (world.register(at(0), 1, 1), world.register(at(0), 2, 1));
    assert_eq!(world.take(at(0), a, &[4, 5]), Ok(4));
    assert_eq!(world.take(at(0), b, &[4, 5]), Ok(5));
    assert_eq!(
        world.take(at(0), b, &[4]),
        Err(NatRefusal::BlocksTaken.into())
    );
    let first = world.bind(at(1), a, Protocol::Tcp, 5000, 1030).unwrap();
    let second = world.bind(at(1), b, Protocol::Tcp, 5000, 1290).unwrap();
    assert!(first.made && !second.made);
    assert_eq!(
        (first.outside, first.expires),
        (second.outside, second.expires)
    );
    // Neither the port's owner nor the proposal matters for what exists already.
    let stranger = Owner {
        instance: InstanceId(9),
        epoch: 77,
    };
    let third = world
        .bind(at(2), stranger, Protocol::Tcp, 5000, 80)
        .unwrap();
    assert_eq!(third.outside, first.outside);
}

#[test]
fn a_restarted_instance_is_fenced_from_its_former_life() {
    let mut world = World::new(|_| {});
    let old = world.register(at(0), 1, 1);
    world.take(at(0), old, &[4]).unwrap();
    world.bind(at(1), old, Protocol::Udp, 5000, 1030).unwrap();
    assert_eq!(
        world.register(at(2), 1, 1),
        old,
        "the same life keeps its epoch"
    );
    let new = world.register(at(3), 1, 2);
    assert!(new.epoch > old.epoch);
    assert_eq!(
        world.call(at(3), &Renew { owner: old }).err(),
        no(NatRefusal::Fenced)
    );
    assert_eq!(world.take(at(3), old, &[5]).err(), no(NatRefusal::Fenced));
    let late = world.bind(at(3), old, Protocol::Udp, 5001, 1031);
    assert_eq!(late.err(), no(NatRefusal::Fenced));
    let foreign = world.bind(at(3), new, Protocol::Udp, 5001, 1031);
    assert_eq!(foreign.err(), no(NatRefusal::NotBlockOwner));

    // The former life may have let packets out until its lease ended at 12 s.
    let clean = at(12) + QUARANTINE;
    assert_eq!(
        world.take(at(3), new, &[4]).err(),
        no(NatRefusal::BlocksQuarantined)
    );
    assert_eq!(
        world.take(clean - NANO, new, &[4]).err(),
        no(NatRefusal::BlocksQuarantined)
    );
    assert_eq!(world.take(clean, new, &[4]), Ok(4));
    // Its mappings lived on all the while, and keep their ports.
    assert_eq!(world.lookup(clean, Protocol::Udp, 1030), Some(5000));
    let busy = world.bind(clean, new, Protocol::Udp, 5001, 1030);
    assert_eq!(busy.err(), no(NatRefusal::PortBusy));
    world.bind(clean, new, Protocol::Udp, 5001, 1031).unwrap();
}

#[test]
fn a_lease_ends_exactly_and_may_go_on_until_the_block_is_taken() {
    let mut world = World::new(|_| {});
    let (a, b) = (world.register(at(0), 1, 1), world.register(at(0), 2, 1));
    world.take(at(0), a, &[4]).unwrap();
    world
        .bind(at(10) - NANO, a, Protocol::Udp, 5000, 1030)
        .unwrap();
    let late = world.bind(at(10), a, Protocol::Udp, 5001, 1031);
    assert_eq!(late.err(), no(NatRefusal::LeaseEnded));
    assert_eq!(
        world.take(at(50), b, &[4]).err(),
        no(NatRefusal::BlocksQuarantined)
    );
    world.call(at(60), &Renew { owner: a }).unwrap();
    world.bind(at(60), a, Protocol::Udp, 5001, 1031).unwrap();
    assert_eq!(
        world.take(at(60), b, &[4]).err(),
        no(NatRefusal::BlocksTaken)
    );

    let clean = at(70) + QUARANTINE;
    assert_eq!(world.take(clean, b, &[4]), Ok(4));
    world.call(clean, &Renew { owner: a }).unwrap();
    let lost = world.bind(clean, a, Protocol::Udp, 5002, 1032);
    assert_eq!(lost.err(), no(NatRefusal::NotBlockOwner));
}

#[test]
fn released_blocks_rest_if_packets_may_have_left_early() {
    let mut world = World::new(|config| config.orphan_quarantine = QUARANTINE);
    let (a, b) = (world.register(at(0), 1, 1), world.register(at(0), 2, 1));
    world.take(at(0), a, &[4]).unwrap();
    world.call(at(2), &Release { owner: a }).unwrap();
    let clean = at(2) + QUARANTINE;
    assert_eq!(
        world.take(clean - NANO, b, &[4]).err(),
        no(NatRefusal::BlocksQuarantined)
    );
    assert_eq!(world.take(clean, b, &[4]), Ok(4));
}

#[test]
fn with_strict_commits_released_blocks_are_free_at_once() {
    let mut world = World::new(|config| config.orphan_quarantine = Duration::ZERO);
    let (a, b) = (world.register(at(0), 1, 1), world.register(at(0), 2, 1));
    world.take(at(0), a, &[4]).unwrap();
    world.bind(at(1), a, Protocol::Udp, 5000, 1030).unwrap();
    world.call(at(2), &Release { owner: a }).unwrap();
    assert_eq!(
        world.call(at(2), &Renew { owner: a }).err(),
        no(NatRefusal::Fenced)
    );
    assert_eq!(world.take(at(2), b, &[4]), Ok(4));
    assert_eq!(world.lookup(at(2), Protocol::Udp, 1030), Some(5000));
    let leases = world
        .store
        .summary()
        .into_iter()
        .find(|t| t.name == "nat.leases")
        .unwrap();
    assert_eq!(
        leases.rows, 1,
        "a lease without owner and blocks is forgotten"
    );
}

#[test]
fn traffic_prolongs_and_only_closing_shortens() {
    let mut world = World::new(|_| {});
    let owner = world.register(at(0), 1, 1);
    world.take(at(0), owner, &[4]).unwrap();
    world.bind(at(0), owner, Protocol::Tcp, 5000, 1030).unwrap();
    let refreshed = |world: &mut World, now, class| world.refresh(at(now), class, 5000, 1030);
    assert_eq!(refreshed(&mut world, 1, Class::Established), Some(at(7441)));
    assert_eq!(refreshed(&mut world, 2, Class::Transitory), Some(at(7441)));
    let again = world.bind(at(3), owner, Protocol::Tcp, 5000, 1031).unwrap();
    assert_eq!((again.expires, again.class), (at(7441), Class::Established));
    // The timer has looked in vain at 240 s and stands at 7441 s when the end comes nearer.
    assert_eq!(refreshed(&mut world, 1000, Class::Closing), Some(at(1240)));
    assert_eq!(
        world.lookup(at(1240) - NANO, Protocol::Tcp, 1030),
        Some(5000)
    );
    assert_eq!(world.lookup(at(1240), Protocol::Tcp, 1030), None);
    assert_eq!(refreshed(&mut world, 1241, Class::Established), None);
    assert_eq!(
        world.store.totals().timers,
        1,
        "only the quarantine is left"
    );
}

#[test]
fn who_remembers_another_outside_endpoint_is_told_that_it_is_gone() {
    let mut world = World::new(|_| {});
    let owner = world.register(at(0), 1, 1);
    world.take(at(0), owner, &[4]).unwrap();
    world.bind(at(0), owner, Protocol::Udp, 5000, 1030).unwrap();
    world.call(at(300), &Renew { owner }).unwrap();
    world
        .bind(at(300), owner, Protocol::Udp, 5000, 1031)
        .unwrap();
    assert_eq!(world.refresh(at(301), Class::Udp, 5000, 1030), None);
    assert_eq!(
        world.refresh(at(301), Class::Udp, 5000, 1031),
        Some(at(601))
    );
}

#[test]
fn quotas_count_living_mappings_of_one_address() {
    let mut world = World::new(|config| config.limit_per_subscriber = 2);
    let owner = world.register(at(0), 1, 1);
    world.take(at(0), owner, &[4]).unwrap();
    world
        .bind(at(0), owner, Protocol::IcmpEcho, 0, 1030)
        .unwrap();
    world.bind(at(0), owner, Protocol::Tcp, 5000, 1030).unwrap();
    let third = world.bind(at(0), owner, Protocol::Udp, 5000, 1030);
    assert_eq!(third.err(), no(NatRefusal::Quota));
    let other = Endpoint {
        addr: Ipv4Addr::new(10, 0, 0, 2),
        port: 5000,
    };
    let bind = Binding {
        inside: other,
        ..binding(Protocol::Udp, 5000, 1030)
    };
    assert!(world.bind_each(at(0), owner, &[bind])[0].unwrap().made);
    world.call(at(60), &Renew { owner }).unwrap();
    world
        .bind(at(60), owner, Protocol::Udp, 5000, 1031)
        .unwrap();
}

#[test]
fn a_full_table_refuses_and_leaves_no_trace() {
    let mut world = World::new(|config| config.max_mappings = 2);
    let owner = world.register(at(0), 1, 1);
    world.take(at(0), owner, &[4]).unwrap();
    for port in 1030..1032 {
        world.bind(at(0), owner, Protocol::Udp, port, port).unwrap();
    }
    let before = world.store.snapshot();
    let third = world.bind(at(0), owner, Protocol::Udp, 1032, 1032);
    assert_eq!(third.err(), Some(Refusal::TableFull));
    assert_eq!(world.store.snapshot(), before);
}

#[test]
fn each_binding_of_an_operation_is_answered_by_itself() {
    let mut world = World::new(|config| config.limit_per_subscriber = 3);
    let owner = world.register(at(0), 1, 1);
    world.take(at(0), owner, &[4]).unwrap();
    world.bind(at(0), owner, Protocol::Udp, 5000, 1030).unwrap();
    let said = world.bind_each(
        at(1),
        owner,
        &[
            binding(Protocol::Udp, 5001, 1030), // taken
            binding(Protocol::Udp, 5002, 1031),
            binding(Protocol::Udp, 5003, 1031), // by the one before
            binding(Protocol::Udp, 5002, 1032), // has one
            binding(Protocol::Tcp, 0, 1033),    // nobody's port
            binding(Protocol::Tcp, 5002, 1031),
            binding(Protocol::Udp, 5004, 1034), // one too many
            binding(Protocol::Udp, 5000, 2000), // has one; nobody's block
        ],
    );
    let busy: Refusal = NatRefusal::PortBusy.into();
    let said = said.into_iter();
    let said: Vec<_> = said
        .map(|answer| answer.map(|bound| (bound.outside.port, bound.made)))
        .collect();
    assert_eq!(
        said,
        [
            Err(busy),
            Ok((1031, true)),
            Err(busy),
            Ok((1031, false)),
            Err(Refusal::BadArguments),
            Ok((1031, true)),
            Err(NatRefusal::Quota.into()),
            Ok((1030, false)),
        ]
    );
    // What was made together ends each in its time.
    assert_eq!(world.store.totals().timers, 3, "one a moment");
    assert_eq!(world.lookup(at(241), Protocol::Tcp, 1031), None);
    assert_eq!(world.lookup(at(241), Protocol::Udp, 1031), Some(5002));
    assert_eq!(world.lookup(at(301), Protocol::Udp, 1031), None);
}

#[test]
fn mappings_that_share_a_timer_end_each_in_its_time() {
    let mut world = World::new(|_| {});
    let owner = world.register(at(0), 1, 1);
    world.take(at(0), owner, &[4]).unwrap();
    let all: Vec<_> = (0..4)
        .map(|n| binding(Protocol::Tcp, 5000 + n, 1030 + n))
        .collect();
    world.bind_each(at(0), owner, &all);
    assert_eq!(world.store.totals().timers, 1);
    // The first lives on, the second ends where it began after all, the third lives on as long as
    // the first.
    world.refresh(at(100), Class::Established, 5000, 1030);
    world.refresh(at(100), Class::Established, 5001, 1031);
    world.refresh(at(100), Class::Closing, 5001, 1031);
    world.refresh(at(100), Class::Established, 5002, 1032);
    let there = |world: &mut World, now| {
        let ports = (1030..1034).filter_map(|port| world.lookup(now, Protocol::Tcp, port));
        ports.collect::<Vec<_>>()
    };
    assert_eq!(there(&mut world, at(240)), [5000, 5001, 5002]);
    assert_eq!(world.store.totals().timers, 3, "two ends, and a quarantine");
    assert_eq!(there(&mut world, at(340)), [5000, 5002]);
    // An end that comes nearer than the timer that is shared has its own, and the other one then
    // finds nothing to do, even if the endpoint is mapped again.
    world.refresh(at(1000), Class::Closing, 5000, 1030);
    assert_eq!(there(&mut world, at(1240)), [5002]);
    world.call(at(1240), &Renew { owner }).unwrap();
    world
        .bind(at(1240), owner, Protocol::Tcp, 5000, 1040)
        .unwrap();
    world.refresh(at(1300), Class::Established, 5000, 1040);
    assert_eq!(there(&mut world, at(100 + 7440)), []);
    assert_eq!(world.lookup(at(7600), Protocol::Tcp, 1040), Some(5000));
    assert_eq!(world.lookup(at(1300 + 7440), Protocol::Tcp, 1040), None);
    world.call(at(20_000), &Renew { owner }).unwrap();
    let totals = world.store.totals();
    assert_eq!((totals.timers, totals.tally.misfired), (0, 0));
}

#[test]
fn only_the_configured_pool_is_used() {
    let mut world = World::new(|config| config.ports = 2000..=2100);
    let owner = world.register(at(0), 1, 1);
    assert_eq!(
        world.take(at(0), owner, &[6, 9]).err(),
        no(NatRefusal::OutsideRange)
    );
    assert_eq!(world.take(at(0), owner, &[6, 7]), Ok(7));
    assert_eq!(world.take(at(0), owner, &[8]), Ok(8));
    for port in [1999, 2101] {
        let refused = world.bind(at(0), owner, Protocol::Udp, 5000, port);
        assert_eq!(refused.err(), no(NatRefusal::OutsideRange));
    }
    world.bind(at(0), owner, Protocol::Udp, 5000, 2000).unwrap();
    let address = Ipv4Addr::new(198, 51, 100, 3);
    let foreign = TakeBlock {
        owner,
        address,
        candidates: vec![8],
    };
    assert_eq!(
        world.call(at(0), &foreign).err(),
        no(NatRefusal::OutsideRange)
    );
}

#[test]
fn different_configurations_are_refused_loudly() {
    let mut world = World::new(|_| {});
    let mut other = world.config.clone();
    other.timeouts.udp += NANO;
    assert_ne!(other.fingerprint(), world.config.fingerprint());
    let register = Register {
        instance: InstanceId::of("gw1"),
        incarnation: Incarnation(1),
        fingerprint: other.fingerprint(),
    };
    assert_eq!(
        world.call(at(0), &register).err(),
        no(NatRefusal::ConfigMismatch)
    );

    let broken = |change: fn(&mut NatStateConfig)| {
        let mut config = NatStateConfig::new(vec![PUBLIC..=PUBLIC]);
        change(&mut config);
        match procedures::register(&mut Registry::empty(), &config) {
            Err(NatRegisterError::Config(error)) => error,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(broken(|c| c.outside.clear()), ConfigError::NoAddress);
    assert_eq!(
        broken(|c| c.outside.push(PUBLIC..=PUBLIC)),
        ConfigError::Overlap(PUBLIC)
    );
    assert_eq!(broken(|c| c.ports = 0..=9), ConfigError::Ports);
    assert_eq!(
        broken(|c| c.timeouts.icmp = Duration::ZERO),
        ConfigError::ZeroTimeout
    );
    assert_eq!(
        broken(|c| c.limit_per_subscriber = 0),
        ConfigError::ZeroLimit
    );
}

#[test]
fn listings_pass_over_quarantined_ports() {
    let mut world = World::new(|_| {});
    let owner = world.register(at(0), 1, 1);
    world.take(at(0), owner, &[4]).unwrap();
    for port in 1030..1040 {
        let protocol = if port % 2 == 0 {
            Protocol::IcmpEcho
        } else {
            Protocol::Tcp
        };
        world.bind(at(0), owner, protocol, port, port).unwrap();
    }
    let page = world
        .call(
            at(61),
            &List {
                from: Cursor::default(),
                limit: 4,
            },
        )
        .unwrap();
    let ports: Vec<u16> = page
        .mappings
        .iter()
        .map(|mapping| mapping.outside.port)
        .collect();
    assert_eq!(ports, [1031, 1033, 1035, 1037]);
    let page = world
        .call(
            at(61),
            &List {
                from: page.next.unwrap(),
                limit: 0,
            },
        )
        .unwrap();
    assert_eq!((page.mappings[0].outside.port, page.next), (1039, None));
}
