//! What is compared with what, and what we want of it.

use super::report::{Placement, Row};
use super::systems::System;
use crate::bench::goals::{Bound, Goal, rounded};

/// A figure of a system, where most is outstanding.
#[derive(Clone, Copy)]
enum Figure {
    /// Operations a second where the leader is the bottleneck.
    Bounded,
    /// Operations a second of the leader's processor time.
    Capacity,
    /// Operations a second.
    Rate,
    /// The same while replicas lose datagrams.
    LossyRate,
    P50,
    P99,
    /// Processor time per operation, everything on one core: the leader's,
    LeaderCpu,
    /// the busiest follower's,
    FollowerCpu,
    /// the sequencer's.
    SequencerCpu,
}

impl Figure {
    fn of(self, system: System, rows: &[Row]) -> Option<f64> {
        let placement = match self {
            Self::LeaderCpu | Self::FollowerCpu | Self::SequencerCpu => Placement::OneCore,
            Self::Bounded => Placement::LeaderBounded,
            _ => Placement::LeaderAlone,
        };
        let lossy = matches!(self, Self::LossyRate);
        let row = rows
            .iter()
            .filter(|r| r.system == system.name() && r.placement == placement)
            .filter(|r| (r.loss_percent > 0.0) == lossy)
            .max_by_key(|r| r.outstanding)?;
        let parts = || row.cpu_us_per_op.iter();
        match self {
            Self::Capacity => Some(row.leader_capacity_ops_per_s),
            Self::Rate | Self::LossyRate | Self::Bounded => Some(row.ops_per_s),
            Self::P50 => Some(row.p50_us),
            Self::P99 => Some(row.p99_us),
            Self::LeaderCpu => Some(row.leader_cpu_us_per_op),
            Self::FollowerCpu => parts()
                .filter(|(name, _)| !["leader", "seq"].contains(&name.as_str()))
                .map(|(_, us)| *us)
                .max_by(f64::total_cmp),
            Self::SequencerCpu => row.cpu_us_per_op.get("seq").copied(),
        }
    }
}

/// A figure of one system, over that of another if there is one.
pub(super) struct Ratio {
    pub(super) name: &'static str,
    over: (Figure, System),
    under: Option<(Figure, System)>,
    bound: Bound,
}

const fn ratio(name: &'static str, figure: Figure, ours: System, theirs: System) -> Ratio {
    Ratio {
        name,
        over: (figure, ours),
        under: Some((figure, theirs)),
        bound: Bound::None,
    }
}

const fn cost(name: &'static str, figure: Figure) -> Ratio {
    Ratio {
        name,
        over: (figure, System::Nopaxos),
        under: None,
        bound: Bound::None,
    }
}

impl Ratio {
    const fn at_least(self, wanted: f64) -> Self {
        Self {
            bound: Bound::AtLeast(wanted),
            ..self
        }
    }

    const fn at_most(self, wanted: f64) -> Self {
        Self {
            bound: Bound::AtMost(wanted),
            ..self
        }
    }

    /// Its value, if what it needs was measured.
    pub(super) fn of(&self, rows: &[Row]) -> Option<f64> {
        let figure = |(figure, system): (Figure, System)| figure.of(system, rows);
        let under = match self.under {
            Some(under) => figure(under)?,
            None => 1.0,
        };
        Some(rounded(figure(self.over)? / under)).filter(|value| value.is_finite())
    }

    /// What is wanted of it, if anything.
    pub(super) fn judge(&self, value: f64) -> Option<Goal> {
        self.bound.judge(value)
    }
}

use Figure::{Bounded, Capacity, FollowerCpu, LeaderCpu, LossyRate, P50, P99, Rate, SequencerCpu};
use System::{
    Etcd, Nopaxos, NopaxosShared, NopaxosSingle, NopaxosVeth, NopaxosXdp, RedisWait2, Unreplicated,
    UnreplicatedSingle, Vr, VrBatched, VrSingle,
};

/// All that are reported.
pub(super) const RATIOS: &[Ratio] = &[
    ratio("nopaxos_vs_unreplicated", Bounded, Nopaxos, Unreplicated).at_least(0.8),
    ratio("nopaxos_vs_vr", Bounded, NopaxosSingle, VrSingle).at_least(3.0),
    ratio("nopaxos_vs_vr_batched", Bounded, Nopaxos, VrBatched).at_least(1.5),
    ratio(
        "nopaxos_single_vs_unreplicated_single",
        Bounded,
        NopaxosSingle,
        UnreplicatedSingle,
    ),
    // What a protocol that cost its leader nothing would reach.
    ratio(
        "unreplicated_vs_vr_batched",
        Bounded,
        Unreplicated,
        VrBatched,
    ),
    ratio(
        "unreplicated_single_vs_vr_single",
        Bounded,
        UnreplicatedSingle,
        VrSingle,
    ),
    ratio("nopaxos_vs_vr_unbatched_protocol", Bounded, Nopaxos, Vr),
    ratio(
        "nopaxos_vs_unreplicated_capacity",
        Capacity,
        Nopaxos,
        Unreplicated,
    ),
    ratio(
        "nopaxos_vs_unreplicated_throughput",
        Rate,
        Nopaxos,
        Unreplicated,
    ),
    ratio("nopaxos_vs_vr_throughput", Rate, Nopaxos, Vr),
    ratio("nopaxos_vs_vr_batched_throughput", Rate, Nopaxos, VrBatched),
    ratio("nopaxos_vs_redis_wait2", Rate, NopaxosShared, RedisWait2).at_least(8.0),
    ratio("nopaxos_alone_vs_redis_wait2", Rate, Nopaxos, RedisWait2),
    ratio("nopaxos_p99_vs_redis_wait2", P99, NopaxosShared, RedisWait2).at_most(1.0),
    ratio("nopaxos_vs_etcd", Rate, NopaxosShared, Etcd).at_least(40.0),
    ratio("nopaxos_alone_vs_etcd", Rate, Nopaxos, Etcd),
    ratio("nopaxos_p99_vs_etcd", P99, NopaxosShared, Etcd).at_most(1.0),
    ratio("xdp_vs_user_space_sequencer", Rate, NopaxosXdp, NopaxosVeth),
    ratio("xdp_vs_user_space_p50", P50, NopaxosXdp, NopaxosVeth),
    ratio(
        "leader_cpu_vs_unreplicated",
        LeaderCpu,
        Nopaxos,
        Unreplicated,
    )
    .at_most(1.15),
    Ratio {
        under: Some((Rate, Nopaxos)),
        ..cost("loss_1pct_vs_lossless", LossyRate).at_least(0.8)
    },
    cost("leader_cpu_us_per_op", LeaderCpu).at_most(5.0),
    cost("follower_cpu_us_per_op", FollowerCpu).at_most(5.0),
    cost("sequencer_cpu_us_per_op", SequencerCpu).at_most(3.0),
];
