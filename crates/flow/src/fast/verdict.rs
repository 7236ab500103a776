//! What becomes of a frame, and why the fast path leaves one alone.

/// Defines [`Punt`] with the number and the stable name of its counter, and what it means.
macro_rules! punts {
    ($($name:ident = $code:literal, $text:literal, $doc:literal;)*) => {
        /// Why the fast path leaves a packet to the function's slow path.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr(u8)]
        pub enum Punt { $(#[doc = $doc] $name = $code,)* }

        impl Punt {
            /// All reasons, in the order of their numbers.
            pub const ALL: &'static [Punt] = &[$(Punt::$name,)*];

            /// The name used in counters and JSON.
            pub const fn name(self) -> &'static str {
                match self { $(Punt::$name => $text,)* }
            }

            /// One sentence for people.
            pub const fn meaning(self) -> &'static str {
                match self { $(Punt::$name => $doc,)* }
            }
        }
    };
}

/// Counter: packets that the fast path forwarded.
pub const COUNTER_HITS: usize = 0;
/// Counter: their bytes, as they arrived.
pub const COUNTER_BYTES: usize = 1;
/// Counters, those of [`Punt`] among them.
pub const COUNTERS: usize = 21;

punts! {
    Disabled = 2, "disabled", "The fast path is switched off.";
    Unknown = 3, "unknown", "No entry for this flow.";
    Busy = 4, "busy", "The entry, its next hop, route or tunnel is being changed at this moment.";
    Expired = 5, "expired", "The entry's time is over.";
    Lease = 6, "lease", "The lease that the entry depends on is over or somebody else's.";
    TcpEvent = 7, "tcp-event", "A TCP flag that the function has to see.";
    Icmp = 8, "icmp", "An ICMP message other than echo, or the reply numbered 0.";
    Fragment = 9, "fragment", "A fragment.";
    Ttl = 10, "ttl", "Its time to live ends here.";
    Mtu = 11, "mtu", "Longer than the next hop's link carries.";
    HeaderChecksum = 12, "header-checksum", "The IPv4 header checksum is wrong.";
    PartialChecksum = 13, "partial-checksum", "The sender left the transport checksum unfinished.";
    Hop = 14, "hop", "The next hop is not known (any more).";
    Route = 15, "route", "No route to this destination is known here.";
    Reserved = 16, "reserved", "The function has to see packets to this destination.";
    Malformed = 17, "malformed", "Truncated, or lengths that contradict each other.";
    Extension = 18, "extension", "IPv6 extension headers that need a look.";
    Tunnel = 19, "tunnel", "The tunnel is not known, or its header does not fit in front.";
    Meter = 20, "meter", "What may pass of this subscriber without a look is used up.";
}

const _: () = assert!(Punt::ALL.len() + 2 == COUNTERS);

impl Punt {
    /// The number of its counter.
    pub const fn counter(self) -> usize {
        self as usize
    }
}

/// What becomes of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It was rewritten and leaves.
    Redirect {
        /// The device: its slot in the program's map of devices.
        device: u16,
        /// Where in the buffer the frame begins now: a tunnel's header needs room.
        start: usize,
        /// The frame's length now.
        len: usize,
    },
    /// It is as it was: the function decides.
    Function(Punt),
    /// It is as it was: not the function's business.
    Kernel,
}

/// How often what became of frames, as the program counts it on each processor.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters(pub [u64; COUNTERS]);

impl Counters {
    /// Counts a frame of so many bytes; the kernel's frames are not counted here.
    pub fn note(&mut self, verdict: &Verdict, bytes: usize) {
        match verdict {
            Verdict::Redirect { .. } => {
                self.0[COUNTER_HITS] += 1;
                self.0[COUNTER_BYTES] += bytes as u64;
            }
            Verdict::Function(punt) => self.0[punt.counter()] += 1,
            Verdict::Kernel => {}
        }
    }

    /// Packets that were left to the function for this reason.
    pub const fn punts(&self, punt: Punt) -> u64 {
        self.0[punt.counter()]
    }
}
