//! The two ends of the benchmark on one cable: nothing arrives but what was sent, and what
//! was not expected does not count.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::time::Duration;

use super::bench::{Arrived, Expected, Load, Range};
use crate::ethtool::{self, Offload};
use crate::ifreq;
use crate::link::Netlink;
use crate::netns::Namespace;

const HERE: Ipv4Addr = Ipv4Addr::new(10, 9, 4, 0);
const THERE: Ipv4Addr = Ipv4Addr::new(10, 9, 200, 1);
const MAC: [u8; 6] = [2, 0, 0, 0xbe, 0xef, 1];

fn frame(bytes: usize) -> Vec<u8> {
    let mut frame = vec![0x5a; bytes];
    let length = (bytes - 14) as u16;
    frame[..6].copy_from_slice(&MAC);
    frame[12..16].copy_from_slice(&[8, 0, 0x45, 0]);
    frame[16..18].copy_from_slice(&length.to_be_bytes());
    frame[18..24].copy_from_slice(&[0, 0, 0x40, 0, 64, 17]);
    frame[26..30].copy_from_slice(&HERE.octets());
    frame[30..34].copy_from_slice(&THERE.octets());
    frame[36..38].copy_from_slice(&9u16.to_be_bytes());
    frame[38..40].copy_from_slice(&(length - 20).to_be_bytes());
    frame
}

fn cable() -> io::Result<[Namespace; 2]> {
    let ends = [Namespace::create("sender")?, Namespace::create("sink")?];
    ends[0].run(|| {
        let netlink = Netlink::open()?;
        netlink.add_veth("a0", "b0")?;
        netlink.set_up("a0")?;
        netlink.move_to("b0", ends[1].as_fd())
    })?;
    ends[1].run(|| {
        Netlink::open()?.set_up("b0")?;
        ethtool::set_offload("b0", Offload::Gro, true)
    })?;
    Ok(ends)
}

/// What arrived of 5,000 frames of 3,000 flows, and the times it took.
fn send(ends: &[Namespace; 2], bytes: usize, timed: bool, expected: Expected) -> (u64, Arrived) {
    let mut range = ends[0]
        .run(|| {
            let load = Load {
                frame: frame(bytes),
                flows: 3000,
                hosts: 256,
                window: 64,
                ifindex: ifreq::index("a0")?,
                expected,
            };
            Range::new(load).map_err(io::Error::other)
        })
        .expect("generator");
    ends[1]
        .run(|| range.attach_sink("b0").map_err(io::Error::other))
        .expect("sink");
    ends[0]
        .run(|| {
            let mut send = || {
                range.set_timed(timed)?;
                range.run(5000)
            };
            send().map_err(io::Error::other)
        })
        .expect("run");
    std::thread::sleep(Duration::from_millis(20));
    let times = range.times().expect("times");
    let arrived = range.arrived().expect("arrived");
    assert_eq!(times.len() as u64, if timed { arrived.right } else { 0 });
    (range.sent().expect("sent"), arrived)
}

#[test]
fn frames_count_only_as_what_they_had_to_become() {
    let Ok(ends) = cable() else {
        eprintln!("skipped: namespaces need CAP_SYS_ADMIN");
        return;
    };
    let expected = Expected {
        source: HERE,
        source_prefix: 24,
        destination: THERE,
        mac: MAC,
    };
    for (bytes, timed) in [(60, false), (60, true), (1401, false), (1401, true)] {
        let (sent, Arrived { right, wrong }) = send(&ends, bytes, timed, expected);
        assert!(sent > 1000, "{sent} frames were sent");
        assert_eq!((right, wrong), (sent, 0), "{bytes} bytes, timed: {timed}");
    }
    let others = [
        Expected {
            source: Ipv4Addr::new(10, 9, 5, 0),
            ..expected
        },
        Expected {
            destination: HERE,
            ..expected
        },
        Expected {
            mac: [2; 6],
            ..expected
        },
    ];
    for other in others {
        let (sent, Arrived { right, wrong }) = send(&ends, 60, false, other);
        assert_eq!((right, wrong), (0, sent), "{other:?}");
    }
}

/// A generator that did not run is no silence of the device.
#[test]
fn numbered_frames_tell_how_long_their_generator_was_kept() {
    const KEPT: Duration = Duration::from_millis(30);
    let Ok(ends) = cable() else {
        eprintln!("skipped: namespaces need CAP_SYS_ADMIN");
        return;
    };
    let mut range = ends[0]
        .run(|| {
            let load = Load {
                frame: frame(60),
                flows: 1,
                hosts: 1,
                window: 64,
                ifindex: ifreq::index("a0")?,
                expected: Expected {
                    source: HERE,
                    source_prefix: 24,
                    destination: THERE,
                    mac: MAC,
                },
            };
            Range::new(load).map_err(io::Error::other)
        })
        .expect("generator");
    ends[1]
        .run(|| range.attach_sink("b0").map_err(io::Error::other))
        .expect("sink");
    range.set_numbered().expect("settings");
    range.set_rate(1_000_000, KEPT).expect("settings");
    ends[0]
        .run(|| {
            for _ in 0..2 {
                let before = range.arrived().map_err(io::Error::other)?;
                range.run(2000).map_err(io::Error::other)?;
                std::thread::sleep(KEPT);
                let after = range.arrived().map_err(io::Error::other)?;
                assert!(after.right > before.right, "{after:?}");
            }
            Ok(())
        })
        .expect("run");
    let pause = range.pause().expect("pause");
    assert!(pause.whole >= KEPT, "{pause:?}");
    assert!(pause.silence + KEPT <= pause.whole, "{pause:?}");
    let [flow] = range.heard().expect("heard")[..] else {
        panic!("there is one flow");
    };
    assert_eq!((flow.silence, flow.last), (pause.silence, pause.last));
}
