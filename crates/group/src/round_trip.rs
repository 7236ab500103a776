//! How long answers take, learned as TCP does (RFC 6298). Who repeats a question must not measure
//! by its answer, which may be to either (Karn).

use core::time::Duration;

/// A smoothed round trip, once one is measured.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct RoundTrip(Option<Duration>);

impl RoundTrip {
    pub(crate) fn measured(&mut self, sample: Duration) {
        self.0 = Some(self.0.map_or(sample, |known| (known * 7 + sample) / 8));
    }

    /// Three round trips: an answer that takes longer is late.
    pub(crate) fn late(&self) -> Option<Duration> {
        self.0.map(|known| known * 3)
    }
}
