//! The bytes that the writer and the XDP program share: the twin of `xdp/fastpath.h`.
//!
//! Everything is an array of 64-bit little-endian *words*, so that safe Rust can share it with
//! the kernel as atomics. Offsets called `*_WORD` count words. Addresses and ports lie as in the
//! packet (network order); all other numbers are little-endian. Times are nanoseconds of
//! `CLOCK_MONOTONIC`, so nothing is divided per packet and nothing wraps.
//!
//! # A slot of the flow tables
//!
//! With `A` address words (IPv4: 1, IPv6: 4):
//!
//! ```text
//! word    IPv4 (64 bytes)                              IPv6 (128 bytes)
//! 0..A    source 4, destination 4                      source 16, destination 16
//! A       tag: source port 2, destination port 2, meta u32
//! A+1     state: bits 63..16 expiry, bits 15..0 sequence
//! A+2     rewrite: new source port 2, new destination port 2, flags u16, hop u16
//! A+3     guard: lease epoch u32, lease u16, tunnel u8, TCP flags to punt u8
//! A+4..   new source 4, new destination 4              new source 16, new destination 16
//! last-1  bytes u64                                    (between: zero)
//! last    seen: packets u32, last seen u32 (nanoseconds >> 20)
//! ```
//!
//! * *meta*: outer VLAN id in bits 0..12, inner in 12..24 (0: no tag), port in 24..29, kind in
//!   29..32. An echo's identifier is both ports. No kind is 0, so a free slot matches nothing.
//! * *state*: an odd sequence means that the writer is at work. The entry lives while
//!   `now < (state & !0xffff)`; a word of 0 was never used. One load tells both.
//! * *meter*: with [`FLAG_METER`] packets count at a meter. The low half of its number is where the new
//!   destination port would be, the rest from [`FLAG_METER_SHIFT`] on in the flags; what is rewritten of
//!   the ports becomes the first one.
//! * *hop*: an index of `hops`, or from [`HOP_BY_DESTINATION`] on: by the destination that the
//!   packet has when it leaves, among the routes of the port in the low byte.
//! * The last two words belong to the program; the writer clears them when it takes a slot.
//!
//! # Where a key lies
//!
//! [`Seed::hash`](super::Seed::hash) gives 64 bits. The first choice of slot is their low half, the
//! second one the high half of their product with the first multiplier
//! ([`Seed::second`](super::Seed::second)), both modulo the number of slots in use. Around each lies
//! its *bucket* of four neighbours.

/// Words of an IPv4 slot.
pub const SLOT4_WORDS: usize = 8;
/// Words of an IPv6 slot.
pub const SLOT6_WORDS: usize = 16;
/// Address words of an IPv4 key, `A` above.
pub const KEY4_WORDS: usize = 1;
/// Address words of an IPv6 key.
pub const KEY6_WORDS: usize = 4;
/// Slots of a bucket.
pub const BUCKET_SLOTS: usize = 4;

/// In meta: where the inner VLAN id begins.
pub const META_INNER_SHIFT: u32 = 12;
/// In meta: where the port begins.
pub const META_PORT_SHIFT: u32 = 24;
/// In meta: where the kind begins.
pub const META_KIND_SHIFT: u32 = 29;
/// Kind: TCP.
pub const KIND_TCP: u32 = 1;
/// Kind: UDP.
pub const KIND_UDP: u32 = 2;
/// Kind: ICMP echo, or ICMPv6 echo.
pub const KIND_ECHO: u32 = 3;

/// In state: the sequence. The rest is the expiry.
pub const STATE_SEQUENCE: u64 = 0xffff;

/// Flag: the source address is replaced.
pub const FLAG_SOURCE_ADDR: u16 = 1;
/// Flag: the source port is replaced.
pub const FLAG_SOURCE_PORT: u16 = 2;
/// Flag: the destination address is replaced.
pub const FLAG_DESTINATION_ADDR: u16 = 4;
/// Flag: the destination port is replaced.
pub const FLAG_DESTINATION_PORT: u16 = 8;
/// In flags: where the number of hops to count begins, by which the time to live falls.
pub const FLAG_TTL_SHIFT: u32 = 4;
/// Most hops an action counts.
pub const TTL_MAX: u8 = 15;
/// Flag: packets count at a meter.
pub const FLAG_METER: u16 = 256;
/// In flags: where what is beyond 16 bits of the meter's number begins.
pub const FLAG_METER_SHIFT: u32 = 9;
/// Meters that entries can name.
pub const METERS_MAX: u32 = 8388608;
/// From this hop on: by destination, out of the port in the low byte.
pub const HOP_BY_DESTINATION: u16 = 0xff00;

/// Last seen is in units of this many nanoseconds, as a power of two.
pub const SEEN_SHIFT: u32 = 20;

/// Words of a next hop: state, hardware addresses (destination 6, source 6), device u16, MTU u16, zero.
pub const HOP_WORDS: usize = 4;
/// State of a next hop, a route, a tunnel: the writer is at work.
pub const STATE_BUSY: u64 = 1;
/// State of a next hop, a route, a tunnel: it can be used. The bits above count changes.
pub const STATE_VALID: u64 = 2;

/// Routes of a set.
pub const ROUTE_WAYS: usize = 4;
/// Words of an IPv4 route: destination 4, hop u16, out port u8, state u8.
pub const ROUTE4_WORDS: usize = 1;
/// Words of an IPv6 route: state, destination 16, then hop u16, out port u8, zero.
pub const ROUTE6_WORDS: usize = 4;

/// Words of a lease: epoch u32 (0: nobody's), expiry in nanoseconds.
pub const LEASE_WORDS: usize = 2;

/// Words of a meter: limit and use, in bytes of frames; packets from inside and from outside; their
/// bytes; zero. The limit is the writer's, the others are the program's.
pub const METER_WORDS: usize = 8;

/// Words of a tunnel: state, then length u8, family u8 (4 or 6), offset of UDP u8 (0: none),
/// whether the UDP source port varies u8, zero; then the header.
pub const TUNNEL_WORDS: usize = 16;
/// Where the tunnel's header begins.
pub const TUNNEL_HEADER_WORD: usize = 2;
/// Longest header of a tunnel.
pub const TUNNEL_HEADER_MAX: usize = 112;

/// Ports of a function.
pub const PORTS: usize = 8;
/// Words of the settings.
pub const SETTINGS_WORDS: usize = 144;
/// Settings: whether the fast path is on (0 or 1).
pub const SETTINGS_ENABLED_WORD: usize = 0;
/// Settings: the hash's secrets: two words to add, two odd ones to multiply by.
pub const SETTINGS_SEED_WORD: usize = 1;
/// Settings: which slots of the flow tables, IPv4 and IPv6, are in use: a mask of their numbers,
/// all ones for the whole table. A table that grows begins with few.
pub const SETTINGS_IN_USE_WORD: usize = 5;
/// Settings: the first port's words.
pub const SETTINGS_PORTS_WORD: usize = 8;
/// Words of a port: hardware address 6 with flags u8, then the masks of the key: IPv4
/// addresses, tag, IPv6 source (for both of its words), IPv6 destination; zero.
pub const PORT_WORDS: usize = 8;
/// Settings: reserved IPv4 destinations, of two words: address 4, mask 4; then what to do u32,
/// ports they hold for (a bit each) u32.
pub const SETTINGS_RESERVED4_WORD: usize = 72;
/// Reserved IPv4 destinations.
pub const RESERVED4: usize = 16;
/// Settings: reserved IPv6 destinations, of five words: address 16, mask 16; then as for IPv4.
pub const SETTINGS_RESERVED6_WORD: usize = 104;
/// Reserved IPv6 destinations.
pub const RESERVED6: usize = 8;
/// What to do with a reserved destination: leave it to the function.
pub const RESERVED_FUNCTION: u32 = 1;
/// What to do with a reserved destination: leave it to the kernel.
pub const RESERVED_KERNEL: u32 = 2;

/// Port: IPv4 packets are the function's.
pub const PORT_IPV4: u8 = 1;
/// Port: IPv6 packets are the function's.
pub const PORT_IPV6: u8 = 2;
/// Port: tagged frames are the function's too.
pub const PORT_TAGGED: u8 = 4;
/// Port: senders may leave the transport checksum unfinished (virtual links).
pub const PORT_PARTIAL: u8 = 8;
/// Port: destinations have to be compared with the reserved ones, as keys leave them out.
pub const PORT_RESERVED: u8 = 16;

// The words are shared with the kernel as they lie in memory.
const _: () = assert!(cfg!(target_endian = "little"));
const _: () = assert!(SETTINGS_PORTS_WORD + PORTS * PORT_WORDS == SETTINGS_RESERVED4_WORD);
const _: () = assert!(SETTINGS_RESERVED4_WORD + RESERVED4 * 2 == SETTINGS_RESERVED6_WORD);
const _: () = assert!(SETTINGS_RESERVED6_WORD + RESERVED6 * 5 == SETTINGS_WORDS);
const _: () = assert!(8 * (TUNNEL_WORDS - TUNNEL_HEADER_WORD) == TUNNEL_HEADER_MAX);
