//! Who is who among the nodes of a world: replicas first, then sequencers,
//! then clients.

/// How many nodes of each kind there are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Layout {
    pub replicas: usize,
    pub sequencers: usize,
    pub clients: usize,
}

/// What a node is, and its number among its like.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Replica(usize),
    Sequencer(usize),
    Client(usize),
}

impl Layout {
    /// All nodes.
    pub(crate) const fn nodes(self) -> usize {
        self.replicas + self.sequencers + self.clients
    }

    /// What `node` is.
    pub(crate) const fn kind(self, node: usize) -> Kind {
        if node < self.replicas {
            Kind::Replica(node)
        } else if node < self.replicas + self.sequencers {
            Kind::Sequencer(node - self.replicas)
        } else {
            Kind::Client(node - self.replicas - self.sequencers)
        }
    }

    /// The node of the sequencer with this number.
    pub(crate) const fn sequencer(self, number: usize) -> usize {
        self.replicas + number
    }

    /// The node of the client with this number.
    pub(crate) const fn client(self, number: usize) -> usize {
        self.replicas + self.sequencers + number
    }

    /// Whether `node` is a sequencer.
    pub(crate) const fn sequences(self, node: usize) -> bool {
        matches!(self.kind(node), Kind::Sequencer(_))
    }

    /// A short name of a node for traces.
    pub(crate) fn name(self, node: usize) -> String {
        match self.kind(node) {
            Kind::Replica(number) => format!("r{number}"),
            Kind::Sequencer(0) if self.sequencers == 1 => "seq".to_owned(),
            Kind::Sequencer(number) => format!("s{number}"),
            Kind::Client(number) => format!("c{number}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_nodes_are_one_to_one() {
        let layout = Layout {
            replicas: 3,
            sequencers: 2,
            clients: 4,
        };
        for node in 0..layout.nodes() {
            let back = match layout.kind(node) {
                Kind::Replica(number) => number,
                Kind::Sequencer(number) => layout.sequencer(number),
                Kind::Client(number) => layout.client(number),
            };
            assert_eq!(back, node);
        }
        assert_eq!(layout.name(4), "s1");
        assert_eq!(layout.name(5), "c0");
    }
}
