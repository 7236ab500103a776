//! The replicated application of a simulated group: the real store, which in
//! addition remembers everything it executed. The memory is part of its
//! snapshots, so a replica that got its state from a peer tells the same story.
use crate::check::Executed;
use crate::dice::{fold, mix};
use stateplane_base::LogTime;
use stateplane_state::{Application, SnapshotError};
use std::cell::RefCell;
use std::rc::Rc;

/// What a replica has executed; shared between the application inside the
/// replica and the world, which looks at it.
#[derive(Clone, Default, Debug)]
pub(crate) struct Story {
    /// Every operation in order.
    pub executed: Vec<Executed>,
    /// `chain[i]`: fingerprint of the first `i` operations.
    chain: Vec<u64>,
}

/// Most stories have about so many operations.
const USUAL: usize = 128;

impl Story {
    /// Fingerprint of the first `count` operations.
    pub(crate) fn fingerprint(&self, count: usize) -> u64 {
        count.checked_sub(1).map_or(0, |last| self.chain[last])
    }

    /// The story as bytes, its length first.
    fn tell(&self) -> Vec<u8> {
        let mut bytes = vec![0; 8];
        for executed in &self.executed {
            bytes.extend_from_slice(&executed.tag.to_le_bytes());
            bytes.extend_from_slice(&executed.at.to_le_bytes());
            bytes.extend_from_slice(&(executed.reply.len() as u64).to_le_bytes());
            bytes.extend_from_slice(&executed.reply);
        }
        let len = bytes.len() as u64 - 8;
        bytes[..8].copy_from_slice(&len.to_le_bytes());
        bytes
    }

    fn hear(mut rest: &[u8]) -> Result<Self, SnapshotError> {
        let mut story = Self::default();
        while !rest.is_empty() {
            let (tag, at) = (word(&mut rest)?, word(&mut rest)?);
            let len = usize::try_from(word(&mut rest)?).map_err(|_| SnapshotError::Damaged)?;
            let (reply, tail) = rest.split_at_checked(len).ok_or(SnapshotError::Damaged)?;
            rest = tail;
            let reply = reply.into();
            story.push(Executed { tag, at, reply });
        }
        Ok(story)
    }

    fn push(&mut self, executed: Executed) {
        if self.executed.capacity() == 0 {
            self.executed.reserve(USUAL);
            self.chain.reserve(USUAL);
        }
        let mut hash = self.fingerprint(self.executed.len());
        hash = fold(hash, &executed.tag.to_le_bytes());
        hash = fold(hash, &executed.at.to_le_bytes());
        hash = fold(hash, &executed.reply);
        self.chain.push(hash);
        self.executed.push(executed);
    }
}

/// The recording application.
pub(crate) struct Recorder<A> {
    inner: A,
    story: Rc<RefCell<Story>>,
    /// A snapshot under way: the part of the story that is not handed out yet.
    telling: Vec<u8>,
}

/// A recorded store's snapshot on its way in.
pub(crate) struct Incoming<I> {
    /// How long the story is, its length, and the beginning of it.
    bytes: Vec<u8>,
    inner: I,
}

impl<A> Recorder<A> {
    /// Records what `inner` executes into `story`, which must be empty.
    pub(crate) fn new(inner: A, story: Rc<RefCell<Story>>) -> Self {
        Self {
            inner,
            story,
            telling: Vec::new(),
        }
    }

    /// What it records.
    pub(crate) const fn inner_mut(&mut self) -> &mut A {
        &mut self.inner
    }
}

/// An operation for a recorded store: the store's operation behind a tag that
/// makes it unlike all others.
pub(crate) fn tagged(tag: u64, op: &[u8]) -> Vec<u8> {
    [&tag.to_le_bytes()[..], op].concat()
}

/// How much had been executed when a read was answered, and the answer.
pub(crate) fn seen(reply: &[u8]) -> Option<(u64, &[u8])> {
    let (place, answer) = reply.split_first_chunk::<8>()?;
    Some((u64::from_le_bytes(*place), answer))
}

impl<A: Application> Application for Recorder<A> {
    type Incoming = Incoming<A::Incoming>;

    fn execute(&mut self, at: LogTime, op: &[u8], reply: &mut Vec<u8>) {
        let (tag, op) = op
            .split_first_chunk::<8>()
            .expect("the world submits tagged operations only");
        self.inner.execute(at, op, reply);
        self.story.borrow_mut().push(Executed {
            tag: u64::from_le_bytes(*tag),
            at: at.as_nanos(),
            reply: reply.as_slice().into(),
        });
    }

    /// Says, ahead of the answer, how much had been executed: the read's place in the order.
    fn read(&mut self, clock: LogTime, op: &[u8], reply: &mut Vec<u8>) -> bool {
        let (_, op) = op
            .split_first_chunk::<8>()
            .expect("the world submits tagged operations only");
        let mut answer = Vec::new();
        let answered = self.inner.read(clock, op, &mut answer);
        let place = self.story.borrow().executed.len() as u64;
        *reply = place.to_le_bytes().to_vec();
        reply.extend_from_slice(&answer);
        answered
    }

    fn snapshot(&self) -> Vec<u8> {
        let mut bytes = self.story.borrow().tell();
        bytes.extend_from_slice(&self.inner.snapshot());
        bytes
    }

    fn begin_snapshot(&mut self) -> u64 {
        self.telling = self.story.borrow().tell();
        self.telling.len() as u64 + self.inner.begin_snapshot()
    }

    /// A word of the story counts as a row.
    fn continue_snapshot(&mut self, rows: usize, out: &mut Vec<u8>) -> bool {
        let len = self.telling.len().min(rows * 8);
        out.extend(self.telling.drain(..len));
        let left = rows - len.div_ceil(8);
        left > 0 && self.inner.continue_snapshot(left, out)
    }

    fn abandon_snapshot(&mut self) {
        self.telling.clear();
        self.inner.abandon_snapshot();
    }

    fn incoming(&self) -> Self::Incoming {
        Incoming {
            bytes: Vec::new(),
            inner: self.inner.incoming(),
        }
    }

    fn take(incoming: &mut Self::Incoming, piece: &[u8]) -> Result<(), SnapshotError> {
        let before = story_len(&incoming.bytes);
        let whole = before.map_or(8, |len| len.saturating_add(8));
        let missing = whole - incoming.bytes.len();
        let (own, rest) = piece.split_at(missing.min(piece.len()));
        incoming.bytes.extend_from_slice(own);
        match (before, rest) {
            (_, []) => Ok(()),
            (None, rest) => Self::take(incoming, rest),
            (Some(_), rest) => A::take(&mut incoming.inner, rest),
        }
    }

    fn install(&mut self, incoming: Self::Incoming) -> Result<(), SnapshotError> {
        let told = story_len(&incoming.bytes).ok_or(SnapshotError::Damaged)?;
        let bytes = &incoming.bytes[8..];
        if bytes.len() != told {
            return Err(SnapshotError::Damaged);
        }
        let story = Story::hear(bytes)?;
        self.inner.install(incoming.inner)?;
        self.telling.clear();
        *self.story.borrow_mut() = story;
        Ok(())
    }

    fn tidy(&mut self, rows: usize) -> bool {
        self.inner.tidy(rows)
    }

    fn digest(&self) -> u64 {
        let story = self.story.borrow();
        let told = story.fingerprint(story.executed.len());
        mix(told) ^ self.inner.digest()
    }
}

/// The length of a story in bytes, once it came.
fn story_len(bytes: &[u8]) -> Option<usize> {
    let (len, _) = bytes.split_first_chunk::<8>()?;
    usize::try_from(u64::from_le_bytes(*len)).ok()
}

fn word(rest: &mut &[u8]) -> Result<u64, SnapshotError> {
    let (word, tail) = rest
        .split_first_chunk::<8>()
        .ok_or(SnapshotError::Damaged)?;
    *rest = tail;
    Ok(u64::from_le_bytes(*word))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers with the operation itself.
    struct Echo(Vec<u8>);

    impl Application for Echo {
        type Incoming = Vec<u8>;
        fn execute(&mut self, _: LogTime, op: &[u8], reply: &mut Vec<u8>) {
            self.0 = op.to_vec();
            *reply = op.to_vec();
        }
        fn read(&mut self, _: LogTime, _: &[u8], reply: &mut Vec<u8>) -> bool {
            reply.clone_from(&self.0);
            true
        }
        fn snapshot(&self) -> Vec<u8> {
            self.0.clone()
        }
        fn begin_snapshot(&mut self) -> u64 {
            self.0.len() as u64
        }
        fn continue_snapshot(&mut self, _: usize, out: &mut Vec<u8>) -> bool {
            out.extend_from_slice(&self.0);
            true
        }
        fn abandon_snapshot(&mut self) {}
        fn incoming(&self) -> Vec<u8> {
            Vec::new()
        }
        fn take(incoming: &mut Vec<u8>, piece: &[u8]) -> Result<(), SnapshotError> {
            incoming.extend_from_slice(piece);
            Ok(())
        }
        fn install(&mut self, incoming: Vec<u8>) -> Result<(), SnapshotError> {
            self.0 = incoming;
            Ok(())
        }
        fn tidy(&mut self, _: usize) -> bool {
            true
        }
        fn digest(&self) -> u64 {
            fold(0, &self.0)
        }
    }

    #[test]
    fn the_story_survives_a_snapshot() {
        let story = Rc::default();
        let mut first = Recorder::new(Echo(Vec::new()), Rc::clone(&story));
        let mut reply = Vec::new();
        for tag in [5, 6] {
            let op = tagged(tag, &[1, 2, 3]);
            first.execute(LogTime::from_millis(tag), &op, &mut reply);
        }
        let copy: Rc<RefCell<Story>> = Rc::default();
        let mut second = Recorder::new(Echo(Vec::new()), Rc::clone(&copy));
        second.restore(&first.snapshot()).expect("just taken");
        let (total, mut pieces) = (first.begin_snapshot(), Vec::new());
        while !first.continue_snapshot(1, &mut pieces) {}
        assert_eq!((&pieces, total), (&first.snapshot(), pieces.len() as u64));
        assert_eq!(copy.borrow().executed, story.borrow().executed);
        assert_eq!(second.digest(), first.digest());
        assert_eq!(second.restore(&[1, 0, 0]), Err(SnapshotError::Damaged));
        assert_eq!(copy.borrow().executed.len(), 2, "an error changes nothing");
    }
}
