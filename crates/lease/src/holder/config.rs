//! What a holder is told.

use core::time::Duration;

use stateplane_base::Time;

use crate::mutation::{Mutation, Rules};

/// What becomes of flows in the fast path when contact to the store was lost and the lease ended.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum OnExpiry {
    /// They stop: no packet passes that the owner does not answer for.
    #[default]
    Closed,
    /// Known flows go on as they were decided last, until the store says that another owner has
    /// taken over. Nothing new is decided.
    Open,
}

/// Settings of a [`Holder`](super::Holder).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct HolderConfig {
    /// By how many millionths the log's clock may go faster than ours.
    pub drift_ppm: u32,
    /// Taken off every lease, for clocks that advance in steps: the fast path's coarse clock, and
    /// the log's, where it is stamped in the network.
    pub margin: Duration,
    /// Pause after a request that came to nothing.
    pub retry: Duration,
    /// Pause after somebody else took over: do not fight.
    pub rest: Duration,
    /// How long after its end of use a partition is kept, for last writes: what passed in front of
    /// us until then is known only afterwards. If it is not zero, the host makes its last writes when they
    /// are due ([`Holder::to_finish`](super::Holder::to_finish)) and says so.
    pub linger: Duration,
    /// What becomes of the fast path at the end of a lease.
    pub on_expiry: OnExpiry,
    /// Most partitions held at once.
    pub partitions_max: usize,
    /// Most writes of one partition under way at once.
    pub writes_max: usize,
    pub(crate) rules: Rules,
}

impl HolderConfig {
    /// Steps of a tick each: 10 ms of the fast path's clock with the slowest kernels, and as
    /// much of the log's.
    pub const MARGIN: Duration = Duration::from_millis(20);

    /// The drift assumed unless somebody says otherwise, in millionths: twice what time services
    /// steer a clock by.
    pub const DRIFT_PPM: u32 = 1_000;

    /// The usual settings with this bound on the drift.
    pub fn new(drift_ppm: u32) -> Self {
        Self {
            drift_ppm,
            margin: Self::MARGIN,
            retry: Duration::from_millis(250),
            rest: Duration::from_secs(5),
            linger: Duration::ZERO,
            on_expiry: OnExpiry::Closed,
            partitions_max: 1 << 10,
            writes_max: 1 << 10,
            rules: Rules::default(),
        }
    }

    /// How much of a granted span may be used: `span / (1 + drift)` on our clock is at most `span`
    /// on the log's.
    pub fn usable(&self, span: Duration) -> Duration {
        if self.rules.broken(Mutation::NoDriftMargin) {
            return span;
        }
        let nanos = span.as_nanos() * 1_000_000 / (1_000_000 + u128::from(self.drift_ppm));
        let nanos = u64::try_from(nanos).unwrap_or(u64::MAX);
        Duration::from_nanos(nanos).saturating_sub(self.margin)
    }

    /// Until when a lease may be used that was asked for at `sent` and answered `now`.
    pub(super) fn until(&self, sent: Time, now: Time, span: Duration) -> Time {
        let from = match self.rules.broken(Mutation::CountedFromAck) {
            false => sent,
            true => now,
        };
        from + self.usable(span)
    }
}

impl Default for HolderConfig {
    fn default() -> Self {
        Self::new(Self::DRIFT_PPM)
    }
}
