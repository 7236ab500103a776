//! What AF_XDP can reach at most: frames from one interface to the other, new hardware
//! addresses and nothing else.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::Pid;
use rustix::thread::{CpuSet, gettid, sched_setaffinity};
use stateplane_host::bpf::bench::ToSockets;
use stateplane_host::frame::{FramePool, PoolConfig};
use stateplane_host::poll;
use stateplane_host::port::Port;
use stateplane_host::xsk::{XskConfig, XskPort};

use crate::bench::testbed::{MAC_OUTSIDE, MAC_SINK, Testbed};
use crate::scheduled::Scheduled;

/// Frames taken at once, as a worker takes them.
const BATCH: usize = 64;
/// Looks at the flag this often.
const GLANCE: Duration = Duration::from_millis(20);

/// The forwarding thread.
pub(super) struct L2fwd {
    stop: Arc<AtomicBool>,
    number: Pid,
    thread: Option<JoinHandle<io::Result<io::Result<()>>>>,
}

impl L2fwd {
    pub(super) fn start(bed: &Testbed) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&stop);
        let (ready, is_ready) = mpsc::channel();
        let thread = bed
            .device
            .spawn_thread("l2fwd", move || forward_until(&flag, &ready))?;
        let Ok(number) = is_ready.recv() else {
            let ended = thread.join().expect("the thread does not panic");
            ended??;
            anyhow::bail!("the forwarding thread ended at once");
        };
        Ok(Self {
            stop,
            number,
            thread: Some(thread),
        })
    }

    pub(super) fn pin(&self, cpu: usize) -> Result<()> {
        let mut set = CpuSet::new();
        set.set(cpu);
        Ok(sched_setaffinity(Some(self.number), &set)?)
    }

    pub(super) fn run_time(&self) -> Result<Duration> {
        let number = self.number.as_raw_nonzero();
        let line = std::fs::read_to_string(format!("/proc/self/task/{number}/schedstat"))?;
        let times = Scheduled::read(&line).context("the kernel keeps no time of threads")?;
        Ok(times.ran)
    }

    pub(super) fn stop(mut self) -> Result<()> {
        self.end().map_or(Ok(()), |ended| Ok(ended??))
    }

    fn end(&mut self) -> Option<io::Result<io::Result<()>>> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take()?;
        Some(thread.join().expect("the thread does not panic"))
    }
}

impl Drop for L2fwd {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

fn forward_until(stop: &AtomicBool, ready: &mpsc::Sender<Pid>) -> io::Result<()> {
    let config = XskConfig::default();
    let mut pool = FramePool::new(PoolConfig {
        frames: 4 * config.ring,
        frame_size: 2048,
    })?;
    let open = |pool: &mut FramePool, name| XskPort::open(pool, name, &config);
    let mut from = open(&mut pool, "lan0").map_err(io::Error::other)?;
    let mut to = open(&mut pool, "wan0").map_err(io::Error::other)?;
    let _program = ToSockets::attach(&from).map_err(io::Error::other)?;
    let _ = ready.send(gettid());
    let mut batch = Vec::with_capacity(BATCH);
    while !stop.load(Ordering::Relaxed) {
        let count = from.receive(&mut pool, BATCH, &mut batch);
        for frame in &batch {
            let bytes = pool.bytes_mut(frame);
            bytes[..6].copy_from_slice(&MAC_SINK);
            bytes[6..12].copy_from_slice(&MAC_OUTSIDE);
        }
        to.transmit(&mut pool, &mut batch);
        to.flush();
        batch.drain(..).for_each(|frame| pool.give(frame));
        if count == 0 {
            to.reclaim(&mut pool);
            let fds: Vec<_> = from.fd().into_iter().collect();
            poll::wait(&fds, Some(GLANCE))?;
        }
    }
    Ok(())
}
