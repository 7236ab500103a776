use alloc::vec;
use alloc::vec::Vec;

use proptest::collection::vec as list;
use proptest::prelude::*;

use super::*;

/// Operations, whole or in pieces: what goes in comes out.
fn batches() -> impl Strategy<Value = Batch> {
    let place = proptest::option::of((0..1000u32, 1..1000u32));
    list((any::<u64>(), list(any::<u8>(), 0..40), place), 0..6).prop_map(|ops| {
        let pieces = || {
            ops.iter().map(|(id, bytes, place)| {
                let mut piece = Piece::all(bytes);
                if let Some((offset, rest)) = place.filter(|_| !bytes.is_empty()) {
                    piece.offset = offset;
                    piece.whole += offset + rest;
                }
                (*id, piece)
            })
        };
        let mut batch = Batch::default();
        assert!(pieces().all(|(id, piece)| batch.push_piece(id, piece)));
        assert!(batch.iter().eq(pieces()));
        batch
    })
}

fn wholes() -> impl Strategy<Value = Whole> {
    list(any::<u8>(), 0..50).prop_map(|result| Whole::of(&result))
}

fn results() -> impl Strategy<Value = Results> {
    let earlier = || proptest::option::of(any::<u64>());
    let done = (earlier(), list(any::<u8>(), 0..30)).prop_map(|(earlier, result)| Outcome::Done {
        earlier,
        result: result.into(),
    });
    let long = (earlier(), wholes()).prop_map(|(earlier, whole)| Outcome::Long { earlier, whole });
    let kept = any::<[u32; 2]>().prop_map(|[offset, missing]| Outcome::Kept { offset, missing });
    let outcome = prop_oneof![Just(Outcome::Refused), done, long, kept];
    list(
        (any::<u64>(), outcome).prop_map(|(id, outcome)| OpResult { id, outcome }),
        0..5,
    )
    .prop_map(Results::from)
}

fn long_results() -> impl Strategy<Value = Body> {
    let request = (any::<[u64; 2]>(), any::<u32>(), any::<u16>()).prop_map(
        |([client, id], offset, parts)| {
            Body::ResultRequest(ResultRequest {
                client: ClientId(client),
                id,
                offset,
                parts,
            })
        },
    );
    let part = (
        any::<[u64; 4]>(),
        0..1000u32,
        0..1000u32,
        list(any::<u8>(), 1..50),
    )
        .prop_map(|([client, id, slot, digest], offset, rest, bytes)| {
            let len = offset + u32::try_from(bytes.len()).expect("few") + rest;
            Body::ResultPart(ResultPart {
                client: ClientId(client),
                id,
                slot,
                whole: Whole { len, digest },
                offset,
                bytes,
            })
        });
    prop_oneof![request, part]
}

fn requests() -> impl Strategy<Value = Request> {
    (
        any::<u64>(),
        any::<u64>(),
        any::<[u8; 16]>(),
        any::<u16>(),
        batches(),
    )
        .prop_map(|(client, done_below, ip, port, batch)| Request {
            client: ClientId(client),
            done_below,
            reply_to: Address { ip, port },
            batch,
        })
}

fn summaries() -> impl Strategy<Value = Summary> {
    (0..50u64, 0..50u64, 0..50u64, list(any::<bool>(), 0..60)).prop_map(
        |(commit, more, from, noops)| {
            let slots = noops
                .iter()
                .enumerate()
                .filter(|(_, n)| **n)
                .map(|(i, _)| from + i as u64);
            let len = commit + more;
            Summary {
                commit,
                len,
                known_from: from.min(len),
                noops: NoopSet::from_rising(slots),
            }
        },
    )
}

fn entries() -> impl Strategy<Value = Option<Entry>> {
    prop_oneof![
        Just(None),
        Just(Some(Entry::Noop)),
        (any::<u64>(), requests()).prop_map(|(t, request)| Some(Entry::Value {
            time: LogTime::from_nanos(t),
            request
        })),
    ]
}

fn lives() -> impl Strategy<Value = Lives> {
    proptest::array::uniform9(prop_oneof![Just(0), 1..u64::MAX])
}

fn memberships() -> impl Strategy<Value = Membership> {
    let seats = proptest::option::of((0..MAX_REPLICAS as u8, 1..u64::MAX));
    (lives(), seats, proptest::option::of(0..9u8)).prop_map(|(lives, into, out)| {
        let members = Membership::of(lives);
        members.changed(out, into).unwrap_or(members)
    })
}

fn ordered_path() -> impl Strategy<Value = Body> {
    prop_oneof![
        (any::<[u64; 4]>(), any::<[u8; 3]>(), results()).prop_map(
            |([view, session, slot, client], [replica, sequencer, quorum], results)| {
                Body::Reply(Reply {
                    view,
                    session,
                    slot,
                    replica,
                    sequencer,
                    quorum,
                    client: ClientId(client),
                    results,
                })
            }
        ),
        any::<u64>().prop_map(|nonce| Body::SessionRequest { nonce }),
        (any::<[u64; 3]>(), any::<bool>()).prop_map(|([session, nonce, t], runs)| {
            Body::SessionGrant {
                session,
                nonce,
                time: LogTime::from_nanos(t),
                runs,
            }
        }),
        any::<u64>().prop_map(|session| Body::Invite { session }),
        any::<[u64; 2]>().prop_map(|[session, nonce]| Body::SessionInfo { session, nonce }),
        (any::<[u64; 2]>(), any::<u16>()).prop_map(|([session, sequence], group)| Body::Tail {
            session,
            group,
            sequence
        }),
    ]
}

fn prepares() -> impl Strategy<Value = Body> {
    let some = entries().prop_filter_map("a slot of a Prepare is filled", |entry| entry);
    (any::<[u64; 3]>(), list(some, 0..5)).prop_map(|([view, commit, from], entries)| {
        Body::Prepare(Prepare {
            view,
            commit,
            from,
            entries,
        })
    })
}

fn read_path() -> impl Strategy<Value = Body> {
    prop_oneof![
        (any::<[u64; 2]>(), batches()).prop_map(|([client, serial], batch)| Body::Read(Read {
            client: ClientId(client),
            serial,
            batch
        })),
        (any::<[u64; 5]>(), any::<[u8; 2]>(), results()).prop_map(
            |([view, session, slot, client, serial], [replica, quorum], results)| {
                Body::ReadReply(ReadReply {
                    view,
                    session,
                    slot,
                    replica,
                    quorum,
                    client: ClientId(client),
                    serial,
                    results,
                })
            }
        ),
    ]
}

fn changes() -> impl Strategy<Value = Body> {
    let seat = || proptest::option::of(0..16u8);
    let answer = prop_oneof![
        Just(Answer::Accepted),
        Just(Answer::NotHeard),
        Just(Answer::Nothing)
    ];
    prop_oneof![
        (any::<u64>(), seat(), seat()).prop_map(|(ticket, out, into)| Body::Reconfigure {
            ticket,
            change: Change { out, into }
        }),
        (any::<u64>(), answer)
            .prop_map(|(ticket, answer)| Body::ReconfigureReply { ticket, answer }),
        (any::<u64>(), memberships())
            .prop_map(|(floor, members)| Body::Learn(Learn { floor, members })),
        any::<[u64; 2]>().prop_map(|[incarnation, upto]| Body::Learned { incarnation, upto }),
    ]
}

fn view_path() -> impl Strategy<Value = Body> {
    prop_oneof![
        (
            any::<[u64; 6]>(),
            any::<Lives>(),
            memberships(),
            summaries()
        )
            .prop_map(|(words, joining, members, summary)| {
                let [view, last_normal, incarnation, session, nonce, session_base] = words;
                let vote = ViewChange {
                    view,
                    last_normal,
                    incarnation,
                    session,
                    nonce,
                    session_base,
                    members,
                    joining,
                    summary,
                };
                Body::ViewChange(Box::new(vote))
            }),
        (any::<[u64; 5]>(), memberships(), summaries()).prop_map(
            |([view, basis, session, nonce, session_base], members, summary)| {
                Body::StartView(Box::new(StartView {
                    view,
                    basis,
                    session,
                    nonce,
                    session_base,
                    members,
                    summary,
                }))
            }
        ),
        (any::<u64>(), lives()).prop_map(|(incarnation, heard)| Body::Boot { incarnation, heard }),
        (any::<u64>(), memberships(), any::<bool>()).prop_map(|(view, members, settled)| {
            Body::Hint(Hint {
                view,
                members,
                settled,
            })
        }),
    ]
}

fn replica_path() -> impl Strategy<Value = Body> {
    prop_oneof![
        any::<[u64; 4]>().prop_map(|[view, basis, from, to]| Body::Fetch {
            view,
            basis,
            from,
            to
        }),
        (any::<[u64; 4]>(), list(entries(), 0..5)).prop_map(
            |([view, basis, base, from], items)| Body::Entries(Entries {
                view,
                basis,
                base,
                from,
                items
            })
        ),
        prepares(),
        any::<[u64; 3]>().prop_map(|[view, from, to]| Body::GapCommit { view, from, to }),
        any::<[u64; 3]>().prop_map(|[view, from, to]| Body::GapAck { view, from, to }),
        (any::<[u64; 2]>(), summaries()).prop_map(|([view, clock], summary)| Body::Heartbeat {
            view,
            clock: LogTime::from_nanos(clock),
            summary
        }),
        any::<[u64; 2]>().prop_map(|[view, upto]| Body::SyncAck { view, upto }),
        (any::<[u64; 3]>(), any::<u16>()).prop_map(|([floor, at, offset], chunks)| {
            Body::SnapshotRequest {
                floor,
                at,
                offset,
                chunks,
            }
        }),
        (
            any::<u64>(),
            0..1000u64,
            0..1000u64,
            list(any::<u8>(), 0..50)
        )
            .prop_map(|(at, offset, rest, bytes)| {
                let total = offset + bytes.len() as u64 + rest;
                Body::SnapshotChunk(SnapshotChunk {
                    at,
                    total,
                    offset,
                    bytes,
                })
            }),
    ]
}

proptest! {
    #[test]
    fn every_message_survives_the_wire(formation: u64, body in prop_oneof![ordered_path(), read_path(), long_results(), view_path(), changes(), replica_path()], cut: u16) {
        let message = Message { formation, body };
        let mut bytes = vec![];
        message.encode(&mut bytes);
        prop_assert_eq!(Message::decode(&bytes), Ok(message));
        let short = usize::from(cut) % bytes.len();
        prop_assert!(Message::decode(&bytes[..short]).is_err(), "a truncated message must not decode");
        bytes.push(0);
        prop_assert!(Message::decode(&bytes).is_err(), "trailing bytes must be noticed");
    }

    #[test]
    fn arbitrary_bytes_never_panic(kind in 0..32u8, bytes in list(any::<u8>(), 0..200)) {
        let mut all = vec![kind, VERSION];
        all.extend_from_slice(&bytes);
        if let Ok(message) = Message::decode(&all) {
            let mut again = vec![];
            message.encode(&mut again);
            prop_assert_eq!(again, all, "only what the encoder writes is accepted");
        }
    }

    #[test]
    fn a_noop_set_holds_exactly_its_slots(first in 0..1000u64, bits in list(any::<bool>(), 0..200)) {
        let slots: Vec<u64> = bits.iter().enumerate().filter(|(_, b)| **b).map(|(i, _)| first + i as u64).collect();
        let set = NoopSet::from_rising(slots.iter().copied());
        for slot in 0..first + 250 {
            prop_assert_eq!(set.contains(slot), slots.contains(&slot));
        }
    }
}
