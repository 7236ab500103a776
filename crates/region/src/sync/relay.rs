//! A relay: sends on what it received, to those below it.
//!
//! The writer's machine so sends a region to one machine of each rack instead of to all, and
//! that one to its neighbours. Nothing else changes on the way:
//!
//! * **Names.** A version keeps the epoch and the number that its writer gave it. Receivers
//!   go on from what they have when a relay began anew, and one that heard a later writer
//!   passes over a former one's versions, wherever it hears them.
//! * **Whole versions.** A relay sends what it has whole, and has all of it: what a receiver
//!   below lacks, whether a piece or everything, it gets from there.
//! * **Ages** count from the writer: each hop adds the time on its wire and that a version
//!   lay, takes nothing away.

use stateplane_base::Time;

use super::mutation::{Mutation, broken};
use super::{Export, Import};

impl Export {
    /// Sends on what a receiver of the same region has; `copy`: the bytes of that version.
    /// To be called whenever that receiver was turned, which began with [nothing](super::At).
    pub fn pass_on(&mut self, now: Time, from: &Import, copy: &[u8]) {
        // What it has from an earlier life it knows too little of.
        let (Some(current), Some(day_ns)) = (from.current(), from.day_ns()) else {
            return;
        };
        let current = if broken(Mutation::RelaysAreOrigins) {
            now
        } else {
            current
        };
        let has = from.has();
        if has > self.at() && self.is_ready(now) {
            self.update(now, copy, has, day_ns);
        }
        // What is being sent may be another version: an older one, while receivers have their
        // time, or a newer one, if this receiver began anew. Of that nothing is known here.
        if has == self.at() || broken(Mutation::AgesOfOthers) {
            self.checked(current);
        }
    }
}
