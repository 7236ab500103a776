//! The readers' side: snapshots of a region, each whole and of one version.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use stateplane_base::Time;
use zerocopy::IntoBytes;

use crate::clock;
use crate::fence::Seat;
use crate::layout::Word;
use crate::memory::{self, Line};
use crate::object::{Object, OpenError};
use crate::protocol::{self, Control};
use crate::spec::{Content, fits, schema};

/// How often a read starts again before it says that the writer is too fast.
const ATTEMPTS: u32 = 64;

/// Which version was read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Edition {
    /// Rises with every publish, and with every change of writer.
    pub version: u64,
    /// Rises with every writer.
    pub epoch: u64,
    /// When it was published, on the clock that all processes of this machine share. Of a
    /// copy: when it was known to be the newest where it comes from.
    pub published: Time,
    /// The same as time of day, in nanoseconds since 1970.
    pub published_day_ns: u64,
    /// When it was known to be all there is: a writer that has nothing new still says so.
    pub current: Time,
}

impl Edition {
    /// How old it may be: how long ago it was known to be all there is.
    pub fn age(&self) -> Duration {
        Time::from_nanos(clock::now()).since(self.current)
    }
}

/// Why there is no snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ReadError {
    /// The writer has not published yet.
    #[error("nothing was published yet")]
    Empty,
    /// While it was copied, the writer came round to the same image, every time.
    #[error(
        "the writer publishes faster than this region can be copied; give it more images or a longer interval"
    )]
    Overrun,
    /// The place asked for is not in the region.
    #[error("bytes {at}..{end} are not within the region's {len}")]
    Outside {
        /// The first byte asked for.
        at: usize,
        /// The byte after the last.
        end: usize,
        /// Bytes of the region.
        len: usize,
    },
    /// The region has a new writer, whose memory is another, or was deleted.
    #[error("the region has a writer of epoch {by} now, or was deleted; attach again")]
    Superseded {
        /// The epoch of the new writer.
        by: u64,
    },
    /// The regions read together were not published together.
    #[error("the regions were not published together, or not in this order")]
    NotTogether,
}

/// One reader of a region. Clones read the same memory.
///
/// Reading never waits for the writer, and the writer never for a reader.
#[derive(Debug)]
pub struct Reader<T: ?Sized> {
    object: Arc<Object>,
    seat: Option<Seat>,
    contents: PhantomData<fn() -> Box<T>>,
}

impl<T: ?Sized> Clone for Reader<T> {
    fn clone(&self) -> Self {
        Self {
            object: Arc::clone(&self.object),
            seat: self.seat.clone(),
            contents: PhantomData,
        }
    }
}

impl<T: ?Sized + Content> Reader<T> {
    /// Maps the sealed memory of a writer. `meaning` is the schema its contents must have;
    /// "" takes any.
    pub fn open(fd: OwnedFd, meaning: &str) -> Result<Self, OpenError> {
        Self::of(Object::open(fd)?, meaning, None)
    }

    pub(crate) fn of(object: Object, meaning: &str, seat: Option<Seat>) -> Result<Self, OpenError> {
        let (found, expected) = (object.schema(), schema(meaning));
        if expected != 0 && found != expected {
            return Err(OpenError::Schema { found, expected });
        }
        let len = object.plan().len;
        if !fits::<T>(len) {
            return Err(OpenError::Type { found: len });
        }
        Ok(Self {
            object: Arc::new(object),
            seat,
            contents: PhantomData,
        })
    }

    /// The whole region at one version.
    pub fn snapshot(&self) -> Result<Snapshot<T>, ReadError> {
        let mut snapshot = Snapshot {
            buffer: Buffer {
                lines: vec![Line::ZERO; self.object.plan().lines()],
                len: self.object.plan().len,
                edition: Edition::default(),
            },
            contents: PhantomData,
        };
        self.copy_to(&mut snapshot.buffer)?;
        Ok(snapshot)
    }

    /// Brings a snapshot up to date; whether there was anything newer. Allocates nothing.
    pub fn refresh(&self, snapshot: &mut Snapshot<T>) -> Result<bool, ReadError> {
        let had = &mut snapshot.buffer.edition;
        // Read before the control word: what is in force then is all there was by then.
        let checked = self.object.get(Word::Checked);
        let same = |now: Control| now.version == had.version && self.object.epoch() == had.epoch;
        if self.object.control().is_some_and(same) {
            check_seat(&self.object, self.seat.as_ref())?;
            had.current = had.current.max(Time::from_nanos(checked));
            return Ok(false);
        }
        self.copy_to(&mut snapshot.buffer)?;
        Ok(true)
    }

    fn copy_to(&self, buffer: &mut Buffer) -> Result<(), ReadError> {
        if buffer.len != self.object.plan().len {
            *buffer = Buffer {
                lines: vec![Line::ZERO; self.object.plan().lines()],
                len: self.object.plan().len,
                edition: Edition::default(),
            };
        }
        let into = &mut buffer.lines.as_mut_bytes()[..buffer.len];
        let ((), edition) = self.read(|image| self.object.load_image(image, 0, into))?;
        buffer.edition = edition;
        Ok(())
    }

    /// One value of the region: cheaper than a snapshot, if that is all that is needed.
    /// `at` is its offset, as `std::mem::offset_of!` tells.
    #[inline]
    pub fn read_at<V: Content>(&self, at: usize) -> Result<(V, Edition), ReadError> {
        let mut value = V::new_zeroed();
        let len = self.object.plan().len;
        let end = at.saturating_add(size_of::<V>());
        if end > len {
            return Err(ReadError::Outside { at, end, len });
        }
        let ((), edition) = self.read(|image| {
            self.object.load_image(image, at, value.as_mut_bytes());
        })?;
        Ok((value, edition))
    }

    /// Reads what `look` asks the view for, all of one version.
    ///
    /// `look` may be called several times, and may see parts of several versions; what it
    /// answers counts only when it saw one. So it must neither trust what it sees (no
    /// unbounded loops, no panics) nor do anything but answer.
    #[inline(always)]
    pub fn read_with<R>(
        &self,
        mut look: impl FnMut(&View<'_>) -> R,
    ) -> Result<(R, Edition), ReadError> {
        self.read(|image| {
            look(&View {
                object: &self.object,
                image,
                words: self.object.image_words(image),
            })
        })
    }

    #[inline(always)]
    fn read<R>(&self, mut copy: impl FnMut(usize) -> R) -> Result<(R, Edition), ReadError> {
        let object = &*self.object;
        let checked = object.get(Word::Checked);
        let read = protocol::read(object, ATTEMPTS, |image| {
            (copy(image), times(object, image))
        });
        let Some(((copied, times), control)) = read else {
            return Err(object
                .control()
                .map_or(ReadError::Empty, |_| ReadError::Overrun));
        };
        check_seat(&self.object, self.seat.as_ref())?;
        Ok((copied, edition(object, control, times, checked)))
    }

    /// The version in force; 0 before the first. One load: cheap enough to poll.
    #[inline]
    pub fn version(&self) -> u64 {
        self.object.control().map_or(0, |control| control.version)
    }

    /// The epoch of the writer whose memory this is.
    pub fn epoch(&self) -> u64 {
        self.object.epoch()
    }

    /// Whether an image is being written. One that stays so was left by a writer that died.
    pub fn is_amid_publish(&self) -> bool {
        let images = 0..self.object.plan().images;
        let stamp = |image| self.object.get(Word::Stamp(image));
        images.map(stamp).any(|stamp| !stamp.is_multiple_of(2))
    }

    /// Whether the writer has ended, or given the region up, in an orderly way.
    pub fn is_closed(&self) -> bool {
        self.object.get(Word::Closed) != 0
    }

    /// The region's name; "" if it has none.
    pub fn name(&self) -> &str {
        self.object.name()
    }

    /// Bytes of the region.
    pub fn len(&self) -> usize {
        self.object.plan().len
    }

    /// Never: an empty region cannot be created.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A part of [`read_together`].
    pub fn part<'a>(&'a self, snapshot: &'a mut Snapshot<T>) -> Part<'a> {
        Part {
            object: &self.object,
            seat: self.seat.as_ref(),
            into: &mut snapshot.buffer,
        }
    }
}

/// Whether this is the memory that readers should have. Looked at last: whoever publishes
/// there afterwards has been fenced.
#[inline]
fn check_seat(object: &Object, seat: Option<&Seat>) -> Result<(), ReadError> {
    let by = seat.map_or(object.epoch(), Seat::current);
    if by == object.epoch() {
        Ok(())
    } else {
        Err(ReadError::Superseded { by })
    }
}

/// When an image was published: by the machine's clock, by the day's.
#[inline]
fn times(object: &Object, image: usize) -> [u64; 2] {
    // Not by `map`, which is not made part of the caller.
    [
        object.get(Word::Published(image)),
        object.get(Word::Day(image)),
    ]
}

#[inline]
fn edition(object: &Object, control: Control, times: [u64; 2], checked: u64) -> Edition {
    let [published, published_day_ns] = times;
    Edition {
        version: control.version,
        epoch: object.epoch(),
        published: Time::from_nanos(published),
        published_day_ns,
        current: Time::from_nanos(published.max(checked)),
    }
}

/// Up to so many words are loaded one by one.
const FEW: usize = 8;

/// A region as it is read: for [`Reader::read_with`].
#[derive(Debug)]
pub struct View<'a> {
    object: &'a Object,
    image: usize,
    /// Those of the image that are whole.
    words: &'a [AtomicU64],
}

impl View<'_> {
    /// The value at byte `at`; none if that is outside of the region.
    #[inline]
    pub fn get<V: Content>(&self, at: usize) -> Option<V> {
        let mut value = V::new_zeroed();
        self.load(at, value.as_mut_bytes()).then_some(value)
    }

    /// Copies bytes out; false, and nothing is done, outside of the region.
    #[inline(always)]
    pub fn load(&self, at: usize, into: &mut [u8]) -> bool {
        let (words, rest) = into.as_chunks_mut::<{ size_of::<u64>() }>();
        if at.is_multiple_of(size_of::<u64>()) && rest.is_empty() {
            let from = self.words.get(at / size_of::<u64>()..);
            let Some(from) = from.and_then(|from| from.get(..words.len())) else {
                return false;
            };
            if words.len() <= FEW {
                memory::load_words(from, words);
            } else {
                self.object.load_run(from, words);
            }
            return true;
        }
        let len = self.object.plan().len;
        let inside = at.checked_add(into.len()).is_some_and(|end| end <= len);
        if inside {
            self.object.load_image(self.image, at, into);
        }
        inside
    }

    /// The word at byte `at`, a multiple of its size; none outside of the region.
    #[inline(always)]
    pub fn word(&self, at: usize) -> Option<u64> {
        if !at.is_multiple_of(size_of::<u64>()) {
            return None;
        }
        let word = self.words.get(at / size_of::<u64>())?;
        Some(word.load(Relaxed))
    }

    /// Has the line at byte `at` fetched: of several that are far apart, name all before
    /// the first is loaded, and their way from memory is waited for once.
    #[inline]
    pub fn expect(&self, at: usize) {
        if let Some(word) = self.words.get(at / size_of::<u64>()) {
            memory::expect_load(word);
        }
    }
}

/// A copy of a whole region at one version.
pub struct Snapshot<T: ?Sized> {
    buffer: Buffer,
    contents: PhantomData<fn() -> Box<T>>,
}

impl<T: ?Sized> Clone for Snapshot<T> {
    fn clone(&self) -> Self {
        Self {
            buffer: self.buffer.clone(),
            contents: PhantomData,
        }
    }
}

impl<T: ?Sized> fmt::Debug for Snapshot<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.buffer.fmt(f)
    }
}

#[derive(Clone)]
struct Buffer {
    lines: Vec<Line>,
    len: usize,
    edition: Edition,
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes, {:?}", self.len, self.edition)
    }
}

impl<T: ?Sized + Content> Snapshot<T> {
    /// Which version it is.
    pub fn edition(&self) -> &Edition {
        &self.buffer.edition
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.buffer.lines.as_bytes()[..self.buffer.len]
    }
}

impl<T: ?Sized + Content> Deref for Snapshot<T> {
    type Target = T;
    fn deref(&self) -> &T {
        T::ref_from_bytes(self.bytes()).expect("checked when the region was opened")
    }
}

/// A region and where its snapshot goes; from [`Reader::part`].
#[derive(Debug)]
pub struct Part<'a> {
    object: &'a Object,
    seat: Option<&'a Seat>,
    into: &'a mut Buffer,
}

impl Part<'_> {
    /// Copies the image that was published together with version `version` of the lead.
    fn copy(&mut self, version: u64) -> bool {
        let object = self.object;
        let Buffer {
            lines,
            len,
            edition: into,
        } = &mut *self.into;
        if *len != object.plan().len {
            return false;
        }
        let checked = object.get(Word::Checked);
        for image in 0..object.plan().images {
            let control = Control { version, image };
            let read = protocol::read_image(object, control, |image| {
                object.load_image(image, 0, &mut lines.as_mut_bytes()[..*len]);
                (times(object, image), object.get(Word::Cut(image)))
            });
            if let Some((times, cut)) = read
                && cut == version
            {
                *into = edition(object, control, times, checked);
                return true;
            }
        }
        false
    }
}

/// Reads several regions as [`crate::publish_together`] left them, in the same order:
/// all of one version. On an error the snapshots are of no use.
pub fn read_together(parts: &mut [Part<'_>]) -> Result<u64, ReadError> {
    let mut seen = 0;
    for _ in 0..ATTEMPTS {
        let Some(lead) = parts.first() else {
            return Ok(0);
        };
        let Some(control) = lead.object.control() else {
            return Err(ReadError::Empty);
        };
        if parts.iter_mut().all(|part| part.copy(control.version)) {
            for part in parts.iter() {
                check_seat(part.object, part.seat)?;
            }
            return Ok(control.version);
        }
        // The same version again: it is not that the writer was faster.
        if seen == control.version {
            return Err(ReadError::NotTogether);
        }
        seen = control.version;
        std::hint::spin_loop();
    }
    Err(ReadError::Overrun)
}
