//! How long nodes may take. On a busy machine it is longer: a node that would work and is not let has
//! not failed. Verifying the programs of a gateway is seconds of work even where nothing else runs.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::nodes::Nodes;

/// However busy it is, no longer than so many times the limit.
const TIMES: u32 = 8;

/// A limit that leaves out for how long others kept the nodes from running.
pub(crate) struct Patience {
    limit: Duration,
    began: Instant,
    /// For how long each had been kept from running before.
    before: BTreeMap<u32, Duration>,
    /// And the one that was kept longest, since.
    kept: Duration,
}

impl Patience {
    pub(crate) fn begin(limit: Duration, nodes: &Nodes) -> Self {
        let before = nodes.kept_from_running();
        Self {
            limit,
            began: Instant::now(),
            before,
            kept: Duration::ZERO,
        }
    }

    /// Whether nodes have had their time.
    pub(crate) fn is_over(&mut self, nodes: &Nodes) -> bool {
        if self.began.elapsed() <= self.limit {
            return false;
        }
        let now = nodes.kept_from_running();
        let kept = now.iter().map(|(process, kept)| {
            let before = self.before.get(process).copied();
            kept.saturating_sub(before.unwrap_or_default())
        });
        self.kept = kept.fold(self.kept, Duration::max);
        self.began.elapsed() > self.most()
    }

    fn most(&self) -> Duration {
        self.limit + self.kept.min(self.limit * (TIMES - 1))
    }
}

impl std::fmt::Display for Patience {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (limit, kept) = (self.limit.as_secs_f64(), self.kept.as_secs_f64());
        write!(
            f,
            "{limit:.0} s, beside {kept:.0} s in which the machine kept nodes from running"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nodes_were_kept_from_running_does_not_count_and_is_bounded() {
        let limit = Duration::from_secs(15);
        let after = |kept| {
            let patience = Patience {
                limit,
                began: Instant::now(),
                before: BTreeMap::new(),
                kept,
            };
            patience.most()
        };
        assert_eq!(after(Duration::ZERO), limit);
        assert_eq!(after(Duration::from_secs(20)), Duration::from_secs(35));
        assert_eq!(after(Duration::from_secs(1_000_000)), limit * TIMES);
    }
}
