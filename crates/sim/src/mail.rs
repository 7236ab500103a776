//! Datagrams between nodes: sealed by the sender, changed or lost on the way,
//! opened by the receiver, with the codecs the real drivers use.
use crate::dice::fold;
use crate::world::{Event, World};
use stateplane_base::{ClientId, ReplicaId};
use stateplane_group::Peer;
use stateplane_wire::envelope::{Header, Kind, OpenError, open, seal};
use stateplane_wire::group::{Address, Message};

/// The cluster all nodes belong to.
const CLUSTER: u32 = 0x5349_4d00;

/// Datagrams a paused node's socket holds.
const SOCKET: usize = 256;

/// The longest datagram a node may send over UDP.
const LONGEST: usize = 65_507;

impl World<'_> {
    /// Sends `message` from node `from` to `to`.
    pub(crate) fn send(&mut self, from: usize, to: Peer, message: &Message) -> Result<(), String> {
        let mut body = Vec::new();
        message.encode(&mut body);
        match to {
            Peer::Replicas => {
                if from == self.sequencer() {
                    self.network.multicast();
                }
                (0..self.sequencer())
                    .filter(|replica| *replica != from)
                    .try_for_each(|replica| self.post(from, replica, &body, message))
            }
            Peer::Replica(ReplicaId(index)) => self.post(from, usize::from(index), &body, message),
            Peer::Sequencer => self.post(from, self.sequencer(), &body, message),
            Peer::Client(_, address) => self.post(from, usize::from(address.port), &body, message),
        }
    }

    /// Seals one datagram and hands it to the network.
    fn post(
        &mut self,
        from: usize,
        target: usize,
        body: &[u8],
        message: &Message,
    ) -> Result<(), String> {
        let node = &mut self.nodes[from];
        node.counter += 1;
        let header = Header {
            kind: Kind::Group,
            cluster: CLUSTER,
            sender: u16::try_from(from).expect("nodes are few"),
            incarnation: node.incarnation,
            counter: node.counter,
        };
        let mut bytes = Vec::new();
        seal(&self.key, header, body, &mut bytes);
        if bytes.len() > LONGEST {
            return Err(format!("size: a datagram of {} bytes", bytes.len()));
        }
        let copies = self.network.route(self.now, from, target);
        if copies[0].is_none() {
            self.say(|| {
                format!(
                    "{} -> {} LOST {message:?}",
                    self.name(from),
                    self.name(target)
                )
            });
        }
        for copy in copies.into_iter().flatten() {
            let mut bytes = bytes.clone();
            if let Some(draw) = copy.flip {
                let bit = usize::try_from(draw).unwrap_or(usize::MAX) % (bytes.len() * 8);
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
            let flipped = copy.flip.is_some();
            let deliver = Event::Deliver {
                to: target,
                bytes,
                flipped,
            };
            self.agenda.add(copy.at, deliver);
        }
        Ok(())
    }

    /// A datagram reaches a node's socket.
    pub(crate) fn arrive(
        &mut self,
        to: usize,
        bytes: Vec<u8>,
        flipped: bool,
    ) -> Result<(), String> {
        let mut hash = fold(self.run.hash, &self.now.to_le_bytes());
        hash = fold(hash, &(to as u64).to_le_bytes());
        self.run.hash = fold(hash, &bytes);
        let node = &mut self.nodes[to];
        if node.role.is_none() {
            return Ok(());
        }
        if node.paused {
            if node.backlog.len() < SOCKET {
                node.backlog.push((bytes, flipped));
            }
            return Ok(());
        }
        self.read(to, &bytes, flipped)
    }

    /// A node reads a datagram from its socket.
    pub(crate) fn read(&mut self, to: usize, bytes: &[u8], flipped: bool) -> Result<(), String> {
        let (header, body) = match open(&self.key, CLUSTER, bytes) {
            Ok(opened) if flipped => {
                return Err(format!(
                    "tag: a damaged datagram was accepted: {:?}",
                    opened.0
                ));
            }
            Ok(opened) => opened,
            Err(OpenError::Tag | OpenError::NotAnEnvelope | OpenError::Version(_)) if flipped => {
                self.mark("damaged-datagram-refused");
                return Ok(());
            }
            Err(error) => return Err(format!("codec: an intact datagram was refused: {error}")),
        };
        if self.plan.replay_window && !self.nodes[to].guard.accept(&header) {
            self.mark("repeated-datagram-refused");
            return Ok(());
        }
        let message = Message::decode(body)
            .map_err(|error| format!("codec: cannot decode what was encoded: {error}"))?;
        let from = usize::from(header.sender);
        let peer = self.peer(from, header.incarnation);
        self.say(|| format!("{} -> {} {message:?}", self.name(from), self.name(to)));
        self.step(to, Some((peer, message)))
    }

    /// The sender of a datagram, as a driver would name it.
    fn peer(&self, node: usize, incarnation: u64) -> Peer {
        match node.cmp(&self.sequencer()) {
            std::cmp::Ordering::Less => {
                Peer::Replica(ReplicaId(u8::try_from(node).expect("replicas are few")))
            }
            std::cmp::Ordering::Equal => Peer::Sequencer,
            std::cmp::Ordering::Greater => {
                let port = u16::try_from(node).expect("nodes are few");
                let address = Address { ip: [0; 16], port };
                Peer::Client(ClientId(incarnation), address)
            }
        }
    }

    /// The sequencer's index; replicas come before it, clients after it.
    pub(crate) fn sequencer(&self) -> usize {
        usize::from(self.plan.replicas)
    }

    /// A short name of a node for traces.
    pub(crate) fn name(&self, node: usize) -> String {
        match node.checked_sub(self.sequencer()) {
            None => format!("r{node}"),
            Some(0) => "seq".to_owned(),
            Some(client) => format!("c{}", client - 1),
        }
    }
}
