//! Datagrams between nodes: sealed by the sender, changed or lost on the way,
//! opened by the receiver, with the codecs the real drivers use.
use crate::dice::{fold, fold_word};
use crate::layout;
use crate::network::Copy;
use crate::world::{Event, World};
use core::fmt::Debug;
use stateplane_base::{Incarnation, ReplicaId};
use stateplane_group::Peer;
use stateplane_wire::envelope::{Header, Kind, OpenError, open, seal};
use stateplane_wire::group::{Address, Body, GroupId, Message, Request};
use stateplane_wire::oum::{self, Groups};

/// The cluster all nodes belong to.
pub(crate) const CLUSTER: u32 = 0x5349_4d00;

/// The group's number, as a default configuration has it.
const GROUP: GroupId = 0;

/// Datagrams a paused node's socket holds.
const SOCKET: usize = 256;

/// The longest datagram a node may send over UDP.
const LONGEST: usize = 65_507;

/// What a datagram is made of.
#[derive(Clone, Copy)]
enum Content<'a> {
    /// The body of an envelope.
    Body(&'a [u8]),
    /// The same where it decides the order.
    Order(&'a [u8]),
    /// A request, to be sealed.
    Request(&'a Request),
    /// A packet as it is.
    Packet(&'a [u8]),
}

impl World<'_> {
    /// Sends `message` from node `from` to `to`.
    pub(crate) fn send(&mut self, from: usize, to: Peer, message: &Message) -> Result<(), String> {
        let mut body = std::mem::take(&mut self.body);
        body.clear();
        let content = match &message.body {
            Body::Request(request) => Content::Request(request),
            _ => {
                message.encode(&mut body);
                if let Some(samples) = self.samples {
                    samples.borrow_mut().hear(message.body.name(), &body);
                }
                match message.body {
                    Body::Prepare(_) => Content::Order(&body),
                    _ => Content::Body(&body),
                }
            }
        };
        let ordering = self.orders(from, content);
        let sent = match to {
            Peer::Replicas => {
                if ordering {
                    self.network.multicast();
                }
                // One datagram to all, as a driver sends it.
                let mut packet = self.buffers.pop().unwrap_or_default();
                self.seal(from, content, &mut packet);
                let sent = (0..self.layout.replicas)
                    .filter(|replica| *replica != from)
                    .try_for_each(|replica| {
                        self.post(from, replica, ordering, Content::Packet(&packet), message)
                    });
                self.buffers.push(packet);
                sent
            }
            Peer::Replica(ReplicaId(index)) => {
                self.post(from, usize::from(index), ordering, content, message)
            }
            Peer::Sequencer(i) => {
                let target = self.layout.sequencer(usize::from(i));
                self.post(from, target, ordering, content, message)
            }
            Peer::Client(_, address) => {
                self.post(from, usize::from(address.port), ordering, content, message)
            }
        };
        self.body = body;
        sent
    }

    /// Whether a message is what decides the order: it has dangers of its own.
    fn orders(&self, from: usize, content: Content<'_>) -> bool {
        self.layout.sequences(from) || matches!(content, Content::Order(_))
    }

    /// Hands one datagram to the network, sealed if it is not yet.
    fn post(
        &mut self,
        from: usize,
        target: usize,
        ordering: bool,
        content: Content<'_>,
        what: &impl Debug,
    ) -> Result<(), String> {
        let choice = self.network.choice(from, target);
        let kept = self.tape.keeps(choice);
        let fate = self.network.route(self.now, from, target, ordering, kept);
        if kept {
            self.tape.note(choice, fate.loud);
        }
        let [Some(first), second] = fate.copies else {
            self.say(|| {
                let (from, target) = (self.layout.name(from), self.layout.name(target));
                format!("{from} -> {target} LOST {what:?}")
            });
            return Ok(());
        };
        let mut bytes = self.buffers.pop().unwrap_or_default();
        self.seal(from, content, &mut bytes);
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

    /// Replaces `bytes` by the datagram that node `from` makes of `content`.
    fn seal(&mut self, from: usize, content: Content<'_>, bytes: &mut Vec<u8>) {
        bytes.clear();
        let node = &mut self.nodes[from];
        if !matches!(content, Content::Packet(_)) {
            node.counter += 1;
        }
        match content {
            Content::Body(body) | Content::Order(body) => {
                let header = Header {
                    kind: Kind::Group,
                    cluster: CLUSTER,
                    sender: u16::try_from(from).expect("nodes are few"),
                    incarnation: node.incarnation,
                    counter: node.counter,
                };
                seal(&self.key, header, body, bytes);
            }
            Content::Request(request) => {
                oum::seal_request(&self.oum, node.counter, Groups::one(GROUP), request, bytes);
            }
            Content::Packet(packet) => bytes.extend_from_slice(packet),
        }
    }

    /// One copy is on its way.
    fn travel(&mut self, to: usize, copy: Copy, mut bytes: Vec<u8>) {
        if let Some(draw) = copy.flip {
            let bit = usize::try_from(draw).unwrap_or(usize::MAX) % (bytes.len() * 8);
            // What was damaged on the way to a sequencer is not repaired on the way from it.
            let bit = bit & !1 | usize::from(self.layout.sequences(to));
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
        if node.is_deaf() && node.role.is_some() {
            if node.backlog.len() < SOCKET {
                node.backlog.push((bytes, flipped));
            } else {
                self.buffers.push(bytes);
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
        if let Some(kind) = oum::kind(bytes) {
            return self.read_packet(to, kind, bytes, flipped);
        }
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
        self.step(to, peer, message)
    }

    /// A node reads a packet of the ordered multicast.
    fn read_packet(
        &mut self,
        to: usize,
        kind: oum::Kind,
        bytes: &[u8],
        flipped: bool,
    ) -> Result<(), String> {
        let opened = match kind {
            oum::Kind::Request if self.layout.sequences(to) => {
                return self.read_request(to, bytes, flipped);
            }
            oum::Kind::Request => oum::read_request(&self.oum, bytes).map(|(ask, request)| {
                let sender = usize::from(oum::sender_of(ask.client));
                let peer = self.peer(sender, oum::life_of(ask.client));
                (peer, 0, Body::Request(request))
            }),
            oum::Kind::Ordered => {
                oum::open_ordered(&self.oum, bytes).map(|(number, formation, mut m)| {
                    m.request.reply_to = address(oum::sender_of(m.request.client));
                    (Peer::Sequencer(number), formation, Body::Ordered(m))
                })
            }
        };
        match opened {
            Ok((_, _, body)) if flipped && matches!(body, Body::Ordered(_)) => {
                Err(format!("tag: a damaged packet was accepted: {body:?}"))
            }
            Ok((peer, formation, body)) => {
                let message = Message { formation, body };
                self.say(|| format!("{peer:?} -> {} {message:?}", self.layout.name(to)));
                self.step(to, peer, message)
            }
            // Damaged on its way to the sequencer, which looks at the outer tag only.
            Err(oum::OpenError::Inner) if self.plan.links.corrupt > 0.0 => {
                self.mark("inner-tag-refused");
                Ok(())
            }
            Err(_) if flipped => {
                self.mark("damaged-datagram-refused");
                Ok(())
            }
            Err(error) => Err(format!("codec: an intact packet was refused: {error}")),
        }
    }

    /// The sequencer reads a request, stamps it in place and sends it to all replicas.
    fn read_request(&mut self, to: usize, bytes: &[u8], flipped: bool) -> Result<(), String> {
        let ask = match oum::open_request(&self.oum, bytes) {
            Ok(ask) => ask,
            Err(_) if flipped => {
                self.mark("damaged-datagram-refused");
                return Ok(());
            }
            Err(error) => return Err(format!("codec: an intact request was refused: {error}")),
        };
        let (sender, life) = (oum::sender_of(ask.client), oum::life_of(ask.client));
        let guard = &mut self.nodes[to].requests;
        if self.plan.replay_window && !guard.accept_from(sender, life, ask.counter) {
            self.mark("repeated-datagram-refused");
            return Ok(());
        }
        self.say(|| {
            let (from, to) = (self.layout.name(sender.into()), self.layout.name(to));
            format!("{from} -> {to} {ask:?}")
        });
        if let Some(stamp) = self.nodes[to].stamp(self.now, &ask.groups) {
            let mut packet = self.buffers.pop().unwrap_or_default();
            packet.clear();
            packet.extend_from_slice(bytes);
            oum::stamp(&self.oum, &stamp, &mut packet);
            self.network.multicast();
            for replica in 0..self.layout.replicas {
                self.post(to, replica, true, Content::Packet(&packet), &stamp)?;
            }
            self.buffers.push(packet);
        }
        self.settle_accounts(to)
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
                let client = oum::client_id(port, Incarnation(incarnation));
                Peer::Client(client, address(port))
            }
        }
    }
}

/// Where answers to a client go.
const fn address(port: u16) -> Address {
    Address { ip: [0; 16], port }
}
