//! What a runtime counts.

use stateplane_base::Reason;

/// Counters since the runtime began; all only grow, but for the two gauges.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Counters {
    dropped: [u64; Reason::ALL.len()],
    /// Packets sent on, by outgoing port (inside, outside).
    pub forwarded: [u64; 2],
    /// Packets whose flow's decision was cached.
    pub hits: u64,
    /// Answers made here: ARP replies and ICMP errors.
    pub answered: u64,
    /// Partial checksums completed.
    pub checksums_finished: u64,
    /// Decisions begun.
    pub decisions: u64,
    /// Decisions that ended in a refusal.
    pub decisions_refused: u64,
    /// Decisions given up because the state did not come.
    pub decisions_timed_out: u64,
    /// Operations sent to the store that decisions may share.
    pub shared_operations: u64,
    /// What decisions asked for in them.
    pub shared_items: u64,
    /// Decisions announced before their commit, in a mode that uses that.
    pub announced: u64,
    /// Announced decisions that came out differently.
    pub misannounced: u64,
    /// Packets that left before their flow's decision was committed.
    pub passed_early: u64,
    /// Packets parked.
    pub parked: u64,
    /// Of these, answers held back by the reply barrier.
    pub held_by_barrier: u64,
    /// Parked packets released.
    pub released: u64,
    /// Decisions that did not fit the flow table.
    pub uncached: u64,
    /// Decisions offered to the fast path, or prolonged there.
    pub offered: u64,
    /// Gauge: packets parked now.
    pub park_now: u64,
    /// Gauge: most packets that were ever parked at once.
    pub park_high_water: u64,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            dropped: [0; Reason::ALL.len()],
            forwarded: [0; 2],
            hits: 0,
            answered: 0,
            checksums_finished: 0,
            decisions: 0,
            decisions_refused: 0,
            decisions_timed_out: 0,
            shared_operations: 0,
            shared_items: 0,
            announced: 0,
            misannounced: 0,
            passed_early: 0,
            parked: 0,
            held_by_barrier: 0,
            released: 0,
            uncached: 0,
            offered: 0,
            park_now: 0,
            park_high_water: 0,
        }
    }
}

impl Counters {
    /// Packets dropped for this reason. A packet answered with an ICMP error counts
    /// here as well.
    pub const fn dropped(&self, reason: Reason) -> u64 {
        self.dropped[reason as usize]
    }

    /// All reasons with their counts, in their fixed order.
    pub fn drops(&self) -> impl Iterator<Item = (Reason, u64)> + '_ {
        Reason::ALL
            .iter()
            .map(|&reason| (reason, self.dropped(reason)))
    }

    /// Adds what another function of a chain counted.
    pub(crate) fn add(&mut self, other: &Counters) {
        let [inside, outside] = &mut self.forwarded;
        let sums = [
            (inside, other.forwarded[0]),
            (outside, other.forwarded[1]),
            (&mut self.hits, other.hits),
            (&mut self.answered, other.answered),
            (&mut self.checksums_finished, other.checksums_finished),
            (&mut self.shared_operations, other.shared_operations),
            (&mut self.shared_items, other.shared_items),
            (&mut self.decisions, other.decisions),
            (&mut self.decisions_refused, other.decisions_refused),
            (&mut self.decisions_timed_out, other.decisions_timed_out),
            (&mut self.announced, other.announced),
            (&mut self.misannounced, other.misannounced),
            (&mut self.passed_early, other.passed_early),
            (&mut self.parked, other.parked),
            (&mut self.held_by_barrier, other.held_by_barrier),
            (&mut self.released, other.released),
            (&mut self.uncached, other.uncached),
            (&mut self.offered, other.offered),
            (&mut self.park_now, other.park_now),
        ];
        for (sum, more) in sums {
            *sum += more;
        }
        for (sum, more) in self.dropped.iter_mut().zip(other.dropped) {
            *sum += more;
        }
        self.park_high_water = self.park_high_water.max(other.park_high_water);
    }

    /// Counts a drop, also one that the driver decided about (no route, full ring).
    pub const fn drop(&mut self, reason: Reason) {
        self.dropped[reason as usize] += 1;
    }
}
