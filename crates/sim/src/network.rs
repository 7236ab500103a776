//! The network between nodes: what happens to each datagram.
use crate::dice::{Dice, Stream, mix};
use crate::layout::Layout;
use crate::tape::{Choice, Of};

/// Rates of everything that can happen to a datagram. Times in nanoseconds.
#[derive(Clone, Debug)]
pub(crate) struct LinkPlan {
    /// Smallest one-way delay.
    pub base: u64,
    /// Mean of the exponential delay on top.
    pub jitter: u64,
    /// Datagrams of one link may overtake each other.
    pub reorder: bool,
    /// Probability of loss on any link.
    pub loss: f64,
    /// Probability of loss of what decides the order: a sequencer's messages, Prepares.
    pub ordered_loss: f64,
    /// Probability that the multicast of such a message goes wrong as a whole: what
    /// several replicas miss at once is what they must agree about.
    pub bad: f64,
    /// Probability that a copy of a bad multicast is lost.
    pub bad_loss: f64,
    /// Probability that a copy of a bad multicast is late.
    pub bad_late: f64,
    /// Mean delay of a late copy.
    pub late_mean: u64,
    /// Probability that a second copy is delivered.
    pub duplicate: f64,
    /// Probability that a bit of the datagram flips.
    pub corrupt: f64,
    /// Probability that a datagram strays: arrives long after it was sent.
    pub stray: f64,
    /// Mean delay of a stray datagram.
    pub stray_mean: u64,
}

/// One copy of a datagram that will arrive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Copy {
    /// True time of arrival.
    pub at: u64,
    /// A bit to flip on the way, reduced modulo the datagram's length.
    pub flip: Option<u64>,
}

/// What becomes of a datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Fate {
    pub copies: [Option<Copy>; 2],
    /// More happened to it than a common delay.
    pub loud: bool,
}

/// One direction between two nodes.
struct Link {
    /// How many partitions block it.
    blocked: u16,
    /// Until when what is sent waits on the way.
    clogged: u64,
    last_arrival: u64,
    /// Datagrams sent on it. Each has dice of its own, so that what happens to
    /// one leaves the others alone.
    sent: u32,
    seed: u64,
}

/// The links between all pairs of nodes, numbered as the world numbers them.
pub(crate) struct Network {
    plan: LinkPlan,
    nodes: usize,
    /// By `from * nodes + to`.
    links: Vec<Link>,
    /// The present multicast goes wrong.
    bad: bool,
    dice: Dice,
}

impl Network {
    pub(crate) fn new(seed: u64, plan: LinkPlan, layout: Layout) -> Self {
        let nodes = layout.nodes();
        let link = |index| Link {
            blocked: 0,
            clogged: 0,
            last_arrival: 0,
            sent: 0,
            seed: mix(seed ^ mix(index as u64)),
        };
        Self {
            plan,
            nodes,
            links: (0..nodes * nodes).map(link).collect(),
            bad: false,
            dice: Dice::new(seed, Stream::Network),
        }
    }

    /// Blocks (`true`) or unblocks one direction of a link. Partitions may
    /// overlap: a link works again when the last one is lifted.
    pub(crate) fn block(&mut self, from: usize, to: usize, block: bool) {
        let count = &mut self.links[from * self.nodes + to].blocked;
        *count = if block {
            *count + 1
        } else {
            count.saturating_sub(1)
        };
    }

    /// What is sent on a link before `until` arrives after it.
    pub(crate) fn clog(&mut self, from: usize, to: usize, until: u64) {
        let link = &mut self.links[from * self.nodes + to];
        link.clogged = link.clogged.max(until);
    }

    /// Ends all loss, damage, strays and partitions; delay remains.
    pub(crate) fn heal(&mut self) {
        for link in &mut self.links {
            (link.blocked, link.clogged) = (0, 0);
            // What was sent into a clog holds nothing up any more.
            link.last_arrival = 0;
        }
        let plan = &mut self.plan;
        (plan.loss, plan.ordered_loss, plan.duplicate) = (0.0, 0.0, 0.0);
        (plan.corrupt, plan.stray, plan.bad) = (0.0, 0.0, 0.0);
        self.bad = false;
    }

    /// Whoever orders is about to send the copies of one message.
    pub(crate) fn multicast(&mut self) {
        self.bad = self.dice.chance(self.plan.bad);
    }

    /// Which choice the fate of the next datagram on a link is.
    pub(crate) fn choice(&self, from: usize, to: usize) -> Choice {
        let node = |node| u8::try_from(node).expect("nodes are few");
        Choice {
            of: Of::Link(node(from), node(to)),
            serial: self.links[from * self.nodes + to].sent,
        }
    }

    /// Decides what becomes of a datagram sent now, which may be one that decides the
    /// order: up to two copies arrive. If
    /// the choice is not kept, it arrives in order after the smallest delay.
    pub(crate) fn route(
        &mut self,
        now: u64,
        from: usize,
        to: usize,
        ordering: bool,
        kept: bool,
    ) -> Fate {
        let bad = self.bad && ordering;
        let plan = &self.plan;
        let loss = match (ordering, bad) {
            (_, true) => plan.bad_loss,
            (true, false) => plan.loss.max(plan.ordered_loss),
            (false, _) => plan.loss,
        };
        let link = &mut self.links[from * self.nodes + to];
        let mut dice = Dice::new(link.seed ^ u64::from(link.sent), Stream::Network);
        link.sent += 1;
        let lost = dice.chance(loss);
        if link.blocked > 0 || lost && kept {
            return Fate {
                copies: [None, None],
                loud: link.blocked == 0,
            };
        }
        let (first, mut loud) = link.copy(plan, &mut dice, now, bad, kept);
        let mut copies = [Some(first), None];
        if dice.chance(plan.duplicate) && kept {
            copies[1] = Some(link.copy(plan, &mut dice, now, bad, kept).0);
            loud = true;
        }
        Fate { copies, loud }
    }
}

impl Link {
    /// When and how one copy arrives, and whether that is out of the common.
    fn copy(
        &mut self,
        plan: &LinkPlan,
        dice: &mut Dice,
        now: u64,
        bad: bool,
        kept: bool,
    ) -> (Copy, bool) {
        let common = dice.exponential(plan.jitter);
        let late = if dice.chance(plan.stray) {
            Some(dice.exponential(plan.stray_mean))
        } else if bad && dice.chance(plan.bad_late) {
            Some(dice.exponential(plan.late_mean))
        } else {
            None
        };
        let flip = dice.chance(plan.corrupt).then(|| dice.word());
        let mut at = now + plan.base;
        if kept {
            at += common + late.unwrap_or(0);
        }
        at = at.max(self.clogged);
        if !kept || !plan.reorder && late.is_none() {
            at = at.max(self.last_arrival + 1);
            self.last_arrival = at;
        }
        let flip = flip.filter(|_| kept);
        (Copy { at, flip }, late.is_some() || flip.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn calm() -> LinkPlan {
        LinkPlan {
            base: 20_000,
            jitter: 30_000,
            reorder: false,
            loss: 0.0,
            ordered_loss: 0.0,
            bad: 0.0,
            bad_loss: 0.0,
            bad_late: 0.0,
            late_mean: 1,
            duplicate: 0.0,
            corrupt: 0.0,
            stray: 0.0,
            stray_mean: 1,
        }
    }

    /// Two replicas and a sequencer.
    fn network(plan: LinkPlan) -> Network {
        let layout = Layout {
            replicas: 2,
            sequencers: 1,
            clients: 0,
        };
        Network::new(1, plan, layout)
    }

    #[test]
    fn a_calm_link_keeps_order_and_loses_nothing() {
        let mut network = network(calm());
        let mut last = 0;
        for now in 0..500 {
            let Fate { copies, loud } = network.route(now, 0, 1, false, true);
            let at = copies[0].expect("arrives").at;
            assert!(at > last && copies[1].is_none() && !loud);
            last = at;
        }
    }

    #[test]
    fn overlapping_partitions_lift_one_by_one_and_one_way() {
        let mut network = network(calm());
        network.block(0, 1, true);
        network.block(0, 1, true);
        network.block(0, 1, false);
        assert_eq!(network.route(0, 0, 1, false, true).copies, [None, None]);
        assert!(network.route(0, 1, 0, false, true).copies[0].is_some());
        network.heal();
        assert!(network.route(0, 0, 1, false, true).copies[0].is_some());
    }

    #[test]
    fn what_is_sent_into_a_clog_arrives_after_it() {
        let mut network = network(calm());
        network.clog(0, 1, 900_000);
        let early = network.route(0, 0, 1, false, true).copies[0].expect("arrives");
        assert_eq!(early.at, 900_000);
        let late = network.route(2_000_000, 0, 1, false, true).copies[0].expect("arrives");
        assert!(late.at > 2_000_000);
    }

    #[test]
    fn ordered_loss_strikes_only_what_the_sequencer_sends() {
        let mut network = network(LinkPlan {
            ordered_loss: 1.0,
            ..calm()
        });
        let lost = network.route(0, 2, 1, true, true);
        assert!(lost.loud && lost.copies == [None, None]);
        assert!(network.route(0, 0, 1, false, true).copies[0].is_some());
    }

    #[test]
    fn a_choice_that_is_not_kept_is_harmless_and_changes_no_other() {
        let plan = LinkPlan {
            loss: 0.5,
            reorder: true,
            duplicate: 0.3,
            stray: 0.2,
            stray_mean: 1_000_000,
            ..calm()
        };
        let (mut whole, mut part) = (network(plan.clone()), network(plan));
        let mut lost = 0;
        for serial in 0..200 {
            assert_eq!(part.choice(0, 1).serial, serial);
            let kept = serial != 100;
            let fate = part.route(0, 0, 1, false, kept);
            if kept {
                let other = whole.route(0, 0, 1, false, true);
                lost += u32::from(other.copies[0].is_none());
                assert_eq!(fate, other);
            } else {
                whole.route(0, 0, 1, false, true);
                assert!(fate.copies[0].is_some() && fate.copies[1].is_none() && !fate.loud);
            }
        }
        assert!(lost > 50);
    }
}
