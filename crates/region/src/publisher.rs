//! The writer's side of a region: the working image and how it becomes a version.

use std::io;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use stateplane_base::Time;
use zerocopy::IntoBytes;

use crate::clock;
use crate::dirty::{Log, union_runs};
use crate::fence::{Fence, Fenced};
use crate::layout::Word;
use crate::memory::{LINE, Private};
use crate::object::Object;
use crate::pace::Pace;
use crate::protocol::{self, Control};
use crate::spec::Spec;

/// A former writer may be amid a few publishes when it is fenced, not amid so many.
const SUCCEED_ATTEMPTS: u32 = 1000;
/// Images of this size stay in the processor's caches. Of larger ones a publish would wait
/// for memory, line by line, if nothing were done about it when the lines change.
const CACHED: usize = 1 << 20;
/// How long the distance between the machine's clock and the day's is believed.
const DAY_CHECK_NS: u64 = 1_000_000_000;

/// The writer's side of one region, whatever its contents: the working image, what changed
/// in it, and the published images. See [`crate::Writer`].
#[derive(Debug)]
pub struct Publisher {
    /// The image that the writer works on; nobody else sees it.
    working: Private,
    object: Object,
    /// What changed since the last publish.
    log: Log,
    /// What the last publish changed, the one before, and so on: the image that is written
    /// next lacks all of it.
    past: Vec<Log>,
    /// Whether lines of the images are fetched as soon as it is known that they will be
    /// written.
    fetch: bool,
    version: u64,
    next_image: usize,
    /// Where that lies in the object.
    next_at: usize,
    pace: Pace,
    /// The day's clock less the machine's, and until when that is believed.
    day: (u64, u64),
    fence: Option<Fence>,
}

impl Publisher {
    /// A region of zeros, nothing published yet.
    pub(crate) fn create(name: &str, spec: &Spec, epoch: u64) -> io::Result<Self> {
        let object = Object::create(name, spec, epoch)?;
        let plan = object.plan();
        let mut log = Log::new(plan.lines());
        let past = vec![log.clone(); plan.images - 1];
        log.mark_all();
        Ok(Self {
            working: Private::new(plan.lines())?,
            object,
            log,
            past,
            fetch: plan.len > CACHED,
            version: 0,
            next_image: 0,
            next_at: plan.image_at(0),
            pace: Pace::new(spec.interval),
            day: (0, 0),
            fence: None,
        })
    }

    /// Goes on from the last complete version of another writer's object.
    pub(crate) fn succeed(old: &Object, spec: &Spec, epoch: u64) -> io::Result<Self> {
        Self::may_succeed(old, spec)?;
        let mut new = Self::create(old.name(), spec, epoch)?;
        if old.control().is_none() {
            return Ok(new);
        }
        let into = &mut new.working.as_mut_bytes()[..spec.len];
        // Its writer is fenced or gone: whatever it may still publish is not in force.
        let read = protocol::read(old, SUCCEED_ATTEMPTS, |image| {
            old.load_image(image, 0, into)
        });
        let ((), last) = read.ok_or_else(|| {
            io::Error::other("the former writer publishes on; is it of an earlier release?")
        })?;
        new.version = last.version;
        // As old as it is: that there is a writer again makes nothing newer.
        let told = |word: Word| old.get(word);
        let current = told(Word::Published(last.image)).max(told(Word::Checked));
        let times = [current.min(clock::now()), told(Word::Day(last.image))];
        let next = new.prepare(times, last.version + 1, false);
        new.commit(next);
        Ok(new)
    }

    /// Whether a region of `spec` can go on from what `old` holds.
    pub(crate) fn may_succeed(old: &Object, spec: &Spec) -> io::Result<()> {
        if old.plan().len != spec.len || old.schema() != spec.schema {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!(
                    "the region holds {} bytes of schema {:016x}, not {} of {:016x}: delete it, or keep its layout",
                    old.plan().len,
                    old.schema(),
                    spec.len,
                    spec.schema
                ),
            ));
        }
        Ok(())
    }

    pub(crate) fn set_fence(&mut self, fence: Fence) {
        self.fence = Some(fence);
    }

    /// The working image's bytes.
    #[inline]
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.working.as_bytes()[..self.object.plan().len]
    }

    /// Bytes of the working image, to be changed: their lines count as changed.
    ///
    /// Always inlined: in a loop the log's pointers then stay in registers.
    #[inline(always)]
    pub(crate) fn bytes_mut(&mut self, at: usize, len: usize) -> &mut [u8] {
        let region = self.object.plan().len;
        assert!(at <= region && len <= region - at, "outside of the region");
        let (first, skip) = (at / LINE, at % LINE);
        if len > 0 && skip + len <= LINE {
            if self.log.mark(first) && self.fetch {
                self.expect(first);
            }
        } else {
            self.mark_lines(at, len);
        }
        &mut self.working.as_mut_bytes()[at..at + len]
    }

    /// Fetches what the next publish will write, while stores go on: the image's line of one that
    /// has just become dirty, and, one for one, of those that it lacks from earlier versions. Not
    /// earlier: they would not stay near. Not for a store: as far away as they are, what counts is
    /// how many can be under way, and readers keep theirs.
    #[inline]
    fn expect(&self, line: usize) {
        let number = self.log.listed().wrapping_sub(1);
        self.object.expect_line(self.next_at, line);
        if let Some(lacking) = self.past[0].nth(number) {
            self.object.expect_line(self.next_at, lacking);
        }
    }

    #[inline(never)]
    fn mark_lines(&mut self, at: usize, len: usize) {
        if len > 0 {
            self.log.mark_range(at / LINE, (at + len - 1) / LINE + 1);
        }
    }

    /// The call for every turn of the writer's loop: publishes what changed, if an
    /// interval has passed. Costs a few nanoseconds when nothing is due. The version, if
    /// there is a new one.
    ///
    /// A region that did not change is marked as checked instead, so that readers can tell
    /// data that is current from data whose writer is gone.
    ///
    /// # Errors
    /// A later writer has the region. Nobody will read what this one writes.
    #[inline]
    pub fn check_in(&mut self) -> Result<Option<u64>, Fenced> {
        let Some(now) = self.pace.due() else {
            return Ok(None);
        };
        if self.log.is_clean() {
            self.checked(now)?;
            return Ok(None);
        }
        self.publish_fenced(now).map(Some)
    }

    /// Publishes what changed, now. The version in force; the same as before if nothing
    /// has changed.
    ///
    /// # Errors
    /// As for [`Publisher::check_in`]; the version may be lost.
    pub fn publish(&mut self) -> Result<u64, Fenced> {
        let now = clock::now();
        if self.log.is_clean() {
            self.checked(now)?;
            return Ok(self.version);
        }
        self.publish_fenced(now)
    }

    /// What is in force is all there is; a writer that rests learns here, too, that it was
    /// replaced.
    #[inline]
    fn checked(&self, now: u64) -> Result<(), Fenced> {
        self.check_fence()?;
        self.object.set(Word::Checked, now);
        Ok(())
    }

    #[inline]
    fn publish_fenced(&mut self, now: u64) -> Result<u64, Fenced> {
        self.check_fence()?;
        let version = self.publish_at(now, self.version + 1);
        self.confirm()?;
        Ok(version)
    }

    fn check_fence(&self) -> Result<(), Fenced> {
        self.fence.as_ref().map_or(Ok(()), Fence::check)
    }

    /// Whether what was just published counts: if nobody had been promised the region
    /// *after* it was in force, whoever is promised it later goes on from it. The fence
    /// keeps the look at the board behind the flip, which pairs with the successor's look
    /// at the control word behind the promise.
    fn confirm(&self) -> Result<(), Fenced> {
        if self.fence.is_some() {
            std::sync::atomic::fence(SeqCst);
        }
        self.check_fence()
    }

    fn publish_at(&mut self, now: u64, version: u64) -> u64 {
        let day = now.wrapping_add(self.day_distance(now));
        let next = self.prepare([now, day], version, false);
        self.commit(next);
        version
    }

    /// Publishes a copy of a region that is written elsewhere: under its version if that
    /// is newer here too, with the day when the original was published, and as old as it is
    /// known to be.
    pub(crate) fn publish_copy(
        &mut self,
        version: u64,
        day_ns: u64,
        current: Time,
    ) -> Result<u64, Fenced> {
        self.check_fence()?;
        let version = version.clamp(self.version + 1, protocol::MAX_VERSION);
        let known = current.as_nanos().min(clock::now());
        let next = self.prepare([known, day_ns], version, false);
        self.commit(next);
        self.confirm()?;
        Ok(version)
    }

    /// Says of a copy, which did not change, when that was last known of the original.
    pub(crate) fn confirm_copy(&self, current: Time) {
        let known = current.as_nanos().min(clock::now());
        let said = self.object.get(Word::Checked);
        self.object.set(Word::Checked, known.max(said));
    }

    /// Writes the next image; it is not in force yet.
    pub(crate) fn prepare(
        &mut self,
        [now, day]: [u64; 2],
        version: u64,
        together: bool,
    ) -> Control {
        assert!(version > self.version && version <= protocol::MAX_VERSION);
        let next = Control {
            version,
            image: self.next_image,
        };
        let object = &self.object;
        protocol::begin(object, next);
        self.copy_changes(next.image);
        let tell = |word: Word, value| object.set_unordered(word, value);
        tell(Word::Published(next.image), now);
        tell(Word::Day(next.image), day);
        tell(Word::Cut(next.image), if together { version } else { 0 });
        protocol::finish(object, next);
        next
    }

    /// Copies into an image what it lacks.
    fn copy_changes(&self, image: usize) {
        let (object, working) = (&self.object, &self.working);
        // What changed last comes last: it may still be on its way from memory.
        let logs = || self.past.iter().rev().chain(std::iter::once(&self.log));
        if logs().all(|log| log.list().is_some()) {
            for list in logs().filter_map(Log::list) {
                object.expect_listed(image, list);
            }
            // A line in several lists is copied again: that costs less than looking for it.
            for list in logs().filter_map(Log::list) {
                object.store_listed(image, working, list);
            }
        } else {
            union_runs(logs, |first, end| {
                object.store_image(image, first, &working[first..end]);
            });
        }
    }

    /// Puts the prepared image in force.
    pub(crate) fn commit(&mut self, next: Control) {
        protocol::flip(&self.object, next);
        self.version = next.version;
        self.next_image = (next.image + 1) % self.object.plan().images;
        self.next_at = self.object.plan().image_at(self.next_image);
        self.past.rotate_right(1);
        std::mem::swap(&mut self.log, &mut self.past[0]);
        self.log.clear();
    }

    fn day_distance(&mut self, now: u64) -> u64 {
        let (distance, until) = self.day;
        if now < until {
            return distance;
        }
        self.day = (clock::day().wrapping_sub(now), now + DAY_CHECK_NS);
        self.day.0
    }

    /// Undoes what changed since the last publish. Nothing to go back to, and nothing
    /// done, if nothing was published yet.
    pub fn rollback(&mut self) {
        let Some(last) = self.object.control() else {
            return;
        };
        let (object, working) = (&self.object, &mut self.working);
        self.log.runs(|first, end| {
            let len = object.plan().len;
            let (at, end) = (first * LINE, (end * LINE).min(len));
            object.load_image(last.image, at, &mut working.as_mut_bytes()[at..end]);
        });
        self.log.clear();
    }

    /// Publishes at most every `interval` from now on.
    pub fn set_interval(&mut self, interval: Duration) {
        self.pace = Pace::new(interval);
    }

    /// The version in force; 0 before the first publish.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Rises with every writer of the region; a former one is fenced.
    pub fn epoch(&self) -> u64 {
        self.object.epoch()
    }

    /// Lines that changed since the last publish.
    pub fn dirty_lines(&self) -> usize {
        self.log.count()
    }

    /// Calls `each` with the byte ranges (start, end) that the last publish changed.
    pub fn last_changes(&self, mut each: impl FnMut(usize, usize)) {
        let len = self.object.plan().len;
        self.past[0].runs(|first, end| each(first * LINE, (end * LINE).min(len)));
    }

    pub(crate) fn object(&self) -> &Object {
        &self.object
    }
}

/// Publishes several regions of one writer as one: a reader that reads them by
/// [`crate::read_together`] sees all of them before or all of them after.
///
/// The version of all becomes the same. The first region leads: name the regions in the
/// same order everywhere.
///
/// # Errors
/// A later writer has one of the regions; then nothing was published, or perhaps not all.
pub fn publish_together(regions: &mut [&mut Publisher]) -> Result<u64, Fenced> {
    let Some(newest) = regions.iter().map(|region| region.version).max() else {
        return Ok(0);
    };
    for region in regions.iter() {
        region.check_fence()?;
    }
    let (now, version) = (clock::now(), newest + 1);
    // All images are whole before the first is in force: the lead's control word decides.
    let prepared: Vec<Control> = regions
        .iter_mut()
        .map(|region| {
            let day = now.wrapping_add(region.day_distance(now));
            region.prepare([now, day], version, true)
        })
        .collect();
    for (region, next) in regions.iter_mut().zip(prepared) {
        region.commit(next);
    }
    for region in regions.iter() {
        region.confirm()?;
    }
    Ok(version)
}
