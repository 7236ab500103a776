//! Frames of every kind that the fast path tells apart, sound for the most part.

use stateplane_wire::checksum::{Sum, internet};

use crate::support::Random;
use crate::world::STATION;

/// Few of each, so that packets often belong to a flow.
pub(crate) const ADDRESSES: [[u8; 4]; 4] = [
    [10, 0, 0, 1],
    [10, 0, 0, 2],
    [192, 0, 2, 9],
    [198, 51, 100, 1],
];
pub(crate) const PORTS: [u16; 3] = [53, 4000, 61_234];

/// One of `from`.
pub(crate) fn one<T: Copy>(random: &mut Random, from: &[T]) -> T {
    from[random.below(from.len() as u64) as usize]
}

/// An address of the other family.
pub(crate) fn six(address: [u8; 4]) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&[0x20, 1, 0xd, 0xb8]);
    bytes[12..].copy_from_slice(&address);
    bytes
}

/// A transport header with data. The checksum is anything, nothing, or left unfinished, given
/// the sum of the addresses.
fn transport(random: &mut Random, protocol: u8, addresses: Sum, extra: usize) -> Vec<u8> {
    let mut bytes = vec![0; 20 + extra];
    random.fill(&mut bytes);
    let (from, to) = (one(random, &PORTS), one(random, &PORTS));
    bytes[0..2].copy_from_slice(&from.to_be_bytes());
    bytes[2..4].copy_from_slice(&to.to_be_bytes());
    let mut len = bytes.len() as u16;
    let at = match protocol {
        6 => {
            bytes[12] = if random.one_in(8) { 0x80 } else { 0x50 };
            bytes[13] = if random.one_in(4) {
                random.next() as u8
            } else {
                0x10
            };
            16
        }
        17 => {
            if random.one_in(10) {
                len = random.below(40) as u16;
            }
            bytes[4..6].copy_from_slice(&len.to_be_bytes());
            6
        }
        _ => {
            bytes[0] = one(random, &[0, 8, 128, 129, 8, 128, 3, 11, 135, 1]);
            bytes[4..6].copy_from_slice(&from.to_be_bytes());
            2
        }
    };
    let sum = match random.below(6) {
        0 => 0,
        1 => 0xffff,
        2 => addresses.word(u16::from(protocol)).word(len).fold(),
        _ => random.next() as u16,
    };
    bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    bytes
}

fn ipv4(random: &mut Random) -> Vec<u8> {
    let options = if random.one_in(5) {
        4 * random.below(11) as usize
    } else {
        0
    };
    let (from, to) = (one(random, &ADDRESSES), one(random, &ADDRESSES));
    let protocol = one(random, &[6, 6, 6, 6, 17, 17, 17, 17, 1, 1, 1, 1, 1, 47, 58]);
    let sum = Sum::default().bytes(&from).bytes(&to);
    let extra = random.below(120) as usize;
    let payload = transport(random, protocol, sum, extra);
    let mut header = vec![0; 20 + options];
    random.fill(&mut header);
    header[0] = 0x40 | (header.len() / 4) as u8;
    let total = (header.len() + payload.len()) as u16;
    header[2..4].copy_from_slice(&total.to_be_bytes());
    let fragment: u16 = match random.below(12) {
        0 => 0x2000,
        1 => random.below(0x2000) as u16,
        2 => 0xc000,
        _ => 0x4000,
    };
    header[6..8].copy_from_slice(&fragment.to_be_bytes());
    header[8] = one(random, &[64, 64, 64, 255, 3, 2, 1, 0]);
    header[9] = protocol;
    header[12..16].copy_from_slice(&from);
    header[16..20].copy_from_slice(&to);
    if random.one_in(30) {
        header[16] = 224;
    }
    header[10..12].fill(0);
    let mut sum = internet(&header);
    if random.one_in(20) {
        sum ^= 1 << random.below(16);
    }
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    [header, payload].concat()
}

fn ipv6(random: &mut Random) -> Vec<u8> {
    let (from, to) = (six(one(random, &ADDRESSES)), six(one(random, &ADDRESSES)));
    let protocol = one(
        random,
        &[6, 6, 6, 6, 17, 17, 17, 17, 58, 58, 58, 58, 58, 47, 1, 59],
    );
    let sum = Sum::default().bytes(&from).bytes(&to);
    let extra = random.below(120) as usize;
    let mut payload = transport(random, protocol, sum, extra);
    let mut next = protocol;
    let headers = if random.one_in(3) { random.below(9) } else { 0 };
    for number in 0..headers {
        let mut extension = vec![0; 8 * (1 + random.below(3) as usize)];
        random.fill(&mut extension);
        extension[0] = next;
        extension[1] = (extension.len() / 8 - 1) as u8;
        if random.one_in(3) {
            extension[3] = 0;
        }
        next = one(random, &[60, 60, 60, 60, 60, 60, 43, 44, 51]);
        if number + 1 == headers && random.one_in(2) {
            next = 0;
        }
        payload.splice(..0, extension);
    }
    let mut header = vec![0; 40];
    random.fill(&mut header[1..4]);
    header[0] = 0x60 | random.below(16) as u8;
    header[4..6].copy_from_slice(&(payload.len() as u16).to_be_bytes());
    header[6] = next;
    header[7] = one(random, &[64, 64, 64, 255, 3, 2, 1, 0]);
    header[8..24].copy_from_slice(&from);
    header[24..40].copy_from_slice(&to);
    if random.one_in(30) {
        header[24] = 0xff;
    }
    [header, payload].concat()
}

/// A frame of at least 14 bytes (the kernel runs no shorter ones), damaged at times.
pub(crate) fn frame(random: &mut Random) -> Vec<u8> {
    let mut frame = vec![0; 12];
    random.fill(&mut frame);
    if !random.one_in(40) {
        frame[..6].copy_from_slice(&STATION.0);
    }
    let tags = if random.one_in(5) { random.below(4) } else { 0 };
    for _ in 0..tags {
        let kind = one(random, &[[0x81, 0], [0x88, 0xa8]]);
        frame.extend(kind);
        frame.extend([random.next() as u8 & 0xf0, random.below(3) as u8]);
    }
    let (kind, packet) = match random.below(50) {
        0 => ([8, 6], ipv4(random)),
        1 => ([0x88, 0xcc], ipv6(random)),
        2..24 => ([0x86, 0xdd], ipv6(random)),
        _ => ([8, 0], ipv4(random)),
    };
    frame.extend(kind);
    frame.extend(packet);
    match random.below(10) {
        // Truncated anywhere.
        0 => frame.truncate(14 + random.below(frame.len() as u64 - 13) as usize),
        // Padded.
        1 => frame.extend(vec![0xee; random.below(40) as usize]),
        // One byte wrong.
        2 => {
            let at = random.below(frame.len().min(100) as u64) as usize;
            frame[at] = random.next() as u8;
        }
        _ => {}
    }
    frame
}
