//! A function whose state has an owner, behind a fast path: what passes there ends with its lease,
//! and before anybody else may own the state.

mod common;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use common::{CLIENT, SERVER, ports, udp};
use stateplane_base::{Incarnation, LogTime, Reason, Time};
use stateplane_flow::{Endpoint, FlowAction, FlowKey, PortId, Protocol};
use stateplane_functions::{
    Class, Context, Deciding, Decision, Driven, Effect, Event, FrameId, NetworkFunction, Ownership,
    Runtime, RuntimeConfig, Shape, Ticket, Token,
};
use stateplane_lease::holder::{self, Reply, Request, RequestId};
use stateplane_lease::ops::{Acquire, Migrate, Operation, Release, Renew};
use stateplane_lease::{
    Holder, HolderConfig, InstanceId, Life, OnExpiry, Partition, Terms, procedures,
};
use stateplane_state::{Application, Limits, Registry, Store};
use stateplane_wire::packet::Headers;

const OWNED: Partition = Partition(7);
const LENGTH: Duration = Duration::from_secs(10);
const GRANTED: Event = Event(1);
const US: InstanceId = InstanceId(1);
const OTHER: InstanceId = InstanceId(2);

fn life(instance: InstanceId) -> Life {
    Life {
        instance,
        incarnation: Incarnation(1),
    }
}

/// Forwards while it owns its one partition.
struct Owner {
    holder: Rc<RefCell<Holder>>,
    on_expiry: OnExpiry,
}

/// Does what the holder wants.
fn keep(holder: &Rc<RefCell<Holder>>, cx: &Context) {
    while let Some(effect) = { holder.borrow_mut().poll_effect() } {
        match effect {
            holder::Effect::Ask { id, request } => {
                cx.spawn(ask(Rc::clone(holder), cx.clone(), id, request));
            }
            holder::Effect::Publish {
                partition,
                epoch,
                until,
            } => cx.publish(partition, epoch, until),
            holder::Effect::Granted { .. } => cx.signal(GRANTED),
            _ => {}
        }
    }
}

async fn ask(holder: Rc<RefCell<Holder>>, cx: Context, id: RequestId, request: Request) {
    let reply = match request {
        Request::Acquire(partition) => {
            let life = life(US);
            let acquired = cx.call(&Acquire { life, partition }).await;
            acquired.map(|acquired| Reply::One(acquired.answer))
        }
        Request::Renew(holdings) => {
            let instance = US;
            cx.call(&Renew { instance, holdings })
                .await
                .map(Reply::Each)
        }
        Request::Release(holding) => {
            let (instance, holdings) = (US, vec![holding]);
            let released = cx.call(&Release { instance, holdings }).await;
            released.map(|()| Reply::Released)
        }
        Request::Write { .. } => unreachable!("it writes nothing"),
    };
    let reply = reply.unwrap_or(Reply::Nothing);
    holder.borrow_mut().on_reply(cx.now(), id, reply);
    keep(&holder, &cx);
}

impl NetworkFunction for Owner {
    fn start(&mut self, cx: &Context) {
        self.holder.borrow_mut().acquire(cx.now(), OWNED);
        keep(&self.holder, cx);
    }

    fn classify(&mut self, _: Time, _: PortId, headers: &Headers) -> Class {
        let Some((port, _)) = headers.ports() else {
            return Class::Drop(Reason::Unsupported);
        };
        let source = Endpoint {
            addr: headers.source,
            port,
        };
        Class::Flow(FlowKey {
            protocol: Protocol::Udp,
            source,
            destination: Endpoint::ANY,
        })
    }

    fn decide(&mut self, cx: Context, _: FlowKey, _: &Headers) -> Deciding {
        let (holder, on_expiry) = (Rc::clone(&self.holder), self.on_expiry);
        Box::pin(async move {
            loop {
                let held = holder.borrow().usable(cx.now(), OWNED);
                let Some(held) = held else {
                    cx.wait(GRANTED).await;
                    continue;
                };
                let valid_until = match on_expiry {
                    OnExpiry::Closed => held.until,
                    OnExpiry::Open => cx.now() + Duration::from_secs(3600),
                };
                let action = FlowAction {
                    source: None,
                    destination: None,
                    ttl: 1,
                    out: PortId::OUTSIDE,
                };
                let token = Token(0);
                return Ok(Decision {
                    action,
                    valid_until,
                    token,
                });
            }
        })
    }

    fn shape(&self, _: PortId) -> Option<Shape> {
        Some(Shape {
            source: true,
            destination: false,
            ports: true,
        })
    }

    fn port_of(&self, _: &FlowKey) -> Option<PortId> {
        Some(PortId::INSIDE)
    }

    fn ownership(&self, _: &FlowKey, _: Token) -> Option<Ownership> {
        let epoch = self.holder.borrow().epoch(OWNED).unwrap_or(0);
        Some(Ownership {
            partition: OWNED,
            epoch,
        })
    }

    fn next_timer(&self) -> Option<Time> {
        self.holder.borrow().next_timer()
    }

    fn on_timer(&mut self, now: Time, cx: &Context, _: &dyn stateplane_functions::Sight) {
        self.holder.borrow_mut().on_timer(now);
        keep(&self.holder, cx);
    }

    fn stop(&mut self, cx: &Context) {
        self.holder.borrow_mut().give_up(cx.now(), OWNED);
        keep(&self.holder, cx);
    }
}

/// What the driver was told, in its order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Told {
    Published(u32, Time),
    Offered(u64),
    Asked,
}

struct World {
    store: Store,
    runtime: Runtime<Owner>,
    now: Time,
    /// Nothing reaches the store.
    cut: bool,
    told: Vec<Told>,
}

impl World {
    fn new(on_expiry: OnExpiry) -> Self {
        let mut registry = Registry::builtin();
        procedures::register(&mut registry, Terms::new(LENGTH)).expect("names are free");
        let mut config = HolderConfig::default();
        config.on_expiry = on_expiry;
        let holder = Holder::new(config, life(US), 3);
        let function = Owner {
            holder: Rc::new(RefCell::new(holder)),
            on_expiry,
        };
        let now = Time::from_millis(1000);
        let mut limits = RuntimeConfig::new(ports(), [3, 4]);
        limits.fast_path = true;
        let mut world = World {
            store: Store::new(registry, Limits::default()),
            runtime: Runtime::new(now, limits, function),
            now,
            cut: false,
            told: Vec::new(),
        };
        world.settle();
        world
    }

    fn log_now(&self) -> LogTime {
        LogTime::from_nanos(self.now.as_nanos())
    }

    fn run<O: Operation>(&mut self, op: &O) -> O::Reply {
        let mut reply = Vec::new();
        self.store.execute(self.log_now(), &op.encode(), &mut reply);
        O::decode_reply(&reply).expect("the store takes it")
    }

    /// Carries out what the runtime wants until it wants nothing.
    fn settle(&mut self) {
        while let Some(effect) = self.runtime.poll_effect() {
            match effect {
                Effect::Submit { ticket, op, .. } => {
                    self.told.push(Told::Asked);
                    self.answer(ticket, &op);
                }
                Effect::Publish {
                    partition,
                    epoch,
                    until,
                } => {
                    assert_eq!(partition, OWNED);
                    self.told.push(Told::Published(epoch, until));
                }
                Effect::Offload { ownership, .. } => {
                    let ownership = ownership.expect("it has an owner");
                    assert_eq!(ownership.partition, OWNED);
                    self.told.push(Told::Offered(ownership.epoch));
                }
                _ => {}
            }
        }
    }

    fn answer(&mut self, ticket: Ticket, op: &[u8]) {
        if self.cut {
            let silence = Err(stateplane_functions::StateError::Unavailable);
            return self.runtime.on_reply(self.now, ticket, silence);
        }
        let mut reply = Vec::new();
        self.store.execute(self.log_now(), op, &mut reply);
        self.runtime.on_reply(self.now, ticket, Ok(reply));
    }

    /// Time passes in small steps; what was told meanwhile.
    fn pass(&mut self, span: Duration) -> Vec<Told> {
        self.told.clear();
        let end = self.now + span;
        while self.now < end {
            self.now = self.now + Duration::from_millis(50);
            self.runtime.on_timer(self.now, &());
            self.settle();
        }
        std::mem::take(&mut self.told)
    }

    fn frame(&mut self, port: u16) -> Vec<Told> {
        self.told.clear();
        let frame = udp((CLIENT, port), (SERVER, 1), b"x");
        let (mut buffer, id) = (frame.clone(), FrameId(u32::from(port)));
        let (now, len) = (self.now, frame.len());
        let _ = self
            .runtime
            .on_frame(now, PortId::INSIDE, id, &mut buffer, len);
        self.settle();
        std::mem::take(&mut self.told)
    }
}

/// The last word on the lease.
fn published(told: &[Told]) -> Option<(u32, Time)> {
    let last = |told: &Told| match told {
        Told::Published(epoch, until) => Some((*epoch, *until)),
        _ => None,
    };
    told.iter().rev().find_map(last)
}

#[test]
fn flows_are_offered_under_the_lease_which_is_prolonged_for_all_at_once() {
    let mut world = World::new(OnExpiry::Closed);
    let (epoch, until) = published(&world.told).expect("it was granted");
    assert!(until < world.now + LENGTH, "drift and margin are taken off");
    assert_eq!(world.frame(1), [Told::Offered(u64::from(epoch))]);
    let told = world.pass(4 * LENGTH);
    let (same, later) = published(&told).expect("it was renewed");
    assert_eq!(same, epoch);
    assert!(later > world.now, "{later:?}");
}

#[test]
fn without_the_store_the_lease_ends_and_nothing_is_offered() {
    let mut world = World::new(OnExpiry::Closed);
    let (_, until) = published(&world.told).expect("it was granted");
    world.cut = true;
    let told = world.pass(2 * LENGTH);
    assert_eq!(published(&told), None, "nobody prolonged it");
    assert!(until < world.now);
    assert_eq!(world.frame(1), [], "it waits for the owner");
    world.cut = false;
    let told = world.pass(LENGTH);
    assert!(published(&told).is_some_and(|(epoch, until)| epoch > 0 && until > world.now));
}

#[test]
fn open_goes_on_without_the_store_until_another_owner_is_known() {
    let mut world = World::new(OnExpiry::Open);
    let (epoch, until) = published(&world.told).expect("it was granted");
    assert!(epoch > 0);
    assert_eq!(until, Time::MAX);
    world.cut = true;
    assert_eq!(published(&world.pass(2 * LENGTH)), None);
    let life = life(OTHER);
    let partition = OWNED;
    let taken = world.run(&Acquire { life, partition });
    assert!(taken.answer.is_ok(), "the lease has lapsed at the store");
    world.cut = false;
    let told = world.pass(LENGTH);
    assert_eq!(published(&told), Some((0, Time::ZERO)));
    assert_eq!(world.frame(2), []);
}

/// Whoever asks for it next finds it free only after the fast path has heard.
#[test]
fn a_planned_move_and_a_stop_end_what_passes_before_the_store_hears() {
    for planned in [true, false] {
        let mut world = World::new(OnExpiry::Open);
        assert!(matches!(world.frame(1)[..], [Told::Offered(_)]));
        let told = if planned {
            let (partition, heir) = (OWNED, OTHER);
            let asked = world.run(&Migrate::wish(partition, heir));
            assert!(asked.is_ok());
            world.pass(LENGTH)
        } else {
            world.told.clear();
            world.runtime.stop(world.now);
            world.settle();
            std::mem::take(&mut world.told)
        };
        let ended = told
            .iter()
            .position(|told| *told == Told::Published(0, Time::ZERO));
        let ended = ended.expect("it was withdrawn");
        let released = told[ended..].iter().position(|told| *told == Told::Asked);
        assert!(released.is_some(), "then it was given back");
        let before = told[..ended].iter().filter(|told| **told == Told::Asked);
        assert_eq!(
            before.count(),
            usize::from(planned),
            "the renewal that told us"
        );
        let (life, partition) = (life(OTHER), OWNED);
        let taken = world.run(&Acquire { life, partition });
        assert!(taken.answer.is_ok(), "{:?}", taken.answer);
    }
}
