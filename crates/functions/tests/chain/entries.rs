//! What a chain has in front of it: one entry for what all functions let pass, as long as each does.

use std::time::Duration;

use stateplane_base::Reason;
use stateplane_flow::{Endpoint, Protocol};
use stateplane_functions::Driven;
use stateplane_functions::meter::ops::List;
use stateplane_functions::nat::ops::Lookup;
use stateplane_lease::InstanceId;
use stateplane_lease::ops::Migrate;

use crate::common::{IN, OUT, Out, SERVER, ends, tcp, udp};
use crate::world::{ALLOWED, Chained, FREE, LIMITED, mapped, meter, meter_state, nat};

fn chain() -> Chained {
    Chained::chained(true, vec![meter(), nat()])
}

fn out(host: [u8; 4], payload: &[u8]) -> Vec<u8> {
    udp((host, 5000), (SERVER, 53), payload)
}

/// A flow with entries both ways: the first packet waits each way, and makes them.
fn flow(line: &mut Chained, host: [u8; 4]) -> Vec<u8> {
    let outside = mapped(&line.pass(IN, &out(host, b"one")));
    let back = udp((SERVER, 53), outside, b"back");
    line.pass(OUT, &back);
    back
}

#[test]
fn a_flow_that_all_let_pass_has_one_entry_each_way() {
    let mut line = chain();
    let back = flow(&mut line, FREE);
    assert_eq!((line.entries(), line.hits()), (2, 0), "one each way");
    for (decision, ownership, meter) in line.devices[0].front.entries.values() {
        assert_eq!(decision.action.ttl, 2);
        assert!(ownership.is_some() && meter.is_some());
    }
    for n in 1..=50 {
        line.pass(IN, &out(FREE, b"fast"));
        line.pass(OUT, &back);
        assert_eq!(line.hits(), 2 * n);
    }
    // A further endpoint of the same host is another flow, and the same account.
    line.pass(IN, &udp((FREE, 5001), (SERVER, 53), b"other"));
    assert_eq!(line.entries(), 3);
    line.advance(Duration::from_millis(150));
    assert_eq!(
        line.counted(FREE),
        [50 + 1 + 1, 50 + 1],
        "wherever they passed"
    );
    let counted = line.devices[0].driven.counted();
    assert_eq!((counted.forwarded, counted.offered), ([1, 2], 3));
}

/// A packet that waits at the meter has passed the NAT, which may think otherwise when it goes on.
#[test]
fn what_is_taken_back_while_a_packet_waits_makes_no_entry() {
    for closes in [false, true] {
        let mut line = Chained::chained(true, vec![nat(), meter()]);
        line.store_up = false;
        let (from, server) = ((FREE, 5000), (SERVER, 80));
        assert_eq!(line.send(IN, &tcp(from, server, "S", b"")), []);
        line.answer(0);
        if closes {
            assert_eq!(line.send(IN, &tcp(from, server, "R", b"")), []);
            line.advance(Duration::from_millis(5));
        }
        let before = line.entries();
        line.store_up = true;
        line.settle();
        let sent = std::mem::take(&mut line.out);
        assert_eq!(sent.len(), 1 + usize::from(closes), "{sent:?}");
        let made = line.entries() - before;
        assert_eq!(made, usize::from(!closes), "one way so far");
    }
}

#[test]
fn either_function_takes_it_back() {
    // The NAT does when its mapping is idle, so that the next packet shows.
    let mut line = chain();
    let back = flow(&mut line, FREE);
    line.advance(Duration::from_secs(200));
    assert_eq!(line.entries(), 0, "idle");
    for _ in 0..2 {
        line.pass(IN, &out(FREE, b"again"));
        line.pass(OUT, &back);
    }
    assert_eq!(line.entries(), 2, "both offer it again");

    // The meter does when another instance is to own the partition.
    let hits = line.hits();
    let partition = meter_state().partition(FREE.into());
    let heir = InstanceId(9);
    line.ask(&Migrate::wish(partition, heir))
        .expect("it takes it");
    line.advance(Duration::from_millis(250));
    assert_eq!(line.entries(), 0);
    assert_eq!(line.send(IN, &out(FREE, b"whose?")), [], "it waits");
    assert_eq!(line.hits(), hits);
}

/// What passed in front is use of the mapping, also if it is the meter that ends the entry.
#[test]
fn what_an_entry_saw_outlives_it() {
    let mut line = chain();
    let (_, (address, port)) = ends(&flow(&mut line, FREE));
    let addr = address.into();
    let lookup = Lookup {
        protocol: Protocol::Udp,
        outside: Endpoint { addr, port },
    };
    for _ in 0..3 {
        line.advance(Duration::from_secs(25));
        line.pass(IN, &out(FREE, b"used"));
    }
    assert!(line.hits() >= 3);
    let partition = meter_state().partition(FREE.into());
    let heir = InstanceId(9);
    line.ask(&Migrate::wish(partition, heir))
        .expect("it takes it");
    line.advance(Duration::from_millis(250));
    assert_eq!(line.entries(), 0);
    // Mappings of UDP last 5 min from their last packet on, or from when the NAT hears of it.
    line.advance(Duration::from_secs(300 - 5));
    assert!(line.ask(&lookup).mapping.is_some(), "it is still there");
    line.advance(Duration::from_secs(65));
    assert_eq!(line.ask(&lookup).mapping, None, "and ends in time");
}

#[test]
fn a_reset_takes_a_connection_back_and_no_other() {
    let mut line = chain();
    let from = (FREE, 5000);
    let server = (SERVER, 80);
    let outside = mapped(&line.pass(IN, &tcp(from, server, "S", b"")));
    line.pass(OUT, &tcp(server, outside, "SA", b""));
    flow(&mut line, FREE);
    assert_eq!((line.entries(), line.hits()), (4, 0));
    line.pass(IN, &tcp(from, server, "A", b"data"));
    assert_eq!(line.hits(), 1);
    line.pass(OUT, &tcp(server, outside, "R", b""));
    line.advance(Duration::from_secs(1));
    assert_eq!(line.entries(), 2, "those of the other flow");
}

/// An entry ends when the first of its decisions does, and lives on when that is prolonged.
#[test]
fn what_is_prolonged_stays() {
    let mut line = chain();
    let back = flow(&mut line, FREE);
    let mut until = Vec::new();
    for _ in 0..20 {
        line.advance(Duration::from_secs(20));
        line.pass(IN, &out(FREE, b"on"));
        line.pass(OUT, &back);
        let entries = line.devices[0].front.entries.values();
        until.extend(entries.map(|(decision, ..)| decision.valid_until).min());
    }
    assert!(until.is_sorted() && until.first() < until.last());
    assert!(line.hits() > 30, "{}", line.hits());
}

/// Not a byte too many, in front of the functions as in them.
#[test]
fn an_allowance_that_is_used_up_stops_the_entry_too() {
    let mut line = chain();
    flow(&mut line, LIMITED);
    let outside = line.pass(IN, &out(LIMITED, b"two"));
    let payload = [7; 1000];
    let mut passed = 0;
    for _ in 0..1000 {
        let sent = line.send(IN, &out(LIMITED, &payload));
        passed += sent
            .iter()
            .filter(|one| matches!(one, Out::Sent(..)))
            .count();
        line.advance(Duration::from_millis(1));
    }
    assert!(line.hits() > 200, "{} passed in front", line.hits());
    let bytes = passed as u64 * 1042;
    assert!(bytes < ALLOWED && bytes > ALLOWED * 9 / 10, "{bytes}");
    let hits = line.hits();
    let back = udp((SERVER, 53), mapped(&outside), &payload);
    assert_eq!(line.send(OUT, &back), [Out::Dropped(Reason::Allowance)]);
    assert_eq!(line.hits(), hits);
    line.advance(Duration::from_millis(300));
    let from = LIMITED.into();
    let page = line.ask(&List { from, limit: 1 });
    let tally = page.accounts[0].passed;
    assert_eq!(tally.packets, [passed as u64 + 2, 1]);
    assert!(tally.bytes.iter().sum::<u64>() <= ALLOWED);
    // Others go on.
    flow(&mut line, FREE);
}

/// The fast path has lost all it knew: flows are offered again by their next packets.
#[test]
fn what_the_fast_path_gave_up_is_offered_anew() {
    let mut line = chain();
    let back = flow(&mut line, FREE);
    line.devices[0].front.entries.clear();
    line.devices[0].driven.offer_again();
    line.pass(IN, &out(FREE, b"slowly"));
    assert_eq!((line.entries(), line.hits()), (1, 0));
    line.pass(IN, &out(FREE, b"fast"));
    line.pass(OUT, &back);
    line.pass(OUT, &back);
    assert_eq!((line.entries(), line.hits()), (2, 2));
}

#[test]
fn a_stop_gives_back_what_both_have() {
    let mut line = chain();
    flow(&mut line, FREE);
    let now = line.now;
    line.devices[0].driven.stop(now);
    line.settle();
    line.advance(Duration::from_millis(50));
    assert_eq!(line.counted(FREE), [1, 1], "the last word was told");
    assert_eq!(line.entries(), 0);
    let partition = meter_state().partition(FREE.into());
    let page = line.ask(&stateplane_lease::ops::List {
        from: partition,
        limit: 1,
    });
    let held = page.leases.first().filter(|(of, _)| *of == partition);
    let over = held.is_none_or(|(_, grant)| grant.is_over(page.now));
    assert!(over, "the partition is free");
}
