//! Datagrams on their way. All copies of one share its bytes; what damages a copy gives it
//! bytes of its own.
//!
//! Whether the tags of a datagram fit, and what it says, follows from the key and its bytes
//! alone. So the first reader of a datagram that has copies finds it out, for real, and the
//! readers of the others are told. What was damaged or refused is never remembered.
use std::cell::RefCell;
use std::rc::Rc;

use stateplane_wire::envelope::Header;
use stateplane_wire::group::{Formation, Message, Ordered};

/// One datagram, as the copies of it have it.
pub(crate) type Shared = Rc<Datagram>;

/// The bytes, and what is known of them.
pub(crate) struct Datagram {
    bytes: Vec<u8>,
    found: RefCell<Option<Opened>>,
}

/// What an intact datagram says.
#[derive(Clone)]
pub(crate) enum Opened {
    /// A message of the group in its envelope.
    Message(Header, Message),
    /// A packet of the ordered multicast, which sequencer stamped it, and for which group.
    Ordered(u8, Formation, Ordered),
}

/// Most datagrams are no longer.
const USUAL: usize = 256;

impl Datagram {
    fn blank() -> Shared {
        Rc::new(Self {
            bytes: Vec::with_capacity(USUAL),
            found: RefCell::new(None),
        })
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What a former reader found in these bytes.
    pub(crate) fn recall(self: &Rc<Self>) -> Option<Opened> {
        let mut found = self.found.borrow_mut();
        match self.has_copies() {
            true => found.clone(),
            false => found.take(),
        }
    }

    /// Keeps what was found for the readers of its copies, if there are any.
    pub(crate) fn remember(self: &Rc<Self>, opened: impl FnOnce() -> Opened) {
        if self.has_copies() {
            *self.found.borrow_mut() = Some(opened());
        }
    }

    fn has_copies(self: &Rc<Self>) -> bool {
        Rc::strong_count(self) > 1
    }
}

/// Datagrams that nobody has any more, to be used again.
#[derive(Default)]
pub(crate) struct Pool(Vec<Shared>);

impl Pool {
    /// A datagram with the bytes that `write` appends to none.
    pub(crate) fn write(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> Shared {
        let mut datagram = self.0.pop().unwrap_or_else(Datagram::blank);
        let own = Rc::get_mut(&mut datagram).expect("nobody else has it");
        own.bytes.clear();
        own.found.take();
        write(&mut own.bytes);
        datagram
    }

    /// One copy is not needed any more.
    pub(crate) fn recycle(&mut self, mut datagram: Shared) {
        if Rc::get_mut(&mut datagram).is_some() {
            self.0.push(datagram);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use stateplane_wire::envelope::Kind;
    use stateplane_wire::group::Body;

    fn opened(nonce: u64) -> Opened {
        let header = Header {
            kind: Kind::Group,
            cluster: 1,
            sender: 2,
            incarnation: 3,
            counter: nonce,
        };
        let (formation, body) = (0, Body::SessionRequest { nonce });
        Opened::Message(header, Message { formation, body })
    }

    fn counter(opened: Option<Opened>) -> Option<u64> {
        match opened? {
            Opened::Message(header, _) => Some(header.counter),
            Opened::Ordered(..) => None,
        }
    }

    #[test]
    fn what_was_found_is_told_to_copies_and_to_no_other_datagram() {
        let mut pool = Pool::default();
        let first = pool.write(|bytes| bytes.push(1));
        first.remember(|| opened(7));
        assert!(first.recall().is_none(), "it has no copies");
        let copy = Rc::clone(&first);
        first.remember(|| opened(7));
        assert_eq!(counter(copy.recall()), Some(7));
        pool.recycle(first);
        assert_eq!(counter(copy.recall()), Some(7), "the last copy");
        assert_eq!(copy.bytes(), [1]);
        pool.recycle(copy);
        let second = pool.write(|bytes| bytes.push(2));
        assert_eq!(second.bytes(), [2]);
        assert!(pool.0.is_empty(), "the same memory");
        let copy = Rc::clone(&second);
        assert!(copy.recall().is_none(), "other bytes");
    }
}
