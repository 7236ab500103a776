use alloc::vec;
use alloc::vec::Vec;

use proptest::collection::vec as list;
use proptest::prelude::*;
use stateplane_base::{ClientId, LogTime};

use super::*;
use crate::envelope::Key;
use crate::group::{Address, Batch, Ordered, Request};

fn keys() -> Keys {
    Keys::derive(&Key::new([7; 16]), 9)
}

fn groups() -> impl Strategy<Value = Groups> {
    (any::<u16>(), list(any::<u16>(), 0..6)).prop_map(|(first, more)| {
        let mut groups = Groups::one(first);
        for id in more {
            let _ = groups.push(id);
        }
        groups
    })
}

fn requests() -> impl Strategy<Value = Request> {
    let operations = list((any::<u64>(), list(any::<u8>(), 0..40)), 0..6);
    (any::<u64>(), any::<u64>(), operations).prop_map(|(client, done_below, operations)| {
        let mut batch = Batch::default();
        assert!(operations.iter().all(|(id, op)| batch.push(*id, op)));
        Request {
            client: ClientId(client),
            done_below,
            reply_to: Address::default(),
            batch,
        }
    })
}

fn stamps() -> impl Strategy<Value = Stamp> {
    let numbers = [(); 4].map(|()| 0..=LAST_NUMBER);
    (any::<[u64; 3]>(), any::<u8>(), groups(), numbers).prop_map(
        |([formation, session, time], sequencer, groups, numbers)| {
            let mut numbers = numbers.into_iter();
            Stamp {
                sequencer,
                formation,
                session,
                time: LogTime::from_nanos(time),
                stamps: Stamps::new(groups, |_| numbers.next().expect("four")),
            }
        },
    )
}

/// A request and the ordered message a sequencer makes of it.
fn packets(request: &Request, given: &Stamp, counter: u64) -> (Vec<u8>, Vec<u8>) {
    let mut asked = vec![];
    seal_request(&keys(), counter, given.stamps.groups(), request, &mut asked);
    let mut ordered = asked.clone();
    stamp(&keys(), given, &mut ordered);
    (asked, ordered)
}

fn both() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
    (requests(), stamps(), 0..=LAST_NUMBER).prop_map(|(r, s, counter)| packets(&r, &s, counter))
}

proptest! {
    #[test]
    fn what_a_client_seals_and_a_sequencer_stamps_replicas_read(
        request in requests(), given in stamps(), counter in 0..=LAST_NUMBER,
    ) {
        let (asked, ordered) = packets(&request, &given, counter);
        prop_assert_eq!(kind(&asked), Some(Kind::Request));
        let groups = given.stamps.groups();
        prop_assert_eq!(open_request(&keys(), &asked), Ok(Ask { client: request.client, counter, groups }));
        let ask = Ask { client: request.client, counter, groups };
        prop_assert_eq!(read_request(&keys(), &asked), Ok((ask, request.clone())));
        prop_assert_eq!(kind(&ordered), Some(Kind::Ordered));
        prop_assert_eq!(ordered.len(), asked.len());
        let read = open_ordered(&keys(), &ordered);
        let message = Ordered { session: given.session, time: given.time, stamps: given.stamps, request };
        prop_assert_eq!(read, Ok((given.sequencer, given.formation, message)));
    }

    /// What the outer tag leaves out of a request is either overwritten or under the
    /// inner tag, so no replica ever takes a request that its client did not send.
    #[test]
    fn a_flipped_bit_is_refused_by_the_sequencer_or_by_every_replica(
        request in requests(), given in stamps(), at: prop::sample::Index,
    ) {
        let (asked, ordered) = packets(&request, &given, 1);
        let mut bad = asked.clone();
        let bit = at.index(bad.len() * 8);
        bad[bit / 8] ^= 1 << (bit % 8);
        let overwritten = (4..8).contains(&(bit / 8)) || (16..72).contains(&(bit / 8));
        prop_assert_eq!(read_request(&keys(), &bad).is_ok(), overwritten);
        if open_request(&keys(), &bad).is_ok() {
            stamp(&keys(), &given, &mut bad);
            prop_assert!(bad == ordered || open_ordered(&keys(), &bad) == Err(OpenError::Inner)
                || open_ordered(&keys(), &bad) == Err(OpenError::Outer));
        }
        let mut bad = ordered;
        bad[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(open_ordered(&keys(), &bad).is_err(), "bit {}", bit);
    }

    #[test]
    fn a_tag_is_worth_nothing_in_another_use_or_cluster((asked, ordered) in both()) {
        let elsewhere = Keys::derive(&Key::new([7; 16]), 10);
        prop_assert_eq!(open_request(&elsewhere, &asked), Err(OpenError::Outer));
        prop_assert_eq!(open_ordered(&elsewhere, &ordered), Err(OpenError::Outer));
        let stranger = Keys::derive(&Key::new([8; 16]), 9);
        prop_assert_eq!(open_request(&stranger, &asked), Err(OpenError::Outer));
        prop_assert_eq!(open_request(&keys(), &ordered), Err(OpenError::Malformed));
        prop_assert_eq!(open_ordered(&keys(), &asked), Err(OpenError::Malformed));
        let mut disguised = ordered;
        disguised[3] = Kind::Request as u8;
        prop_assert_eq!(open_request(&keys(), &disguised), Err(OpenError::Outer));
    }

    #[test]
    fn a_cut_packet_is_refused((asked, ordered) in both(), at: prop::sample::Index) {
        let len = at.index(asked.len());
        if len < HEADER_LEN {
            prop_assert_eq!(open_request(&keys(), &asked[..len]), Err(OpenError::Malformed));
        }
        prop_assert!(open_ordered(&keys(), &ordered[..len]).is_err());
    }

    #[test]
    fn any_bytes_end_in_an_answer(mut bytes in list(any::<u8>(), 0..300), which: bool) {
        if let Some(head) = bytes.first_chunk_mut() {
            *head = [MAGIC[0], MAGIC[1], VERSION, if which { 1 } else { 2 }];
        }
        prop_assert!(open_request(&keys(), &bytes).is_err());
        prop_assert!(open_ordered(&keys(), &bytes).is_err());
    }
}

#[test]
fn another_version_is_named() {
    let request = Request {
        client: ClientId(1),
        done_below: 0,
        reply_to: Address::default(),
        batch: Batch::default(),
    };
    let mut bytes = vec![];
    seal_request(&keys(), 1, Groups::one(0), &request, &mut bytes);
    bytes[2] = VERSION + 1;
    assert_eq!(
        open_request(&keys(), &bytes),
        Err(OpenError::Version(VERSION + 1))
    );
}

#[test]
fn groups_are_few_and_different() {
    let mut groups = Groups::one(3);
    assert!(!groups.push(3));
    assert!((4..7).all(|id| groups.push(id)));
    assert!(!groups.push(7), "no room");
    assert_eq!(Groups::new(4, [3, 4, 5, 6]), Some(groups));
    for (count, ids) in [
        (0, [0; 4]),
        (2, [1, 1, 0, 0]),
        (1, [1, 2, 0, 0]),
        (5, [1, 2, 3, 4]),
    ] {
        assert_eq!(Groups::new(count, ids), None, "{count} {ids:?}");
    }
    let stamps = Stamps::new(groups, |id| u64::from(id) * 10);
    assert_eq!(stamps.sequence(5), Some(50));
    assert_eq!(stamps.sequence(9), None);
}
