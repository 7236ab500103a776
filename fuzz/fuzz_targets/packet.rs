//! Headers of any frame: offsets stay within the frame, and completing a checksum or
//! answering with an ICMP error writes only what is right. ARP packets are written as read.
#![no_main]

#[path = "../sums.rs"]
#[allow(dead_code, reason = "each target uses its part")]
mod sums;

use std::net::Ipv4Addr;

use libfuzzer_sys::fuzz_target;
use stateplane_wire::arp::Arp;
use stateplane_wire::checksum::finish_partial_checksum;
use stateplane_wire::icmp_error::{self, Error};
use stateplane_wire::packet::Headers;

fuzz_target!(|data: &[u8]| {
    let _ = Headers::parse(data);
    if let Ok(arp) = Arp::parse(data) {
        let mut written = [0; 64];
        assert!(arp.write(&mut written).is_some());
        assert_eq!(Arp::parse(&written), Ok(arp));
    }
    let mut frame = data.to_vec();
    // Nearly all frames have a wrong header checksum; that is one path, try the others.
    sums::mend_header(&mut frame);
    let Ok(headers) = Headers::parse(&frame) else {
        return;
    };
    assert!(headers.l3 < headers.l4 && headers.l4 <= headers.end);
    assert!(headers.end <= frame.len());
    assert!(
        sums::header_right(&frame),
        "a wrong header sum was accepted"
    );
    let right = sums::transport_right(&frame);
    if finish_partial_checksum(&mut frame, &headers) || right == Some(true) {
        assert_ne!(sums::transport_right(&frame), Some(false));
    }
    assert_eq!(
        Headers::parse(&frame),
        Ok(headers),
        "checksums move nothing"
    );
    let mut error = vec![0; frame.len() + 64];
    error[..frame.len()].copy_from_slice(&frame);
    let from = Ipv4Addr::new(192, 0, 2, 1);
    match icmp_error::build(&mut error, &headers, Error::HostUnreachable, from) {
        None => assert_eq!(error[..frame.len()], frame, "untouched"),
        Some(len) => {
            error.truncate(len);
            assert!(sums::header_right(&error), "header sum of an error");
            assert_ne!(sums::transport_right(&error), Some(false));
        }
    }
});
