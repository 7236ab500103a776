//! Regions by name: through a real broker, its socket and its board.

mod support;

use std::thread;
use std::time::{Duration, Instant};

use stateplane_region::{
    Broker, Fenced, Host, HostError, Limits, Name, ReadError, Reader, Refusal, Spec, Writer,
};
use support::Running;

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn refusal<T: std::fmt::Debug>(result: Result<T, HostError>) -> Refusal {
    match result.unwrap_err() {
        HostError::Refused { refusal, .. } => refusal,
        other => panic!("{other}"),
    }
}

fn eventually(what: &str, mut is: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is() {
        assert!(start.elapsed() < Duration::from_secs(20), "{what}");
        thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn regions_are_made_found_listed_and_deleted_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let error = Host::connect(dir.path()).unwrap_err().to_string();
    assert!(error.contains("no broker answers in"), "{error}");

    let _broker = Running::new(dir.path(), Limits::default());
    let (ours, theirs) = (
        Host::connect(dir.path()).unwrap(),
        Host::connect(dir.path()).unwrap(),
    );
    let acl = name("/edge/gw1/fw/acl");
    assert_eq!(refusal(theirs.attach::<[u32]>(&acl, "")), Refusal::NotThere);
    let spec = Spec::array::<u32>(1000).schema("acl-v1");
    let mut writer: Writer<[u32]> = ours.create(&acl, &spec).unwrap();
    let epoch = writer.epoch();
    writer.set(|a| &a[999], 7);
    writer.publish().unwrap();

    let reader: Reader<[u32]> = theirs.attach(&acl, "acl-v1").unwrap();
    assert_eq!(
        (reader.snapshot().unwrap()[999], reader.name()),
        (7, "/edge/gw1/fw/acl")
    );
    let error = theirs.attach::<[u32]>(&acl, "acl-v2").unwrap_err();
    assert!(matches!(error, HostError::Open { .. }), "{error}");
    assert_eq!(
        refusal(theirs.create::<[u32]>(&acl, &spec)),
        Refusal::Exists
    );
    let us = std::process::id();
    assert_eq!(
        refusal(theirs.open::<[u32]>(&acl, &spec)),
        Refusal::Busy(us)
    );

    for number in 0..70 {
        let name = name(&format!("/edge/gw2/p/r{number:02}"));
        drop(ours.create::<u64>(&name, &Spec::of::<u64>()).unwrap());
    }
    assert_eq!(theirs.list("").unwrap().len(), 71, "in two messages");
    assert_eq!(theirs.list("/edge/gw2").unwrap().len(), 70);
    let listed = theirs.list("/edge/gw1").unwrap().remove(0);
    assert_eq!(
        (listed.name, listed.writer, listed.epoch),
        (acl.clone(), Some(us), epoch)
    );
    assert_eq!((listed.readable, listed.bytes), (true, 3 * 4096));

    theirs.delete(&acl).unwrap();
    assert_eq!(
        reader.snapshot().unwrap_err(),
        ReadError::Superseded { by: epoch + 1 }
    );
    writer.set(|a| &a[0], 1);
    assert_eq!(writer.publish(), Err(Fenced { by: epoch + 1 }));
    assert_eq!(refusal(theirs.attach::<[u32]>(&acl, "")), Refusal::NotThere);
    let again = ours.create::<u64>(&acl, &Spec::of::<u64>()).unwrap();
    assert_eq!(
        again.epoch(),
        epoch + 2,
        "higher than all that the slot has seen"
    );
}

#[test]
fn a_new_writer_goes_on_and_the_old_one_is_fenced() {
    let dir = tempfile::tempdir().unwrap();
    let _broker = Running::new(dir.path(), Limits::default());
    let host = Host::connect(dir.path()).unwrap();
    let (table, spec) = (name("/edge/gw1/nat/table"), Spec::array::<u64>(500));
    let mut old: Writer<[u64]> = host.open(&table, &spec).unwrap();
    let reader: Reader<[u64]> = host.attach(&table, "").unwrap();
    let epoch = old.epoch();
    old.edit_all().fill(1);
    assert_eq!(old.publish(), Ok(1));
    old.set(|t| &t[3], 2);
    old.set(|t| &t[400], 2);

    let other = Spec::array::<u64>(501);
    let error = host
        .take_over::<[u64]>(&table, &other)
        .unwrap_err()
        .to_string();
    assert!(error.contains("keep its layout"), "{error}");
    assert_eq!(
        old.publish(),
        Ok(2),
        "a claim that cannot succeed fences nobody"
    );

    old.set(|t| &t[3], 3);
    let mut new: Writer<[u64]> = host.take_over(&table, &spec).unwrap();
    assert_eq!((new.version(), new.epoch()), (3, epoch + 1));
    assert_eq!(
        (new.get()[3], new.get()[400], new.get()[0]),
        (2, 2, 1),
        "what was published"
    );
    assert_eq!(old.publish(), Err(Fenced { by: epoch + 1 }));
    assert_eq!(old.check_in(), Err(Fenced { by: epoch + 1 }));
    assert_eq!(
        reader.snapshot().unwrap_err(),
        ReadError::Superseded { by: epoch + 1 }
    );

    let reader: Reader<[u64]> = host.attach(&table, "").unwrap();
    new.set(|t| &t[0], 9);
    assert_eq!(new.publish(), Ok(4));
    let snapshot = reader.snapshot().unwrap();
    assert_eq!(
        (
            snapshot[0],
            snapshot.edition().version,
            snapshot.edition().epoch
        ),
        (9, 4, epoch + 1)
    );

    drop(old);
    assert!(
        host.list("").unwrap()[0].writer.is_some(),
        "a fenced writer gives up nothing"
    );
    drop(new);
    assert!(reader.is_closed() && host.list("").unwrap()[0].writer.is_none());
    let third: Writer<[u64]> = host.open(&table, &spec).unwrap();
    assert_eq!((third.version(), third.get()[0]), (5, 9));
    assert_eq!(third.epoch(), epoch + 2);
}

#[test]
fn everything_attached_outlives_the_broker() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Running::new(dir.path(), Limits::default());
    let (ours, theirs) = (
        Host::connect(dir.path()).unwrap(),
        Host::connect(dir.path()).unwrap(),
    );
    let state = name("/edge/gw1/lb/state");
    let mut writer: Writer<u64> = ours.create(&state, &Spec::of::<u64>()).unwrap();
    writer.publish().unwrap();
    let epoch = writer.epoch();
    let reader: Reader<u64> = theirs.attach(&state, "").unwrap();
    let error = Broker::open(dir.path(), Limits::default())
        .unwrap_err()
        .to_string();
    assert!(error.contains("another broker serves"), "{error}");

    drop(broker);
    let error = theirs.attach::<u64>(&state, "").unwrap_err();
    assert!(matches!(error, HostError::NoBroker { .. }), "{error}");
    *writer.edit_all() = 5;
    writer.publish().unwrap();
    assert_eq!(
        *reader.snapshot().unwrap(),
        5,
        "reading and writing need no broker"
    );

    let _broker = Running::new(dir.path(), Limits::default());
    // The writer's process finds the new broker by itself.
    eventually("the writer comes back", || {
        theirs.attach::<u64>(&state, "").is_ok()
    });
    *writer.edit_all() = 6;
    writer.publish().unwrap();
    let late: Reader<u64> = theirs.attach(&state, "").unwrap();
    assert_eq!(
        (*late.snapshot().unwrap(), *reader.snapshot().unwrap()),
        (6, 6)
    );

    // Epochs go on where the last broker ended, so a fence still works.
    let next: Writer<u64> = theirs.take_over(&state, &Spec::of::<u64>()).unwrap();
    assert_eq!((next.epoch(), *next.get()), (epoch + 1, 6));
    *writer.edit_all() = 7;
    assert_eq!(writer.publish(), Err(Fenced { by: epoch + 1 }));
    assert_eq!(
        reader.snapshot().unwrap_err(),
        ReadError::Superseded { by: epoch + 1 }
    );
}

#[test]
fn a_writer_that_rests_learns_that_it_was_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let _broker = Running::new(dir.path(), Limits::default());
    let host = Host::connect(dir.path()).unwrap();
    let (name, spec) = (name("/edge/gw1/nat/rests"), Spec::of::<u64>());
    let mut rests: Writer<u64> = host.open(&name, &spec).unwrap();
    rests.publish().unwrap();
    assert_eq!(rests.publish(), Ok(1), "nothing new");
    let next: Writer<u64> = host.take_over(&name, &spec).unwrap();
    let fenced = Fenced { by: next.epoch() };
    assert_eq!(
        (rests.publish(), rests.check_in()),
        (Err(fenced), Err(fenced))
    );
}

/// Copies on other machines outlive a machine's memory: an epoch must not come again.
#[test]
fn a_board_that_was_lost_does_not_promise_epochs_again() {
    let dir = tempfile::tempdir().unwrap();
    let state = name("/edge/gw1/lb/state");
    let mut last = 0;
    for _ in 0..3 {
        let broker = Running::new(dir.path(), Limits::default());
        let host = Host::connect(dir.path()).unwrap();
        let writer: Writer<u64> = host.create(&state, &Spec::of::<u64>()).unwrap();
        assert!(writer.epoch() > last, "{} after {last}", writer.epoch());
        last = writer.epoch();
        drop((writer, host, broker));
        std::fs::remove_file(dir.path().join("board")).unwrap();
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn memory_is_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits {
        bytes: 1 << 20,
        ..Limits::default()
    };
    let _broker = Running::new(dir.path(), limits);
    let host = Host::connect(dir.path()).unwrap();
    let create = |text: &str, len| host.create::<[u8]>(&name(text), &Spec::bytes(len));
    assert!(
        matches!(refusal(create("/a", 600 << 10)), Refusal::Full(_)),
        "two images"
    );
    let kept = create("/a", 400 << 10).unwrap();
    assert!(matches!(refusal(create("/b", 200 << 10)), Refusal::Full(_)));
    drop(kept);
    assert!(
        matches!(refusal(create("/b", 200 << 10)), Refusal::Full(_)),
        "the last version stays"
    );
    host.delete(&name("/a")).unwrap();
    create("/b", 200 << 10).unwrap();
}

#[test]
fn nonsense_harms_nobody() {
    use std::io::Write;
    use std::os::unix::net::UnixStream;
    let dir = tempfile::tempdir().unwrap();
    let _broker = Running::new(dir.path(), Limits::default());
    let host = Host::connect(dir.path()).unwrap();
    // A stream is refused by the kernel already.
    assert!(
        UnixStream::connect(dir.path().join("broker.sock"))
            .and_then(|mut s| s.write(b"x"))
            .is_err()
    );
    for bytes in [&b""[..], b"\0", b"\xff\xff\xff", &[7; 5000]] {
        use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketType};
        let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
        let address = SocketAddrUnix::new(dir.path().join("broker.sock")).unwrap();
        rustix::net::connect(&socket, &address).unwrap();
        rustix::net::send(&socket, bytes, SendFlags::empty()).unwrap();
    }
    assert_eq!(host.list("").unwrap(), []);
}
