//! The network between nodes: what happens to each datagram.
use crate::dice::{Dice, Stream};

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
    /// Probability of loss on links from the sequencer to a replica.
    pub ordered_loss: f64,
    /// Probability that a multicast of the sequencer goes wrong as a whole: what
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

/// The links between all pairs of nodes, numbered as the world numbers them.
pub(crate) struct Network {
    plan: LinkPlan,
    nodes: usize,
    sequencer: usize,
    /// Directed links that carry nothing, by `from * nodes + to`; counts how
    /// many partitions block the link.
    blocked: Vec<u16>,
    last_arrival: Vec<u64>,
    /// The present multicast goes wrong.
    bad: bool,
    dice: Dice,
}

impl Network {
    pub(crate) fn new(seed: u64, plan: LinkPlan, nodes: usize, sequencer: usize) -> Self {
        Self {
            plan,
            nodes,
            sequencer,
            blocked: vec![0; nodes * nodes],
            last_arrival: vec![0; nodes * nodes],
            bad: false,
            dice: Dice::new(seed, Stream::Network),
        }
    }

    /// Blocks (`true`) or unblocks one direction of a link. Partitions may
    /// overlap: a link works again when the last one is lifted.
    pub(crate) fn block(&mut self, from: usize, to: usize, block: bool) {
        let count = &mut self.blocked[from * self.nodes + to];
        *count = if block {
            *count + 1
        } else {
            count.saturating_sub(1)
        };
    }

    /// Ends all loss, damage, strays and partitions; delay remains.
    pub(crate) fn heal(&mut self) {
        self.blocked.fill(0);
        let plan = &mut self.plan;
        (plan.loss, plan.ordered_loss, plan.duplicate) = (0.0, 0.0, 0.0);
        (plan.corrupt, plan.stray, plan.bad) = (0.0, 0.0, 0.0);
        self.bad = false;
    }

    /// The sequencer is about to send the copies of one message.
    pub(crate) fn multicast(&mut self) {
        self.bad = self.dice.chance(self.plan.bad);
    }

    /// Decides what becomes of a datagram sent now: up to two copies arrive.
    pub(crate) fn route(&mut self, now: u64, from: usize, to: usize) -> [Option<Copy>; 2] {
        let ordered = from == self.sequencer;
        let loss = match (ordered, ordered && self.bad) {
            (_, true) => self.plan.bad_loss,
            (true, false) => self.plan.loss.max(self.plan.ordered_loss),
            (false, _) => self.plan.loss,
        };
        if self.blocked[from * self.nodes + to] > 0 || self.dice.chance(loss) {
            return [None, None];
        }
        let first = self.copy(now, from, to);
        let second = self
            .dice
            .chance(self.plan.duplicate)
            .then(|| self.copy(now, from, to));
        [Some(first), second]
    }

    fn copy(&mut self, now: u64, from: usize, to: usize) -> Copy {
        let mut at = now + self.plan.base + self.dice.exponential(self.plan.jitter);
        if self.dice.chance(self.plan.stray) {
            at += self.dice.exponential(self.plan.stray_mean);
        } else if self.bad && from == self.sequencer && self.dice.chance(self.plan.bad_late) {
            at += self.dice.exponential(self.plan.late_mean);
        } else if !self.plan.reorder {
            let last = &mut self.last_arrival[from * self.nodes + to];
            at = at.max(*last + 1);
            *last = at;
        }
        let flip = self
            .dice
            .chance(self.plan.corrupt)
            .then(|| self.dice.word());
        Copy { at, flip }
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

    #[test]
    fn a_calm_link_keeps_order_and_loses_nothing() {
        let mut network = Network::new(1, calm(), 3, 2);
        let mut last = 0;
        for now in 0..500 {
            let [first, second] = network.route(now, 0, 1);
            let at = first.expect("arrives").at;
            assert!(at > last && second.is_none());
            last = at;
        }
    }

    #[test]
    fn overlapping_partitions_lift_one_by_one_and_one_way() {
        let mut network = Network::new(1, calm(), 3, 2);
        network.block(0, 1, true);
        network.block(0, 1, true);
        network.block(0, 1, false);
        assert_eq!(network.route(0, 0, 1), [None, None]);
        assert!(network.route(0, 1, 0)[0].is_some());
        network.heal();
        assert!(network.route(0, 0, 1)[0].is_some());
    }

    #[test]
    fn ordered_loss_strikes_only_what_the_sequencer_sends() {
        let plan = LinkPlan {
            ordered_loss: 1.0,
            ..calm()
        };
        let mut network = Network::new(1, plan, 3, 2);
        assert_eq!(network.route(0, 2, 1), [None, None]);
        assert!(network.route(0, 0, 1)[0].is_some());
    }
}
