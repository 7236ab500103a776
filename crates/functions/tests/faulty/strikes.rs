//! What goes wrong, and what must hold in the end.

use std::time::Duration;

use stateplane_functions::meter::ops::Tally;
use stateplane_lease::InstanceId;
use stateplane_lease::ops::Migrate;

use super::{FREE, Kind, LENGTH, Weather, World, state_config};

/// Long enough for an instance that stops to be answered, whatever is lost.
const GIVE_BACK: Duration = Duration::from_secs(2);

impl Weather {
    /// Of a world of this seed: every second one loses nothing.
    pub fn of(seed: u64) -> Self {
        let lossy = seed.is_multiple_of(2);
        Self {
            lost: if lossy { 30 } else { 0 },
            twice: 30,
            late: if lossy { 5 } else { 0 },
            slow: seed % 13,
        }
    }
}

impl<R: Kind> World<R> {
    /// Now and then something happens to instances, to the network or to `gate`, where packets are led.
    pub fn strike(&mut self, gate: &mut usize, kills: bool) {
        let gates = self.gates.len();
        let serves = |gate: &super::Gate<R>| gate.ends.is_none();
        if !self.gates[*gate].as_ref().is_some_and(serves) && self.rng.u8(..20) == 0 {
            // Which is noticed.
            *gate = self.rng.usize(..gates);
        }
        match self.rng.u32(..3000) {
            0..3 => *gate = self.rng.usize(..gates),
            3 if kills => self.kill(*gate),
            4 | 5 => {
                if let Some(dead) = self.gates.iter().position(Option::is_none) {
                    self.start(dead);
                }
            }
            6 if kills => self.cut = true,
            7..12 => self.cut = false,
            12 => {
                let partition = state_config().partition(FREE.into());
                if self.owner(FREE).is_some() {
                    let heir = InstanceId(self.rng.u64(1..=gates as u64));
                    // By somebody's packets, or by order.
                    let stays = [Duration::ZERO, LENGTH][self.rng.usize(..2)];
                    let _ = self.ask(&Migrate {
                        partition,
                        heir,
                        stays,
                    });
                }
            }
            13 => self.dismiss(*gate),
            _ => {}
        }
    }

    /// An instance stops, and ends when it has given everything back or could have.
    pub fn dismiss(&mut self, gate: usize) {
        let ends = self.log + GIVE_BACK.as_nanos() as u64;
        let runs = |gate: &&mut super::Gate<R>| gate.ends.is_none();
        if let Some(there) = self.gates[gate].as_mut().filter(runs) {
            there.ends = Some(ends);
            self.stop(gate);
        }
    }

    /// Nothing goes wrong any more, and who is left has time to come to terms.
    pub fn heal(&mut self) {
        (self.weather, self.cut) = (Weather::default(), false);
        self.pass(2 * GIVE_BACK);
        for gate in 0..self.gates.len() {
            if self.gates[gate].is_none() {
                self.start(gate);
            }
        }
        self.pass(Duration::from_secs(4));
    }

    /// What passed was counted, but for what an instance says that it could not tell. `all`: there is
    /// nothing of that kind.
    pub fn all_counted(&mut self, all: bool) {
        let mut lost = self.lost;
        for gate in self.gates.iter().flatten() {
            lost.add(&gate.lost());
        }
        let lost = if all { Tally::default() } else { lost };
        for (subscriber, passed) in self.passed.clone() {
            let counted = self.account(subscriber.octets());
            let counted = counted.map(|account| account.passed).unwrap_or_default();
            let told = counted.packets[0] + lost.packets[0];
            assert!(told >= passed.packets[0], "{subscriber}: {told} {passed:?}");
            if all {
                assert_eq!(counted, passed, "{subscriber}");
            }
        }
    }
}
