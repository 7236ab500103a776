//! Who is who in the store group: numbers on the wire, addresses, names of the
//! cores.
//!
//! Everybody who may speak is in the configuration, so no message can make
//! this grow, and nobody can have answers sent anywhere but to its own
//! configured address.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4};

use stateplane_base::{ClientId, Incarnation, ReplicaId};
use stateplane_group::{GroupConfig, Peer, Protocol};
use stateplane_wire::envelope::{Header, Kind};
use stateplane_wire::group::{Address, Body, GroupId, Message};
use stateplane_wire::oum::{client_id, sender_of};

use crate::channel::{Channel, Heard};
use crate::config::{Config, Role, State, sender_id};

/// The number of the one group a configuration has.
pub const GROUP: GroupId = 0;

/// The members and clients of the group.
#[derive(Clone, Debug)]
pub struct Peers {
    protocol: Protocol,
    /// None where the leader orders.
    sequencers: Vec<(u16, SocketAddrV4)>,
    /// By seat, those that may become members included.
    replicas: Vec<(u16, SocketAddrV4)>,
    /// How many of them the group forms with.
    founders: usize,
    /// Bytes of an operation.
    longest: usize,
    clients: BTreeMap<u16, SocketAddrV4>,
    /// This node, if it is a replica.
    me: Option<ReplicaId>,
    /// The replicas that this node is not.
    others: Vec<SocketAddr>,
    /// This node's place among the sequencers, if it is one.
    my_sequencer: Option<u8>,
}

impl Peers {
    /// The group of `config`, as `node` sees it in `role`.
    ///
    /// # Panics
    /// Unless the (checked) configuration has a group.
    pub fn new(config: &Config, node: &str, role: Role) -> Self {
        let State::Group {
            protocol,
            sequencers,
            replicas,
            spares,
            longest,
            ..
        } = &config.state
        else {
            panic!("a checked configuration with members has a group");
        };
        let member = |name: &str, role| {
            let address = config.node(name).and_then(|node| node.control.get(&role));
            let address = *address.expect("a checked member has an address");
            (sender_id(name, role), address)
        };
        let clients = config.nodes.values().flat_map(|node| {
            let front = node.is(Role::Resp).then(|| member(&node.name, Role::Resp));
            let workers = node.workers().into_iter().map(|worker| {
                let address = worker.control.expect("a checked member has an address");
                (sender_id(&worker.name, Role::Function), address)
            });
            workers.chain(front)
        });
        let founders = replicas.len();
        let replicas: Vec<&String> = replicas.iter().chain(spares).collect();
        let members = replicas.iter().map(|name| member(name, Role::Replica));
        let members: Vec<(u16, SocketAddrV4)> = members.collect();
        // A sequencer or client beside a replica speaks to that one, too.
        let replica = |name: &&String| *name == node && role == Role::Replica;
        let me = replicas.iter().position(replica);
        let others = members.iter().enumerate().filter(|(n, _)| me != Some(*n));
        Self {
            protocol: *protocol,
            sequencers: sequencers
                .iter()
                .map(|name| member(name, Role::Sequencer))
                .collect(),
            clients: clients.collect(),
            me: me.map(|n| ReplicaId(u8::try_from(n).expect("a checked group is small"))),
            others: others.map(|(_, (_, address))| (*address).into()).collect(),
            replicas: members,
            founders,
            longest: *longest,
            my_sequencer: sequencers
                .iter()
                .zip(0..)
                .find(|(s, _)| *s == node)
                .map(|(_, n)| n),
        }
    }

    /// The sender numbers of all clients.
    pub fn clients(&self) -> Vec<u16> {
        self.clients.keys().copied().collect()
    }

    /// Where a sequencer hears.
    ///
    /// # Panics
    /// If there is none of this number.
    pub fn sequencer_address(&self, number: u8) -> SocketAddrV4 {
        self.sequencers[usize::from(number)].1
    }

    /// The replicas that this node is not.
    pub fn others(&self) -> &[SocketAddr] {
        &self.others
    }

    /// The group's size, its protocol and limits.
    pub fn group_config(&self) -> GroupConfig {
        let count = |len| u8::try_from(len).expect("a checked group is small");
        let spares = count(self.replicas.len() - self.founders);
        let mut config = GroupConfig::new(count(self.founders)).with_spares(spares);
        config.sequencers = count(self.sequencers.len());
        config.protocol = self.protocol;
        config.group = GROUP;
        config.limits.operation = self.longest;
        config
    }

    /// This node, if it is a replica.
    pub fn me(&self) -> Option<ReplicaId> {
        self.me
    }

    /// This node's place among the sequencers, if it is one.
    pub fn my_sequencer(&self) -> Option<u8> {
        self.my_sequencer
    }

    /// The message and its sender; `None` if it is not the group's business.
    pub fn hear(&self, heard: Heard<'_>) -> Option<(Peer, Message)> {
        match heard {
            Heard::Body(header, body) if header.kind == Kind::Group => {
                let message = Message::decode(body).ok()?;
                Some((self.who(&header)?, message))
            }
            Heard::Body(..) => None,
            Heard::Request(asked) => {
                let peer = self.client(asked.ask.client)?;
                let body = Body::Request(asked.read()?);
                Some((peer, Message { formation: 0, body }))
            }
            Heard::Ordered(sequencer, formation, mut ordered) => {
                // Its place in the log is certain, even if nobody here knows the client.
                let request = &mut ordered.request;
                request.reply_to = self.reply_address(request.client).unwrap_or_default();
                let body = Body::Ordered(ordered);
                Some((Peer::Sequencer(sequencer), Message { formation, body }))
            }
        }
    }

    /// A client of this group, and where answers to it go.
    fn client(&self, client: ClientId) -> Option<Peer> {
        Some(Peer::Client(client, self.reply_address(client)?))
    }

    /// Whether it is a client of this group.
    pub fn is_client(&self, client: ClientId) -> bool {
        self.clients.contains_key(&sender_of(client))
    }

    /// Where answers to a client go, if it is one of this group.
    fn reply_address(&self, client: ClientId) -> Option<Address> {
        let address = self.clients.get(&sender_of(client))?;
        Some(to_wire(*address))
    }

    fn who(&self, header: &Header) -> Option<Peer> {
        let sender = header.sender;
        let mut sequencers = self.sequencers.iter().zip(0..);
        if let Some((_, n)) = sequencers.find(|((s, _), _)| *s == sender) {
            return Some(Peer::Sequencer(n));
        }
        let replicas = self.replicas.iter().zip(0..);
        if let Some((_, n)) = replicas.into_iter().find(|((s, _), _)| *s == sender) {
            return Some(Peer::Replica(ReplicaId(n)));
        }
        self.client(client_id(sender, Incarnation(header.incarnation)))
    }

    /// Sends a message to one or all of its peers.
    pub fn send(&self, channel: &mut Channel, to: Peer, message: &Message) {
        let mut say = |to: &[SocketAddr]| {
            if let Body::Request(request) = &message.body {
                to.iter()
                    .for_each(|to| channel.request(*to, GROUP, request));
            } else {
                channel.multicast(to, Kind::Group, |out| message.encode(out));
            }
        };
        match to {
            Peer::Sequencer(n) => {
                if let Some((_, address)) = self.sequencers.get(usize::from(n)) {
                    say(&[(*address).into()]);
                }
            }
            Peer::Replica(ReplicaId(n)) => {
                if let Some((_, address)) = self.replicas.get(usize::from(n)) {
                    say(&[(*address).into()]);
                }
            }
            Peer::Replicas => say(&self.others),
            Peer::Client(_, address) => {
                if let Some(address) = from_wire(address) {
                    say(&[address.into()]);
                }
            }
        }
    }
}

/// An IPv4 address as the cores have it.
fn to_wire(address: SocketAddrV4) -> Address {
    Address {
        ip: address.ip().to_ipv6_mapped().octets(),
        port: address.port(),
    }
}

/// The IPv4 address that a core names, if it is one.
fn from_wire(address: Address) -> Option<SocketAddrV4> {
    let ip: Ipv4Addr = Ipv6Addr::from(address.ip).to_ipv4_mapped()?;
    Some(SocketAddrV4::new(ip, address.port))
}
