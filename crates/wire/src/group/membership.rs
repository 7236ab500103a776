//! Who belongs to a view, and which sets of replicas decide in it.

use super::{MAX_REPLICAS, View};
use crate::codec::{Malformed, Reader, Writer};

/// A set of seats, one bit each.
pub type Seats = u16;

/// The life that fills each seat; 0 where none does.
pub type Lives = [u64; MAX_REPLICAS];

/// The seat whose replica leads `view`: the lowest four bits of its number, so that it
/// does not depend on who knows which membership.
pub const fn leader_of(view: View) -> u8 {
    (view & 15) as u8
}

/// Who belongs to a view. While it is *joint* the members of the view before it that
/// the change found in office count as well: whatever is decided needs a majority of
/// both.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Membership {
    lives: Lives,
    now: Seats,
    former: Seats,
}

impl Membership {
    /// The given lives; 0 for seats nobody fills.
    pub fn of(lives: Lives) -> Self {
        let filled = (0..MAX_REPLICAS).filter(|j| lives[*j] != 0);
        let now = filled.fold(0, |set, j| set | 1 << j);
        Self {
            lives,
            now,
            former: 0,
        }
    }

    /// The life that fills `seat`, in the new or the former membership (0 = none).
    pub fn life(&self, seat: u8) -> u64 {
        self.lives.get(usize::from(seat)).copied().unwrap_or(0)
    }

    /// Whether this life of `seat` has a say.
    pub fn admits(&self, seat: u8, life: u64) -> bool {
        life != 0 && self.life(seat) == life
    }

    /// Its seats.
    pub const fn seats(&self) -> Seats {
        self.now
    }

    /// The seats before a change that is not complete (none = nothing is changing).
    pub const fn former(&self) -> Seats {
        self.former
    }

    /// Whether `seat` belongs to it, the former members left aside.
    pub const fn has(&self, seat: u8) -> bool {
        seat < 16 && self.now & 1 << seat != 0
    }

    /// Whether a change is not complete.
    pub const fn joint(&self) -> bool {
        self.former != 0
    }

    /// Number of seats.
    pub const fn size(&self) -> usize {
        self.now.count_ones() as usize
    }

    /// A majority: f+1 of 2f+1.
    pub const fn quorum(&self) -> usize {
        self.size() / 2 + 1
    }

    /// Whether `set`, and `extra` more, make a majority; of the former members, too,
    /// if the membership is joint.
    pub const fn decides_with(&self, set: Seats, extra: usize) -> bool {
        majority(self.now, set, extra) && (self.former == 0 || majority(self.former, set, extra))
    }

    /// Whether `set` decides.
    pub const fn decides(&self, set: Seats) -> bool {
        self.decides_with(set, 0)
    }

    /// A new life fills a seat that has one.
    pub fn renew(&mut self, seat: u8, life: u64) {
        if let Some(filled) = self.lives.get_mut(usize::from(seat))
            && *filled != 0
        {
            *filled = life.max(*filled);
        }
    }

    /// The joint membership on the way from this one to that without the seat `out` and
    /// with the life `into`; `None` if this one is joint already, or has not the one, or
    /// has the other, or nobody would be left.
    #[must_use]
    pub fn changed(&self, out: Option<u8>, into: Option<(u8, u64)>) -> Option<Self> {
        let mut next = *self;
        if let Some(seat) = out {
            next.now &= !(u16::from(self.has(seat)) << seat);
        }
        if let Some((seat, life)) = into {
            *next
                .lives
                .get_mut(usize::from(seat))
                .filter(|_| life != 0)? = life;
            next.now |= u16::from(!self.has(seat)) << seat;
        }
        let steps = usize::from(out.is_some()) + usize::from(into.is_some());
        let taken = (self.now ^ next.now).count_ones() as usize;
        next.former = self.now;
        (!self.joint() && taken == steps && steps > 0 && next.now != 0).then_some(next)
    }

    /// The membership once its change is complete.
    #[must_use]
    pub fn settled(&self) -> Self {
        let mut lives = self.lives;
        for (j, life) in lives.iter_mut().enumerate() {
            if self.now & 1 << j == 0 {
                *life = 0;
            }
        }
        Self::of(lives)
    }

    /// The first view after `view` that a member leads.
    pub fn next_view(&self, view: View) -> View {
        let later = |seat: u8| self.has(seat) && seat > leader_of(view);
        match (0..16).find(|seat| later(*seat)) {
            Some(seat) => view & !15 | u64::from(seat),
            None => (view | 15) + 1 + u64::from(self.now.trailing_zeros() & 15),
        }
    }

    /// Appends it.
    pub fn encode(&self, w: &mut Writer<'_>) {
        w.u16(self.now);
        w.u16(self.former);
        let filled = self.lives.iter().filter(|life| **life != 0);
        filled.for_each(|life| w.u64(*life));
    }

    /// Reads what [`Self::encode`] wrote.
    pub fn decode(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        let (now, former) = (r.u16()?, r.u16()?);
        if (now | former) >> MAX_REPLICAS != 0 {
            return Err(Malformed("seats"));
        }
        let mut lives = Lives::default();
        for (j, life) in lives.iter_mut().enumerate() {
            if (now | former) & 1 << j != 0 {
                *life = r.u64()?;
                if *life == 0 {
                    return Err(Malformed("life"));
                }
            }
        }
        Ok(Self { lives, now, former })
    }
}

const fn majority(of: Seats, set: Seats, extra: usize) -> bool {
    (set & of).count_ones() as usize + extra > of.count_ones() as usize / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(n: usize) -> Membership {
        let mut lives = Lives::default();
        lives[..n].fill(7);
        Membership::of(lives)
    }

    #[test]
    fn views_pass_from_member_to_member() {
        let three = members(3);
        assert_eq!(three.next_view(0), 1);
        assert_eq!(three.next_view(2), 16);
        let changed = three
            .changed(Some(0), Some((5, 9)))
            .expect("possible")
            .settled();
        assert_eq!(changed.seats(), 0b10_0110);
        assert_eq!(changed.next_view(2), 5);
        assert_eq!(changed.next_view(5), 17, "seat 0 has left");
        assert_eq!(leader_of(changed.next_view(5)), 1);
        assert_eq!(changed.next_view(15), 17);
    }

    #[test]
    fn a_joint_membership_needs_both_majorities() {
        let joint = members(3).changed(Some(2), Some((3, 9))).expect("possible");
        assert!(joint.joint() && joint.admits(2, 7) && joint.admits(3, 9));
        assert!(!joint.decides(0b0110), "one of three new members");
        assert!(!joint.decides(0b1001), "one of three former members");
        assert!(joint.decides(0b0011) && joint.decides(0b1101));
        assert!(!joint.settled().admits(2, 7));
        assert!(joint.settled().decides(0b1001));
    }

    #[test]
    fn impossible_changes_are_refused() {
        let three = members(3);
        assert_eq!(three.changed(Some(3), None), None, "not a member");
        assert_eq!(three.changed(None, Some((1, 9))), None, "a member already");
        assert_eq!(three.changed(Some(2), Some((2, 9))), None, "the same seat");
        assert_eq!(three.changed(None, Some((9, 9))), None, "no such seat");
        assert_eq!(three.changed(None, None), None, "nothing to do");
        assert_eq!(
            members(1).changed(Some(0), None),
            None,
            "nobody would be left"
        );
        let joint = three.changed(None, Some((3, 9))).expect("possible");
        assert_eq!(joint.changed(None, Some((4, 9))), None, "one at a time");
    }

    #[test]
    fn a_restarted_member_keeps_its_seat() {
        let mut joint = members(3).changed(Some(2), None).expect("possible");
        joint.renew(2, 8);
        joint.renew(1, 9);
        joint.renew(4, 9);
        assert!(joint.admits(2, 8) && joint.admits(1, 9) && !joint.admits(4, 9));
    }
}
