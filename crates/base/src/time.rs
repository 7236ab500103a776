use core::fmt;
use core::ops::{Add, Sub};
use core::time::Duration;

/// Defines a point on one clock, in whole nanoseconds since that clock's origin.
macro_rules! clock {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(u64);

        impl $name {
            /// The clock's origin.
            pub const ZERO: Self = Self(0);
            /// A point no clock reaches; used for "never".
            pub const MAX: Self = Self(u64::MAX);

            /// The point `ns` nanoseconds after the origin.
            pub const fn from_nanos(ns: u64) -> Self {
                Self(ns)
            }

            /// The point `ms` milliseconds after the origin.
            pub const fn from_millis(ms: u64) -> Self {
                Self(ms.saturating_mul(1_000_000))
            }

            /// Nanoseconds since the origin.
            pub const fn as_nanos(self) -> u64 {
                self.0
            }

            /// The span since `earlier`, or zero if `earlier` is later.
            pub const fn since(self, earlier: Self) -> Duration {
                Duration::from_nanos(self.0.saturating_sub(earlier.0))
            }
        }

        impl Add<Duration> for $name {
            type Output = Self;
            /// Saturates at [`Self::MAX`]: a deadline never wraps into the past.
            fn add(self, span: Duration) -> Self {
                let ns = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
                Self(self.0.saturating_add(ns))
            }
        }

        impl Sub<Duration> for $name {
            type Output = Self;
            /// Saturates at the origin.
            fn sub(self, span: Duration) -> Self {
                let ns = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
                Self(self.0.saturating_sub(ns))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}.{:09}s", self.0 / 1_000_000_000, self.0 % 1_000_000_000)
            }
        }
    };
}

clock! {
    /// A point on one node's own monotonic clock. Never sent to another node.
    Time
}

clock! {
    /// A point on the log's clock: the time the sequencer stamped, the only
    /// time a replicated procedure may see.
    LogTime
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_saturate_instead_of_wrapping() {
        assert_eq!(Time::MAX + Duration::from_secs(1), Time::MAX);
        assert_eq!(Time::ZERO - Duration::from_secs(1), Time::ZERO);
        assert_eq!(Time::ZERO.since(Time::MAX), Duration::ZERO);
    }
}
