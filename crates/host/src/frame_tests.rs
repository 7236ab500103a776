//! Tests of the pool's books.

use super::*;

fn pool(frames: u32) -> FramePool {
    FramePool::new(PoolConfig {
        frames,
        frame_size: 2048,
    })
    .unwrap()
}

#[test]
fn every_frame_is_counted_under_one_owner() {
    let mut pool = pool(4);
    let sent = pool.take_with(b"sent").unwrap();
    let parked = pool.take_with(b"parked").unwrap();
    let held = pool.take().unwrap();
    let id = pool.park(parked);
    let port = pool.lessee();
    let (address, len) = pool.lend(sent, port);
    assert_eq!(len, 4);
    assert_eq!(
        pool.census(),
        Census {
            free: 1,
            held: 1,
            parked: 1,
            lent: 1
        }
    );
    pool.check();

    pool.returned(address, port);
    let parked = pool.unpark(id).unwrap();
    assert_eq!(pool.bytes(&parked), b"parked");
    assert!(pool.unpark(id).is_none(), "a frame is unparked once");
    pool.give(parked);
    pool.give(held);
    assert_eq!(
        pool.census(),
        Census {
            free: 4,
            ..Census::default()
        }
    );
    pool.check();
}

#[test]
fn an_exhausted_pool_refuses() {
    let mut pool = pool(1);
    let frame = pool.take().unwrap();
    assert!(pool.take().is_none());
    let port = pool.lessee();
    assert!(pool.lend_free(port).is_none());
    pool.give(frame);
    assert!(pool.take_with(&[0; 1793]).is_none(), "too large");
    assert_eq!(pool.census().free, 1, "a refused packet costs no frame");
}

#[test]
fn packets_grow_at_both_ends() {
    let mut pool = pool(2);
    let mut frame = pool.take_with(b"middle").unwrap();
    assert!(pool.grow_front(&mut frame, 256));
    assert!(!pool.grow_front(&mut frame, 1), "the front room is used up");
    pool.set_len(&mut frame, 2048);
    assert_eq!(&pool.bytes(&frame)[256..262], b"middle");
    assert!(pool.shrink_front(&mut frame, 256));
    assert!(!pool.shrink_front(&mut frame, 1793));
    assert_eq!(frame.len(), 1792);
}

#[test]
#[should_panic(expected = "expected Held")]
fn a_frame_of_another_pool_is_noticed() {
    let mut other = pool(8);
    let mut mine = pool(8);
    mine.give(other.take().unwrap());
}

#[test]
#[should_panic(expected = "expected Lent")]
fn a_frame_lent_to_another_port_is_noticed() {
    let mut pool = pool(8);
    let (here, there) = (pool.lessee(), pool.lessee());
    let address = pool.lend_free(here).unwrap();
    pool.returned(address, there);
}

#[test]
#[should_panic(expected = "room for")]
fn a_packet_never_exceeds_its_frame() {
    let mut pool = pool(1);
    let mut frame = pool.take().unwrap();
    pool.set_len(&mut frame, 1793);
}

#[test]
fn sizes_afxdp_cannot_divide_are_refused() {
    assert!(
        FramePool::new(PoolConfig {
            frames: 0,
            frame_size: 2048
        })
        .is_err()
    );
    assert!(
        FramePool::new(PoolConfig {
            frames: 8,
            frame_size: 3000
        })
        .is_err()
    );
}
