//! Datagrams cost no allocation, neither sent nor received.

use std::time::Duration;

use allocation_counter::measure;
use stateplane_host::poll;
use stateplane_host::udp::BatchSocket;
use std::os::fd::AsFd;

/// Sends a burst of datagrams to three destinations and hears one's share; how many it heard.
fn burst(from: &mut BatchSocket, to: &mut [BatchSocket; 3], count: u8) -> usize {
    let addresses = [0, 1, 2].map(|n: usize| to[n].local_addr().expect("it is bound"));
    for n in 0..count {
        // Of several sizes, so that they leave in several trains.
        from.compose(&addresses, |out| {
            out.resize(out.len() + 64 + usize::from(n % 3), n)
        });
    }
    from.flush();
    let mut heard = 0;
    for socket in to {
        let mut own = 0;
        while own < usize::from(count) {
            let ready = poll::wait(&[socket.as_fd()], Some(Duration::from_secs(5)));
            assert!(
                !ready.expect("it can be waited for").is_empty(),
                "all arrive"
            );
            own += socket
                .receive(64, |_, bytes| assert!(!bytes.is_empty()))
                .expect("receives");
        }
        heard += own;
    }
    heard
}

#[test]
fn datagrams_cost_no_allocation() {
    let socket =
        || BatchSocket::bind("127.0.0.1:0".parse().expect("an address")).expect("a socket");
    let (mut from, mut to) = (socket(), [socket(), socket(), socket()]);
    burst(&mut from, &mut to, 100);
    let mut heard = 0;
    let cost = measure(|| {
        for count in [1, 7, 64, 200] {
            heard += burst(&mut from, &mut to, count);
        }
    });
    assert_eq!(heard, 3 * (1 + 7 + 64 + 200));
    assert_eq!(cost.count_total, 0);
}
