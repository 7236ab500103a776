//! Links, addresses, routes and neighbours of a network namespace, by
//! rtnetlink(7).
//!
//! A [`Netlink`] speaks for the namespace of the thread that opened it; call
//! it from inside [`Namespace::run`](crate::netns::Namespace::run).

use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

use futures_util::TryStreamExt;
use rtnetlink::packet_route::link::{LinkFlags, LinkMessage};
use rtnetlink::packet_route::neighbour::NeighbourState;
use rtnetlink::{Handle, LinkBridge, LinkUnspec, LinkVeth, RouteMessageBuilder};
use tokio::runtime::{Builder, Runtime};

/// A blocking rtnetlink connection.
pub struct Netlink {
    runtime: Runtime,
    handle: Handle,
}

impl Netlink {
    /// Opens a connection in the calling thread's network namespace.
    pub fn open() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = {
            let _inside = runtime.enter();
            let (connection, handle, _) = rtnetlink::new_connection()?;
            runtime.spawn(connection);
            handle
        };
        Ok(Self { runtime, handle })
    }

    /// Makes a pair of connected Ethernet interfaces, both down.
    pub fn add_veth(&self, name: &str, peer: &str) -> io::Result<()> {
        let message = LinkVeth::new(name, peer).build();
        let request = self.handle.link().add(message).execute();
        self.wait(request, || format!("make veth {name}-{peer}"))
    }

    /// Makes a bridge, up.
    pub fn add_bridge(&self, name: &str) -> io::Result<()> {
        let request = self
            .handle
            .link()
            .add(LinkBridge::new(name).build())
            .execute();
        self.wait(request, || format!("make bridge {name}"))
    }

    /// Puts an interface into a bridge.
    pub fn attach_to_bridge(&self, name: &str, bridge: &str) -> io::Result<()> {
        let controller = self.index(bridge)?;
        let message = LinkUnspec::new_with_name(name).controller(controller);
        self.set(message, || format!("put {name} into bridge {bridge}"))
    }

    /// Moves an interface into another namespace; its addresses do not follow.
    pub fn move_to(&self, name: &str, namespace: BorrowedFd<'_>) -> io::Result<()> {
        let message = LinkUnspec::new_with_name(name).setns_by_fd(namespace.as_raw_fd());
        self.set(message, || format!("move {name} to its namespace"))
    }

    /// Sets the Ethernet address.
    pub fn set_mac(&self, name: &str, mac: [u8; 6]) -> io::Result<()> {
        let message = LinkUnspec::new_with_name(name).address(mac.to_vec());
        self.set(message, || format!("set the MAC address of {name}"))
    }

    /// Sets the largest payload of a frame.
    pub fn set_mtu(&self, name: &str, mtu: u32) -> io::Result<()> {
        let message = LinkUnspec::new_with_name(name).mtu(mtu);
        self.set(message, || format!("set the MTU of {name}"))
    }

    /// Switches an interface on.
    pub fn set_up(&self, name: &str) -> io::Result<()> {
        let message = LinkUnspec::new_with_name(name).up();
        self.set(message, || format!("bring {name} up"))
    }

    /// Switches an interface off.
    pub fn set_down(&self, name: &str) -> io::Result<()> {
        let message = LinkUnspec::new_with_name(name).down();
        self.set(message, || format!("take {name} down"))
    }

    /// Gives an interface an address, with the route to its prefix.
    pub fn add_address(&self, name: &str, address: Ipv4Addr, prefix: u8) -> io::Result<()> {
        let index = self.index(name)?;
        let request = self
            .handle
            .address()
            .add(index, IpAddr::V4(address), prefix)
            .execute();
        self.wait(request, || format!("add {address}/{prefix} to {name}"))
    }

    /// Adds a route through a gateway; prefix 0 is the default route.
    pub fn add_route(&self, to: Ipv4Addr, prefix: u8, gateway: Ipv4Addr) -> io::Result<()> {
        let message = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(to, prefix)
            .gateway(gateway)
            .build();
        let request = self.handle.route().add(message).execute();
        self.wait(request, || format!("add route {to}/{prefix} via {gateway}"))
    }

    /// Adds a permanent neighbour, so that it need not be asked for.
    pub fn add_neighbour(&self, name: &str, address: Ipv4Addr, mac: [u8; 6]) -> io::Result<()> {
        let index = self.index(name)?;
        let request = self
            .handle
            .neighbours()
            .add(index, IpAddr::V4(address))
            .link_layer_address(&mac)
            .state(NeighbourState::Permanent)
            .replace()
            .execute();
        self.wait(request, || format!("add neighbour {address} on {name}"))
    }

    /// Waits until an interface can carry frames: the kernel notices a peer
    /// that came up only after a while, up to a second when links are busy.
    pub fn wait_running(&self, name: &str, limit: Duration) -> io::Result<()> {
        let until = Instant::now() + limit;
        while !self.link(name)?.header.flags.contains(LinkFlags::Running) {
            if Instant::now() > until {
                let what = format!("{name} has no carrier after {limit:?}");
                return Err(io::Error::new(io::ErrorKind::TimedOut, what));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// The kernel's number of an interface.
    pub fn index(&self, name: &str) -> io::Result<u32> {
        Ok(self.link(name)?.header.index)
    }

    fn link(&self, name: &str) -> io::Result<LinkMessage> {
        let what = || format!("find interface {name}");
        let found = self.runtime.block_on(async {
            let mut links = self.handle.link().get().match_name(name).execute();
            links.try_next().await
        });
        match found {
            Ok(Some(link)) => Ok(link),
            Ok(None) => Err(io::Error::new(io::ErrorKind::NotFound, what())),
            Err(e) => Err(explain(e, what)),
        }
    }

    fn set<T>(
        &self,
        message: rtnetlink::LinkMessageBuilder<T>,
        what: impl FnOnce() -> String,
    ) -> io::Result<()> {
        let request = self.handle.link().set(message.build()).execute();
        self.wait(request, what)
    }

    fn wait(
        &self,
        request: impl Future<Output = Result<(), rtnetlink::Error>>,
        what: impl FnOnce() -> String,
    ) -> io::Result<()> {
        self.runtime.block_on(request).map_err(|e| explain(e, what))
    }
}

/// Says what was attempted and keeps the kernel's reason.
fn explain(error: rtnetlink::Error, what: impl FnOnce() -> String) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => {
            let cause = message.to_io();
            io::Error::new(cause.kind(), format!("cannot {}: {cause}", what()))
        }
        other => io::Error::other(format!("cannot {}: {other}", what())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netns::Namespace;
    use std::net::UdpSocket;
    use std::os::fd::AsFd;

    const A: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
    const B: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

    fn end(ns: &Namespace, name: &str, address: Ipv4Addr, mac: [u8; 6]) -> io::Result<()> {
        ns.run(|| {
            let net = Netlink::open()?;
            net.set_mac(name, mac)?;
            net.set_mtu(name, 1400)?;
            net.add_address(name, address, 24)?;
            net.set_up("lo")?;
            net.set_up(name)
        })
    }

    #[test]
    fn a_datagram_crosses_two_namespaces_joined_by_a_bridge() {
        let Ok(middle) = Namespace::create("middle") else {
            eprintln!("skipped: namespaces need CAP_SYS_ADMIN");
            return;
        };
        let left = Namespace::create("left").expect("left");
        let right = Namespace::create("right").expect("right");
        let macs = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]];
        middle
            .run(|| {
                let net = Netlink::open()?;
                net.add_bridge("br")?;
                for (port, ns) in [("p1", &left), ("p2", &right)] {
                    net.add_veth(port, "eth0")?;
                    net.move_to("eth0", ns.as_fd())?;
                    net.attach_to_bridge(port, "br")?;
                    net.set_up(port)?;
                }
                Ok(())
            })
            .expect("middle");
        end(&left, "eth0", A, macs[0]).expect("left end");
        end(&right, "eth0", B, macs[1]).expect("right end");
        left.run(|| {
            let net = Netlink::open()?;
            net.wait_running("eth0", Duration::from_secs(3))?;
            net.add_neighbour("eth0", B, macs[1])?;
            net.add_route(Ipv4Addr::UNSPECIFIED, 0, B)
        })
        .expect("neighbour and route");

        let receiver = right.run(|| UdpSocket::bind((B, 7))).expect("receiver");
        receiver
            .set_read_timeout(Some(Duration::from_millis(50)))
            .expect("timeout");
        let mut buffer = [0; 16];
        // A bridge drops what comes before its ports forward, which takes a moment.
        let received = (0..100).find_map(|_| {
            left.run(|| UdpSocket::bind((A, 0))?.send_to(b"hello", (B, 7)))
                .expect("send");
            receiver.recv_from(&mut buffer).ok()
        });
        let (length, from) = received.expect("one of a hundred datagrams arrives");
        assert_eq!(
            (&buffer[..length], from.ip()),
            (&b"hello"[..], IpAddr::V4(A))
        );
    }

    #[test]
    fn an_error_says_what_was_attempted() {
        let Ok(ns) = Namespace::create("t") else {
            return;
        };
        let error = ns
            .run(|| Netlink::open()?.set_up("nosuch0"))
            .expect_err("no such interface");
        assert!(error.to_string().contains("nosuch0"), "{error}");
    }
}
