//! The peer: the sequencer in user space.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Result;
use stateplane_base::{LogTime, ReplicaId};
use stateplane_group::{GroupConfig, Message, Peer, Sequencer as Core};
use stateplane_host::udp::BatchSocket;
use stateplane_host::{clock, poll, priority};
use stateplane_wire::group::Body;
use stateplane_wire::oum;

use super::bed::{Bed, HERE, REPLICAS, keys, replica};

/// The sequencer's core with the sockets of a node, on a thread.
pub(super) struct UserSpace {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<io::Result<io::Result<()>>>>,
}

impl UserSpace {
    pub(super) fn start(bed: &Bed, cpu: usize) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&stop);
        let thread = bed
            .sequencer
            .spawn_thread("sequencer", move || stamp_until(&flag, cpu))?;
        let thread = Some(thread);
        Ok(Self { stop, thread })
    }
}

impl Drop for UserSpace {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn granted() -> Core {
    let mut core = Core::new(GroupConfig::new(REPLICAS), 0, 0);
    let body = Body::SessionGrant {
        session: 1,
        nonce: 0,
        time: LogTime::ZERO,
        runs: true,
    };
    let grant = Message { formation: 1, body };
    core.on_message(clock::now(), Peer::Replica(ReplicaId(0)), grant);
    core
}

fn stamp_until(stop: &AtomicBool, cpu: usize) -> io::Result<()> {
    priority::pin_to(cpu)?;
    let (mut core, keys) = (granted(), keys());
    let mut socket = BatchSocket::bind(SocketAddr::V4(HERE))?;
    let replicas: Vec<SocketAddr> = (1..=REPLICAS).map(|n| replica(n).into()).collect();
    let (mut stamped, mut ends) = (Vec::new(), Vec::new());
    while !stop.load(Ordering::Relaxed) {
        poll::wait(&[socket.as_fd()], Some(Duration::from_millis(20)))?;
        let now = clock::now();
        socket.receive(32, |_, packet| {
            let Ok(ask) = oum::open_request(&keys, packet) else {
                return;
            };
            if let Some(stamp) = core.stamp(now, LogTime::ZERO, &ask.groups) {
                oum::stamp(&keys, &stamp, packet);
                stamped.extend_from_slice(packet);
                ends.push(stamped.len());
            }
        })?;
        let mut start = 0;
        for end in ends.drain(..) {
            let packet = &stamped[start..end];
            socket.compose(&replicas, |out| out.extend_from_slice(packet));
            start = end;
        }
        stamped.clear();
        socket.flush();
    }
    Ok(())
}
