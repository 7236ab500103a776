//! Looks at the replicas after every step they take, and compares them with
//! each other.
use crate::node::{Node, Role};
use crate::plan::MS;
use crate::recorder::Story;
use crate::shared::Shared;
use crate::slots::Slots;
use stateplane_group as group;
use stateplane_group::{Change, Membership};
use stateplane_wire::group::{Seats, View};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

/// What is known of the one true order of execution.
#[derive(Default)]
pub(crate) struct Watch {
    /// `canon[i]`: fingerprint of the first `i + 1` operations, for all whose
    /// place some replica held to be final.
    canon: Vec<u64>,
    /// The store's fingerprint after so many operations.
    digests: BTreeMap<usize, u64>,
    slots: Slots,
    /// Whether copies of tables are looked at.
    shares: bool,
    /// The fingerprint of the tables that somebody showed after so many operations.
    shown: BTreeMap<usize, u64>,
    /// The newest view any replica has been in, and its members.
    newest: (u64, Membership),
    /// Who has entered the newest views; the first of them is established.
    entered: BTreeMap<u64, (Membership, Seats)>,
    /// What the members may be soon, and until when that is possible.
    soon: Vec<(u64, Membership)>,
}

/// A change that was asked for may be under way for so long.
const UNDER_WAY: u64 = 500 * MS;

/// The store's fingerprint costs a walk through it, so it is taken only after
/// every so many operations.
const DIGEST_EVERY: usize = 8;

impl Watch {
    /// `shares`: copies of tables are looked at, too.
    pub(crate) fn new(shares: bool) -> Self {
        Self {
            shares,
            ..Self::default()
        }
    }

    /// Looks at a replica that just did something.
    pub(crate) fn look(&mut self, index: usize, node: &mut Node) -> Result<(), String> {
        let Some(Role::Replica(core)) = &node.role else {
            return Ok(());
        };
        let stance = core.stance();
        let entry = |slot| core.entry(slot);
        let before = node.seen.as_ref();
        let durable = node.storage.is_some();
        let progress = stance.progress;
        if before != Some(&stance) {
            self.slots.look(index, before, &stance, durable, entry)?;
            node.sound = stance.role != group::Role::Booting;
            if node.sound {
                self.enters(index, progress.view, core.members());
            }
            node.seen = Some(stance);
        }
        // A leader executes ahead of the sync point, or of its disk; only what is final counts.
        let unwritten = durable && stance.role == group::Role::Leader;
        let ahead = progress.executed > progress.commit || unwritten;
        if self.shares && !unwritten {
            self.look_at_tables(index, node)?;
        }
        if ahead {
            return Ok(());
        }
        let told = node.story.borrow().executed.len();
        let print = node.story.borrow().fingerprint(told);
        if node.looked == print {
            return Ok(());
        }
        node.looked = print;
        self.compare(&node.story.borrow())?;
        if told.is_multiple_of(DIGEST_EVERY) {
            self.compare_digest(told, node)?;
        }
        Ok(())
    }

    /// What a replica's tables show is final, and what all others show after as many operations.
    fn look_at_tables(&mut self, index: usize, node: &mut Node) -> Result<(), String> {
        let Some(Role::Replica(core)) = &mut node.role else {
            return Ok(());
        };
        let (progress, story) = (core.progress(), node.story.borrow());
        let store = core.app_mut().inner_mut();
        let shared = node.shared.get_or_insert_with(|| Shared::new(store));
        let Some((count, print)) = shared.turn(store, progress, story.executed.len()) else {
            return Ok(());
        };
        let known = self.canon.get(count.wrapping_sub(1));
        if known.is_some_and(|known| *known != story.fingerprint(count)) {
            return Err(format!(
                "tables: r{index} shows operations that are not final"
            ));
        }
        match self.shown.insert(count, print) {
            Some(other) if other != print => Err(format!(
                "tables: r{index} shows others than somebody did after the same {count} operations"
            )),
            _ => Ok(()),
        }
    }

    /// Notes who is in which view.
    fn enters(&mut self, index: usize, view: View, members: &Membership) {
        let seat: Seats = 1 << index;
        let known = self.entered.get(&view);
        if known.is_some_and(|(_, seats)| seats & seat != 0) {
            return;
        }
        if view >= self.newest.0 {
            self.newest = (view, *members);
        }
        if self.established().is_some_and(|(first, _)| view < first) {
            return;
        }
        let (_, seats) = self.entered.entry(view).or_insert((*members, 0));
        *seats |= seat;
        if members.decides(*seats) {
            self.entered = self.entered.split_off(&view);
        }
    }

    /// The newest view that a majority has entered: no later one can do without it.
    fn established(&self) -> Option<(u64, Membership)> {
        let (view, (members, seats)) = self.entered.first_key_value()?;
        members.decides(*seats).then_some((*view, *members))
    }

    /// The seats of the newest membership.
    pub(crate) fn members(&self) -> Vec<usize> {
        seats(self.newest.1.seats()).collect()
    }

    /// A change is asked for.
    pub(crate) fn expect(&mut self, now: u64, change: Change) {
        let next = self
            .newest
            .1
            .changed(change.out, change.into.map(|j| (j, 1)));
        self.soon.retain(|(until, _)| *until > now);
        self.soon.extend(next.map(|next| (now + UNDER_WAY, next)));
    }

    /// How many replicas may lose their memory, whichever membership is in force. A life
    /// counts where it was admitted. One that is about to join has nothing to lose yet.
    pub(crate) fn spare(&self, now: u64, group: &[Node]) -> usize {
        let spare = |m: Membership, of: Seats, fresh: Seats| {
            let able = |j: usize| {
                let seat = u8::try_from(j).expect("seats are few");
                let admitted = group[j].life().is_some_and(|life| m.admits(seat, life));
                admitted || fresh & 1 << j != 0 && group[j].role.is_some()
            };
            let all = of.count_ones() as usize;
            let able = seats(of).filter(|j| able(*j)).count();
            able.saturating_sub(all / 2 + 1)
        };
        let both = |m: Membership, fresh| {
            let former = m.joint().then(|| spare(m, m.former(), 0));
            spare(m, m.seats(), fresh).min(former.unwrap_or(usize::MAX))
        };
        let established = self.established().unwrap_or(self.newest).1;
        let known = group.iter().filter_map(Node::membership).max();
        let known = known.map_or(usize::MAX, |(_, members)| both(members, 0));
        let soon = self.soon.iter().filter(|(until, _)| *until > now);
        let soon = soon.map(|(_, next)| both(*next, next.seats() & !next.former()));
        known
            .min(both(self.newest.1, 0))
            .min(both(established, 0))
            .min(soon.min().unwrap_or(usize::MAX))
    }

    /// All final stories are beginnings of one story.
    fn compare(&mut self, story: &Story) -> Result<(), String> {
        let (told, known) = (story.executed.len(), self.canon.len());
        let common = told.min(known);
        if common > 0 && story.fingerprint(common) != self.canon[common - 1] {
            let fork = (0..common).find(|i| story.fingerprint(i + 1) != self.canon[*i]);
            let at = fork.expect("they differ");
            return Err(format!(
                "canon: two different operations are final at {at}, one is #{}",
                story.executed[at].tag
            ));
        }
        self.canon
            .extend((known..told).map(|i| story.fingerprint(i + 1)));
        Ok(())
    }

    fn compare_digest(&mut self, told: usize, node: &Node) -> Result<(), String> {
        let Some(digest) = node.digest() else {
            return Ok(());
        };
        match self.digests.insert(told, digest) {
            Some(other) if other != digest => Err(format!(
                "digest: two states after the same {told} operations"
            )),
            _ => Ok(()),
        }
    }

    /// Whether all live members of the newest view are in it and have executed the same,
    /// and all others know that they are none.
    pub(crate) fn settled(&mut self, group: &[Node]) -> Result<bool, String> {
        let members = self.newest.1;
        let (inside, outside): (Vec<_>, Vec<_>) = group
            .iter()
            .enumerate()
            .filter(|(_, node)| node.role.is_some())
            .partition(|(j, _)| members.seats() & 1 << j != 0);
        if outside
            .iter()
            .any(|(_, node)| node.status().is_some_and(|s| s.member))
        {
            return Ok(false);
        }
        let mut statuses = inside.iter().filter_map(|(_, node)| node.status());
        let Some(first) = statuses.next() else {
            return Ok(false);
        };
        let idle = first.executed == first.len && first.commit == first.len;
        if !first.normal || !idle || first.members.joint() || statuses.any(|s| s != first) {
            return Ok(false);
        }
        for (_, node) in inside {
            self.compare(&node.story.borrow())?;
            let told = node.story.borrow().executed.len();
            self.compare_digest(told, node)?;
        }
        Ok(true)
    }

    /// The story on which all live members agree.
    pub(crate) fn story(&self, group: &[Node]) -> Rc<RefCell<Story>> {
        let members = self.members();
        let live = members
            .iter()
            .map(|j| &group[*j])
            .find(|node| node.role.is_some());
        live.map_or_else(Rc::default, |node| Rc::clone(&node.story))
    }
}

fn seats(set: Seats) -> impl Iterator<Item = usize> {
    (0..16).filter(move |j| set & 1 << j != 0)
}
