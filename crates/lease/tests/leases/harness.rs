//! A store in the log's time, and holders that ask it.

use std::collections::BTreeMap;
use std::time::Duration;

use stateplane_base::{Incarnation, LogTime, Time};
use stateplane_lease::holder::{Effect, Loss, Output, Reply, Request, RequestId};
use stateplane_lease::ops::{Acquire, Answer, Operation, Release, Renew, Write};
use stateplane_lease::{
    Holder, HolderConfig, InstanceId, Life, Owner, Partition, Terms, procedures,
};
use stateplane_state::{Application, Limits, Registry, Store};

pub(crate) const LENGTH: Duration = Duration::from_secs(10);
pub(crate) const P: Partition = Partition(7);

pub(crate) fn life(instance: u64) -> Life {
    Life {
        instance: InstanceId(instance),
        incarnation: Incarnation(1),
    }
}

/// A store, and the log's time.
pub(crate) struct Log {
    pub(crate) store: Store,
    pub(crate) now: LogTime,
    /// What a holder wrote last.
    pub(crate) newest: Vec<u8>,
}

impl Log {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::builtin();
        procedures::register(&mut registry, Terms::new(LENGTH)).expect("names are free");
        Self {
            store: Store::new(registry, Limits::default()),
            now: LogTime::from_millis(1_000),
            newest: Vec::new(),
        }
    }

    pub(crate) fn run<O: Operation>(&mut self, op: &O) -> O::Reply {
        let mut reply = Vec::new();
        self.store.execute(self.now, &op.encode(), &mut reply);
        O::decode_reply(&reply).expect("the store takes it")
    }

    pub(crate) fn acquire(&mut self, instance: u64) -> (Answer, Vec<u8>) {
        let got = self.run(&Acquire {
            life: life(instance),
            partition: P,
        });
        (got.answer, got.state)
    }

    pub(crate) fn write(
        &mut self,
        instance: u64,
        epoch: u64,
        sequence: u64,
        state: &[u8],
    ) -> Answer {
        let instance = InstanceId(instance);
        self.run(&Write {
            owner: Owner { instance, epoch },
            partition: P,
            sequence,
            state,
        })
    }

    /// What a holder asks.
    pub(crate) fn serve(&mut self, life: Life, request: Request) -> Reply {
        let instance = life.instance;
        match request {
            Request::Acquire(partition) => {
                let got = self.run(&Acquire { life, partition });
                if got.answer.is_ok() && partition == P {
                    assert_eq!(got.state, self.newest, "the newest state is handed over");
                }
                Reply::One(got.answer)
            }
            Request::Renew(holdings) => Reply::Each(self.run(&Renew { instance, holdings })),
            Request::Release(holding) => {
                let holdings = vec![holding];
                self.run(&Release { instance, holdings });
                Reply::Released
            }
            Request::Write {
                holding: (partition, epoch),
                sequence,
                state,
            } => {
                let answer = self.run(&Write {
                    owner: Owner { instance, epoch },
                    partition,
                    sequence,
                    state: &state,
                });
                if answer.is_ok_and(|lent| lent.sequence == sequence) {
                    self.newest = state;
                }
                Reply::One(answer)
            }
        }
    }
}

/// A holder, and what came of it.
pub(crate) struct Host {
    pub(crate) core: Holder,
    pub(crate) now: Time,
    pub(crate) asks: BTreeMap<RequestId, Request>,
    pub(crate) left: Vec<Output>,
    pub(crate) lost: Vec<Loss>,
    /// What the fast path was told last.
    pub(crate) published: Option<(u32, Time)>,
}

impl Host {
    pub(crate) fn new(instance: u64) -> Self {
        Self::with(instance, HolderConfig::default())
    }

    pub(crate) fn with(instance: u64, config: HolderConfig) -> Self {
        Self {
            core: Holder::new(config, life(instance), instance),
            now: Time::from_millis(5_000),
            asks: BTreeMap::new(),
            left: Vec::new(),
            lost: Vec::new(),
            published: None,
        }
    }

    pub(crate) fn collect(&mut self) {
        self.core.check();
        while let Some(effect) = self.core.poll_effect() {
            match effect {
                Effect::Ask { id, request } => {
                    self.asks.insert(id, request);
                }
                Effect::Release(output) => self.left.push(output),
                Effect::Lost { why, .. } => self.lost.push(why),
                Effect::Publish { epoch, until, .. } => self.published = Some((epoch, until)),
                Effect::Granted { .. } | Effect::Discard(_) => {}
            }
        }
    }

    pub(crate) fn reply(&mut self, id: RequestId, reply: Reply) {
        self.core.on_reply(self.now, id, reply);
        self.collect();
    }

    /// Everything asked is answered, until nothing is asked any more.
    pub(crate) fn settle(&mut self, log: &mut Log) {
        self.collect();
        while let Some((id, request)) = self.asks.pop_first() {
            let reply = log.serve(self.core.life(), request);
            self.reply(id, reply);
        }
    }

    pub(crate) fn pass(&mut self, log: &mut Log, span: Duration) {
        self.now = self.now + span;
        log.now = log.now + span;
        self.core.on_timer(self.now);
        self.collect();
    }

    pub(crate) fn holding(log: &mut Log, instance: u64) -> Self {
        let mut host = Self::new(instance);
        assert!(host.core.acquire(host.now, P));
        host.settle(log);
        assert!(host.core.usable(host.now, P).is_some());
        host
    }

    pub(crate) fn write(&mut self, state: &[u8], output: Output) {
        self.core
            .write(self.now, P, state.to_vec(), output)
            .expect("it is held");
        self.collect();
    }
}
