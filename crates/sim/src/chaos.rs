//! Which fault strikes next. Chaos knows the one rule that makes its work
//! fair: at most f replicas of a group are down or without their memory at
//! the same time. Pauses and partitions have no such limit.
use crate::dice::{Dice, Stream, mix};
use crate::layout::Layout;
use crate::plan::{Fault, MS, Plan};
use stateplane_group::Change;

/// A fault that strikes now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Strike {
    /// The directed links stop working.
    Cut(Vec<(usize, usize)>),
    /// The replica loses its process and its memory.
    Crash(usize),
    /// The replica loses its process, and its disk a bit.
    Rot(usize),
    /// The sequencer loses its process and its memory.
    CrashSequencer(usize),
    /// The node stops, but what reaches it waits in its socket.
    Pause(usize),
    /// The client's process is replaced by a new one.
    RestartClient(usize),
    /// The leader is asked for another membership.
    Reconfigure(Change),
    /// What is sent on the directed links waits until the end.
    Clog(Vec<(usize, usize)>),
    /// The node's clocks leap: its own forward by so many nanoseconds, the time of
    /// day forward or back.
    Leap(usize, u64, i64),
}

/// A strike to come.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Blow {
    pub delay: u64,
    pub strike: Strike,
    pub lasts: u64,
}

/// What chaos may know about the world.
pub(crate) struct Sight {
    pub layout: Layout,
    /// The replica that leads the newest view, if somebody does.
    pub leader: Option<usize>,
    /// Replicas that run and have their memory.
    pub sound: Vec<usize>,
    /// Replicas that may be lost in addition.
    pub spare: usize,
    /// Replicas have disks: a crash costs them no memory.
    pub durable: bool,
    /// Sequencers that run.
    pub stamping: Vec<usize>,
    /// The members of the newest view.
    pub members: Vec<usize>,
}

/// The source of faults.
pub(crate) struct Chaos {
    seed: u64,
    /// Strikes so far. Each has dice of its own.
    serial: u32,
    dice: Dice,
    strikes: Vec<Fault>,
    prefers_leader: bool,
    every: u64,
    lasts: u64,
}

impl Chaos {
    pub(crate) fn new(seed: u64, plan: &Plan) -> Self {
        let strikes = [
            Fault::Partition,
            Fault::Crash,
            Fault::Sequencer,
            Fault::Pause,
            Fault::Client,
            Fault::Clog,
            Fault::Leap,
            Fault::Reconfigure,
            Fault::Power,
            Fault::Rot,
        ];
        Self {
            seed,
            serial: 0,
            dice: Dice::new(seed, Stream::Chaos),
            strikes: strikes
                .into_iter()
                .filter(|f| plan.faults.has(*f))
                .collect(),
            prefers_leader: plan.faults.has(Fault::Leader),
            every: plan.strike_every,
            lasts: plan.strike_lasts,
        }
    }

    /// The number of the strike to come, whose dice are taken up.
    pub(crate) fn turn(&mut self) -> u32 {
        let serial = self.serial;
        self.serial += 1;
        self.dice = Dice::new(self.seed ^ mix(serial.into()), Stream::Chaos);
        serial
    }

    /// Time until the next strike; `None` if there will be none.
    pub(crate) fn pause(&mut self) -> Option<u64> {
        let wait = self.dice.exponential(self.every);
        (!self.strikes.is_empty()).then_some(wait)
    }

    /// What strikes: each blow after a delay and for a time.
    pub(crate) fn strike(&mut self, sight: &Sight) -> Vec<Blow> {
        let lasts = self.dice.exponential(self.lasts);
        let class = self.strikes[self.dice.below(self.strikes.len())];
        let layout = sight.layout;
        let strike = match class {
            Fault::Crash => self.victim(sight).map(Strike::Crash),
            Fault::Sequencer if !sight.stamping.is_empty() => {
                let any = self.dice.below(sight.stamping.len());
                Some(Strike::CrashSequencer(sight.stamping[any]))
            }
            Fault::Pause => Some(Strike::Pause(self.target(sight, layout.nodes()))),
            Fault::Client => {
                let client = layout.client(self.dice.below(layout.clients));
                Some(Strike::RestartClient(client))
            }
            Fault::Partition => Some(Strike::Cut(self.cut(sight))),
            Fault::Power if sight.durable => return self.power_loss(sight),
            Fault::Rot if sight.durable => self.victim(sight).map(Strike::Rot),
            Fault::Clog => return self.swizzle(layout.nodes()),
            Fault::Leap => Some(self.leap(sight)),
            Fault::Reconfigure => return self.upheaval(sight),
            _ => None,
        };
        let Some(strike) = strike else {
            return Vec::new();
        };
        let mut blows = Vec::new();
        let mut delay = 0;
        if matches!(class, Fault::Crash | Fault::Pause | Fault::Sequencer) && self.dice.chance(0.4)
        {
            // An ambush: first some replicas miss what the sequencer sends, or
            // what another node says; then somebody falls.
            let links = self.deafen(sight);
            delay = self.dice.exponential(self.lasts / 3);
            blows.push(Blow {
                delay: 0,
                strike: Strike::Cut(links),
                lasts: delay + self.dice.exponential(self.lasts / 3),
            });
        }
        blows.push(Blow {
            delay,
            strike,
            lasts,
        });
        blows
    }

    /// All replicas, and mostly the sequencer, stop within a moment.
    fn power_loss(&mut self, sight: &Sight) -> Vec<Blow> {
        let mut strikes: Vec<Strike> = (0..sight.layout.replicas).map(Strike::Crash).collect();
        if self.dice.chance(0.7) {
            let all = (0..sight.layout.sequencers).map(|n| sight.layout.sequencer(n));
            strikes.extend(all.map(Strike::CrashSequencer));
        }
        // Often within one round trip, so that some have synced what others have not.
        let spread = self.dice.between(0, 2 * MS);
        let blow = |strike| Blow {
            delay: self.dice.between(0, spread),
            strike,
            lasts: spread + self.dice.exponential(self.lasts),
        };
        strikes.into_iter().map(blow).collect()
    }

    /// A change of members and, most often, what makes it hard: while it is under way the
    /// leader and the newcomer are cut off from the others, the leader or the sequencer
    /// falls, or a member hears nothing of it and the leader falls when it is done.
    fn upheaval(&mut self, sight: &Sight) -> Vec<Blow> {
        let change = self.change(sight);
        let mut blows = vec![Blow {
            delay: 0,
            strike: Strike::Reconfigure(change),
            lasts: MS,
        }];
        // A few round trips: just when votes and views are on their way.
        let delay = self.dice.exponential(MS / 2);
        let lasts = self.dice.exponential(self.lasts) * 3;
        let leader = sight.leader.unwrap_or(0);
        let falls = sight.spare > 0 || sight.durable;
        let ours = |node: &usize| *node == leader || change.into.map(usize::from) == Some(*node);
        let strike = match self.dice.below(8) {
            0 | 1 => {
                let all = 0..sight.layout.replicas;
                let pairs = all.clone().flat_map(|a| all.clone().map(move |b| (a, b)));
                let apart = pairs.filter(|(a, b)| ours(a) != ours(b)).collect();
                Strike::Cut(apart)
            }
            2 if falls => Strike::Crash(leader),
            3 => Strike::Pause(leader),
            4 if !sight.stamping.is_empty() => Strike::CrashSequencer(self.sequencer(sight)),
            5 | 6 => {
                let others: Vec<usize> = (0..sight.layout.replicas)
                    .filter(|node| !ours(node))
                    .collect();
                let deaf = others.get(self.dice.below(others.len().max(1)));
                let into = |deaf: usize| (0..sight.layout.nodes()).map(move |from| (from, deaf));
                let links = deaf.map(|deaf| into(*deaf).collect());
                if falls {
                    blows.push(Blow {
                        delay: self.dice.exponential(10 * MS),
                        strike: Strike::Crash(leader),
                        lasts,
                    });
                }
                // Before it is asked for.
                let cut = Strike::Cut(links.unwrap_or_default());
                let first = Blow {
                    delay: 0,
                    strike: cut,
                    lasts: self.dice.exponential(self.lasts),
                };
                blows.insert(0, first);
                return blows;
            }
            _ => return blows,
        };
        blows.push(Blow {
            delay,
            strike,
            lasts,
        });
        blows
    }

    /// Another membership: a dead member, if there is one, often leaves.
    fn change(&mut self, sight: &Sight) -> Change {
        let pick = |dice: &mut Dice, from: &[usize]| {
            let at = dice.below(from.len().max(1));
            from.get(at).and_then(|seat| u8::try_from(*seat).ok())
        };
        let (members, sound) = (&sight.members, &sight.sound);
        let outside = |seat: &usize| !members.contains(seat);
        let others: Vec<usize> = (0..sight.layout.replicas).filter(outside).collect();
        let lost = |seat: &&usize| !sound.contains(seat);
        let dead: Vec<usize> = members.iter().filter(lost).copied().collect();
        let aim = self.prefers_leader && self.dice.chance(0.3);
        let bury = self.dice.chance(0.5) && !dead.is_empty();
        let out = pick(&mut self.dice, if bury { &dead } else { members });
        let leader = sight.leader.and_then(|seat| u8::try_from(seat).ok());
        let out = leader.filter(|_| aim).or(out);
        let into = pick(&mut self.dice, &others);
        match self.dice.below(4) {
            0 if into.is_some() => Change { out: None, into },
            1 if members.len() > 2 => Change { out, into: None },
            _ => Change { out, into },
        }
    }

    /// Swizzle-clogging, as the simulator of `FoundationDB` does it: some nodes' links
    /// are clogged one after the other and freed in another order.
    fn swizzle(&mut self, nodes: usize) -> Vec<Blow> {
        let mut blows = Vec::new();
        for node in 0..nodes {
            if !self.dice.chance(0.4) {
                continue;
            }
            let (into, out) = (self.dice.chance(0.7), self.dice.chance(0.7));
            let links = (0..nodes)
                .filter(|other| *other != node)
                .flat_map(|other| [(other, node, into), (node, other, out)])
                .filter(|(_, _, clogged)| *clogged)
                .map(|(from, to, _)| (from, to));
            blows.push(Blow {
                delay: self.dice.exponential(self.lasts / 2),
                strike: Strike::Clog(links.collect()),
                lasts: self.dice.exponential(self.lasts),
            });
        }
        blows
    }

    /// A machine was asleep, or somebody set its clock.
    fn leap(&mut self, sight: &Sight) -> Strike {
        let node = self.target(sight, sight.layout.nodes());
        let node = if self.dice.chance(0.3) {
            self.sequencer(sight)
        } else {
            node
        };
        let own = self.dice.exponential(self.lasts);
        let day = i64::try_from(self.dice.between(0, 400 * MS)).expect("short");
        Strike::Leap(node, own, day - i64::try_from(200 * MS).expect("short"))
    }

    fn sequencer(&mut self, sight: &Sight) -> usize {
        let any = self.dice.below(sight.layout.sequencers);
        sight.layout.sequencer(any)
    }

    /// Cuts the links from one node, most often the one that orders, to some replicas.
    fn deafen(&mut self, sight: &Sight) -> Vec<(usize, usize)> {
        let aloof = self.target(sight, sight.layout.replicas);
        let orders = if sight.stamping.is_empty() {
            sight.leader.unwrap_or(aloof)
        } else {
            self.sequencer(sight)
        };
        let from = if self.dice.chance(0.6) { orders } else { aloof };
        let deaf = |dice: &mut Dice| dice.chance(0.5);
        (0..sight.layout.replicas)
            .filter(|to| *to != from && deaf(&mut self.dice))
            .map(|to| (from, to))
            .collect()
    }

    /// A node below `limit`, often the leader if leaders are aimed at.
    fn target(&mut self, sight: &Sight, limit: usize) -> usize {
        let aim = self.prefers_leader && self.dice.chance(0.7);
        let any = self.dice.below(limit);
        if aim {
            sight.leader.unwrap_or(any)
        } else {
            any
        }
    }

    /// A replica that may crash without breaking the rule.
    fn victim(&mut self, sight: &Sight) -> Option<usize> {
        let target = self.target(sight, sight.layout.replicas);
        let any = self.dice.below(sight.sound.len().max(1));
        if sight.spare == 0 && !sight.durable {
            return None;
        }
        if sight.sound.contains(&target) {
            return Some(target);
        }
        sight.sound.get(any).copied()
    }

    /// Links to cut: around one node, in one or both directions, of one link
    /// only (a partial partition), between two halves, among replicas only.
    fn cut(&mut self, sight: &Sight) -> Vec<(usize, usize)> {
        let (layout, nodes) = (sight.layout, sight.layout.nodes());
        let node = self.target(sight, layout.client(0));
        let others = || (0..nodes).filter(move |other| *other != node);
        let into = others().map(|other| (other, node));
        let out = others().map(|other| (node, other));
        let group = |node: &usize| *node < layout.replicas;
        match self.dice.below(7) {
            5 => into
                .chain(out)
                .filter(|(a, b)| group(a) && group(b))
                .collect(),
            6 => self.deafen(sight),
            0 => into.chain(out).collect(),
            1 => into.collect(),
            2 => out.collect(),
            3 => {
                let other = self.dice.below(nodes);
                if self.dice.chance(0.5) {
                    vec![(node, other), (other, node)]
                } else {
                    vec![(node, other)]
                }
            }
            _ => self.halves(nodes),
        }
    }

    fn halves(&mut self, nodes: usize) -> Vec<(usize, usize)> {
        let side: Vec<bool> = (0..nodes).map(|_| self.dice.chance(0.5)).collect();
        let pairs = (0..nodes).flat_map(|a| (0..nodes).map(move |b| (a, b)));
        pairs.filter(|(a, b)| side[*a] != side[*b]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Faults, Profile};

    #[test]
    fn nobody_crashes_when_no_replica_can_be_spared() {
        for seed in 0..200 {
            let plan = Plan::draw(seed, Profile::Restart, Faults::default());
            let mut chaos = Chaos::new(seed, &plan);
            let sight = Sight {
                layout: Layout {
                    replicas: 3,
                    sequencers: 1,
                    clients: 2,
                },
                leader: Some(1),
                sound: vec![1, 2],
                spare: 0,
                durable: false,
                stamping: vec![3],
                members: vec![0, 1, 2],
            };
            for _ in 0..20 {
                chaos.turn();
                let crash = |blow: &Blow| matches!(blow.strike, Strike::Crash(_));
                assert!(!chaos.strike(&sight).iter().any(crash));
            }
        }
    }
}
