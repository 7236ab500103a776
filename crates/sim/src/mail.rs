//! Datagrams between nodes: sealed by the sender, changed or lost on the way,
//! opened by the receiver, with the codecs the real drivers use.
use crate::dice::{fold, fold_word};
use crate::layout;
use crate::network::Copy;
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
        let mut body = std::mem::take(&mut self.body);
        body.clear();
        message.encode(&mut body);
        let sent = match to {
            Peer::Replicas => {
                if self.layout.sequences(from) {
                    self.network.multicast();
                }
                (0..self.layout.replicas)
                    .filter(|replica| *replica != from)
                    .try_for_each(|replica| self.post(from, replica, &body, message))
            }
            Peer::Replica(ReplicaId(index)) => self.post(from, usize::from(index), &body, message),
            Peer::Sequencer(i) => {
                self.post(from, self.layout.sequencer(usize::from(i)), &body, message)
            }
            Peer::Client(_, address) => self.post(from, usize::from(address.port), &body, message),
        };
        self.body = body;
        sent
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
        let choice = self.network.choice(from, target);
        let kept = self.tape.keeps(choice);
        let fate = self.network.route(self.now, from, target, kept);
        if kept {
            self.tape.note(choice, fate.loud);
        }
        let [Some(first), second] = fate.copies else {
            self.say(|| {
                let (from, target) = (self.layout.name(from), self.layout.name(target));
                format!("{from} -> {target} LOST {message:?}")
            });
            return Ok(());
        };
        let mut bytes = self.buffers.pop().unwrap_or_default();
        seal(&self.key, header, body, &mut bytes);
        if bytes.len() > LONGEST {
            return Err(format!("size: a datagram of {} bytes", bytes.len()));
        }
        if let Some(second) = second {
            let mut twin = self.buffers.pop().unwrap_or_default();
            twin.clear();
            twin.extend_from_slice(&bytes);
            self.travel(target, second, twin);
        }
        self.travel(target, first, bytes);
        Ok(())
    }

    /// One copy is on its way.
    fn travel(&mut self, to: usize, copy: Copy, mut bytes: Vec<u8>) {
        if let Some(draw) = copy.flip {
            let bit = usize::try_from(draw).unwrap_or(usize::MAX) % (bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        let flipped = copy.flip.is_some();
        let deliver = Event::Deliver { to, bytes, flipped };
        self.agenda.add(copy.at, deliver);
    }

    /// A datagram reaches a node's socket.
    pub(crate) fn arrive(
        &mut self,
        to: usize,
        bytes: Vec<u8>,
        flipped: bool,
    ) -> Result<(), String> {
        let hash = fold_word(self.run.hash, self.now);
        self.run.hash = fold(fold_word(hash, to as u64), &bytes);
        let node = &mut self.nodes[to];
        if node.paused && node.role.is_some() {
            if node.backlog.len() < SOCKET {
                node.backlog.push((bytes, flipped));
            }
            return Ok(());
        }
        let read = match node.role {
            None => Ok(()),
            Some(_) => self.read(to, &bytes, flipped),
        };
        self.buffers.push(bytes);
        read
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
        self.say(|| {
            let (from, to) = (self.layout.name(from), self.layout.name(to));
            format!("{from} -> {to} {message:?}")
        });
        self.step(to, Some((peer, message)))
    }

    /// The sender of a datagram, as a driver would name it.
    fn peer(&self, node: usize, incarnation: u64) -> Peer {
        match self.layout.kind(node) {
            layout::Kind::Replica(number) => {
                Peer::Replica(ReplicaId(u8::try_from(number).expect("replicas are few")))
            }
            layout::Kind::Sequencer(i) => Peer::Sequencer(u8::try_from(i).expect("few")),
            layout::Kind::Client(_) => {
                let port = u16::try_from(node).expect("nodes are few");
                let address = Address { ip: [0; 16], port };
                Peer::Client(ClientId(incarnation), address)
            }
        }
    }
}
