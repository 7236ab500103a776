//! The traffic generator: two threads, one in the client's and one in the
//! server's network namespace, each with one epoll set.
//!
//! Long TCP flows are open loop: a record each period, whatever happened to
//! those before, because a generator that waits for answers hides the outage
//! it should measure.

mod client;
mod datagrams;
mod flow;
pub(crate) mod live;
mod poll;
pub(crate) mod records;
pub(crate) mod report;
mod server;

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use stateplane_host::netns::Namespace;

use live::Live;
use report::ClientReport;
pub(crate) use server::ServerReport;

/// What to send.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) server: SocketAddrV4,
    /// Inside addresses to send from.
    pub(crate) clients: Vec<Ipv4Addr>,
    /// Long TCP flows: half ask, half are pushed to.
    pub(crate) tcp: u32,
    pub(crate) period: Duration,
    /// Long UDP flows.
    pub(crate) udp: u32,
    pub(crate) udp_period: Duration,
    /// New connections per second.
    pub(crate) rate: u32,
    /// Every n-th new connection stays a while (0: none).
    pub(crate) keep_every: u32,
    pub(crate) keep_for: Duration,
    pub(crate) keep_period: Duration,
    /// How long a flow may be silent at the end, or a connect may take.
    pub(crate) patience: Duration,
}

impl Plan {
    pub(crate) fn long_flows(&self) -> u32 {
        self.tcp + self.udp
    }
}

/// Both threads.
pub(crate) struct Traffic {
    live: Arc<Live>,
    client: JoinHandle<io::Result<io::Result<ClientReport>>>,
    server: JoinHandle<io::Result<io::Result<ServerReport>>>,
}

impl Traffic {
    /// Starts the server, then the client, which opens the long flows.
    pub(crate) fn start(plan: Plan, client: &Namespace, server: &Namespace) -> io::Result<Self> {
        let live = Arc::new(Live::new());
        let (address, port) = (*plan.server.ip(), plan.server.port());
        let listeners = server.run(|| server::Listeners::open(address, port))?;
        let shared = Arc::clone(&live);
        let server = server.spawn_thread("traffic-server", move || {
            server::Server::new(listeners, shared)?.run()
        })?;
        let shared = Arc::clone(&live);
        let client = client.spawn_thread("traffic-client", move || {
            client::Client::new(plan, shared)?.run()
        })?;
        Ok(Self {
            live,
            client,
            server,
        })
    }

    pub(crate) fn live(&self) -> &Arc<Live> {
        &self.live
    }

    /// Whether a thread ended by itself, which only an error makes it do.
    pub(crate) fn ended(&self) -> bool {
        self.client.is_finished() || self.server.is_finished()
    }

    /// No new connections any more; waits until the old ones are done and
    /// every long flow has been heard again, within the plan's patience.
    pub(crate) fn finish(self) -> io::Result<(ClientReport, ServerReport)> {
        self.live.drain();
        let client = join(self.client);
        self.live.stop();
        let server = join(self.server);
        Ok((client?, server?))
    }

    /// Ends at once, without a result.
    pub(crate) fn abandon(self) {
        self.live.stop();
        let _ = join(self.client);
        let _ = join(self.server);
    }
}

fn join<T>(thread: JoinHandle<io::Result<io::Result<T>>>) -> io::Result<T> {
    thread
        .join()
        .map_err(|_| io::Error::other("a traffic thread panicked"))??
}

#[cfg(test)]
mod tests {
    use super::*;
    use live::Live;
    use stateplane_host::link::Netlink;
    use std::os::fd::AsFd;

    const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
    const SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

    /// Two machines and a cable; None without the right to make them.
    fn machines() -> Option<(Namespace, Namespace)> {
        let client = Namespace::create("client").ok()?;
        let server = Namespace::create("server").expect("second namespace");
        let cable = || {
            let net = Netlink::open()?;
            net.add_veth("a", "b")?;
            net.move_to("b", server.as_fd())?;
            net.add_address("a", CLIENT, 24)?;
            net.set_up("a")
        };
        client.run(cable).expect("cable");
        let plug = || {
            let net = Netlink::open()?;
            net.add_address("b", SERVER, 24)?;
            net.set_up("b")
        };
        server.run(plug).expect("plug");
        let carrier = || Netlink::open()?.wait_running("a", Duration::from_secs(3));
        client.run(carrier).expect("carrier");
        Some((client, server))
    }

    fn plan() -> Plan {
        Plan {
            server: SocketAddrV4::new(SERVER, 7000),
            clients: vec![CLIENT],
            tcp: 6,
            period: Duration::from_millis(10),
            udp: 2,
            udp_period: Duration::from_millis(10),
            rate: 200,
            keep_every: 4,
            keep_for: Duration::from_millis(300),
            keep_period: Duration::from_millis(50),
            patience: Duration::from_secs(1),
        }
    }

    fn sleep(ms: u64) {
        std::thread::sleep(Duration::from_millis(ms));
    }

    fn start(client: &Namespace, server: &Namespace) -> Traffic {
        let traffic = Traffic::start(plan(), client, server).expect("start");
        for _ in 0..1000 {
            if Live::read(&traffic.live().long_ready) == 8 {
                break;
            }
            sleep(5);
        }
        traffic.live().set_fresh(true);
        sleep(100);
        traffic.live().next_phase();
        sleep(300);
        traffic
    }

    #[test]
    fn a_good_network_breaks_nothing() {
        let Some((client, server)) = machines() else {
            return;
        };
        let (report, server) = start(&client, &server).finish().expect("finish");
        assert_eq!(report.failures(), std::collections::BTreeMap::new());
        assert_eq!((report.tcp().count(), report.udp().count()), (6, 2));
        assert!(
            report.flows.iter().all(|f| f.received > 20),
            "{:?}",
            report.flows
        );
        assert!(
            report.connections.len() > 40,
            "{}",
            report.connections.len()
        );
        assert_eq!(server.accepted, 6 + report.connections.len() as u64);
        assert_eq!((report.remapped(), server.wrong_data), (0, 0));
    }

    #[test]
    fn a_cut_cable_breaks_every_flow_and_every_attempt() {
        let Some((client, server)) = machines() else {
            return;
        };
        let traffic = start(&client, &server);
        let cut = || Netlink::open()?.set_down("b");
        server.run(cut).expect("cut");
        traffic.live().next_phase();
        sleep(200);
        let (report, _) = traffic.finish().expect("finish");
        assert!(
            report.flows.iter().all(|f| f.failure.is_some()),
            "{:?}",
            report.flows
        );
        assert!(report.not_connected() > 20, "{:?}", report.failures());
        assert!(report.median_silence(records::Kind::Ask, 2) > 1_000_000_000);
    }
}
