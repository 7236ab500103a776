//! The fast path's program against its reference, byte for byte, and while its tables change.

#[path = "../support/mod.rs"]
mod support;

mod changes;
mod frames;
mod real;
mod shares;
mod world;

use std::collections::BTreeMap;

use stateplane_flow::PortId;
use stateplane_flow::fast::{Punt, Verdict};
use stateplane_host::bpf::fastpath::{FastPath, Sizes};
use support::{Random, can_make_interfaces};
use world::World;

/// Each with tables of its own.
const WORLDS: u64 = 12;
const FRAMES: u32 = 2500;

#[test]
fn the_program_does_what_the_reference_does() {
    if !can_make_interfaces() {
        return;
    }
    let mut seen: BTreeMap<String, u32> = BTreeMap::new();
    for seed in 0..WORLDS {
        let mut random = Random(seed);
        let mut world = World::random(&mut random);
        world.settings.enable(seed != 3);
        let mut reference = world.reference();
        for _ in 0..FRAMES {
            let frame = frames::frame(&mut random);
            let port = PortId(random.below(2) as u8);
            let verdict = reference.compare(&world, &frame, port);
            let name = match verdict {
                Verdict::Redirect { len, .. } if len > frame.len() => "tunnelled".to_owned(),
                Verdict::Redirect { .. } => "redirected".to_owned(),
                Verdict::Function(punt) => punt.name().to_owned(),
                Verdict::Kernel => "kernel".to_owned(),
            };
            *seen.entry(name).or_default() += 1;
        }
        reference.compare_notes(&world);
    }
    println!("{seen:?}");
    let all = Punt::ALL.iter().filter(|punt| **punt != Punt::Busy);
    for name in all.map(|punt| punt.name()).chain(["tunnelled", "kernel"]) {
        assert!(
            seen.get(name).is_some_and(|count| *count >= 5),
            "{name}: {seen:?}"
        );
    }
    assert!(seen["redirected"] > FRAMES / 2, "{seen:?}");
}

#[test]
fn sizes_that_cannot_be_are_named() {
    let refused = |sizes: Sizes| FastPath::new(&sizes).unwrap_err().to_string();
    let odd = refused(Sizes {
        flows4: 1000,
        ..Sizes::default()
    });
    assert!(odd.contains("flows4 = 1000"), "{odd}");
    let many = refused(Sizes {
        hops: 70_000,
        ..Sizes::default()
    });
    assert!(many.contains("hops = 70000: 1 to 65280"), "{many}");
}
