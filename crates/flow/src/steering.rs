//! Steering: which bucket, and so which instance, a frame belongs to.
//!
//! This is the *reference core* of the XDP steering program: both must give the
//! same answer for every frame, so the rules are exact and use only unsigned
//! 32-bit arithmetic (wrapping multiplication, xor, shift).
//!
//! # Rules of [`steer`], in this order
//!
//! `len` is the frame's length. All fields are big-endian. The first rule that
//! matches decides.
//!
//! 1. `len < 14` → **Drop**.
//! 2. EtherType (offset 12) `0x0806` → **Flood** (every instance hears ARP).
//! 3. EtherType not `0x0800` → **Pass** (VLAN tags, IPv6 and the rest belong to
//!    the switch's own kernel).
//! 4. Group bit (lowest bit of byte 0) set → **Pass** (broadcast, multicast).
//! 5. `len < 34` → **Drop**. With `ihl` = low nibble of byte 14, `header = ihl * 4`,
//!    `total` = 16-bit field at 16, `end = 14 + total`: version (high nibble of
//!    byte 14) ≠ 4, `ihl < 5`, `total < header` or `end > len` → **Drop**.
//!    Bytes at and after `end` are Ethernet padding and never read.
//! 6. A fragment (16-bit field at 20, `& 0x3fff`, ≠ 0: offset set or more to come)
//!    → *by address*: all fragments of a datagram meet at one instance, the first
//!    one too although it carries ports.
//! 7. `l4 = 14 + header`. Protocol (byte 23) 6 or 17: `l4 + 4 > end` → **Drop**;
//!    else *by endpoint*: from the inside `(protocol, source, port at l4)`, from the
//!    outside `(destination, port at l4 + 2)`.
//! 8. Protocol 1 (ICMP): `l4 + 8 > end` → **Drop**. By type (byte `l4`):
//!    - 0 or 8 (echo): *by endpoint* with the identifier (field at `l4 + 4`) as port.
//!    - 3, 11 or 12 (errors about a packet): rule 9.
//!    - any other: *by address*.
//! 9. The embedded packet starts at `e = l4 + 8`. `e + 20 > end` → **Drop**. With
//!    `eihl` = low nibble of byte `e`: version ≠ 4 or `eihl < 5` → **Drop**;
//!    `el4 = e + eihl * 4`, `el4 + 8 > end` → **Drop**. The error concerns the
//!    packet's *other* end: for an error from the inside the embedded
//!    **destination** is the inside endpoint; for one from the outside the embedded
//!    **source** is the outside endpoint.
//!    Let `eaddr` be that address. If the embedded fragment offset (field at
//!    `e + 6`, `& 0x1fff`) ≠ 0: *by address* of `eaddr` with the embedded protocol.
//!    Embedded protocol (byte `e + 9`) 6 or 17: *by endpoint* of `eaddr` and the
//!    port at `el4 + 2` (inside) or `el4` (outside). Protocol 1 with type (byte
//!    `el4`) 0 or 8: the same with the identifier at `el4 + 4`. Otherwise: *by
//!    address* of `eaddr` with the embedded protocol.
//! 10. Any other protocol: *by address*.
//!
//! *By endpoint* means [`inside_bucket`]`(protocol, address, port)` for frames from
//! the inside and [`outside_bucket`]`(address, port >> 8)` for frames from the
//! outside. *By address* means the same with port 0.
//!
//! The outside hash leaves out the protocol and the low eight bits of the port, so
//! an instance can find whole blocks of 256 ports whose answers steer back to it.
//! The hash has no key: who chooses endpoints can choose a bucket, and so an
//! instance, but gains nothing else, since state is not tied to instances.

/// Buckets a side's flows are hashed into; each belongs to one instance.
pub const BUCKETS: usize = 1024;

/// Ports of one block share a bucket: a block is `1 << BLOCK_SHIFT` ports.
pub const BLOCK_SHIFT: u32 = 8;

/// What a [`Table`] holds where no instance is live.
pub const NOBODY: u8 = u8::MAX;

const INSIDE_SEED: u32 = 0x1b56_c4e9;
const OUTSIDE_SEED: u32 = 0x7a3d_90f5;
const INSIDE_RANK_SEED: u32 = 0x2c1b_3c6d;
const OUTSIDE_RANK_SEED: u32 = 0x297a_2d39;

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_ARP: u16 = 0x0806;

/// Where a frame enters the switch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// From the private side: hosts behind the functions.
    Inside,
    /// From the public side.
    Outside,
}

/// What the switch does with a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Steer {
    /// To the instance that owns this bucket of the frame's side.
    Bucket(u16),
    /// To every instance.
    Flood,
    /// To the switch's own kernel.
    Pass,
    /// Malformed.
    Drop,
}

impl Steer {
    /// The number the XDP program uses for the same answer: a bucket is itself,
    /// then [`BUCKETS`]` + 0` flood, `+ 1` pass, `+ 2` drop.
    pub const fn code(self) -> u32 {
        match self {
            Steer::Bucket(bucket) => bucket as u32,
            Steer::Flood => BUCKETS as u32,
            Steer::Pass => BUCKETS as u32 + 1,
            Steer::Drop => BUCKETS as u32 + 2,
        }
    }
}

/// Spreads 32 bits so that every input bit moves every output bit.
///
/// ```text
/// x ^= x >> 16;  x *= 0x7feb352d;
/// x ^= x >> 15;  x *= 0x846ca68b;
/// x ^= x >> 16;
/// ```
#[inline]
pub const fn mix(mut x: u32) -> u32 {
    x ^= x >> 16;
    x = x.wrapping_mul(0x7feb_352d);
    x ^= x >> 15;
    x = x.wrapping_mul(0x846c_a68b);
    x ^ (x >> 16)
}

/// The bucket of an inside endpoint:
/// `mix(mix(address ^ 0x1b56c4e9) ^ (protocol << 16 | port)) >> 22`, where
/// `address` is the IPv4 address as a number (10.0.0.1 is `0x0a000001`).
#[inline]
pub const fn inside_bucket(protocol: u8, address: u32, port: u16) -> u16 {
    let endpoint = ((protocol as u32) << 16) | port as u32;
    (mix(mix(address ^ INSIDE_SEED) ^ endpoint) >> 22) as u16
}

/// The bucket of a block of outside ports:
/// `mix(mix(address ^ 0x7a3d90f5) ^ block) >> 22`, where `block` is `port >> 8`.
#[inline]
pub const fn outside_bucket(address: u32, block: u16) -> u16 {
    (mix(mix(address ^ OUTSIDE_SEED) ^ block as u32) >> 22) as u16
}

/// Where `frame`, which entered on `side`, goes. Total: any bytes have an answer.
pub fn steer(frame: &[u8], side: Side) -> Steer {
    steer_or_drop(frame, side).unwrap_or(Steer::Drop)
}

/// [`steer`], with `None` for a read beyond the packet's end.
fn steer_or_drop(frame: &[u8], side: Side) -> Option<Steer> {
    match be16(frame, 12)? {
        ETHERTYPE_ARP => return Some(Steer::Flood),
        ETHERTYPE_IPV4 if frame[0] & 1 == 0 => {}
        _ => return Some(Steer::Pass),
    }
    let first = *frame.get(14)?;
    let header = usize::from(first & 0x0f) * 4;
    let total = usize::from(be16(frame, 16)?);
    let packet = frame.get(..14 + total)?;
    if frame.len() < 34 || first >> 4 != 4 || header < 20 || total < header {
        return None;
    }
    let protocol = packet[23];
    let address = match side {
        Side::Inside => be32(packet, 26)?,
        Side::Outside => be32(packet, 30)?,
    };
    if be16(packet, 20)? & 0x3fff != 0 {
        return Some(bucket(side, protocol, address, 0));
    }
    let l4 = 14 + header;
    let port = match protocol {
        6 | 17 => {
            let (source, destination) = (be16(packet, l4)?, be16(packet, l4 + 2)?);
            match side {
                Side::Inside => source,
                Side::Outside => destination,
            }
        }
        1 => {
            packet.get(l4..l4 + 8)?;
            match packet[l4] {
                0 | 8 => be16(packet, l4 + 4)?,
                3 | 11 | 12 => return steer_error(packet, l4 + 8, side),
                _ => 0,
            }
        }
        _ => 0,
    };
    Some(bucket(side, protocol, address, port))
}

/// Rule 9: an ICMP error goes where the packet it is about went.
fn steer_error(packet: &[u8], start: usize, side: Side) -> Option<Steer> {
    let inner = packet.get(start..)?;
    inner.get(..20)?;
    let header = usize::from(inner[0] & 0x0f) * 4;
    if inner[0] >> 4 != 4 || header < 20 {
        return None;
    }
    let l4 = inner.get(header..header + 8)?;
    let protocol = inner[9];
    let (address, port) = match side {
        Side::Inside => (be32(inner, 16)?, be16(l4, 2)?),
        Side::Outside => (be32(inner, 12)?, be16(l4, 0)?),
    };
    let port = if be16(inner, 6)? & 0x1fff != 0 {
        0
    } else {
        match (protocol, l4[0]) {
            (6 | 17, _) => port,
            (1, 0 | 8) => be16(l4, 4)?,
            _ => 0,
        }
    };
    Some(bucket(side, protocol, address, port))
}

fn bucket(side: Side, protocol: u8, address: u32, port: u16) -> Steer {
    Steer::Bucket(match side {
        Side::Inside => inside_bucket(protocol, address, port),
        Side::Outside => outside_bucket(address, port >> BLOCK_SHIFT),
    })
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    let field = bytes.get(at..at + 2)?;
    Some(u16::from_be_bytes([field[0], field[1]]))
}

fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    let field = bytes.get(at..at + 4)?;
    Some(u32::from_be_bytes([field[0], field[1], field[2], field[3]]))
}

/// Which instance owns each bucket, for both sides.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Table {
    /// Owner of each inside bucket, or [`NOBODY`].
    pub inside: [u8; BUCKETS],
    /// Owner of each outside bucket, or [`NOBODY`].
    pub outside: [u8; BUCKETS],
}

impl Table {
    /// Rendezvous hashing: each bucket goes to the live instance that ranks highest
    /// for it. An instance's death moves only its own buckets, its return takes only
    /// those back, and every node computes the same table from the same set, in
    /// whatever order it lists them. [`NOBODY`] is not an instance and is skipped.
    pub fn compute(live: &[u8]) -> Table {
        Self::owners(live.iter().map(|&instance| (instance, 1)))
    }

    /// The same with weights: an instance's share of the buckets is as its weight among
    /// those of all (weighted rendezvous hashing: Schindelhauer and Schomaker, 2005). A
    /// change of one weight moves buckets to or from that instance only, and no more than
    /// its share changes by. Of weight 0 an instance gets none; equal weights make the
    /// table of [`Table::compute`], as do weights that are all 0.
    pub fn weighted(live: &[(u8, u32)]) -> Table {
        let someone = live.iter().any(|(_, weight)| *weight > 0);
        let weight = |weight| if someone { weight } else { 1 };
        Self::owners(live.iter().map(|&(n, w)| (n, weight(w))))
    }

    fn owners(live: impl Iterator<Item = (u8, u32)> + Clone) -> Table {
        let live = live.filter(|(instance, weight)| *instance != NOBODY && *weight > 0);
        let side = |seed: u32| {
            core::array::from_fn(|bucket| {
                let spread = mix(bucket as u32 ^ seed);
                let mut best = None;
                for (instance, weight) in live.clone() {
                    let rank = mix(spread ^ mix(u32::from(instance) + 1));
                    let bid = Bid::new(rank, weight, instance);
                    if best.as_ref().is_none_or(|best| bid.beats(best)) {
                        best = Some(bid);
                    }
                }
                best.map_or(NOBODY, |bid| bid.instance)
            })
        };
        Table {
            inside: side(INSIDE_RANK_SEED),
            outside: side(OUTSIDE_RANK_SEED),
        }
    }

    /// Everything from the inside to one instance and everything from the outside to
    /// another: the asymmetric case on purpose.
    pub const fn pinned(inside: u8, outside: u8) -> Table {
        Table {
            inside: [inside; BUCKETS],
            outside: [outside; BUCKETS],
        }
    }

    /// The instance that receives answers to `address` at ports of `block`.
    pub const fn owner_of_block(&self, address: u32, block: u16) -> u8 {
        self.outside[outside_bucket(address, block) as usize]
    }
}

/// What an instance bids for a bucket. It depends on nobody else, so that a weight that
/// changes moves no bucket between others.
struct Bid {
    rank: u32,
    /// How far the rank is from the highest, on a logarithmic scale: of a lower number
    /// divided by the weight the chance to be the lowest is as the weight.
    distance: u64,
    weight: u64,
    instance: u8,
}

impl Bid {
    fn new(rank: u32, weight: u32, instance: u8) -> Self {
        Self {
            rank,
            distance: (32 << LOG_BITS) - log2(rank),
            weight: u64::from(weight),
            instance,
        }
    }

    fn beats(&self, other: &Self) -> bool {
        // distance / weight, without dividing: 38 and 32 bits at most.
        let (mine, others) = (self.distance * other.weight, other.distance * self.weight);
        match mine.cmp(&others) {
            // Ranks that the logarithm does not tell apart.
            core::cmp::Ordering::Equal => (self.rank, self.instance) > (other.rank, other.instance),
            order => order.is_lt(),
        }
    }
}

/// Binary digits of a logarithm after the point.
const LOG_BITS: u32 = 26;
/// The logarithms of 1 to 2 in steps of 1/256: between them straight lines do.
const LOGS: [u32; 257] = {
    let mut logs = [0; 257];
    let mut step = 0;
    while step <= 256 {
        logs[step] = fraction(256 + step as u64);
        step += 1;
    }
    logs
};

/// The logarithm of `n / 256`, which is from 1 to 2, digit by digit: each squaring
/// doubles it.
const fn fraction(n: u64) -> u32 {
    let (mut x, mut log, mut digit) = (n << 23, 0u32, 0);
    if n == 512 {
        return 1 << LOG_BITS;
    }
    while digit < LOG_BITS {
        x = ((x as u128 * x as u128) >> 31) as u64;
        log <<= 1;
        if x >= 2 << 31 {
            x >>= 1;
            log |= 1;
        }
        digit += 1;
    }
    log
}

/// The binary logarithm of `n + 1`, with [`LOG_BITS`] digits after the point: the same on
/// every machine, and of larger numbers never smaller.
const fn log2(n: u32) -> u64 {
    let n = n as u64 + 1;
    let whole = n.ilog2();
    // The digits behind the first, as 32 bits.
    let rest = (n << (32 - whole)) & 0xffff_ffff;
    let (step, within) = ((rest >> 24) as usize, rest & 0xff_ffff);
    let (low, high) = (LOGS[step] as u64, LOGS[step + 1] as u64);
    ((whole as u64) << LOG_BITS) + low + (((high - low) * within) >> 24)
}

#[cfg(test)]
#[path = "steering_tests.rs"]
mod tests;
