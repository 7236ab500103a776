//! The receiver: datagrams in, versions out.

use stateplane_base::Time;

use super::message::{
    Collects, GAPS_MAX, Mark, Message, Piece, RUN_HEAD, Report, decode, encode_farewell, runs,
};
use super::mutation::{Mutation, broken};
use super::{At, Life, Malformed, Timing};
use crate::fence::Fenced;
use crate::memory::LINE;
use crate::publisher::Publisher;
use std::collections::BTreeSet;

/// The receiver's side of one region.
#[derive(Debug)]
pub struct Import {
    region: u64,
    len: usize,
    timing: Timing,
    has: At,
    /// Who sent that, and therefore had it; none: an earlier life of this receiver.
    had_by: Option<Life>,
    /// The sender that is asked; none: whoever sends.
    asks: Option<u16>,
    collects: Option<Collected>,
    /// When the next report is due.
    due: Time,
    reported: Time,
    marks: BTreeSet<Mark>,
    taken: Taken,
    /// When what it has was last known to be all there is, and was published.
    current: Option<Time>,
    day_ns: u64,
    /// What the last datagram told.
    told: Option<Time>,
}

/// What came of a version so far.
#[derive(Debug)]
struct Collected {
    at: At,
    base: u64,
    way: u32,
    /// Who began it.
    by: Life,
    day_ns: u64,
    current: Time,
    pieces: Vec<Option<Box<[u8]>>>,
    missing: usize,
    bytes: usize,
}

/// What a receiver has taken.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Taken {
    /// Versions that were whole.
    pub versions: u64,
    /// Of these, versions that came from nothing.
    pub from_nothing: u64,
    /// Versions given up for newer ones.
    pub given_up: u64,
    /// Pieces that came.
    pub pieces: u64,
    /// Pieces asked for because they had not come.
    pub missed: u64,
}

/// What leads a copy to a version, whole.
#[derive(Debug)]
pub struct Step {
    at: At,
    day_ns: u64,
    current: Time,
    from_nothing: bool,
    pieces: Vec<Box<[u8]>>,
    len: usize,
}

impl Step {
    /// The version that it leads to.
    pub fn at(&self) -> At {
        self.at
    }

    /// When that was published, in nanoseconds since 1970, by its writer's clock.
    pub fn day_ns(&self) -> u64 {
        self.day_ns
    }

    /// When that was last known to be all there is, on this machine's clock: too late by
    /// as long as datagrams were on their way.
    pub fn current(&self) -> Time {
        self.current
    }

    /// Whether whatever is not told is zero, instead of as before.
    pub fn is_from_nothing(&self) -> bool {
        self.from_nothing
    }

    /// Hands the changes, as first byte and bytes, to `each`.
    pub fn for_each(&self, mut each: impl FnMut(usize, &[u8])) {
        for piece in &self.pieces {
            let told = runs(piece, self.len.div_ceil(LINE), |line, bytes| {
                let at = line * LINE;
                // The last line of a region may be shorter than a line.
                each(at, &bytes[..bytes.len().min(self.len - at)]);
            });
            told.expect("checked when it came");
        }
    }

    /// Changes a copy of the region and publishes that. Its readers get the versions of
    /// the original, and the time of day when the original was published.
    pub fn publish(&self, copy: &mut Publisher) -> Result<u64, Fenced> {
        if self.from_nothing {
            copy.bytes_mut(0, self.len).fill(0);
        }
        self.for_each(|at, bytes| copy.bytes_mut(at, bytes.len()).copy_from_slice(bytes));
        copy.publish_copy(self.at.version, self.day_ns, self.current)
    }
}

impl Import {
    /// A receiver of the region of this number, which has `len` bytes. `has` is the
    /// version of the copy there is already.
    pub fn new(region: u64, len: usize, has: At, timing: Timing) -> Self {
        Self {
            region,
            len,
            timing,
            has,
            had_by: None,
            asks: None,
            collects: None,
            due: Time::ZERO,
            reported: Time::ZERO,
            marks: BTreeSet::new(),
            taken: Taken::default(),
            current: None,
            day_ns: 0,
            told: None,
        }
    }

    /// Who is asked from now on, where there are [several](super::Parents).
    pub fn ask(&mut self, sender: u16) {
        self.asks = Some(sender);
    }

    /// A datagram's body, and whose it is. A step, once it is whole: it must be taken, since
    /// the sender will be told that it was.
    pub fn on_message(
        &mut self,
        now: Time,
        from: Life,
        body: &[u8],
    ) -> Result<Option<Step>, Malformed> {
        self.told = None;
        match decode(body)? {
            Message::Piece(piece) if piece.region == self.region => {
                self.on_piece(now, from, &piece)
            }
            Message::Announce { region, at } if region == self.region => {
                self.on_announce(now, at);
                Ok(None)
            }
            Message::Still { region, at, age_ns } if region == self.region => {
                self.hear(now, at, age_ns);
                if at == self.has && at.version > 0 {
                    let current = Some(before(now, age_ns));
                    self.current = self.current.max(current);
                }
                Ok(None)
            }
            _ => Ok(None),
        }
    }

    fn hear(&mut self, now: Time, at: At, age_ns: u64) {
        if at >= self.has && at.version > 0 {
            self.told = Some(before(now, age_ns));
        }
    }

    /// When what this has, or something newer, was last known to be all there is, as its sender
    /// told in the datagram that was taken in last; none if it told nothing of the kind.
    pub fn told(&self) -> Option<Time> {
        self.told
    }

    fn on_announce(&mut self, now: Time, at: At) {
        if broken(Mutation::AnnouncesUnheard) {
            return;
        }
        let collects = self.collects.as_ref().is_some_and(|c| c.at == at);
        // What is collected may only be late; all else is worth an answer at once: that
        // nothing came, or that everything did and the report was lost.
        let wait = if collects {
            self.timing.patience / 4
        } else {
            Default::default()
        };
        self.hasten(now + wait);
    }

    fn hasten(&mut self, at: Time) {
        self.due = self
            .due
            .min(at)
            .max(self.reported + self.timing.patience / 4);
    }

    fn on_piece(
        &mut self,
        now: Time,
        from: Life,
        piece: &Piece<'_>,
    ) -> Result<Option<Step>, Malformed> {
        let lines = self.len.div_ceil(LINE);
        if piece.len != self.len as u64 || piece.count as usize > lines.max(1) {
            return Err(Malformed("of another region"));
        }
        runs(piece.runs, lines, |_, _| ())?;
        self.hear(now, piece.at, piece.age_ns);
        if piece.at <= self.has && !broken(Mutation::BackIsOn) {
            self.hasten(now + self.timing.patience / 2); // the report was lost
            return Ok(None);
        }
        if !self.collects_for(now, from, piece) {
            return Ok(None);
        }
        let Some(collected) = &mut self.collects else {
            return Ok(None);
        };
        let Some(place) = collected.pieces.get_mut(piece.index as usize) else {
            return Err(Malformed("another number of pieces"));
        };
        collected.current = collected.current.max(before(now, piece.age_ns));
        if place.is_none() || broken(Mutation::DuplicatesCount) {
            *place = Some(piece.runs.into());
            collected.missing -= 1;
            self.taken.pieces += 1;
            collected.bytes += piece.runs.len();
        }
        // A line is in a way once, with the head of its run.
        if collected.bytes > lines * (LINE + RUN_HEAD) {
            self.collects = None;
            return Err(Malformed("more than the region holds"));
        }
        let end = piece.index + 1 == piece.count;
        if collected.missing == 0 || end && broken(Mutation::LastPieceIsAll) {
            return Ok(self.complete(now, from));
        }
        self.due = now
            + if end {
                self.timing.patience / 4
            } else {
                self.timing.patience
            };
        Ok(None)
    }

    /// Makes room for what a piece belongs to; false: it is of no use.
    fn collects_for(&mut self, now: Time, from: Life, piece: &Piece<'_>) -> bool {
        if let Some(collected) = &self.collects {
            let same = (collected.at, collected.base) == (piece.at, piece.base);
            let way = collected.way == piece.way || broken(Mutation::WaysAreOne);
            if same && way {
                return true;
            }
            // What others than the asked one began nobody completes: it gives way, also to
            // something older, and takes nobody's place.
            let asked = |life: Life| self.asks.is_none_or(|asks| asks == life.sender);
            let (ours, theirs) = (asked(from), asked(collected.by));
            // Of two ways to one version the first is kept: what it lacks will be asked. But a
            // sender that began anew cuts another one, and nobody has the rest of the first.
            let anew = ours && (same || collected.by != from);
            let newer = piece.at > collected.at || piece.at == collected.at && anew;
            if theirs && !ours || ours == theirs && !newer {
                return false;
            }
        }
        let writer = piece.at.epoch == self.has.epoch || broken(Mutation::EpochsAreOne);
        // Who had this version knows what changed since, from whatever base before it is told.
        let had = self.had_by == Some(from) || broken(Mutation::LivesAreOne);
        let leads = |base| base == self.has.version || base < self.has.version && had;
        let known = writer && leads(piece.base);
        if piece.base != 0 && !known && !broken(Mutation::AnyBase) {
            // It leads on from where this is not: the sender does not know that.
            self.hasten(now);
            return false;
        }
        if self.collects.is_some() {
            self.marks.insert(Mark::GivenUp);
            self.taken.given_up += 1;
        }
        self.collects = Some(Collected {
            at: piece.at,
            base: piece.base,
            way: piece.way,
            by: from,
            day_ns: piece.day_ns,
            current: Time::ZERO,
            pieces: vec![None; piece.count as usize],
            missing: piece.count as usize,
            bytes: 0,
        });
        true
    }

    fn complete(&mut self, now: Time, from: Life) -> Option<Step> {
        let collected = self.collects.take()?;
        (self.has, self.had_by) = (collected.at, Some(from));
        (self.current, self.day_ns) = (Some(collected.current), collected.day_ns);
        self.taken.versions += 1;
        self.taken.from_nothing += u64::from(collected.base == 0);
        self.due = now;
        Some(Step {
            at: collected.at,
            day_ns: collected.day_ns,
            current: collected.current,
            from_nothing: collected.base == 0 && !broken(Mutation::NothingIsKept),
            pieces: collected.pieces.into_iter().flatten().collect(),
            len: self.len,
        })
    }

    /// The body of a report to the sender, if one is due.
    pub fn poll(&mut self, now: Time) -> Option<Vec<u8>> {
        if now < self.due {
            return None;
        }
        let mut gaps: Vec<(u32, u32)> = Vec::new();
        let mut collects = None;
        if let Some(collected) = &self.collects {
            collects = Some(Collects {
                base: collected.base,
                version: collected.at.version,
                way: collected.way,
            });
            let missing = (0u32..).zip(&collected.pieces).filter(|(_, p)| p.is_none());
            for (index, _) in missing {
                let full = gaps.len() == GAPS_MAX || broken(Mutation::GapsUnnamed);
                match gaps.last_mut() {
                    Some((first, count)) if *first + *count == index => *count += 1,
                    _ if full => break,
                    _ => gaps.push((index, 1)),
                }
            }
        }
        self.reported = now;
        self.taken.missed += gaps.iter().map(|(_, count)| u64::from(*count)).sum::<u64>();
        let wait = if collects.is_some() || self.has.version == 0 {
            self.timing.patience
        } else {
            self.timing.lease / 3
        };
        self.due = now + wait;
        let report = Report {
            region: self.region,
            has: self.has,
            collects,
            gaps,
        };
        let mut body = Vec::new();
        report.encode(&mut body);
        Some(body)
    }

    /// The body of a message to a sender that will not be asked any more.
    pub fn farewell(&self) -> Vec<u8> {
        let mut body = Vec::new();
        encode_farewell(self.region, &mut body);
        body
    }

    /// When [`Import::poll`] has something next, at the latest.
    pub fn next_timer(&self) -> Time {
        self.due
    }

    /// What was taken so far.
    pub fn taken(&self) -> Taken {
        self.taken
    }

    /// The newest version that was whole.
    pub fn has(&self) -> At {
        self.has
    }

    /// When the newest whole version was last known to be all there is, on this machine's
    /// clock; none before the first. A source that rests says so now and then, one that is
    /// gone or cannot be reached does not.
    pub fn current(&self) -> Option<Time> {
        self.current
    }

    /// When the newest whole version was published, in nanoseconds since 1970, by its
    /// writer's clock; none before the first.
    pub fn day_ns(&self) -> Option<u64> {
        (self.day_ns > 0).then_some(self.day_ns)
    }

    /// Tells the readers of the copy, which must hold what this has, how old that is.
    pub fn confirm(&self, copy: &mut Publisher) {
        if let Some(current) = self.current {
            copy.confirm_copy(current);
        }
    }

    /// Rare branches that were taken.
    pub fn marks(&self) -> impl Iterator<Item = Mark> {
        self.marks.iter().copied()
    }
}

/// So long before now.
fn before(now: Time, age_ns: u64) -> Time {
    Time::from_nanos(now.as_nanos().saturating_sub(age_ns))
}
