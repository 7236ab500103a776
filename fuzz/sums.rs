//! Checksums of IPv4 frames, written anew so that the product's own arithmetic is not
//! its own judge. Only plain Ethernet frames are looked at; of others nothing is said.

const L3: usize = 14;

/// One's complement sum (RFC 1071).
fn sum(bytes: &[u8], start: u32) -> u16 {
    let mut sum = start;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

fn word(bytes: &[u8], at: usize) -> usize {
    usize::from(bytes[at]) << 8 | usize::from(bytes[at + 1])
}

/// The IPv4 packet in a frame that is long enough for the lengths it names.
fn packet(frame: &[u8]) -> Option<(&[u8], usize)> {
    if frame.get(12..14)? != [8, 0] || frame.get(L3)? >> 4 != 4 {
        return None;
    }
    let header = usize::from(frame[L3] & 15) * 4;
    if header < 20 || frame.len() < L3 + header {
        return None;
    }
    let total = word(frame, L3 + 2);
    let packet = frame.get(L3..L3 + total)?;
    (total >= header).then_some((packet, header))
}

/// Writes the right header checksum into a frame that has an IPv4 header.
pub fn mend_header(frame: &mut [u8]) {
    let Some((_, header)) = packet(frame) else {
        return;
    };
    frame[L3 + 10..L3 + 12].fill(0);
    let right = !sum(&frame[L3..L3 + header], 0);
    frame[L3 + 10..L3 + 12].copy_from_slice(&right.to_be_bytes());
}

/// Whether the header checksum of an IPv4 frame is right.
pub fn header_right(frame: &[u8]) -> bool {
    packet(frame).is_none_or(|(packet, header)| sum(&packet[..header], 0) == 0xffff)
}

/// Whether the checksum of a whole TCP, UDP or ICMP packet is right.
pub fn transport_right(frame: &[u8]) -> Option<bool> {
    let (packet, header) = packet(frame)?;
    if word(packet, 6) & 0x3fff != 0 {
        return None; // a fragment: the sum is over more than is here
    }
    let mut segment = &packet[header..];
    let protocol = packet[9];
    match protocol {
        1 if segment.len() >= 8 => return Some(sum(segment, 0) == 0xffff),
        6 if segment.len() >= 20 => {}
        17 if segment.len() >= 8 => {
            if word(segment, 6) == 0 {
                return Some(true); // the sender computed none
            }
            segment = segment.get(..word(segment, 4)).filter(|s| s.len() >= 8)?;
        }
        _ => return None,
    }
    let length = u32::try_from(segment.len()).ok()?;
    let pseudo = sum(&packet[12..20], u32::from(protocol) + length);
    Some(sum(segment, u32::from(pseudo)) == 0xffff)
}

/// Writes the right checksum into a whole TCP, UDP or ICMP packet.
pub fn mend_transport(frame: &mut [u8]) {
    let Some((packet, header)) = packet(frame) else {
        return;
    };
    let (protocol, segment) = (packet[9], &packet[header..]);
    let (field, enough) = match protocol {
        1 => (2, 8),
        6 => (16, 20),
        17 => (6, 8),
        _ => return,
    };
    let length = match protocol {
        17 if segment.len() >= 8 => word(segment, 4),
        _ => segment.len(),
    };
    if segment.len() < length || length < enough {
        return;
    }
    let l4 = L3 + header;
    frame[l4 + field..l4 + field + 2].fill(0);
    let pseudo = match protocol {
        1 => 0,
        _ => sum(
            &frame[L3 + 12..L3 + 20],
            u32::from(protocol) + length as u32,
        ),
    };
    let right = match !sum(&frame[l4..l4 + length], u32::from(pseudo)) {
        0 if protocol == 17 => 0xffff,
        right => right,
    };
    frame[l4 + field..l4 + field + 2].copy_from_slice(&right.to_be_bytes());
}
