use super::*;

type Rules = Registry<&'static str>;

fn empty_board() -> impl Iterator<Item = Row> {
    std::iter::repeat_n(
        Row {
            name: None,
            claimed: 0,
            current: 0,
            owner: 0,
            access: 0,
        },
        3,
    )
}

fn peer(connection: u64, user: u32) -> Peer {
    Peer {
        connection,
        user,
        group: user / 10,
        process: 100 + connection as u32,
    }
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

const LIMITS: Limits = Limits {
    bytes: 1000,
    bytes_per_user: 600,
    regions_per_user: 2,
};

/// Claims and offers at once.
fn write(rules: &mut Rules, peer: Peer, text: &str, how: Claim, object: &'static str) -> u64 {
    let promise = rules
        .claim(peer, &name(text), how, Access::Group, 100)
        .unwrap();
    rules
        .offer(peer, &name(text), (promise.epoch, 100), object)
        .unwrap();
    promise.epoch
}

#[test]
fn a_writer_is_fenced_when_promised_and_replaced_when_offered() {
    let mut rules = Rules::new(LIMITS, empty_board());
    let (old, new) = (peer(1, 10), peer(2, 10));
    assert_eq!(write(&mut rules, old, "/a", Claim::New, "first"), 1);
    rules.take_changes();
    let refused = |rules: &mut Rules, how| rules.claim(new, &name("/a"), how, Access::Owner, 100);
    assert_eq!(refused(&mut rules, Claim::New), Err(Refusal::Exists));
    assert_eq!(
        refused(&mut rules, Claim::IfVacant),
        Err(Refusal::Busy(101))
    );

    let promise = rules
        .claim(new, &name("/a"), Claim::Force, Access::Owner, 100)
        .unwrap();
    let expected = Promise {
        epoch: 2,
        slot: 0,
        last: Some("first"),
    };
    assert_eq!(promise, expected);
    let row = &rules.take_changes()[0].1;
    assert_eq!((row.claimed, row.current), (2, 1), "fenced, still read");
    assert_eq!(rules.attach(old, &name("/a")), Ok((0, "first")));
    let late = rules.offer(old, &name("/a"), (1, 100), "late");
    assert_eq!(late, Err(Refusal::Fenced(2)));
    let greedy = rules.offer(new, &name("/a"), (2, 101), "second");
    assert_eq!(greedy, Err(Refusal::Full("memory that was asked for")));
    rules.offer(new, &name("/a"), (2, 100), "second").unwrap();
    assert_eq!(rules.attach(old, &name("/a")), Ok((0, "second")));
    let row = &rules.take_changes()[0].1;
    assert_eq!((row.claimed, row.current), (2, 2));
    assert_eq!(rules.release(old, &name("/a"), 2), Err(Refusal::Fenced(2)));
    assert_eq!(rules.release(new, &name("/a"), 1), Err(Refusal::Fenced(2)));
    assert_eq!(rules.release(new, &name("/a"), 2), Ok(()));
}

#[test]
fn a_connection_that_ends_leaves_the_last_version() {
    let mut rules = Rules::new(LIMITS, empty_board());
    write(&mut rules, peer(1, 10), "/a", Claim::New, "first");
    rules.disconnected(1);
    assert_eq!(rules.list(peer(9, 10), "", "", 10)[0].writer, None);
    assert_eq!(rules.attach(peer(9, 10), &name("/a")), Ok((0, "first")));
    // One that was promised the region and dies before it offers does no harm.
    let dying = peer(2, 10);
    rules
        .claim(dying, &name("/a"), Claim::IfVacant, Access::Owner, 1)
        .unwrap();
    let third = rules.claim(peer(3, 10), &name("/a"), Claim::IfVacant, Access::Owner, 1);
    assert_eq!(third, Err(Refusal::Busy(0)));
    rules.disconnected(2);
    assert_eq!(rules.attach(peer(9, 10), &name("/a")), Ok((0, "first")));
    assert_eq!(
        write(&mut rules, peer(3, 10), "/a", Claim::IfVacant, "third"),
        3
    );
    // Nor does one that was promised a new one: there is no such region.
    rules
        .claim(peer(4, 10), &name("/b"), Claim::New, Access::Owner, 1)
        .unwrap();
    assert_eq!(rules.attach(peer(9, 10), &name("/b")), Err(Refusal::NotYet));
    rules.disconnected(4);
    assert_eq!(
        rules.attach(peer(9, 10), &name("/b")),
        Err(Refusal::NotThere)
    );
}

#[test]
fn regions_belong_to_users() {
    let mut rules = Rules::new(LIMITS, empty_board());
    let (owner, colleague, stranger, root) = (peer(1, 10), peer(2, 15), peer(3, 30), peer(4, 0));
    write(&mut rules, owner, "/a", Claim::New, "a");
    assert!(
        rules.attach(colleague, &name("/a")).is_ok(),
        "of the same group"
    );
    assert_eq!(
        rules.attach(stranger, &name("/a")),
        Err(Refusal::NotAllowed(10))
    );
    assert!(rules.attach(root, &name("/a")).is_ok());
    assert_eq!(rules.list(stranger, "", "", 10), []);
    for peer in [colleague, stranger] {
        let refused = Err(Refusal::NotAllowed(10));
        assert_eq!(rules.delete(peer, &name("/a")), refused);
        let claim = rules.claim(peer, &name("/a"), Claim::Force, Access::Everyone, 1);
        assert_eq!(claim.map(|_| ()), refused);
    }
    assert!(rules.delete(root, &name("/a")).is_ok());
}

#[test]
fn memory_and_regions_are_bounded() {
    let mut rules = Rules::new(LIMITS, empty_board());
    let mut claim = |peer, text, bytes| {
        let claimed = rules.claim(peer, &name(text), Claim::IfVacant, Access::Owner, bytes);
        claimed.map(|_| ())
    };
    let (one, two) = (peer(1, 10), peer(2, 20));
    assert_eq!(
        claim(one, "/a", 601),
        Err(Refusal::Full("memory of this user"))
    );
    assert_eq!(claim(one, "/a", 500), Ok(()));
    assert_eq!(
        claim(one, "/b", 101),
        Err(Refusal::Full("memory of this user"))
    );
    assert_eq!(claim(two, "/c", 501), Err(Refusal::Full("memory")));
    assert_eq!(claim(two, "/c", u64::MAX), Err(Refusal::Full("memory")));
    assert_eq!(claim(one, "/b", 1), Ok(()));
    assert_eq!(
        claim(one, "/d", 1),
        Err(Refusal::Full("regions of this user"))
    );
    assert_eq!(claim(two, "/c", 1), Ok(()));
    assert_eq!(
        claim(two, "/e", 1),
        Err(Refusal::Full("regions")),
        "the board has three"
    );
}

#[test]
fn epochs_outlive_the_broker_and_the_region() {
    let mut rules = Rules::new(LIMITS, empty_board());
    write(&mut rules, peer(1, 10), "/a", Claim::New, "a");
    write(&mut rules, peer(1, 10), "/a", Claim::Force, "a2");
    let mut board: Vec<Row> = empty_board().collect();
    for (slot, row) in rules.take_changes() {
        board[slot] = row;
    }

    let mut next = Rules::new(LIMITS, board.into_iter());
    assert_eq!(next.attach(peer(1, 10), &name("/a")), Err(Refusal::NotYet));
    let again =
        |next: &mut Rules, peer, epoch| next.offer_again(peer, &name("/a"), (epoch, 100), "a2");
    assert_eq!(again(&mut next, peer(1, 10), 1), Err(Refusal::Fenced(2)));
    assert_eq!(
        again(&mut next, peer(1, 11), 2),
        Err(Refusal::NotAllowed(10))
    );
    assert_eq!(again(&mut next, peer(1, 10), 2), Ok(0));
    assert_eq!(
        again(&mut next, peer(2, 10), 2),
        Err(Refusal::Fenced(2)),
        "one writer"
    );
    assert_eq!(next.attach(peer(3, 12), &name("/a")), Ok((0, "a2")));

    // The slot of a deleted region goes to another, with higher epochs.
    next.delete(peer(1, 10), &name("/a")).unwrap();
    assert_eq!(write(&mut next, peer(1, 10), "/other", Claim::New, "o"), 4);
    let slots: Vec<usize> = next.take_changes().iter().map(|(slot, _)| *slot).collect();
    assert_eq!(slots, [0, 0, 0]);
}

#[test]
fn lists_go_on_where_they_ended() {
    let mut rules = Rules::new(LIMITS, empty_board());
    for (connection, text) in [(1, "/x/a"), (2, "/x/b"), (3, "/y/c")] {
        write(
            &mut rules,
            peer(connection, 10 * connection as u32),
            text,
            Claim::New,
            "o",
        );
    }
    let root = peer(9, 0);
    let names = |prefix, after, most| {
        let list = rules.list(root, prefix, after, most);
        list.into_iter()
            .map(|e| e.name.to_string())
            .collect::<Vec<_>>()
    };
    assert_eq!(names("", "", 2), ["/x/a", "/x/b"]);
    assert_eq!(names("", "/x/b", 2), ["/y/c"]);
    assert_eq!(names("/x", "", 9), ["/x/a", "/x/b"]);
}
