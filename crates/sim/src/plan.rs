//! What a seed stands for: sizes of the group and its load, and which faults
//! happen how often. Half of the seeds of a mixed run are a *swarm* (every
//! class of faults is on with its own probability, Groce et al., 2012), half
//! follow a profile aimed at a known weak spot of protocols of this kind.
use crate::dice::{Dice, Stream};
use crate::network::LinkPlan;
use core::fmt;
use core::str::FromStr;
use stateplane_group::{Origin, Protocol};
use stateplane_wire::oum::LAST_NUMBER;

/// Nanoseconds in a microsecond and a millisecond.
pub(crate) const US: u64 = 1_000;
pub(crate) const MS: u64 = 1_000 * US;

/// Defines an enum with a stable name for each member.
macro_rules! named {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum $name { $($(#[$vdoc])* $variant,)* }

        impl $name {
            /// All members.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The name used in commands and reports.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }

        impl FromStr for $name {
            type Err = String;
            fn from_str(text: &str) -> Result<Self, String> {
                Self::ALL.iter().copied().find(|m| m.name() == text).ok_or_else(|| {
                    let all: Vec<_> = Self::ALL.iter().map(|m| m.name()).collect();
                    format!("\"{text}\" is not one of {}", all.join(", "))
                })
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}

named! {
    /// Which mix of faults a seed is run with.
    Profile {
        /// Half swarm, half one of the targeted profiles, by seed.
        Mixed = "mixed",
        /// Any combination of faults.
        Swarm = "swarm",
        /// Datagrams that arrive long after they were sent, across crashes and views.
        Stray = "stray",
        /// Leaders are killed, paused and cut off again and again.
        FailoverStorm = "failover-storm",
        /// Replicas miss much of what the sequencer sends.
        Gaps = "gaps",
        /// Replicas lose their memory again and again.
        Restart = "restart",
        /// Sequencers die and start again.
        Sequencer = "sequencer",
        /// Nodes stop and go on: one that slept must not trust what it knew.
        Pause = "pause",
        /// Counters, lives and clocks start near the ends of their ranges.
        NearWrap = "near-wrap",
        /// Replicas with disks crash and come back, some with a bit rotten.
        Durable = "durable",
        /// Replicas with disks, all of which lose power at once.
        PowerLoss = "power-loss",
        /// The leader orders (VR), and what it sends is lost, late and cut short.
        Vr = "vr",
        /// Replicas are added, removed and replaced, while others fail.
        Reconfigure = "reconfigure",
        /// No faults at all.
        Calm = "calm",
    }
}

named! {
    /// A class of faults that can be switched off when a failure is shrunk.
    Fault {
        /// Datagrams are lost.
        Loss = "loss",
        /// Datagrams arrive twice.
        Duplicate = "duplicate",
        /// Datagrams overtake each other.
        Reorder = "reorder",
        /// Datagrams arrive very late.
        Stray = "stray",
        /// Bits flip.
        Corrupt = "corrupt",
        /// Nodes cannot reach each other.
        Partition = "partition",
        /// Replicas crash and restart empty.
        Crash = "crash",
        /// Faults strike the leader on purpose.
        Leader = "leader",
        /// The sequencer crashes and restarts.
        Sequencer = "sequencer",
        /// Nodes stop for a while and go on.
        Pause = "pause",
        /// Clocks run at different rates.
        Drift = "drift",
        /// Clients restart under another name.
        Client = "client",
        /// Replicas that are down when the faults end stay down for ever.
        Grave = "grave",
        /// What some nodes send or are sent waits, and comes all at once.
        Clog = "clog",
        /// Clocks leap.
        Leap = "leap",
        /// Not a fault but a kind of group: replicas have disks, which crashes leave.
        Disk = "disk",
        /// All replicas with disks crash at once.
        Power = "power",
        /// Bits rot on the disks of replicas that are down.
        Rot = "rot",
        /// Disks stall and fail.
        BadDisk = "bad-disk",
        /// The group's membership is changed.
        Reconfigure = "reconfigure",
    }
}

/// A set of fault classes.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Faults(u32);

impl Faults {
    /// Whether `fault` is in the set.
    pub const fn has(self, fault: Fault) -> bool {
        self.0 & (1 << fault as u32) != 0
    }

    /// The set with `fault` added.
    #[must_use]
    pub const fn with(self, fault: Fault) -> Self {
        Self(self.0 | (1 << fault as u32))
    }

    /// The set without the members of `off`.
    #[must_use]
    pub const fn without(self, off: Self) -> Self {
        Self(self.0 & !off.0)
    }

    /// The members.
    pub fn iter(self) -> impl Iterator<Item = Fault> {
        Fault::ALL.iter().copied().filter(move |f| self.has(*f))
    }
}

impl FromIterator<Fault> for Faults {
    fn from_iter<I: IntoIterator<Item = Fault>>(faults: I) -> Self {
        faults.into_iter().fold(Self::default(), Self::with)
    }
}

/// Everything decided before a run starts.
#[derive(Clone, Debug)]
#[allow(dead_code)] // the profile is there to be shown
pub(crate) struct Plan {
    /// The profile actually followed (never [`Profile::Mixed`]).
    pub profile: Profile,
    pub faults: Faults,
    pub protocol: Protocol,
    /// The group forms with so many replicas.
    pub replicas: u8,
    /// Replicas that may join it later.
    pub spares: u8,
    /// One that serves, and those that stand by.
    pub sequencers: u8,
    pub clients: usize,
    pub ops_per_client: usize,
    /// Operations a client keeps in flight.
    pub outstanding: usize,
    /// Operations a client submits at once, at most.
    pub burst: usize,
    /// Objects of each kind.
    pub objects: u8,
    /// Mean time between two submissions of a client.
    pub think: u64,
    /// Faults end at this time at the latest.
    pub faulty_until: u64,
    /// Mean time between two strikes of chaos.
    pub strike_every: u64,
    /// Mean time a strike lasts.
    pub strike_lasts: u64,
    pub links: LinkPlan,
    /// Nodes reject repeated datagrams, as the real drivers do. Without it the
    /// cores meet every duplicate themselves.
    pub replay_window: bool,
    /// Small logs and snapshots, so that truncation and transfer happen.
    pub small_limits: bool,
    /// Where counters start, if they start near the ends of their ranges.
    pub near: Option<Origin>,
    /// Mean time a disk takes to sync, how often it stalls, and how often it fails.
    pub sync: u64,
    pub stall: f64,
    pub disk_fails: f64,
}

impl Plan {
    /// The plan of `seed`, with the fault classes in `off` left out. Every
    /// number is drawn whether it is used or not, so that switching a class
    /// off changes as little as possible of the rest.
    pub(crate) fn draw(seed: u64, profile: Profile, off: Faults) -> Self {
        let dice = &mut Dice::new(seed, Stream::Plan);
        let profile = resolve(profile, dice);
        let faults = classes(profile, dice).without(off);
        let links = links(profile, faults, dice);
        let busy = dice.chance(0.3);
        let storm = matches!(
            profile,
            Profile::FailoverStorm
                | Profile::Gaps
                | Profile::Restart
                | Profile::Sequencer
                | Profile::Pause
                | Profile::Durable
                | Profile::PowerLoss
                | Profile::Vr
                | Profile::Reconfigure
        );
        let faulty_until = dice.between(200, 1_000) * MS;
        let ops_per_client = dice.between(10, 70) as usize;
        let bad = |faults: &Faults, rate| {
            if faults.has(Fault::BadDisk) {
                rate
            } else {
                0.0
            }
        };
        // Faults that strike an idle group show little: clients ask for most
        // of the time, some evenly, some all at once.
        let even = faulty_until / ops_per_client as u64;
        let near = near(dice);
        let protocol = protocol(profile, dice);
        let lone = dice.chance(0.1) && protocol != Protocol::Nopaxos;
        let three = dice.chance(0.7);
        let spares = dice.between(1, 3) as u8;
        Self {
            profile,
            faults,
            protocol,
            replicas: match (lone, three) {
                (true, _) => 1,
                (_, true) => 3,
                _ => 5,
            },
            clients: dice.below(4) + 1,
            ops_per_client,
            outstanding: if busy { 16 } else { dice.below(4) + 1 },
            burst: if busy { 12 } else { 3 },
            objects: dice.between(1, 4) as u8,
            think: dice.between(even / 4, even * 5 / 4),
            faulty_until,
            strike_every: dice.between(8, if storm { 50 } else { 200 }) * MS,
            strike_lasts: dice.between(3, if storm { 60 } else { 120 }) * MS,
            links,
            replay_window: dice.chance(0.5),
            small_limits: dice.chance(0.6),
            near: (profile == Profile::NearWrap).then_some(near),
            sync: dice.between(20, 1_000) * US,
            stall: bad(&faults, dice.real(0.0, 0.1)),
            disk_fails: bad(&faults, dice.real(0.0, 0.01)),
            spares: if faults.has(Fault::Reconfigure) {
                spares
            } else {
                0
            },
            sequencers: if dice.chance(0.5) {
                1
            } else {
                dice.between(2, 3) as u8
            },
        }
    }

    /// Replicas have disks.
    pub(crate) const fn durable(&self) -> bool {
        self.faults.has(Fault::Disk)
    }

    /// All replicas, spare ones included.
    pub(crate) fn seats(&self) -> usize {
        usize::from(self.replicas + self.spares)
    }
}

/// Who orders: the leader where that is what a seed is about, and now and then in a swarm.
fn protocol(profile: Profile, dice: &mut Dice) -> Protocol {
    let batch = [1, 3, 64][dice.below(3)];
    let swarm = dice.chance(0.2) && profile == Profile::Swarm;
    if swarm || profile == Profile::Vr {
        Protocol::Vr { batch }
    } else {
        Protocol::Nopaxos
    }
}

fn resolve(profile: Profile, dice: &mut Dice) -> Profile {
    const TARGETED: [Profile; 11] = [
        Profile::Stray,
        Profile::FailoverStorm,
        Profile::Gaps,
        Profile::Restart,
        Profile::Sequencer,
        Profile::Pause,
        Profile::NearWrap,
        Profile::Durable,
        Profile::PowerLoss,
        Profile::Vr,
        Profile::Reconfigure,
    ];
    let swarm = dice.chance(0.5);
    let target = TARGETED[dice.below(TARGETED.len())];
    match profile {
        Profile::Mixed if swarm => Profile::Swarm,
        Profile::Mixed => target,
        other => other,
    }
}

/// Counters that are about to outgrow 16, 32 or 48 bits, or to reach their ends: that of the
/// sequencer's numbers, and that of views at 2^62. Both leave room for a run: no counter ever gets
/// there.
fn near(dice: &mut Dice) -> Origin {
    let mut below = |last: u64| {
        let ends = [1 << 16, 1 << 32, 1 << 48, last - (1 << 20)];
        ends[dice.below(ends.len())] - dice.between(1, 200)
    };
    Origin {
        slot: below(LAST_NUMBER),
        view: below(1 << 62) & !15,
    }
}

/// Which classes are on: those the profile is about, and any other with some
/// probability.
fn classes(profile: Profile, dice: &mut Dice) -> Faults {
    let swarm: Faults = Fault::ALL
        .iter()
        .copied()
        .filter(|_| dice.chance(0.45))
        .collect();
    let extra: Faults = swarm.iter().filter(|_| dice.chance(0.5)).collect();
    let aimed: &[Fault] = match profile {
        Profile::Mixed | Profile::Swarm | Profile::NearWrap => return swarm,
        Profile::Calm => return Faults::default(),
        Profile::Stray => &[Fault::Stray, Fault::Duplicate, Fault::Crash, Fault::Leader],
        Profile::FailoverStorm => &[Fault::Leader, Fault::Partition, Fault::Pause, Fault::Crash],
        Profile::Gaps => &[
            Fault::Loss,
            Fault::Reorder,
            Fault::Leader,
            Fault::Pause,
            Fault::Crash,
        ],
        Profile::Restart => &[Fault::Crash, Fault::Stray, Fault::Grave],
        Profile::Sequencer => &[Fault::Sequencer, Fault::Stray],
        Profile::Durable => &[Fault::Disk, Fault::Crash, Fault::Rot, Fault::BadDisk],
        Profile::PowerLoss => &[
            Fault::Disk,
            Fault::Power,
            Fault::Crash,
            Fault::Leader,
            Fault::Sequencer,
        ],
        Profile::Vr => &[Fault::Leader, Fault::Crash, Fault::Loss, Fault::Reorder],
        Profile::Reconfigure => &[
            Fault::Reconfigure,
            Fault::Crash,
            Fault::Leader,
            Fault::Loss,
            Fault::Sequencer,
        ],
        Profile::Pause => &[Fault::Pause, Fault::Clog, Fault::Leap, Fault::Leader],
    };
    aimed.iter().fold(extra, |set, fault| set.with(*fault))
}

fn links(profile: Profile, faults: Faults, dice: &mut Dice) -> LinkPlan {
    let mut rate = |fault, low, high| {
        let rate = dice.real(low, high);
        if faults.has(fault) { rate } else { 0.0 }
    };
    // Two leaders of one session agree, unless each decides on gaps of its own.
    let gaps = matches!(profile, Profile::Gaps | Profile::Reconfigure);
    let stray = if profile == Profile::Stray {
        0.08
    } else {
        0.03
    };
    LinkPlan {
        loss: rate(Fault::Loss, 0.0, if gaps { 0.3 } else { 0.1 }),
        ordered_loss: rate(Fault::Loss, 0.0, if gaps { 0.25 } else { 0.05 }),
        bad_loss: rate(Fault::Loss, 0.1, 0.5),
        bad_late: rate(Fault::Reorder, 0.4, 1.0),
        duplicate: rate(Fault::Duplicate, 0.0, 0.2),
        corrupt: rate(Fault::Corrupt, 0.0, 0.03),
        stray: rate(Fault::Stray, 0.002, stray),
        reorder: faults.has(Fault::Reorder),
        bad: if dice.chance(if gaps { 0.9 } else { 0.3 }) {
            dice.real(0.0, 0.3)
        } else {
            0.0
        },
        late_mean: dice.between(2, 25) * MS,
        base: dice.between(5, 100) * US,
        jitter: dice.between(5, 200) * US,
        stray_mean: dice.between(1, 150) * MS,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn switching_a_class_off_leaves_the_rest_alone() {
        for seed in 0..50 {
            let whole = Plan::draw(seed, Profile::Mixed, Faults::default());
            let off = Faults::default().with(Fault::Loss);
            let part = Plan::draw(seed, Profile::Mixed, off);
            assert!(!part.faults.has(Fault::Loss) && part.links.loss == 0.0);
            assert_eq!(part.profile, whole.profile);
            assert_eq!(part.ops_per_client, whole.ops_per_client);
            assert_eq!(part.links.stray_mean, whole.links.stray_mean);
        }
    }

    #[test]
    fn names_are_read_back() {
        for profile in Profile::ALL {
            assert_eq!(profile.name().parse(), Ok(*profile));
        }
        let error = "hurricane".parse::<Profile>().expect_err("unknown");
        assert!(error.contains("failover-storm"), "{error}");
    }
}
