//! What a broken peer says to both sides of a region's copy, between what the true one says.
//! Each part of the input is a message; one that is empty lets the true sides talk.
#![no_main]

use libfuzzer_sys::fuzz_target;
use stateplane_base::Time;
use stateplane_region::sync::{At, Export, Import, Life, Timing};

#[path = "../parts.rs"]
mod parts;

const REGION: u64 = 7;
const LEN: usize = 1_000;
const DATAGRAM: usize = 400;

fuzz_target!(|data: &[u8]| {
    let timing = Timing::default();
    let mut export = Export::new(REGION, timing, DATAGRAM);
    let mut import = Import::new(REGION, LEN, At::default(), timing);
    let mut source = [1; LEN];
    let mut now = Time::from_millis(1);
    for (version, message) in (1..).zip(parts::split(data)) {
        now = now + timing.patience;
        if !message.is_empty() {
            let _ = export.on_message(now, 2, message);
            take(&mut import, now, message);
            continue;
        }
        source[version as usize % LEN] ^= 1;
        export.update(now, &source, At { epoch: 1, version }, 0);
        export.checked(now);
        if let Some(report) = import.poll(now) {
            export.on_message(now, 1, &report).expect("well formed");
        }
        export.on_time(now);
        // A turn sends no more than it may, whatever was asked for.
        let mut bytes = 0;
        while let Some(outgoing) = export.poll(now) {
            assert!(outgoing.body.len() <= DATAGRAM);
            bytes += outgoing.body.len() * outgoing.to.len();
            take(&mut import, now, &outgoing.body);
        }
        assert!(bytes <= timing.burst + DATAGRAM * 64, "{bytes}");
        assert!(export.peers().count() <= 2);
    }
});

fn take(import: &mut Import, now: Time, message: &[u8]) {
    let had = import.has();
    let step = import
        .on_message(now, Life::default(), message)
        .ok()
        .flatten();
    assert!(import.has() >= had, "versions go on");
    if let Some(step) = step {
        assert_eq!(step.at(), import.has());
        step.for_each(|at, bytes| assert!(at + bytes.len() <= LEN));
    }
}
