//! Datagrams as the rest of Stateplane authenticates them: in envelopes under the
//! cluster's key, each taken once.

use stateplane_wire::envelope::{self, Header, Key, Kind, ReplayGuard};

/// Which life of which sender a datagram is of.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Life {
    /// The sender's number in the cluster.
    pub sender: u16,
    /// Higher in every life of it.
    pub incarnation: u64,
}

/// One socket's envelopes: seals what leaves it, opens what comes.
#[derive(Debug)]
pub struct Sealed {
    key: Key,
    header: Header,
    guard: ReplayGuard,
}

impl Sealed {
    /// `sender` is this socket's number in the cluster, `incarnation` higher in every life
    /// of it.
    pub fn new(key: Key, cluster: u32, sender: u16, incarnation: u64) -> Self {
        Self {
            key,
            header: Header {
                kind: Kind::Region,
                cluster,
                sender,
                incarnation,
                counter: 0,
            },
            guard: ReplayGuard::default(),
        }
    }

    /// Appends the datagram that carries `body`.
    pub fn seal(&mut self, body: &[u8], out: &mut Vec<u8>) {
        self.header.counter += 1;
        envelope::append(&self.key, self.header, out, |out| {
            out.extend_from_slice(body)
        });
    }

    /// The body of a datagram and whose it is; none if it is not of this cluster,
    /// not about regions, or was here before.
    pub fn open<'a>(&mut self, datagram: &'a [u8]) -> Option<(Life, &'a [u8])> {
        let (header, body) = envelope::open(&self.key, self.header.cluster, datagram).ok()?;
        let fresh = header.kind == Kind::Region && self.guard.accept(&header);
        let life = Life {
            sender: header.sender,
            incarnation: header.incarnation,
        };
        fresh.then_some((life, body))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_datagram_counts_once_and_only_in_its_cluster() {
        let sealed = |cluster, key| Sealed::new(Key::new([key; 16]), cluster, 3, 1);
        let (mut one, mut two, mut bytes) = (sealed(1, 7), sealed(1, 7), vec![]);
        one.seal(b"body", &mut bytes);
        let life = Life {
            sender: 3,
            incarnation: 1,
        };
        assert_eq!(two.open(&bytes), Some((life, &b"body"[..])));
        assert_eq!(two.open(&bytes), None, "a replay");
        assert_eq!(sealed(2, 7).open(&bytes), None);
        assert_eq!(sealed(1, 8).open(&bytes), None);
        let mut other = vec![];
        let header = Header {
            kind: Kind::Group,
            counter: 9,
            ..one.header
        };
        envelope::seal(&one.key, header, b"body", &mut other);
        assert_eq!(two.open(&other), None, "about something else");
    }
}
