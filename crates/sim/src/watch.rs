//! Looks at the replicas after every step they take, and compares them with
//! each other.
use crate::node::{Node, Role};
use crate::recorder::Story;
use crate::slots::Slots;
use stateplane_group as group;
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
}

/// The store's fingerprint costs a walk through it, so it is taken only after
/// every so many operations.
const DIGEST_EVERY: usize = 8;

impl Watch {
    /// Looks at a replica that just did something.
    pub(crate) fn look(&mut self, index: usize, node: &mut Node) -> Result<(), String> {
        let Some(Role::Replica(core)) = &node.role else {
            return Ok(());
        };
        let status = core.inspect();
        let entry = |slot| core.entry(slot);
        self.slots.look(index, node.seen.as_ref(), &status, entry)?;
        node.sound |= status.role != group::Role::Booting;
        let (executed, commit) = (status.executed, status.commit);
        node.seen = Some(status);
        // A leader executes ahead of the sync point; only what is final counts.
        if executed > commit {
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

    /// Whether all live replicas are members of one view and have executed the
    /// same.
    pub(crate) fn settled(&mut self, group: &[Node]) -> Result<bool, String> {
        let mut statuses = group.iter().filter_map(Node::status);
        let Some(first) = statuses.next() else {
            return Ok(false);
        };
        let idle = first.executed == first.len && first.commit == first.len;
        if !first.normal || !idle || statuses.any(|s| s != first) {
            return Ok(false);
        }
        for node in group.iter().filter(|n| n.role.is_some()) {
            self.compare(&node.story.borrow())?;
            let told = node.story.borrow().executed.len();
            self.compare_digest(told, node)?;
        }
        Ok(true)
    }

    /// The story on which all live replicas agree.
    pub(crate) fn story(&self, group: &[Node]) -> Rc<RefCell<Story>> {
        let live = group.iter().find(|node| node.role.is_some());
        live.map_or_else(Rc::default, |node| Rc::clone(&node.story))
    }
}
