//! The kernel's tables as plain data, and the next hop they give.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use super::NextHop;
use crate::port::Mac;

/// A route of the main table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Route {
    pub(super) prefix: Ipv4Addr,
    pub(super) length: u8,
    pub(super) metric: u32,
    pub(super) target: Target,
}

/// Where a route leads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Target {
    /// To a gateway, or to hosts on the link itself.
    Link {
        ifindex: u32,
        gateway: Option<Ipv4Addr>,
    },
    /// Nowhere: blackhole, unreachable, prohibit.
    Nowhere,
}

impl Route {
    fn covers(&self, destination: Ipv4Addr) -> bool {
        let differing = u32::from(self.prefix) ^ u32::from(destination);
        u32::from(self.length) <= differing.leading_zeros()
    }
}

/// What the kernel knows about where packets go.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Tables {
    /// The best first: see [`Tables::set_routes`].
    routes: Vec<Route>,
    pub(super) links: HashMap<u32, Mac>,
    pub(super) locals: Vec<Ipv4Addr>,
    pub(super) neighbours: HashMap<(u32, Ipv4Addr), Mac>,
}

impl Tables {
    /// Replaces the routes. The longest prefix wins, then the smallest metric.
    pub(super) fn set_routes(&mut self, mut routes: Vec<Route>) {
        routes.sort_by_key(|route| (u8::MAX - route.length, route.metric));
        self.routes = routes;
    }

    pub(super) fn next_hop(&self, destination: Ipv4Addr) -> NextHop {
        if self.locals.contains(&destination) {
            return NextHop::Local;
        }
        let found = self.routes.iter().find(|route| route.covers(destination));
        let Some(Route {
            target: Target::Link { ifindex, gateway },
            ..
        }) = found
        else {
            return NextHop::NoRoute;
        };
        let (ifindex, gateway) = (*ifindex, gateway.unwrap_or(destination));
        match (
            self.neighbours.get(&(ifindex, gateway)),
            self.links.get(&ifindex),
        ) {
            (Some(&mac), Some(&source)) => NextHop::Neighbour {
                ifindex,
                mac,
                source,
                gateway,
            },
            _ => NextHop::Unresolved { ifindex, gateway },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(prefix: [u8; 4], length: u8, metric: u32, ifindex: u32) -> Route {
        let target = Target::Link {
            ifindex,
            gateway: None,
        };
        Route {
            prefix: prefix.into(),
            length,
            metric,
            target,
        }
    }

    fn leaves_by(tables: &Tables, destination: [u8; 4]) -> Option<u32> {
        match tables.next_hop(destination.into()) {
            NextHop::Unresolved { ifindex, .. } | NextHop::Neighbour { ifindex, .. } => {
                Some(ifindex)
            }
            NextHop::Local | NextHop::NoRoute => None,
        }
    }

    #[test]
    fn the_longest_prefix_then_the_smallest_metric_wins() {
        let mut tables = Tables::default();
        tables.set_routes(vec![
            route([0, 0, 0, 0], 0, 0, 1),
            route([10, 0, 0, 0], 8, 200, 2),
            route([10, 0, 0, 0], 8, 100, 3),
            route([10, 1, 2, 3], 32, 900, 4),
            Route {
                target: Target::Nowhere,
                ..route([10, 9, 0, 0], 16, 0, 0)
            },
        ]);
        assert_eq!(leaves_by(&tables, [192, 0, 2, 1]), Some(1));
        assert_eq!(leaves_by(&tables, [10, 255, 0, 1]), Some(3));
        assert_eq!(leaves_by(&tables, [10, 1, 2, 3]), Some(4));
        assert_eq!(leaves_by(&tables, [10, 1, 2, 4]), Some(3));
        assert_eq!(tables.next_hop([10, 9, 1, 1].into()), NextHop::NoRoute);
        tables.set_routes(Vec::new());
        assert_eq!(tables.next_hop([10, 1, 2, 3].into()), NextHop::NoRoute);
    }

    #[test]
    fn a_hop_is_resolved_when_both_addresses_are_known() {
        let gateway = Ipv4Addr::new(10, 0, 0, 1);
        let far = Ipv4Addr::new(192, 0, 2, 1);
        let (mac, source) = (Mac([1; 6]), Mac([2; 6]));
        let mut tables = Tables {
            locals: vec![Ipv4Addr::new(10, 0, 0, 9)],
            ..Tables::default()
        };
        let target = Target::Link {
            ifindex: 5,
            gateway: Some(gateway),
        };
        tables.set_routes(vec![Route {
            target,
            ..route([0, 0, 0, 0], 0, 0, 0)
        }]);
        let unresolved = NextHop::Unresolved {
            ifindex: 5,
            gateway,
        };
        assert_eq!(tables.next_hop(far), unresolved);
        tables.neighbours.insert((4, gateway), mac);
        tables.links.insert(5, source);
        assert_eq!(tables.next_hop(far), unresolved, "another link's neighbour");
        tables.neighbours.insert((5, gateway), mac);
        assert_eq!(
            tables.next_hop(far),
            NextHop::Neighbour {
                ifindex: 5,
                mac,
                source,
                gateway,
            }
        );
        assert_eq!(tables.next_hop([10, 0, 0, 9].into()), NextHop::Local);
    }
}
