//! A replica's disk: what was synced survives a crash, the record being written may be
//! there, be torn or be missing, and bits may rot. The bytes are those of a real log.
use crate::dice::Dice;
use stateplane_group::Memory;
use stateplane_wire::wal::{Ending, encode_frame, scan};

/// What disks write as a whole.
const SECTOR: usize = 512;

/// Records in sequence.
struct Segment {
    first: u64,
    bytes: Vec<u8>,
}

/// What the disk was told to write and has not confirmed.
enum Pending {
    Record(Vec<u8>),
    /// With the life whose memory it is.
    Checkpoint(Vec<u8>, u64),
}

/// What a starting replica finds.
#[derive(Debug)]
pub(crate) enum Found {
    Blank,
    Lost,
    Memory(Memory),
}

/// A disk and its files.
#[derive(Default)]
pub(crate) struct Disk {
    checkpoint: Option<(u64, Vec<u8>)>,
    /// The life whose memory this is.
    life: u64,
    /// A checkpoint that is being written while records go on.
    behind: Option<(u64, Vec<u8>)>,
    segments: Vec<Segment>,
    /// The last record that was confirmed.
    last: u64,
    pending: Option<Pending>,
    /// A record that a crash cut off in mid-write.
    torn: Option<Vec<u8>>,
    rotten: bool,
    rotten_checkpoint: bool,
    lost: bool,
}

impl Disk {
    /// Whether a memory is on it, and is whole.
    pub(crate) fn remembers(&self) -> bool {
        self.life().is_some()
    }

    /// Whose memory is on it, if that is whole.
    pub(crate) fn life(&self) -> Option<u64> {
        (self.checkpoint.is_some() && !self.rotten).then_some(self.life)
    }

    /// Whether something is being written that must be there before anything is sent.
    pub(crate) fn is_busy(&self) -> bool {
        self.pending.is_some()
    }

    /// Begins to write a record.
    pub(crate) fn append(&mut self, body: Vec<u8>) {
        assert!(self.pending.is_none(), "one record at a time");
        self.pending = Some(Pending::Record(body));
    }

    /// Begins to write a checkpoint of a `life`; one that is not urgent goes on behind the
    /// records.
    pub(crate) fn replace(&mut self, body: Vec<u8>, urgent: bool, life: u64) {
        self.confirm_behind();
        if urgent {
            assert!(self.pending.is_none(), "one record at a time");
            self.pending = Some(Pending::Checkpoint(body, life));
            return;
        }
        // Records that are being written go before it.
        self.behind = Some((self.last + u64::from(self.pending.is_some()), body));
    }

    /// The disk confirms what it was told to write.
    pub(crate) fn confirm(&mut self) {
        match self.pending.take() {
            None => {}
            Some(Pending::Record(body)) => {
                self.last += 1;
                let rotate = self
                    .behind
                    .as_ref()
                    .is_some_and(|(at, _)| *at + 1 == self.last);
                if self.segments.is_empty() || rotate {
                    let (first, bytes) = (self.last, Vec::new());
                    self.segments.push(Segment { first, bytes });
                }
                let segment = self.segments.last_mut().expect("just made");
                encode_frame(self.last, &body, &mut segment.bytes);
            }
            Some(Pending::Checkpoint(body, life)) => {
                self.checkpoint = Some((self.last, body));
                self.life = life;
                self.segments.clear();
                self.lost = false;
            }
        }
    }

    /// The checkpoint behind the records is in place: older files go. False if the last
    /// record in it is still being written.
    pub(crate) fn confirm_behind(&mut self) -> bool {
        let last = self.last;
        if let Some((at, body)) = self.behind.take_if(|(at, _)| *at <= last) {
            self.segments.retain(|segment| segment.first > at);
            self.checkpoint = Some((at, body));
        }
        self.behind.is_none()
    }

    /// The process ended: what was being written is there, or partly, or not.
    pub(crate) fn crash(&mut self, dice: &mut Dice) -> Option<&'static str> {
        let choice = dice.below(3);
        let lost = dice.word();
        if dice.chance(0.5) {
            self.confirm_behind();
        }
        self.behind = None;
        match self.pending.take() {
            None => None,
            Some(_) if choice == 0 => Some("disk-unsynced-lost"),
            Some(Pending::Record(body)) if choice == 1 => {
                self.tear(body, lost);
                Some("disk-torn")
            }
            some => {
                self.pending = some;
                self.confirm();
                Some("disk-unsynced-kept")
            }
        }
    }

    /// Some sectors of a record were not written, the last of them at least.
    fn tear(&mut self, body: Vec<u8>, lost: u64) {
        if self.segments.is_empty() {
            let (first, bytes) = (self.last + 1, Vec::new());
            self.segments.push(Segment { first, bytes });
        }
        let segment = self.segments.last_mut().expect("just made");
        let begin = segment.bytes.len();
        encode_frame(self.last + 1, &body, &mut segment.bytes);
        let end = segment.bytes.len();
        for sector in begin / SECTOR..=end / SECTOR {
            let part = (sector * SECTOR).max(begin)..((sector + 1) * SECTOR).min(end);
            if lost >> (sector % 61) & 1 == 1 || part.end == end {
                segment.bytes[part].fill(0);
            }
        }
        let cut = usize::try_from(lost).unwrap_or(usize::MAX) % body.len().max(1);
        self.torn = Some(body[..cut].to_vec());
    }

    /// A bit rots in what was synced; false if there is nothing it could hit.
    pub(crate) fn rot(&mut self, dice: &mut Dice) -> bool {
        let draw = dice.word();
        let at = usize::try_from(draw >> 8).unwrap_or(usize::MAX);
        if self.rotten || self.checkpoint.is_none() {
            return false;
        }
        self.rotten = true;
        let synced = |s: &Segment| scan(&s.bytes, 0, s.first).end;
        match self.segments.iter_mut().find(|s| synced(s) > 0) {
            Some(segment) => {
                let end = synced(segment);
                segment.bytes[at % end] ^= 1 << (draw % 8);
            }
            None => self.rotten_checkpoint = true,
        }
        true
    }

    /// Reads everything back, as a node does that starts. With `lenient`, a record that
    /// was cut off counts as far as it goes.
    pub(crate) fn recover(&mut self, lenient: bool) -> Result<Found, String> {
        let Some((at, checkpoint)) = self.checkpoint.clone() else {
            self.segments.clear();
            return Ok(if self.lost { Found::Lost } else { Found::Blank });
        };
        let mut records = Vec::new();
        let mut damaged = self.rotten_checkpoint;
        let count = self.segments.len();
        for (n, segment) in self.segments.iter_mut().enumerate() {
            let mut found = scan(&segment.bytes, 0, segment.first);
            segment.bytes.truncate(found.end);
            let cut = found.ending == Ending::Torn && n + 1 < count;
            damaged |= found.ending == Ending::Damaged || cut;
            let known = usize::try_from((at + 1).saturating_sub(segment.first)).unwrap_or(0);
            found.records.drain(..known.min(found.records.len()));
            records.append(&mut found.records);
        }
        let read = at + records.len() as u64;
        if damaged != self.rotten || !damaged && read != self.last {
            return Err(format!(
                "disk: {} records were synced and {read} were read, damage: {damaged}",
                self.last
            ));
        }
        if damaged {
            *self = Self {
                lost: true,
                ..Self::default()
            };
            return Ok(Found::Lost);
        }
        if let Some(torn) = self.torn.take().filter(|_| lenient) {
            self.pending = Some(Pending::Record(torn.clone()));
            self.confirm();
            records.push(torn);
        }
        Ok(Found::Memory(Memory {
            checkpoint,
            records,
        }))
    }
}
