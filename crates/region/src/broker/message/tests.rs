use super::*;
use proptest::prelude::*;

fn names() -> impl Strategy<Value = Name> {
    "(/[a-z0-9._-]{1,20}){1,4}".prop_map(|text| text.parse().expect("a name"))
}

fn accesses() -> impl Strategy<Value = Access> {
    prop_oneof![
        Just(Access::Owner),
        Just(Access::Group),
        Just(Access::Everyone)
    ]
}

fn requests() -> impl Strategy<Value = Request> {
    let how = prop_oneof![Just(Claim::New), Just(Claim::IfVacant), Just(Claim::Force)];
    prop_oneof![
        (names(), how, accesses(), any::<u64>()).prop_map(|(name, how, access, bytes)| {
            Request::Claim {
                name,
                how,
                access,
                bytes,
            }
        }),
        names().prop_map(Request::Offer),
        names().prop_map(Request::OfferAgain),
        names().prop_map(Request::Attach),
        (names(), any::<u64>()).prop_map(|(name, epoch)| Request::Release { name, epoch }),
        names().prop_map(Request::Delete),
        (".{0,20}", ".{0,20}").prop_map(|(prefix, after)| Request::List { prefix, after }),
    ]
}

fn refusals() -> impl Strategy<Value = Refusal> {
    prop_oneof![
        Just(Refusal::NotThere),
        Just(Refusal::NotYet),
        Just(Refusal::Exists),
        any::<u32>().prop_map(Refusal::Busy),
        any::<u32>().prop_map(Refusal::NotAllowed),
        any::<u64>().prop_map(Refusal::Fenced),
        (0..FULL.len()).prop_map(|n| Refusal::Full(FULL[n])),
        (0..WRONG.len()).prop_map(|n| Refusal::Wrong(WRONG[n])),
    ]
}

fn slots() -> impl Strategy<Value = u32> {
    0..MAX_REGIONS as u32
}

fn replies() -> impl Strategy<Value = Reply> {
    let entry = (
        names(),
        any::<[u64; 2]>(),
        any::<u32>(),
        accesses(),
        any::<Option<u32>>(),
        any::<bool>(),
    )
        .prop_map(
            |(name, [epoch, bytes], owner, access, writer, readable)| Entry {
                name,
                epoch,
                owner,
                access,
                bytes,
                writer,
                readable,
            },
        );
    prop_oneof![
        Just(Reply::Done),
        (any::<u64>(), slots()).prop_map(|(epoch, slot)| Reply::Promised { epoch, slot }),
        slots().prop_map(|slot| Reply::Attached { slot }),
        (proptest::collection::vec(entry, 0..5), any::<bool>())
            .prop_map(|(entries, more)| Reply::Listed { entries, more }),
        refusals().prop_map(Reply::Refused),
    ]
}

proptest! {
    #[test]
    fn what_is_encoded_decodes(request in requests(), reply in replies()) {
        let mut bytes = Vec::new();
        request.encode(&mut bytes);
        prop_assert_eq!(Request::decode(&bytes), Ok(request));
        reply.encode(&mut bytes);
        prop_assert_eq!(Reply::decode(&bytes), Ok(reply));
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Request::decode(&bytes);
        let _ = Reply::decode(&bytes);
    }
}

#[test]
fn a_slot_that_the_board_lacks_is_refused() {
    let mut bytes = Vec::new();
    let slot = MAX_REGIONS as u32;
    for reply in [Reply::Attached { slot }, Reply::Promised { epoch: 1, slot }] {
        reply.encode(&mut bytes);
        assert_eq!(Reply::decode(&bytes), Err(Malformed("slot")));
    }
}

#[test]
fn the_longest_reply_fits() {
    let part = "/".to_owned() + &"a".repeat(62);
    let entry = Entry {
        name: part.repeat(4).parse().expect("a name"),
        epoch: 0,
        owner: 0,
        access: Access::Owner,
        bytes: 0,
        writer: None,
        readable: true,
    };
    let mut bytes = Vec::new();
    let entries = vec![entry; LIST_MAX];
    Reply::Listed {
        entries,
        more: true,
    }
    .encode(&mut bytes);
    assert!(bytes.len() <= MESSAGE_MAX, "{}", bytes.len());
}
