//! Groups and their numbers.

use stateplane_base::LogTime;

use crate::group::{Formation, Session};

/// The number of a group of replicas.
pub type GroupId = u16;

/// The highest sequence number, and the highest counter of a client: 56 bits, so that either
/// fits into the last block of a tag. At ten million a second they last 228 years.
pub const LAST_NUMBER: u64 = (1 << 56) - 1;

/// Groups one message may be for.
pub const MAX_STAMPS: usize = 4;

/// The groups a message is for: one to [`MAX_STAMPS`], all different.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Groups {
    count: u8,
    ids: [GroupId; MAX_STAMPS],
}

impl Groups {
    /// One group.
    pub const fn one(group: GroupId) -> Self {
        Self {
            count: 1,
            ids: [group, 0, 0, 0],
        }
    }

    /// Adds a group; false if there is no room or it is there already.
    #[must_use]
    pub fn push(&mut self, group: GroupId) -> bool {
        let at = self.len();
        if at >= MAX_STAMPS || self.iter().any(|g| g == group) {
            return false;
        }
        self.ids[at] = group;
        self.count += 1;
        true
    }

    /// How many; never zero.
    #[expect(clippy::len_without_is_empty, reason = "a message is for somebody")]
    pub fn len(&self) -> usize {
        usize::from(self.count)
    }

    /// The groups.
    pub fn iter(&self) -> impl Iterator<Item = GroupId> + '_ {
        self.ids[..self.len()].iter().copied()
    }

    /// All places, the unused ones zero.
    pub(super) const fn ids(&self) -> [GroupId; MAX_STAMPS] {
        self.ids
    }

    /// `None` unless `count` different groups are followed by zeros.
    pub(super) fn new(count: u8, ids: [GroupId; MAX_STAMPS]) -> Option<Self> {
        let (used, rest) = ids.split_at_checked(usize::from(count))?;
        let (first, more) = used.split_first()?;
        let mut groups = Self::one(*first);
        (more.iter().all(|id| groups.push(*id)) && rest.iter().all(|id| *id == 0)).then_some(groups)
    }
}

/// The sequence numbers of an ordered message, one for each group it is for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Stamps {
    groups: Groups,
    sequences: [u64; MAX_STAMPS],
}

impl Stamps {
    /// Numbers every group with what `number` says.
    pub fn new(groups: Groups, mut number: impl FnMut(GroupId) -> u64) -> Self {
        let mut sequences = [0; MAX_STAMPS];
        for (sequence, group) in sequences.iter_mut().zip(groups.iter()) {
            *sequence = number(group);
        }
        Self { groups, sequences }
    }

    /// Stamped for one group.
    pub const fn one(group: GroupId, sequence: u64) -> Self {
        Self {
            groups: Groups::one(group),
            sequences: [sequence, 0, 0, 0],
        }
    }

    /// The groups.
    pub const fn groups(&self) -> Groups {
        self.groups
    }

    /// The sequence number for `group`.
    pub fn sequence(&self, group: GroupId) -> Option<u64> {
        self.iter().find(|(g, _)| *g == group).map(|(_, s)| s)
    }

    /// All (group, sequence number) pairs.
    pub fn iter(&self) -> impl Iterator<Item = (GroupId, u64)> + '_ {
        self.groups.iter().zip(self.sequences)
    }

    /// All places, the unused ones zero.
    pub(super) const fn sequences(&self) -> [u64; MAX_STAMPS] {
        self.sequences
    }

    /// `None` if a place is used that belongs to no group, or a number is too high.
    pub(super) fn from_places(groups: Groups, sequences: [u64; MAX_STAMPS]) -> Option<Self> {
        let (used, unused) = sequences.split_at(groups.len());
        let sound = used.iter().all(|s| *s <= LAST_NUMBER) && unused.iter().all(|s| *s == 0);
        sound.then_some(Self { groups, sequences })
    }
}

/// What a sequencer gives a request.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Stamp {
    /// Its own number among the group's sequencers.
    pub sequencer: u8,
    /// The life of the group of replicas.
    pub formation: Formation,
    /// Who may stamp.
    pub session: Session,
    /// The sequencer's time.
    pub time: LogTime,
    /// One sequence number per group.
    pub stamps: Stamps,
}
