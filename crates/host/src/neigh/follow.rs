//! The control thread: rtnetlink in, copies of the tables out.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, mpsc as ready};
use std::thread;
use std::time::Duration;

use futures_util::{FutureExt, StreamExt, TryStreamExt};
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::link::LinkAttribute;
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteType,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::{Handle, MulticastGroup, RouteMessageBuilder};
use tokio::sync::mpsc;

use super::tables::{Route, Tables, Target};
use super::{Published, Request};
use crate::port::Mac;

const GROUPS: [MulticastGroup; 4] = [
    MulticastGroup::Link,
    MulticastGroup::Neigh,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv4Route,
];

/// Pause before a lost connection is made again.
const RETRY: Duration = Duration::from_millis(100);

/// Why following ended.
enum End {
    /// Nobody reads any more.
    Unused,
    /// The kernel dropped notifications, or the connection failed.
    Lost,
}

/// Starts the thread in the caller's network namespace; waits for the first copy.
pub(super) fn start(
    published: Arc<Published>,
    mut requests: mpsc::Receiver<Request>,
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let (report, started) = ready::channel();
    thread::Builder::new()
        .name("neighbours".to_owned())
        .spawn(move || {
            runtime.block_on(async move {
                let mut report = Some(report);
                loop {
                    let end = follow(&published, &mut requests, &mut report).await;
                    match end {
                        Ok(End::Unused) => return,
                        Ok(End::Lost) => {
                            tracing::warn!("rtnetlink overran; reading all tables again")
                        }
                        Err(error) => match report.take() {
                            // Nobody is served yet: the caller decides.
                            Some(report) => return drop(report.send(Err(error))),
                            None => tracing::warn!("rtnetlink: {error}; trying again"),
                        },
                    }
                    tokio::time::sleep(RETRY).await;
                }
            });
        })?;
    started
        .recv()
        .unwrap_or_else(|_| Err(io::Error::other("the neighbour thread ended")))
}

/// Follows until the connection is lost or nobody reads any more.
async fn follow(
    published: &Published,
    requests: &mut mpsc::Receiver<Request>,
    report: &mut Option<ready::Sender<io::Result<()>>>,
) -> io::Result<End> {
    // Subscribed before the tables are read: what changes in between is read twice,
    // never missed.
    let (connection, handle, mut events) = rtnetlink::new_multicast_connection(&GROUPS)?;
    let connection = tokio::spawn(connection);
    let mut tables = Tables::default();
    read_fixed(&handle, &mut tables).await?;
    read_neighbours(&handle, &mut tables).await?;
    published.publish(&tables);
    if let Some(report) = report.take() {
        // The caller waits for this; if it is gone the requests end too.
        let _ = report.send(Ok(()));
    }
    let end = loop {
        tokio::select! {
            event = events.next() => {
                let Some((event, _)) = event else { break End::Lost };
                let mut changed = apply(&handle, event, &mut tables);
                // Whatever else is waiting belongs to the same copy.
                while let Some(Some((event, _))) = events.next().now_or_never() {
                    changed |= apply(&handle, event, &mut tables);
                }
                if changed {
                    // The kernel withdraws the routes of a failing link silently.
                    read_fixed(&handle, &mut tables).await?;
                }
                published.publish(&tables);
            }
            request = requests.recv() => match request {
                Some(Request { ifindex, gateway }) => resolve(&handle, ifindex, gateway),
                None => break End::Unused,
            }
        }
    };
    connection.abort();
    Ok(end)
}

/// Enters a neighbour's change; for any other, whether the rest must be read again.
fn apply(handle: &Handle, event: NetlinkMessage<RouteNetlinkMessage>, tables: &mut Tables) -> bool {
    match event.payload {
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNeighbour(neighbour)) => {
            if let Some((ifindex, address)) = enter(&neighbour, tables)
                && neighbour.header.state == NeighbourState::Stale
            {
                // The kernel does not see that we use it and would let it rest.
                resolve(handle, ifindex, address);
            }
            false
        }
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelNeighbour(neighbour)) => {
            if let Some(address) = address_of(&neighbour) {
                tables
                    .neighbours
                    .remove(&(neighbour.header.ifindex, address));
            }
            false
        }
        _ => true,
    }
}

/// Enters or, if it has no usable hardware address, removes a neighbour.
fn enter(message: &NeighbourMessage, tables: &mut Tables) -> Option<(u32, Ipv4Addr)> {
    use NeighbourState::{Delay, Noarp, Permanent, Probe, Reachable, Stale};
    let address = address_of(message)?;
    let key = (message.header.ifindex, address);
    let mac = message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            NeighbourAttribute::LinkLayerAddress(bytes) => {
                bytes.as_slice().try_into().ok().map(Mac)
            }
            _ => None,
        });
    let state = message.header.state;
    match mac {
        Some(mac) if matches!(state, Reachable | Stale | Delay | Probe | Permanent | Noarp) => {
            tables.neighbours.insert(key, mac);
        }
        _ => {
            tables.neighbours.remove(&key);
        }
    }
    Some(key)
}

fn address_of(message: &NeighbourMessage) -> Option<Ipv4Addr> {
    message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => Some(*address),
            _ => None,
        })
}

/// Has the kernel look for a neighbour as if it had a packet for it. Not waited for:
/// the outcome is a notification.
fn resolve(handle: &Handle, ifindex: u32, address: Ipv4Addr) {
    let request = handle
        .neighbours()
        .add(ifindex, IpAddr::V4(address))
        .state(NeighbourState::None)
        .flags(NeighbourFlags::Use)
        .replace();
    tokio::spawn(async move {
        if let Err(error) = request.execute().await {
            tracing::debug!("asking for {address} on interface {ifindex}: {error}");
        }
    });
}

async fn read_neighbours(handle: &Handle, tables: &mut Tables) -> io::Result<()> {
    tables.neighbours = HashMap::new();
    let mut all = handle
        .neighbours()
        .get()
        .set_address_family(AddressFamily::Inet)
        .execute();
    while let Some(neighbour) = all.try_next().await.map_err(io::Error::other)? {
        enter(&neighbour, tables);
    }
    Ok(())
}

/// Reads links, addresses and routes.
async fn read_fixed(handle: &Handle, tables: &mut Tables) -> io::Result<()> {
    let failed = io::Error::other::<rtnetlink::Error>;
    let mut links = HashMap::new();
    let mut all = handle.link().get().execute();
    while let Some(link) = all.try_next().await.map_err(failed)? {
        let mac = link
            .attributes
            .iter()
            .find_map(|attribute| match attribute {
                LinkAttribute::Address(bytes) => bytes.as_slice().try_into().ok().map(Mac),
                _ => None,
            });
        links.extend(mac.map(|mac| (link.header.index, mac)));
    }
    let mut locals = Vec::new();
    let mut all = handle.address().get().execute();
    while let Some(address) = all.try_next().await.map_err(failed)? {
        locals.extend(
            address
                .attributes
                .iter()
                .find_map(|attribute| match attribute {
                    AddressAttribute::Local(IpAddr::V4(address)) => Some(*address),
                    _ => None,
                }),
        );
    }
    let mut routes = Vec::new();
    let mut all = handle
        .route()
        .get(RouteMessageBuilder::<Ipv4Addr>::new().build())
        .execute();
    while let Some(message) = all.try_next().await.map_err(failed)? {
        routes.extend(route(&message));
    }
    tables.links = links;
    tables.locals = locals;
    tables.set_routes(routes);
    Ok(())
}

/// A route of the main table; `None` for those of others.
fn route(message: &RouteMessage) -> Option<Route> {
    let header = &message.header;
    let mut table = u32::from(header.table);
    let (mut prefix, mut metric) = (Ipv4Addr::UNSPECIFIED, 0);
    let (mut ifindex, mut gateway) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(address)) => prefix = *address,
            RouteAttribute::Gateway(RouteAddress::Inet(address)) => gateway = Some(*address),
            RouteAttribute::Oif(index) => ifindex = Some(*index),
            RouteAttribute::Priority(priority) => metric = *priority,
            RouteAttribute::Table(number) => table = *number,
            RouteAttribute::MultiPath(hops) => {
                let first = hops.first()?;
                ifindex = Some(first.interface_index);
                gateway = first
                    .attributes
                    .iter()
                    .find_map(|attribute| match attribute {
                        RouteAttribute::Gateway(RouteAddress::Inet(address)) => Some(*address),
                        _ => None,
                    });
            }
            _ => {}
        }
    }
    let target = match header.kind {
        RouteType::Unicast => Target::Link {
            ifindex: ifindex?,
            gateway,
        },
        RouteType::BlackHole | RouteType::Unreachable | RouteType::Prohibit => Target::Nowhere,
        _ => return None,
    };
    let is_ours = header.address_family == AddressFamily::Inet
        && table == u32::from(RouteHeader::RT_TABLE_MAIN);
    let length = header.destination_prefix_length;
    is_ours.then_some(Route {
        prefix,
        length,
        metric,
        target,
    })
}
