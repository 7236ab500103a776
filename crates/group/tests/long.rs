//! Operations and results longer than a datagram.
mod common;

use common::{CLIENT, Node, World};
use stateplane_base::{ClientId, Time};
use stateplane_group::{Client, GroupConfig, Mark, Message, Peer, RequestId, Unknown};
use stateplane_wire::group::{Address, Batch, Body, Piece, Request, ResultPart, Whole};

/// An operation that is unlike any part of itself.
fn long(len: usize) -> Vec<u8> {
    (0..len as u32)
        .flat_map(u32::to_be_bytes)
        .skip(1)
        .take(len)
        .collect()
}

/// One whose result is long, too.
fn much(len: usize) -> Vec<u8> {
    [b"much".to_vec(), long(len)].concat()
}

fn both() -> [GroupConfig; 2] {
    [GroupConfig::new(3), GroupConfig::new(3).vr(16)]
}

/// Where the piece of an operation lies that a request carries.
fn piece_of(body: &Body) -> Option<u32> {
    let request = match body {
        Body::Request(request) => request,
        Body::Ordered(ordered) => &ordered.request,
        _ => return None,
    };
    let pieces = request.batch.iter().map(|(_, piece)| piece);
    pieces.filter(|p| !p.is_all()).map(|p| p.offset).next()
}

fn executed(w: &World, replica: u8) -> Vec<usize> {
    let ops = &w.replica(replica).app().ops;
    ops.iter().map(|(_, op)| op.len()).collect()
}

#[test]
fn a_long_operation_is_executed_once_and_its_long_result_comes_back() {
    for config in both() {
        let mut w = World::ready_with(config);
        let op = much(1_000_000);
        let before = w.now;
        let reply = w.call(&op).unwrap();
        let took = w.now.since(before).as_micros();
        assert!(took < 5_000, "a few round trips of 0.1 ms, not {took} us");
        assert_eq!(reply.len(), 100_008);
        assert_eq!((reply[8], reply[9]), (1, 2));
        w.run(20);
        w.agree();
        assert_eq!(w.replica(0).app().ops[0].1, op);
        assert_eq!(executed(&w, 0).len(), 1);
        w.run(100);
        assert_eq!(w.client.marks().get(Mark::WindowReleased), 1);
        assert_eq!(w.client.marks().get(Mark::PieceResent), 0);
    }
}

#[test]
fn a_lost_piece_is_sent_again_alone() {
    for config in both() {
        let mut w = World::ready_with(config);
        let mut lost = 0;
        w.lose = Box::new(move |from, _, body| {
            let lose = from == Node::Client && piece_of(body) == Some(20 * 1152) && lost < 1;
            lost += u32::from(lose);
            lose
        });
        w.call(&long(100_000)).unwrap();
        assert_eq!(w.client.marks().get(Mark::PieceResent), 1);
        assert_eq!(w.sent["request"], 88, "87 pieces and one of them again");
        w.run(20);
        w.agree();
    }
}

#[test]
fn an_operation_survives_its_leader_and_so_does_its_result() {
    for config in both() {
        let mut w = World::ready_with(config);
        let leader = w.leader().unwrap();
        let id = w.submit(&much(300_000));
        w.run_until(100, |w| w.sent.get("request") > Some(&100));
        w.kill(leader);
        w.lose = Box::new(|_, _, body| matches!(body, Body::ResultPart(_)));
        w.run_until(2_000, |w| w.sent.contains_key("result-part"));
        w.start_replica(leader);
        w.run_until(1_000, |w| w.replica(leader).marks().get(Mark::Joined) > 0);
        let second = w.leader().unwrap();
        w.kill(second);
        w.lose = Box::new(|_, _, _| false);
        w.run_until(3_000, |w| w.done.contains_key(&id));
        let reply = w.done[&id].clone().expect("an answer");
        assert_eq!((reply.len(), reply[8], reply[9]), (100_008, 1, 2));
        w.run(300);
        w.agree();
        assert_eq!(executed(&w, leader), [300_004]);
    }
}

#[test]
fn half_an_operation_goes_with_a_snapshot() {
    for mut config in both() {
        config.limits.retain = 4;
        let mut w = World::ready_with(config);
        let other = (w.leader().unwrap() + 1) % 3;
        let hold =
            |from, _: Node, body: &Body| from == Node::Client && piece_of(body) > Some(80_000);
        w.hold = Box::new(hold);
        let id = w.submit(&long(100_000));
        w.run(10);
        w.start_replica(other);
        w.run_until(1_000, |w| w.mark(Mark::SnapshotInstalled) > 0);
        assert!(w.mark(Mark::PiecesComplete) == 0);
        w.hold = Box::new(|_, _, _| false);
        w.release();
        w.run_until(1_000, |w| w.done.contains_key(&id));
        w.run(100);
        w.agree();
        assert_eq!(executed(&w, other), [100_000]);
    }
}

#[test]
fn replicas_with_disks_keep_half_an_operation_through_a_power_loss() {
    let mut w = World::ready_with_disks(GroupConfig::new(3));
    w.hold = Box::new(|from, _, body| from == Node::Client && piece_of(body) > Some(40_000));
    let id = w.submit(&long(100_000));
    w.run(10);
    w.lose_power();
    w.run(100);
    w.hold = Box::new(|_, _, _| false);
    w.run_until(1_900, |w| w.done.contains_key(&id));
    assert!(w.done[&id].is_ok());
    let first = |w: &World| w.client.marks().get(Mark::PiecesLost);
    assert_eq!(first(&w), 0, "what was kept is still there");
    w.run(100);
    w.agree();
    assert_eq!(executed(&w, 0), [100_000]);
}

#[test]
fn what_a_client_gave_up_is_dropped_and_disturbs_nothing_newer() {
    for config in both() {
        let mut w = World::ready_with(config);
        w.hold = Box::new(|from, _, body| from == Node::Client && piece_of(body).is_some());
        let id = w.submit(&long(50_000));
        w.run_until(3_000, |w| w.done.contains_key(&id));
        assert_eq!(w.done[&id], Err(Unknown));
        w.hold = Box::new(|from, _, body| from == Node::Client && piece_of(body) == Some(0));
        let newer = w.submit(&much(60_000));
        w.run(8);
        w.hold = Box::new(|_, _, _| false);
        w.release();
        w.run_until(1_000, |w| w.done.contains_key(&newer));
        assert!(w.done[&newer].is_ok());
        w.run(50);
        w.agree();
        assert_eq!(
            executed(&w, 0),
            [60_004],
            "the older one was never executed"
        );
        let ignored = [
            Mark::TableForgotten,
            Mark::PieceSuperseded,
            Mark::NotTheLeader,
        ];
        assert!(ignored.iter().any(|mark| w.mark(*mark) > 0));
    }
}

/// A request of another client, straight to a replica that orders.
fn piece(w: &mut World, at: Time, client: u64, id: u64, piece: Piece<'_>) {
    let mut batch = Batch::default();
    assert!(batch.push_piece(id, piece));
    let request = Request {
        client: ClientId(client),
        done_below: 1,
        reply_to: Address::default(),
        batch,
    };
    let from = Peer::Client(ClientId(client), Address::default());
    let body = Body::Request(request);
    let replica = w.replicas[0].as_mut().expect("alive");
    replica.on_message(at, from, Message { formation: 0, body });
    while replica.poll_effect().is_some() {}
    replica.check();
}

#[test]
fn memory_for_pieces_is_bounded_and_the_idle_make_room() {
    let mut config = GroupConfig::new(1).vr(1);
    config.limits.long_bytes = 25_000;
    let mut w = World::ready_with(config.clone());
    let bytes = [1; 1152];
    let of = |whole, offset| Piece {
        whole,
        offset,
        bytes: &bytes,
    };
    let now = w.now;
    piece(&mut w, now, 1, 1, of(10_000, 0));
    piece(&mut w, now, 1, 2, of(20_000, 0));
    assert_eq!(
        w.mark(Mark::PieceRefused),
        0,
        "the newer one takes the older's place"
    );
    piece(&mut w, now, 1, 1, of(10_000, 1152));
    assert_eq!(w.mark(Mark::PieceSuperseded), 1);
    piece(&mut w, now, 2, 1, of(10_000, 0));
    piece(&mut w, now, 3, 1, of(3_000_000, 0));
    assert_eq!(
        w.mark(Mark::PieceRefused),
        2,
        "no room; longer than any may be"
    );
    piece(&mut w, now, 1, 2, of(20_000, 0));
    assert_eq!(w.mark(Mark::PieceRepeated), 1);
    let later = now + config.limits.client_idle;
    piece(&mut w, later, 2, 1, of(10_000, 0));
    assert_eq!(
        w.mark(Mark::PieceRefused),
        2,
        "the first client is forgotten"
    );
    assert_eq!(w.replica(0).inspect().clients, 2);
}

#[test]
fn a_client_notices_that_its_pieces_were_forgotten() {
    let mut w = World::ready(1);
    w.hold = Box::new(|from, _, body| from == Node::Client && piece_of(body) >= Some(5 * 1152));
    let id = w.submit(&long(50_000));
    w.run(1);
    // Another one has taken its place meanwhile: here, a newer life of the group.
    let first = w.replica(0).inspect().formation;
    w.start_replica(0);
    w.start_sequencer();
    w.run(300);
    assert_ne!(w.replica(0).inspect().formation, first);
    w.hold = Box::new(|_, _, _| false);
    w.run_until(2_000, |w| w.done.contains_key(&id));
    assert!(w.done[&id].is_ok());
    assert!(w.client.marks().get(Mark::PiecesLost) > 0);
    assert_eq!(executed(&w, 0), [50_000]);
}

/// The parts of a result, of some execution, as a replica sends them.
fn parts(id: RequestId, slot: u64, result: &[u8]) -> Vec<ResultPart> {
    let whole = Whole::of(result);
    let cut = (0..).step_by(1152).zip(result.chunks(1152));
    cut.map(|(offset, bytes)| ResultPart {
        client: CLIENT,
        id: id.0,
        slot,
        whole,
        offset,
        bytes: bytes.to_vec(),
    })
    .collect()
}

#[test]
fn parts_of_another_execution_are_not_taken() {
    let mut w = World::ready(3);
    let id = w.submit(b"much");
    w.lose = Box::new(|_, to, body| to == Node::Client && matches!(body, Body::ResultPart(_)));
    w.run_until(100, |w| w.sent.contains_key("result-request"));
    let other = vec![9; 100_008];
    for part in parts(id, 1, &other).into_iter().chain(parts(id, 2, &other)) {
        let body = Body::ResultPart(part);
        let from = Peer::Replica(stateplane_base::ReplicaId(1));
        w.client
            .on_message(w.now, from, Message { formation: 0, body });
    }
    assert!(w.client.marks().get(Mark::PartForeign) >= 174);
    w.lose = Box::new(|_, _, _| false);
    w.run_until(1_000, |w| w.done.contains_key(&id));
    let reply = w.done[&id].clone().expect("an answer");
    assert_eq!((reply.len(), reply[8], reply[9]), (100_008, 1, 2));
}

#[test]
fn a_long_read_comes_from_its_leader_or_else_takes_a_slot() {
    let mut w = World::ready(3);
    let ask = |w: &mut World| w.client.submit_read(w.now, b"long".to_vec()).expect("room");
    let id = ask(&mut w);
    w.run_until(10, |w| w.done.contains_key(&id));
    assert!(w.places[&id].read);
    assert_eq!(w.done[&id].as_ref().map(Vec::len), Ok(5_000));
    assert_eq!(
        (w.mark(Mark::ReadLong), w.replica(0).inspect().log_len),
        (1, 0)
    );
    w.lose = Box::new(|_, _, body| matches!(body, Body::ResultPart(_)));
    let id = ask(&mut w);
    w.run_until(1_000, |w| w.done.contains_key(&id));
    assert!(!w.places[&id].read);
    assert_eq!(w.client.marks().get(Mark::ReadPartsLost), 1);
}

#[test]
fn what_is_longer_than_anything_may_be_is_refused_at_once() {
    let config = GroupConfig::new(3);
    let most = config.limits.operation;
    let mut client = Client::new(config, CLIENT, 1);
    let busy = client.submit(Time::ZERO, vec![0; most + 1]);
    assert_eq!(busy, Err(stateplane_group::Busy::TooLarge));
    assert!(client.submit(Time::ZERO, vec![0; most]).is_ok());
}
