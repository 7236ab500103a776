//! Datagrams between nodes: sealed by the sender, changed or lost on the way,
//! opened by the receiver, with the codecs the real drivers use.
use crate::datagram::{Opened, Shared};
use crate::dice::{fold, fold_word};
use crate::layout;
use crate::network::Copy;
use crate::world::{Event, World};
use core::fmt::Debug;
use stateplane_base::{Incarnation, ReplicaId};
use stateplane_group::Peer;
use stateplane_wire::envelope::{Header, Kind, OpenError, append, open};
use stateplane_wire::group::{Address, Body, Formation, GroupId, Message, Ordered};
use stateplane_wire::oum::{self, Groups};
use std::rc::Rc;

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
    /// A message, to be sealed.
    Message(&'a Message),
    /// A datagram as it is.
    Sealed(&'a Shared),
}

impl World<'_> {
    /// Sends `message` from node `from` to `to`.
    pub(crate) fn send(&mut self, from: usize, to: Peer, message: &Message) -> Result<(), String> {
        self.sample(message);
        let ordering = self.orders(from, message);
        let content = Content::Message(message);
        match to {
            Peer::Replicas => {
                if ordering {
                    self.network.multicast();
                }
                // One datagram to all, as a driver sends it.
                let datagram = self.seal(from, message);
                let sent = (0..self.layout.replicas)
                    .filter(|replica| *replica != from)
                    .try_for_each(|replica| {
                        let content = Content::Sealed(&datagram);
                        self.post(from, replica, ordering, content, message)
                    });
                self.pool.recycle(datagram);
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
        }
    }

    /// Keeps a message for fuzzers, if somebody wants some.
    fn sample(&self, message: &Message) {
        if let Some(samples) = self.samples
            && !matches!(message.body, Body::Request(_))
        {
            let mut body = Vec::new();
            message.encode(&mut body);
            samples.borrow_mut().hear(message.body.name(), &body);
        }
    }

    /// Whether a message is what decides the order: it has dangers of its own.
    fn orders(&self, from: usize, message: &Message) -> bool {
        self.layout.sequences(from) || matches!(message.body, Body::Prepare(_))
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
        let datagram = match content {
            Content::Message(message) => self.seal(from, message),
            Content::Sealed(datagram) => Rc::clone(datagram),
        };
        let size = datagram.bytes().len();
        if size > LONGEST {
            return Err(format!("size: a datagram of {size} bytes"));
        }
        if let Some(second) = second {
            self.travel(target, second, Rc::clone(&datagram));
        }
        self.travel(target, first, datagram);
        Ok(())
    }

    /// The datagram that node `from` makes of a message.
    fn seal(&mut self, from: usize, message: &Message) -> Shared {
        let node = &mut self.nodes[from];
        node.counter += 1;
        let (key, keys) = (&self.key, &self.oum);
        self.pool.write(|bytes| match &message.body {
            Body::Request(request) => {
                oum::seal_request(keys, node.counter, Groups::one(GROUP), request, bytes);
            }
            _ => {
                let header = Header {
                    kind: Kind::Group,
                    cluster: CLUSTER,
                    sender: u16::try_from(from).expect("nodes are few"),
                    incarnation: node.incarnation,
                    counter: node.counter,
                };
                append(key, header, bytes, |bytes| message.encode(bytes));
            }
        })
    }

    /// One copy is on its way.
    fn travel(&mut self, to: usize, copy: Copy, datagram: Shared) {
        let (datagram, flipped) = match copy.flip {
            None => (datagram, false),
            Some(draw) => (self.damage(to, draw, datagram), true),
        };
        let deliver = Event::Deliver {
            to,
            datagram,
            flipped,
        };
        self.agenda.add(copy.at, deliver);
    }

    /// The same datagram with another bit: a new one.
    fn damage(&mut self, to: usize, draw: u64, datagram: Shared) -> Shared {
        let bits = datagram.bytes().len() * 8;
        let bit = usize::try_from(draw).unwrap_or(usize::MAX) % bits;
        // What was damaged on the way to a sequencer is not repaired on the way from it.
        let bit = bit & !1 | usize::from(self.layout.sequences(to));
        let damaged = self.pool.write(|bytes| {
            bytes.extend_from_slice(datagram.bytes());
            bytes[bit / 8] ^= 1 << (bit % 8);
        });
        self.pool.recycle(datagram);
        damaged
    }

    /// A datagram reaches a node's socket.
    pub(crate) fn arrive(
        &mut self,
        to: usize,
        datagram: Shared,
        flipped: bool,
    ) -> Result<(), String> {
        let hash = fold_word(self.run.hash, self.now);
        self.run.hash = fold(fold_word(hash, to as u64), datagram.bytes());
        let node = &mut self.nodes[to];
        if node.is_deaf() && node.role.is_some() {
            if node.backlog.len() < SOCKET {
                node.backlog.push((datagram, flipped));
            } else {
                self.pool.recycle(datagram);
            }
            return Ok(());
        }
        let read = match node.role {
            None => Ok(()),
            Some(_) => self.read(to, &datagram, flipped),
        };
        self.pool.recycle(datagram);
        read
    }

    /// A node reads a datagram from its socket.
    pub(crate) fn read(
        &mut self,
        to: usize,
        datagram: &Shared,
        flipped: bool,
    ) -> Result<(), String> {
        if let Some(opened) = datagram.recall() {
            return match opened {
                Opened::Message(header, message) => self.take(to, &header, message),
                Opened::Ordered(sequencer, formation, ordered) => {
                    self.take_ordered(to, sequencer, formation, ordered)
                }
            };
        }
        match oum::kind(datagram.bytes()) {
            None => self.open(to, datagram, flipped),
            Some(oum::Kind::Ordered) => self.open_ordered(to, datagram, flipped),
            Some(oum::Kind::Request) if self.layout.sequences(to) => {
                self.order_request(to, datagram.bytes(), flipped)
            }
            Some(oum::Kind::Request) => self.read_request(to, datagram.bytes(), flipped),
        }
    }

    /// Opens an envelope.
    fn open(&mut self, to: usize, datagram: &Shared, flipped: bool) -> Result<(), String> {
        let (header, body) = match open(&self.key, CLUSTER, datagram.bytes()) {
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
        let message = match Message::decode(body) {
            Ok(message) => message,
            Err(error) => return Err(format!("codec: cannot decode what was encoded: {error}")),
        };
        datagram.remember(|| Opened::Message(header, message.clone()));
        self.take(to, &header, message)
    }

    /// A message out of its envelope, which a driver may have seen before.
    #[inline]
    fn take(&mut self, to: usize, header: &Header, message: Message) -> Result<(), String> {
        if self.plan.replay_window && !self.nodes[to].guard.accept(header) {
            self.mark("repeated-datagram-refused");
            return Ok(());
        }
        let from = usize::from(header.sender);
        let peer = self.peer(from, header.incarnation);
        self.say(|| {
            let (from, to) = (self.layout.name(from), self.layout.name(to));
            format!("{from} -> {to} {message:?}")
        });
        self.step(to, peer, message)
    }

    /// Opens a packet of the ordered multicast.
    fn open_ordered(&mut self, to: usize, datagram: &Shared, flipped: bool) -> Result<(), String> {
        match oum::open_ordered(&self.oum, datagram.bytes()) {
            Ok((_, _, m)) if flipped => Err(format!("tag: a damaged packet was accepted: {m:?}")),
            Ok((sequencer, formation, mut m)) => {
                m.request.reply_to = address(oum::sender_of(m.request.client));
                datagram.remember(|| Opened::Ordered(sequencer, formation, m.clone()));
                self.take_ordered(to, sequencer, formation, m)
            }
            Err(error) => self.refused(error, flipped),
        }
    }

    #[inline]
    fn take_ordered(
        &mut self,
        to: usize,
        sequencer: u8,
        formation: Formation,
        ordered: Ordered,
    ) -> Result<(), String> {
        let body = Body::Ordered(ordered);
        self.hand_over(to, Peer::Sequencer(sequencer), Message { formation, body })
    }

    /// A packet of the ordered multicast was refused, as it should be if it was damaged.
    fn refused(&mut self, error: oum::OpenError, flipped: bool) -> Result<(), String> {
        match error {
            // Damaged on its way to the sequencer, which looks at the outer tag only.
            oum::OpenError::Inner if self.plan.links.corrupt > 0.0 => {
                self.mark("inner-tag-refused");
                Ok(())
            }
            _ if flipped => {
                self.mark("damaged-datagram-refused");
                Ok(())
            }
            error => Err(format!("codec: an intact packet was refused: {error}")),
        }
    }

    /// A replica reads a request, to order it itself.
    fn read_request(&mut self, to: usize, bytes: &[u8], flipped: bool) -> Result<(), String> {
        let (ask, request) = match oum::read_request(&self.oum, bytes) {
            Ok(read) => read,
            Err(error) => return self.refused(error, flipped),
        };
        let sender = usize::from(oum::sender_of(ask.client));
        let peer = self.peer(sender, oum::life_of(ask.client));
        let (formation, body) = (0, Body::Request(request));
        self.hand_over(to, peer, Message { formation, body })
    }

    #[inline]
    fn hand_over(&mut self, to: usize, peer: Peer, message: Message) -> Result<(), String> {
        self.say(|| format!("{peer:?} -> {} {message:?}", self.layout.name(to)));
        self.step(to, peer, message)
    }

    /// The sequencer reads a request, stamps it in place and sends it to all replicas.
    fn order_request(&mut self, to: usize, bytes: &[u8], flipped: bool) -> Result<(), String> {
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
            let keys = &self.oum;
            let packet = self.pool.write(|packet| {
                packet.extend_from_slice(bytes);
                oum::stamp(keys, &stamp, packet);
            });
            self.network.multicast();
            for replica in 0..self.layout.replicas {
                self.post(to, replica, true, Content::Sealed(&packet), &stamp)?;
            }
            self.pool.recycle(packet);
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
