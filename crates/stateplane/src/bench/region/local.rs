//! A row of the store's state: asked of a replica group, and read in place beside one of its
//! replicas.
//!
//! The group is three replicas and a sequencer on the loopback, each with threads of its own, all
//! in this process; what they say to each other passes the kernel's sockets as ever. So the remote
//! read has no network to cross, and is as fast as it can be.

use std::fmt::Write;
use std::net::UdpSocket;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use stateplane_committed::{Committed, Found, LocalTable, SCHEMA};
use stateplane_functions::Ticket;
use stateplane_host::{clock, poll};
use stateplane_node::channel::{Channel, Identity, new_incarnation};
use stateplane_node::client::{Done, GroupClient, StateClient};
use stateplane_node::config::{Config, Role};
use stateplane_node::{Stop, regions};
use stateplane_region::{Broker, Host, Limits};
use stateplane_state::builtin::kv::{Get, Put};
use stateplane_state::op::Operation;

use super::reading::plain_loads;
use super::{Plan, Row, each, next, times};

const NODES: [(&str, &str); 5] = [
    ("r1", "replica"),
    ("r2", "replica"),
    ("r3", "replica"),
    ("seq", "sequencer"),
    ("load", "function"),
];
/// Writes under way while the table is filled.
const OUTSTANDING: usize = 256;
/// Look-ups timed as one.
const LOOKS: usize = 64;
/// What the rows are called.
pub(super) const REMOTE: &str = "a row of the store, asked of a group";
pub(super) const LOCAL: &str = "a row of the store, in place";
/// Of a burst of packets.
pub(super) const BURSTS: &str = "a row of the store, in place, in bursts";
/// Rows looked up together.
const BURST: usize = 32;
/// What a plain load costs there.
pub(super) const FLOOR: &str = "plain load from those rows' memory";
const LIMIT: Duration = Duration::from_secs(60);

/// `entries` rows are written through a group; then reads at random, one at a time.
pub(super) fn measure(plan: &Plan, entries: u64, rows: &mut Vec<Row>) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let config = configure(dir.path(), entries)?;
    let mut broker = Broker::open(&dir.path().join("regions"), Limits::default())?;
    let (stop, over) = (Stop::default(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Acquire) {
                broker.turn(Duration::from_millis(5))?;
            }
            Ok::<(), std::io::Error>(())
        });
        let (config, stop) = (&config, &stop);
        let running: Vec<_> = NODES[..4]
            .iter()
            .map(|(name, _)| scope.spawn(move || stateplane_node::run(config, name, stop)))
            .collect();
        let measured = with_group(plan, config, entries, rows);
        stop.raise();
        let ended: Result<Vec<()>, _> = running
            .into_iter()
            .map(|node| node.join().expect("a node does not panic"))
            .collect();
        over.store(true, Ordering::Release);
        measured?;
        ended.context("the group")?;
        Ok(())
    })
}

fn configure(dir: &Path, entries: u64) -> Result<Config> {
    let shown = dir.display();
    let mut text = format!(
        "[cluster]\nname = \"bench\"\nkey = \"000102030405060708090a0b0c0d0e0f\"\n\
         admin-dir = \"{shown}\"\n\
         [state]\nbackend = \"group\"\nreplicas = [\"r1\", \"r2\", \"r3\"]\nsequencer = \"seq\"\n\
         [nat]\ninside-prefixes = [\"10.0.0.0/24\"]\noutside-addresses = [\"198.51.100.1\"]\n\
         [regions]\ndir = \"{shown}/regions\"\n\
         tables = [ {{ name = \"kv.rows\", rows = {} }} ]\n",
        entries.max(1)
    );
    let mut held = Vec::new();
    for (name, role) in NODES {
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        let address = socket.local_addr()?;
        held.push(socket);
        writeln!(
            text,
            "[node.{name}]\nroles = [\"{role}\"]\ncontrol = \"{address}\""
        )?;
        if role == "function" {
            text += "inside = \"none0\"\noutside = \"none1\"\n";
        }
    }
    let (config, _) = Config::parse("bench.toml", &text, dir)?;
    Ok(config)
}

fn key(number: u64) -> [u8; 7] {
    let [_, key @ ..] = number.to_be_bytes();
    key
}

fn with_group(plan: &Plan, config: &Config, entries: u64, rows: &mut Vec<Row>) -> Result<()> {
    let node = config.node("load").context("the load's node")?;
    let address = node.control[&Role::Function];
    let identity = Identity::new(config, "load", Role::Function, new_incarnation());
    let id = identity.client_id();
    let channel = Channel::bind(address, identity)?;
    let client = GroupClient::new(config, "load", id, channel);
    let mut client = StateClient::Group(Box::new(client));
    fill(&mut client, entries)?;
    let (tables, table) = attach(config, entries)?;
    let mut state = 1;
    let mut remote = Vec::new();
    for _ in 0..plan.rounds {
        let key = key(next(&mut state) as u64 % entries);
        let start = Instant::now();
        ensure!(ask(&mut client, &key)?, "a row that was written is missing");
        remote.push(start.elapsed().as_nanos() as f64);
    }
    let mut value = [0; 47];
    let mut found = 0;
    let local = times(plan.rounds, || {
        each(LOOKS, || {
            for _ in 0..LOOKS {
                let key = key(next(&mut state) as u64 % entries);
                let answer = tables.get(table, &key, &mut value);
                found += usize::from(answer.is_ok_and(|a| matches!(a.found, Found::Value(_))));
            }
        })
    });
    let (mut values, mut each_found) = ([[0; 47]; BURST], [Found::Absent; BURST]);
    let bursts = times(plan.rounds, || {
        each(LOOKS, || {
            for _ in 0..LOOKS / BURST {
                let keys: [_; BURST] =
                    std::array::from_fn(|_| key(next(&mut state) as u64 % entries));
                let read = tables.get_each(table, &keys, &mut values, &mut each_found);
                let there = each_found.iter().filter(|f| matches!(f, Found::Value(_)));
                found += read.map_or(0, |_| there.count());
            }
        })
    });
    let wanted = 2 * LOOKS * plan.rounds;
    ensure!(found == wanted, "a row is missing in place");
    rows.push(Row::of(REMOTE, remote));
    rows.push(Row::of(LOCAL, local));
    rows.push(Row::of(BURSTS, bursts));
    plain_loads(plan, tables.region(), FLOOR, rows)
}

/// Writes all rows, many at a time.
fn fill(client: &mut StateClient, entries: u64) -> Result<()> {
    let (mut written, mut under_way, mut ended) = (0, 0, 0);
    let mut done = Vec::new();
    let mut last = Instant::now();
    while ended < entries {
        let now = clock::now();
        while under_way < OUTSTANDING && written < entries {
            let op = Put {
                key: &key(written),
                value: &[7; 16],
                ttl: None,
            };
            client.submit(now, Ticket(written), op.encode());
            (written, under_way) = (written + 1, under_way + 1);
        }
        client.flush(now);
        wait(client, &mut done)?;
        for (Ticket(number), outcome) in done.drain(..) {
            under_way -= 1;
            last = Instant::now();
            match outcome {
                Ok(_) => ended += 1,
                // Nobody answered in time; perhaps the group was not there yet.
                Err(_) => {
                    let op = Put {
                        key: &key(number),
                        value: &[7; 16],
                        ttl: None,
                    };
                    client.submit(clock::now(), Ticket(number), op.encode());
                    under_way += 1;
                }
            }
        }
        if last.elapsed() > LIMIT {
            bail!("the group does not answer");
        }
    }
    Ok(())
}

fn ask(client: &mut StateClient, key: &[u8]) -> Result<bool> {
    let mut done = Vec::new();
    client.read(clock::now(), Ticket(u64::MAX), Get { key }.encode());
    client.flush(clock::now());
    while done.is_empty() {
        wait(client, &mut done)?;
    }
    let reply = done.pop().and_then(|(_, outcome)| outcome.ok());
    let reply = reply.context("the group did not answer")?;
    Ok(Get::decode_reply(&reply)?.is_some())
}

fn wait(client: &mut StateClient, done: &mut Vec<Done>) -> Result<()> {
    client.poll(clock::now(), done);
    if done.is_empty() {
        let due = client.next_timer().map(|due| due.since(clock::now()));
        let fd = client.fd().context("a group's client has a socket")?;
        poll::wait(&[fd], due)?;
        client.poll(clock::now(), done);
    }
    Ok(())
}

/// The tables beside the first replica, as soon as they hold all rows.
fn attach(config: &Config, entries: u64) -> Result<(Committed, LocalTable)> {
    let regions = config.regions.as_ref().context("regions")?;
    let host = Host::connect(&regions.dir)?;
    let name = regions::tables_of(&config.cluster.name, "r1").context("a name")?;
    let start = Instant::now();
    loop {
        let tables = host.attach(&name, SCHEMA).ok().map(Committed::open);
        if let Some(Ok(tables)) = tables {
            let table = tables.table("kv.rows").context("it is shared")?;
            if tables.view(table)?.rows as u64 == entries {
                return Ok((tables, table));
            }
        }
        ensure!(start.elapsed() < LIMIT, "the tables are not shared");
        std::thread::sleep(Duration::from_millis(20));
    }
}
