//! Commands on their way to the store, and how their replies become a connection's output.

use stateplane_state::builtin::redis::Command;
use stateplane_state::builtin::redis::codec::{self, TRANSACTION, Watched};

use super::info::Page;
use super::reply::{self, Protocol};
use super::waiting;

/// What is written next.
#[derive(Clone, Debug)]
pub(super) enum Step {
    /// What the store says to so many commands.
    Store(usize),
    /// These bytes.
    Given(Vec<u8>),
    /// What `INFO` says, which the store's figures complete.
    Info(Box<Page>),
}

/// Commands that go to the store in one operation, and the replies between theirs.
#[derive(Debug, Default)]
pub(super) struct Batch {
    op: Vec<u8>,
    /// Where each command ends in the operation.
    ends: Vec<usize>,
    steps: Vec<Step>,
    /// The first command's place.
    begins: usize,
    /// The store is asked even without a command.
    must_ask: bool,
    /// A command writes, or asks what time it is.
    needs_slot: bool,
    /// Keys whose lists get items, and how many.
    pushed: Vec<(u64, usize)>,
}

/// The operation would be too large.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct TooLarge;

impl Batch {
    /// An empty batch whose commands run one by one.
    fn open(&mut self) {
        if self.op.is_empty() {
            codec::begin(0, &[], &mut self.op);
            self.begins = self.op.len();
        }
    }

    /// An empty batch whose commands run together, if the watched keys are as they were.
    pub(super) fn transaction(watched: &[Watched]) -> Self {
        let mut batch = Self::default();
        codec::begin(TRANSACTION, watched, &mut batch.op);
        batch.begins = batch.op.len();
        batch.needs_slot = true;
        batch
    }

    /// Whether it needs a place in the log; what only reads does not.
    pub(super) fn needs_slot(&self) -> bool {
        self.needs_slot
    }

    /// Bytes of the operation.
    pub(super) fn len(&self) -> usize {
        self.op.len()
    }

    /// Whether there is nothing to write.
    pub(super) fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// Whether it is for the store.
    pub(super) fn asks_store(&self) -> bool {
        self.must_ask || !self.ends.is_empty()
    }

    /// Replies it will have.
    pub(super) fn replies(&self) -> usize {
        let count = |step: &Step| match step {
            Step::Store(count) => *count,
            Step::Given(_) | Step::Info(_) => 1,
        };
        self.steps.iter().map(count).sum()
    }

    /// The operation's bytes.
    pub(super) fn op(&self) -> &[u8] {
        &self.op
    }

    /// Adds a command for the store, unless the operation would exceed `most` bytes.
    pub(super) fn push<'a>(
        &mut self,
        command: Command,
        arguments: impl ExactSizeIterator<Item = &'a [u8]> + Clone,
        most: usize,
    ) -> Result<(), TooLarge> {
        self.ask(command, arguments.clone(), most)?;
        self.pushed.extend(pushed_by(command, arguments));
        match self.steps.last_mut() {
            Some(Step::Store(count)) => *count += 1,
            _ => self.steps.push(Step::Store(1)),
        }
        Ok(())
    }

    /// Adds a page that the store's figures complete.
    pub(super) fn push_info(&mut self, page: Page, most: usize) -> Result<(), TooLarge> {
        self.ask(Command::Figures, [].into_iter(), most)?;
        self.steps.push(Step::Info(Box::new(page)));
        Ok(())
    }

    fn ask<'a>(
        &mut self,
        command: Command,
        arguments: impl ExactSizeIterator<Item = &'a [u8]>,
        most: usize,
    ) -> Result<(), TooLarge> {
        self.open();
        let before = self.op.len();
        codec::push_command(command, arguments, &mut self.op);
        if self.op.len() > most {
            self.op.truncate(before);
            return Err(TooLarge);
        }
        self.ends.push(self.op.len());
        self.needs_slot |= command.shape().writes || !command.is_timeless();
        Ok(())
    }

    /// Has the store asked although no command is for it: whether it aborts the transaction.
    pub(super) fn ask_nothing(&mut self) {
        self.must_ask = true;
    }

    /// Adds a reply that is known already.
    pub(super) fn give(&mut self, bytes: Vec<u8>) {
        self.steps.push(Step::Given(bytes));
    }

    /// Writes the replies as far as the store executed the commands. What remains is to be asked
    /// again: it was not executed.
    ///
    /// # Errors
    /// When what the store said is malformed.
    pub(super) fn write(
        mut self,
        protocol: Protocol,
        executed: usize,
        mut said: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<Option<Self>, Malformed> {
        let mut left = executed.min(self.ends.len());
        let whole = left == self.ends.len();
        let mut steps = self.steps.into_iter();
        while let Some(step) = steps.next() {
            match step {
                Step::Given(bytes) => out.extend_from_slice(&bytes),
                Step::Store(count) => {
                    for _ in 0..count.min(left) {
                        reply::forward(protocol, &mut said, out).ok_or(Malformed)?;
                    }
                    if left < count {
                        let rest = [Step::Store(count - left)].into_iter().chain(steps);
                        self.steps = rest.collect();
                        return Ok(Some(self.without(executed)));
                    }
                    left -= count;
                }
                Step::Info(page) if left == 0 => {
                    let rest = [Step::Info(page)].into_iter().chain(steps);
                    self.steps = rest.collect();
                    return Ok(Some(self.without(executed)));
                }
                Step::Info(page) => {
                    let figures = reply::strings(&mut said).ok_or(Malformed)?;
                    reply::text(protocol, &page.complete(&figures), out);
                    left -= 1;
                }
            }
        }
        match whole && said.is_empty() {
            true => Ok(None),
            false => Err(Malformed),
        }
    }

    /// Keys whose lists got items if it was executed, and how many.
    pub(super) fn take_pushed(&mut self) -> Vec<(u64, usize)> {
        std::mem::take(&mut self.pushed)
    }

    /// The same operation without its first commands.
    fn without(mut self, executed: usize) -> Self {
        if let Some(gone) = executed.checked_sub(1).and_then(|last| self.ends.get(last)) {
            let cut = gone - self.begins;
            self.op.drain(self.begins..self.begins + cut);
            self.ends.drain(..executed);
            self.ends.iter_mut().for_each(|end| *end -= cut);
        }
        self
    }

    /// Writes the same error for every command of the store's.
    pub(super) fn fail(self, text: &str, out: &mut Vec<u8>) {
        for step in self.steps {
            match step {
                Step::Given(bytes) => out.extend_from_slice(&bytes),
                Step::Store(count) => (0..count).for_each(|_| reply::error(text, out)),
                Step::Info(_) => reply::error(text, out),
            }
        }
    }
}

/// To which key a command pushes, and how many items.
fn pushed_by<'a>(
    command: Command,
    mut arguments: impl ExactSizeIterator<Item = &'a [u8]>,
) -> Option<(u64, usize)> {
    use Command as C;
    let (place, items) = match command {
        C::LPush | C::RPush => (0, arguments.len().saturating_sub(1)),
        C::LMove | C::RPopLPush | C::BLMove | C::BRPopLPush => (1, 1),
        // A list that comes whole.
        C::Rename | C::RenameNx => (1, usize::MAX),
        _ => return None,
    };
    Some((waiting::number(arguments.nth(place)?), items))
}

/// The store said what this front end does not understand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Malformed;

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: usize = 1 << 10;

    fn batch() -> Batch {
        let mut batch = Batch::default();
        batch.give(b"+first\r\n".to_vec());
        for key in [&b"a"[..], b"b", b"c"] {
            batch
                .push(Command::Get, [key].into_iter(), MOST)
                .expect("room");
        }
        batch.give(b"+last\r\n".to_vec());
        batch
    }

    #[test]
    fn replies_stand_in_the_order_of_the_commands() {
        let mut out = Vec::new();
        let rest = batch().write(Protocol::Resp2, 3, b":1\r\n:2\r\n:3\r\n", &mut out);
        assert!(rest.expect("well formed").is_none());
        assert_eq!(out, b"+first\r\n:1\r\n:2\r\n:3\r\n+last\r\n");
    }

    #[test]
    fn what_was_not_executed_remains() {
        for executed in 0..3 {
            let (mut out, mut said) = (Vec::new(), b":1\r\n".repeat(executed));
            let rest = batch().write(Protocol::Resp2, executed, &said, &mut out);
            let rest = rest.expect("well formed").expect("something remains");
            let mut expected = Batch::default();
            for key in &[&b"a"[..], b"b", b"c"][executed..] {
                expected
                    .push(Command::Get, [*key].into_iter(), MOST)
                    .expect("room");
            }
            assert_eq!(rest.op(), expected.op());
            said = b":2\r\n".repeat(3 - executed);
            let done = rest.write(Protocol::Resp2, 3 - executed, &said, &mut out);
            assert!(done.expect("well formed").is_none());
            assert!(out.ends_with(b":2\r\n+last\r\n"));
            assert_eq!(out.len(), 8 + 3 * 4 + 7);
        }
    }

    #[test]
    fn a_reply_that_says_too_little_or_too_much_is_malformed() {
        for (executed, said) in [(3, &b":1\r\n:2\r\n"[..]), (3, b":1\r\n:2\r\n:3\r\n:4\r\n")] {
            let written = batch().write(Protocol::Resp2, executed, said, &mut Vec::new());
            assert_eq!(written.err(), Some(Malformed));
        }
    }

    #[test]
    fn what_is_too_large_is_not_added() {
        let mut batch = batch();
        let before = batch.op().to_vec();
        let long = [0; MOST];
        let pushed = batch.push(Command::Get, [&long[..]].into_iter(), MOST);
        assert_eq!((pushed, batch.op()), (Err(TooLarge), &before[..]));
    }
}
