//! What is compared.

use std::path::Path;

use anyhow::Result;
use serde::Serialize;

use super::etcd::Etcd;
use super::group::Group;
use super::measure::{Sample, Spans};
use super::redis::Redis;
use crate::bench::process::Child;
use crate::bench::quota::Quota;

/// A way to keep state.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
pub(super) enum System {
    /// One replica.
    Unreplicated,
    /// VR, one operation in a Prepare.
    Vr,
    /// VR, adaptive batching.
    VrBatched,
    /// NOPaxos, each operation in a datagram of its own.
    Nopaxos,
    /// One replica, every datagram in a system call of its own, as the papers' systems do.
    UnreplicatedSingle,
    /// VR, the same: no batches anywhere.
    VrSingle,
    /// NOPaxos, the same.
    NopaxosSingle,
    /// NOPaxos as the store's client uses it: what is submitted together shares a datagram.
    NopaxosShared,
    /// NOPaxos between namespaces joined by veth, each operation in a datagram of its own.
    NopaxosVeth,
    /// The same with an XDP program that stamps and multicasts.
    NopaxosXdp,
    /// Redis with two replicas, each SET followed by WAIT 2.
    RedisWait2,
    /// etcd, three nodes.
    Etcd,
}

/// Most slots of a Prepare when VR batches.
const BATCH: u16 = 64;

impl System {
    pub(super) const ALL: [Self; 12] = [
        Self::Unreplicated,
        Self::Vr,
        Self::VrBatched,
        Self::Nopaxos,
        Self::UnreplicatedSingle,
        Self::VrSingle,
        Self::NopaxosSingle,
        Self::NopaxosShared,
        Self::NopaxosVeth,
        Self::NopaxosXdp,
        Self::RedisWait2,
        Self::Etcd,
    ];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Unreplicated => "unreplicated",
            Self::Vr => "vr",
            Self::VrBatched => "vr-batched",
            Self::Nopaxos => "nopaxos",
            Self::UnreplicatedSingle => "unreplicated-single",
            Self::VrSingle => "vr-single",
            Self::NopaxosSingle => "nopaxos-single",
            Self::NopaxosShared => "nopaxos-shared",
            Self::NopaxosVeth => "nopaxos-veth",
            Self::NopaxosXdp => "nopaxos-xdp",
            Self::RedisWait2 => "redis-wait2",
            Self::Etcd => "etcd",
        }
    }

    /// The system of that name.
    pub(super) fn named(name: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|s| s.name() == name);
        let names = || Self::ALL.map(Self::name).join(", ");
        found.ok_or_else(|| format!("no such system: there are {}", names()))
    }

    pub(super) const fn replicas(self) -> usize {
        match self {
            Self::Unreplicated | Self::UnreplicatedSingle => 1,
            _ => 3,
        }
    }

    /// The leader orders, and this is how much of it at once.
    pub(super) const fn batch(self) -> Option<u16> {
        match self {
            Self::Unreplicated | Self::Vr | Self::UnreplicatedSingle | Self::VrSingle => Some(1),
            Self::VrBatched => Some(BATCH),
            _ => None,
        }
    }

    /// Operations submitted together may travel together.
    pub(super) const fn shares_datagrams(self) -> bool {
        matches!(self, Self::NopaxosShared)
    }

    /// Every datagram takes a system call of its own.
    pub(super) const fn is_single(self) -> bool {
        matches!(
            self,
            Self::UnreplicatedSingle | Self::VrSingle | Self::NopaxosSingle
        )
    }

    /// Whether its protocol is compared with others where the leader is the bottleneck.
    pub(super) const fn is_bounded_too(self) -> bool {
        self.is_single()
            || matches!(
                self,
                Self::Unreplicated | Self::Vr | Self::VrBatched | Self::Nopaxos
            )
    }

    /// It runs between namespaces, because its sequencer may be on an interface.
    pub(super) const fn has_network(self) -> bool {
        matches!(self, Self::NopaxosVeth | Self::NopaxosXdp)
    }

    /// Whether it may be missing on a machine that has all the others.
    pub(super) const fn is_optional(self) -> bool {
        self.has_network() || matches!(self, Self::RedisWait2 | Self::Etcd)
    }

    /// Starts it in `dir`; the error says what is missing.
    pub(super) fn start(self, lose_one_in: Option<u32>, dir: &Path) -> Result<Running> {
        Ok(match self {
            Self::RedisWait2 => Running::Redis(Redis::start(dir)?),
            Self::Etcd => Running::Etcd(Etcd::start(dir)?),
            _ => Running::Group(Box::new(Group::start(self, lose_one_in, dir)?)),
        })
    }
}

/// A system that serves.
pub(super) enum Running {
    Group(Box<Group>),
    Redis(Redis),
    Etcd(Etcd),
}

impl Running {
    fn children(&self) -> (&[Child], usize) {
        match self {
            Self::Group(group) => (&group.children, group.leader),
            Self::Redis(redis) => (&redis.children, 0),
            Self::Etcd(etcd) => (&etcd.children, etcd.leader),
        }
    }

    /// The name of the process that leads.
    pub(super) fn leader(&self) -> &str {
        let (children, leader) = self.children();
        &children[leader].name
    }

    /// Makes the leader the bottleneck, for as long as the quota is kept.
    pub(super) fn bound_leader(&self) -> Result<Quota> {
        let (children, leader) = self.children();
        children[leader].bound()
    }

    /// The leader on one processor, all others on another (which may be the same).
    pub(super) fn pin(&self, leader: usize, others: usize) -> Result<()> {
        let (children, leads) = self.children();
        for (n, child) in children.iter().enumerate() {
            child.pin(if n == leads { leader } else { others })?;
        }
        Ok(())
    }

    /// The view its leader leads, if it is ours; the others keep their leaders.
    pub(super) fn view(&self) -> Option<u64> {
        match self {
            Self::Group(group) => group.view(),
            Self::Redis(_) | Self::Etcd(_) => Some(0),
        }
    }

    /// Learns anew who leads.
    pub(super) fn find_leader(&mut self) -> Result<()> {
        match self {
            Self::Group(group) => group.find_leader(),
            Self::Redis(_) | Self::Etcd(_) => Ok(()),
        }
    }

    /// Keeps `outstanding` operations under way for a while.
    pub(super) fn load(&self, outstanding: usize, spans: Spans) -> Result<Sample> {
        match self {
            Self::Group(group) => group.load(outstanding, spans),
            Self::Redis(redis) => redis.load(outstanding, spans),
            Self::Etcd(etcd) => etcd.load(outstanding, spans),
        }
    }

    /// Ends all its processes.
    pub(super) fn stop(self) -> Result<()> {
        let children = match self {
            Self::Group(group) => group.children,
            Self::Redis(redis) => redis.children,
            Self::Etcd(etcd) => etcd.children,
        };
        children.into_iter().try_for_each(Child::stop)
    }
}
