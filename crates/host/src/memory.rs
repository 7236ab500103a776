//! Ports that lead from one to another in memory: for tests, and for runs without a
//! network.

use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::frame::{Frame, FramePool};
use crate::port::{Mac, Port, PortStats};

/// One direction of the cable.
type Queue = Arc<Mutex<VecDeque<Vec<u8>>>>;

/// One end of a cable in memory. The ends may belong to different pools, even
/// different threads: packets are copied.
#[derive(Debug)]
pub struct MemoryPort {
    name: String,
    mac: Mac,
    mtu: u32,
    limit: usize,
    incoming: Queue,
    outgoing: Queue,
    stats: PortStats,
}

impl MemoryPort {
    /// Both ends of a cable that holds at most `limit` packets in each direction.
    pub fn pair(limit: usize) -> (Self, Self) {
        let (one, two) = (Queue::default(), Queue::default());
        let end = |last, incoming: &Queue, outgoing: &Queue| Self {
            name: format!("memory{last}"),
            mac: Mac([2, 0, 0, 0, 0, last]),
            mtu: 1500,
            limit,
            incoming: Arc::clone(incoming),
            outgoing: Arc::clone(outgoing),
            stats: PortStats::default(),
        };
        (end(1, &one, &two), end(2, &two, &one))
    }

    /// Puts a packet on the cable as a host at this end would; `false` if it is full.
    pub fn inject(&mut self, packet: &[u8]) -> bool {
        let mut queue = lock(&self.outgoing);
        let room = queue.len() < self.limit;
        if room {
            queue.push_back(packet.to_vec());
        }
        room
    }

    /// Takes the next packet off the cable as a host at this end would.
    pub fn collect(&mut self) -> Option<Vec<u8>> {
        lock(&self.incoming).pop_front()
    }
}

/// A queue is sound after any panic: each operation on it is a single push or pop.
fn lock(queue: &Queue) -> MutexGuard<'_, VecDeque<Vec<u8>>> {
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Port for MemoryPort {
    fn receive(&mut self, pool: &mut FramePool, max: usize, into: &mut Vec<Frame>) -> usize {
        let mut queue = lock(&self.incoming);
        let mut count = 0;
        while count < max && pool.census().free > 0 {
            let Some(packet) = queue.pop_front() else {
                break;
            };
            match pool.take_with(&packet) {
                Some(frame) => {
                    self.stats.received += 1;
                    self.stats.received_bytes += packet.len() as u64;
                    into.push(frame);
                    count += 1;
                }
                None => self.stats.dropped_other += 1,
            }
        }
        count
    }

    fn transmit(&mut self, pool: &mut FramePool, from: &mut Vec<Frame>) -> usize {
        let mut queue = lock(&self.outgoing);
        let count = self.limit.saturating_sub(queue.len()).min(from.len());
        for frame in from.drain(..count) {
            queue.push_back(pool.bytes(&frame).to_vec());
            self.stats.sent += 1;
            self.stats.sent_bytes += frame.len() as u64;
            pool.give(frame);
        }
        self.stats.send_full += from.len() as u64;
        count
    }

    fn flush(&mut self) {}

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn stats(&self) -> PortStats {
        self.stats
    }

    fn mtu(&self) -> u32 {
        self.mtu
    }

    fn mac(&self) -> Mac {
        self.mac
    }

    fn name(&self) -> &str {
        &self.name
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::PoolConfig;

    #[test]
    fn packets_cross_and_frames_come_home() {
        let mut pool = FramePool::new(PoolConfig {
            frames: 4,
            frame_size: 2048,
        })
        .unwrap();
        let (mut near, mut far) = MemoryPort::pair(2);
        let mut batch: Vec<Frame> = (0..3u8)
            .map(|number| pool.take_with(&[number]).unwrap())
            .collect();
        assert_eq!(
            near.transmit(&mut pool, &mut batch),
            2,
            "the cable holds two"
        );
        assert_eq!(pool.bytes(&batch[0]), [2], "the rest stays with the caller");
        pool.give(batch.pop().unwrap());

        assert_eq!(far.receive(&mut pool, 8, &mut batch), 2);
        let packets: Vec<u8> = batch.iter().map(|frame| pool.bytes(frame)[0]).collect();
        assert_eq!(packets, [0, 1]);
        batch.drain(..).for_each(|frame| pool.give(frame));
        assert_eq!(pool.census().free, 4);
        pool.check();
    }

    #[test]
    fn a_packet_waits_on_the_cable_while_no_frame_is_free() {
        let mut pool = FramePool::new(PoolConfig {
            frames: 1,
            frame_size: 2048,
        })
        .unwrap();
        let (mut near, mut far) = MemoryPort::pair(8);
        assert!(near.inject(b"one") && near.inject(b"two"));
        let mut batch = Vec::new();
        assert_eq!(far.receive(&mut pool, 8, &mut batch), 1);
        assert_eq!(far.receive(&mut pool, 8, &mut batch), 0);
        pool.give(batch.pop().unwrap());
        assert_eq!(far.receive(&mut pool, 8, &mut batch), 1);
        assert_eq!(pool.bytes(&batch[0]), b"two");
    }
}
