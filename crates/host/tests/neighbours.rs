//! Routes and neighbours of a real network namespace, followed.

mod support;

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use stateplane_host::clock;
use stateplane_host::ifreq;
use stateplane_host::link::Netlink;
use stateplane_host::neigh::{Neighbours, NextHop, Reader};
use stateplane_host::netns::Namespace;
use stateplane_host::port::Mac;
use support::{End, cable, can_make_interfaces};

const HERE: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 2);
const FAR: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);
const MACS: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]];

/// Waits until the hop to `to` is as expected.
fn until(reader: &mut Reader, to: Ipv4Addr, expected: NextHop) {
    let start = Instant::now();
    loop {
        reader.refresh();
        let found = reader.next_hop(to);
        if found == expected {
            return;
        }
        if let NextHop::Unresolved { ifindex, gateway } = found {
            reader.request(clock::now(), ifindex, gateway);
        }
        assert!(
            start.elapsed() < Duration::from_secs(3),
            "{to}: {found:?}, not {expected:?}"
        );
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn hops_are_resolved_on_request_and_follow_the_kernel() {
    if !can_make_interfaces() {
        return;
    }
    let here = Namespace::create("here").unwrap();
    let there = Namespace::create("there").unwrap();
    let end = |namespace, name, mac, address| End {
        namespace,
        name,
        mac,
        address: Some(address),
    };
    cable(
        &end(&here, "eth0", MACS[0], HERE),
        &end(&there, "peer0", MACS[1], GATEWAY),
    )
    .unwrap();
    here.run(|| {
        let ifindex = ifreq::index("eth0")?;
        let netlink = Netlink::open()?;
        let neighbours = Neighbours::follow()?;
        assert!(neighbours.local_addresses().contains(&HERE));
        let mut reader = neighbours.reader();
        assert_eq!(reader.next_hop(HERE), NextHop::Local);
        assert_eq!(reader.next_hop(FAR), NextHop::NoRoute);
        assert!(matches!(
            reader.next_hop(GATEWAY),
            NextHop::Unresolved {
                gateway: GATEWAY,
                ..
            }
        ));

        let resolved = NextHop::Neighbour {
            ifindex,
            mac: Mac(MACS[1]),
            source: Mac(MACS[0]),
            gateway: GATEWAY,
        };
        until(&mut reader, GATEWAY, resolved);
        netlink.add_route(Ipv4Addr::UNSPECIFIED, 0, GATEWAY)?;
        until(&mut reader, FAR, resolved);

        // Who is not there stays unresolved.
        let nobody = Ipv4Addr::new(10, 1, 0, 77);
        until(
            &mut reader,
            nobody,
            NextHop::Unresolved {
                ifindex,
                gateway: nobody,
            },
        );
        netlink.add_neighbour("eth0", nobody, [2, 0, 0, 0, 0, 7])?;
        let mac = Mac([2, 0, 0, 0, 0, 7]);
        until(
            &mut reader,
            nobody,
            NextHop::Neighbour {
                ifindex,
                mac,
                source: Mac(MACS[0]),
                gateway: nobody,
            },
        );

        // Routes of a link that goes down vanish without a word from the kernel.
        netlink.set_down("eth0")?;
        until(&mut reader, FAR, NextHop::NoRoute);
        netlink.set_up("eth0")?;
        until(&mut reader, GATEWAY, resolved);

        assert_eq!(control_threads(), 1);
        drop(neighbours);
        until(&mut reader, GATEWAY, resolved);
        drop(reader);
        let start = Instant::now();
        while control_threads() > 0 {
            assert!(
                start.elapsed() < Duration::from_secs(3),
                "nobody reads any more"
            );
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    })
    .unwrap();
}

/// Threads that follow tables, in this process.
fn control_threads() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    tasks
        .filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")).ok())
        .filter(|name| name.trim() == "neighbours")
        .count()
}
