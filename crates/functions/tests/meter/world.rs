//! Instances of the meter alone.

use stateplane_flow::PortId;
use stateplane_functions::Runtime;

use crate::common::{SERVER, udp};
use crate::faulty::{Kind, Start, Watched};

pub type World = crate::faulty::World<Runtime<Watched>>;

impl Kind for Runtime<Watched> {
    type Notes = ();

    fn start(start: Start, _world: &World) -> Self {
        let meter = start.meter();
        Runtime::new(start.now, start.limits, meter)
    }
}

/// A packet of so many bytes at an instance, from the subscriber or to it. Whether it passed at once.
pub fn packet(
    world: &mut World,
    gate: usize,
    port: PortId,
    subscriber: [u8; 4],
    bytes: usize,
) -> bool {
    let payload = vec![7; bytes - 42];
    let frame = match port {
        PortId::INSIDE => udp((subscriber, 5000), (SERVER, 53), &payload),
        _ => udp((SERVER, 53), (subscriber, 5000), &payload),
    };
    world.frame(gate, port, &frame)
}
