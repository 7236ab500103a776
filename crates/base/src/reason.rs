//! Why a packet did not pass. Every drop has exactly one reason and is counted
//! under it.

/// Defines [`Reason`] with its stable, greppable name and what it means.
macro_rules! reasons {
    ($($name:ident = $text:literal, $doc:literal;)*) => {
        /// Why a packet was dropped.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr(u8)]
        pub enum Reason { $(#[doc = $doc] $name,)* }

        impl Reason {
            /// All reasons, in the order of their discriminants.
            pub const ALL: &'static [Reason] = &[$(Reason::$name,)*];

            /// The name used in counters and JSON.
            pub const fn name(self) -> &'static str {
                match self { $(Reason::$name => $text,)* }
            }

            /// One sentence for people.
            pub const fn meaning(self) -> &'static str {
                match self { $(Reason::$name => $doc,)* }
            }
        }
    };
}

reasons! {
    Malformed = "malformed", "The packet is truncated or its lengths contradict each other.";
    Unsupported = "unsupported", "A protocol or feature this function does not translate.";
    Fragment = "fragment", "A fragment: only whole packets are translated.";
    BadChecksum = "bad-checksum", "The IPv4 header checksum is wrong.";
    NotOurs = "not-ours", "Neither source nor destination belongs to this function.";
    NoMapping = "no-mapping", "An inbound packet for an address and port nobody has mapped.";
    NoPort = "no-port", "No free external port is left in the pool.";
    Quota = "quota", "The subscriber has reached its limit of mappings.";
    ParkFull = "park-full", "Too many packets already wait for state.";
    ParkTimeout = "park-timeout", "The packet waited for state longer than allowed.";
    StoreUnavailable = "store-unavailable", "The store did not answer in time.";
    TtlExpired = "ttl-expired", "The time to live reached zero; the sender was told.";
    TooBig = "too-big", "Larger than the outgoing link's MTU; the sender was told.";
    NoRoute = "no-route", "The kernel's routing table has no route to the destination.";
    NoNeighbour = "no-neighbour", "The next hop's hardware address is not resolved.";
    TxFull = "tx-full", "The outgoing ring is full.";
    TableFull = "table-full", "The instance's flow table is full.";
    Allowance = "allowance", "The subscriber has used up what it may send and receive in this period.";
    IcmpLimited = "icmp-limited", "An ICMP error was due, but the rate limit forbade it.";
}
