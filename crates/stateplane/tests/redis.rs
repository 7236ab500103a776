//! Clients of Redis at a real front end: `redis-cli` and `redis-benchmark` against a group of real
//! processes whose leader is killed, and hostile, slow and greedy connections against one process.

mod support;

use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use support::Node;

fn write(dir: &Path, rest: &str) -> PathBuf {
    let dir_text = dir.display();
    let text = format!(
        "[cluster]\nname = \"t\"\nkey = \"000102030405060708090a0b0c0d0e0f\"\n\
         admin-dir = \"{dir_text}\"\n{rest}"
    );
    let config = dir.join("redis.toml");
    fs::write(&config, text).expect("write");
    config
}

/// A port nobody uses now; the race for it is lost too rarely to matter.
fn tcp_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("port");
    listener.local_addr().expect("address").port()
}

/// One process that keeps its own state.
fn alone(dir: &Path, more: &str) -> (Node, u16) {
    let port = tcp_port();
    let rest = format!("[node.front]\nroles = [\"resp\"]\nlisten = \"127.0.0.1:{port}\"\n{more}");
    (Node::start(&write(dir, &rest), "front"), port)
}

/// A connection; replies come as the text on the wire.
struct Client(BufReader<TcpStream>);

impl Client {
    fn connect(port: u16) -> Self {
        let stream = support::connect(port);
        let patience = Some(Duration::from_secs(20));
        stream.set_read_timeout(patience).expect("a timeout");
        Self(BufReader::new(stream))
    }

    fn send(&mut self, bytes: &[u8]) {
        self.0.get_mut().write_all(bytes).expect("write");
    }

    /// Words between spaces as a request.
    fn say(&mut self, line: &str) {
        let mut request = Vec::new();
        encode(line, &mut request);
        self.send(&request);
    }

    fn ask(&mut self, line: &str) -> String {
        self.say(line);
        self.reply()
    }

    fn reply(&mut self) -> String {
        let mut values = 1;
        let mut reply = String::new();
        while values > 0 {
            values -= 1;
            let mut line = String::new();
            self.0.read_line(&mut line).expect("a reply");
            assert!(line.ends_with("\r\n"), "{reply}{line}");
            let count = || line[1..].trim_end().parse::<i64>().expect("a count");
            match line.as_bytes()[0] {
                b'$' | b'=' if count() >= 0 => {
                    let mut bytes = vec![0; count() as usize + 2];
                    self.0.read_exact(&mut bytes).expect("a string");
                    line.push_str(&String::from_utf8_lossy(&bytes));
                }
                b'*' | b'~' => values += count().max(0),
                b'%' => values += count() * 2,
                _ => {}
            }
            reply.push_str(&line);
        }
        reply
    }

    /// What still comes before the end.
    fn rest(mut self) -> String {
        let mut rest = Vec::new();
        match self.0.read_to_end(&mut rest) {
            Ok(_) => {}
            // A peer that closes with bytes unread resets the connection.
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
        }
        String::from_utf8_lossy(&rest).into_owned()
    }
}

fn encode(line: &str, out: &mut Vec<u8>) {
    let words: Vec<&str> = line.split(' ').collect();
    out.extend(format!("*{}\r\n", words.len()).bytes());
    for word in words {
        out.extend(format!("${}\r\n{word}\r\n", word.len()).bytes());
    }
}

fn installed(program: &str) -> bool {
    let found = Command::new(program).arg("--version").output();
    let found = found.is_ok_and(|output| output.status.success());
    if !found {
        eprintln!("skipped: {program} is not installed (scripts/setup installs it)");
    }
    found
}

fn run(program: &str, port: u16, args: &[&str]) -> String {
    let mut command = Command::new(program);
    command.args(["-p", &port.to_string()]).args(args);
    let output = command.output().expect("it starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{program} {args:?}: {text}");
    text
}

/// A group of three with a front end.
struct Group {
    replicas: Vec<Node>,
    _others: [Node; 3],
    port: u16,
    /// Of another front end.
    other: u16,
}

impl Group {
    fn start(dir: &Path) -> Self {
        let sockets: Vec<_> = (0..6)
            .map(|_| UdpSocket::bind("127.0.0.1:0").expect("port"))
            .collect();
        let address = |n: usize| sockets[n].local_addr().expect("address");
        let (port, other) = (tcp_port(), tcp_port());
        let mut rest = format!(
            "[state]\nbackend = \"group\"\nsequencer = \"seq\"\nreplicas = [\"r1\", \"r2\", \"r3\"]\n\
             [node.seq]\nroles = [\"sequencer\"]\ncontrol = \"{}\"\n\
             [node.front]\nroles = [\"resp\"]\ncontrol = \"{}\"\nlisten = \"127.0.0.1:{port}\"\n\
             [node.other]\nroles = [\"resp\"]\ncontrol = \"{}\"\nlisten = \"127.0.0.1:{other}\"\n",
            address(0),
            address(4),
            address(5)
        );
        for n in 1..=3 {
            let control = address(n);
            rest += &format!("[node.r{n}]\nroles = [\"replica\"]\ncontrol = \"{control}\"\n");
        }
        let config = write(dir, &rest);
        drop(sockets);
        let replicas = ["r1", "r2", "r3"]
            .map(|name| Node::start(&config, name))
            .into();
        let others = ["seq", "front", "other"].map(|name| Node::start(&config, name));
        let group = Self {
            replicas,
            _others: others,
            port,
            other,
        };
        // Until the group has formed nobody knows what becomes of a command.
        let limit = Instant::now() + Duration::from_secs(30);
        while Client::connect(port).ask("GET ready") != "$-1\r\n" {
            assert!(Instant::now() < limit, "the group forms");
        }
        group
    }
}

#[test]
fn redis_tools_work_with_a_group() {
    if !installed("redis-cli") || !installed("redis-benchmark") {
        return;
    }
    let dir = tempfile::tempdir().expect("directory");
    let group = Group::start(dir.path());
    let cli = |args: &[&str]| run("redis-cli", group.port, args);
    assert_eq!(cli(&["set", "greeting", "hello"]), "OK\n");
    assert_eq!(cli(&["get", "greeting"]), "hello\n");
    assert_eq!(cli(&["rpush", "queue", "a", "b"]), "2\n");
    assert_eq!(cli(&["-3", "lrange", "queue", "0", "-1"]), "a\nb\n");
    assert!(cli(&["info", "replication"]).contains("group_replicas:3"));
    assert_eq!(cli(&["wait", "1", "100"]), "1\n");
    cli(&["flushall"]);
    for pipeline in ["1", "16"] {
        let load = ["-t", "set,get,incr,lpush,rpop", "-n", "2000", "-q"];
        let text = run(
            "redis-benchmark",
            group.port,
            &[&load[..], &["-P", pipeline]].concat(),
        );
        assert!(!text.contains("Error"), "{text}");
    }
    // Every increment was executed once, and every item pushed was popped.
    assert_eq!(cli(&["get", "counter:__rand_int__"]), "4000\n");
    assert_eq!(cli(&["llen", "mylist"]), "0\n");
}

#[test]
fn increments_survive_the_leader_exactly_once() {
    let dir = tempfile::tempdir().expect("directory");
    let mut group = Group::start(dir.path());
    let mut client = Client::connect(group.port);
    let (mut known, mut unknown) = (0u32, 0u32);
    for n in 0..600 {
        if n == 200 {
            // The first view is led by the first replica.
            group.replicas[0].0.kill().expect("SIGKILL");
        }
        match client.ask("INCR n") {
            reply if reply.starts_with(':') => {
                known += 1;
                let value: u32 = reply[1..].trim_end().parse().expect("a number");
                assert!(
                    (known..=known + unknown).contains(&value),
                    "{value} after {known}"
                );
            }
            reply => {
                assert!(reply.starts_with("-UNKNOWN "), "{reply}");
                unknown += 1;
            }
        }
    }
    assert!(known > 500, "{known} known, {unknown} unknown");
    // One of three left: no majority, and that is said.
    group.replicas[1].0.kill().expect("SIGKILL");
    assert!(client.ask("INCR n").starts_with("-UNKNOWN "));
    assert_eq!(client.ask("PING"), "+PONG\r\n");
}

/// A MiB that is unlike any other.
fn megabyte(n: u32) -> String {
    let word = |at: u32| format!("{:08x}", (at ^ n << 18).wrapping_mul(0x9e37_79b9));
    (0..1 << 17).map(word).collect()
}

#[test]
fn large_values_survive_the_leader() {
    let dir = tempfile::tempdir().expect("directory");
    let mut group = Group::start(dir.path());
    let mut client = Client::connect(group.port);
    let mut other = Client::connect(group.port);
    for n in 0..12 {
        let value = megabyte(n);
        client.say(&format!("SET large {value}"));
        // Short ones pass while it is on its way.
        assert!(other.ask("INCR n").starts_with(':'));
        if n == 4 {
            group.replicas[0].0.kill().expect("SIGKILL");
        }
        assert_eq!(client.reply(), "+OK\r\n");
        let whole = format!("${}\r\n{value}\r\n", value.len());
        assert!(client.ask("GET large") == whole, "round {n}");
        assert!(other.ask("GET large") == whole, "round {n}");
    }
    let three = client.ask("MGET large large none large");
    assert_eq!(three.len(), 4 + 3 * ((1 << 20) + 12) + 5);
    // A pipeline of long replies is answered in order.
    let mut gets = Vec::new();
    (0..4).for_each(|_| encode("GET large", &mut gets));
    encode("INCR n", &mut gets);
    client.send(&gets);
    (0..4).for_each(|_| assert_eq!(client.reply().len(), (1 << 20) + 12));
    assert_eq!(client.reply(), ":13\r\n");
    if installed("redis-benchmark") {
        let load = [
            "-t", "set,get", "-d", "100000", "-c", "20", "-n", "200", "-q",
        ];
        let text = run("redis-benchmark", group.port, &load);
        assert!(!text.contains("Error"), "{text}");
    }
}

/// How many connections a front end has.
fn connections(client: &mut Client) -> u32 {
    let info = client.ask("INFO clients");
    let count = info
        .lines()
        .find_map(|line| line.strip_prefix("connected_clients:"));
    count.expect("a figure").parse().expect("a number")
}

#[test]
fn who_waits_for_an_item_gets_one() {
    let dir = tempfile::tempdir().expect("directory");
    let (_node, port) = alone(dir.path(), "");
    let mut pusher = Client::connect(port);
    let one = |item: &str| format!("*2\r\n$1\r\nq\r\n${}\r\n{item}\r\n", item.len());
    pusher.ask("RPUSH q a b");
    assert_eq!(pusher.ask("BLPOP none q 0"), one("a"));
    assert_eq!(pusher.ask("BRPOP q 0"), one("b"));
    assert_eq!(pusher.ask("BLPOP q none 0.05"), "*-1\r\n");
    assert_eq!(pusher.ask("BLMOVE q r LEFT RIGHT 0.05"), "*-1\r\n");
    for (timeout, text) in [
        ("-1", "negative"),
        ("x", "not a float"),
        ("1e20", "out of range"),
    ] {
        let reply = pusher.ask(&format!("BLPOP q {timeout}"));
        assert!(
            reply.starts_with("-ERR timeout is ") && reply.contains(text),
            "{reply}"
        );
    }
    pusher.ask("MULTI");
    pusher.ask("BLPOP q 0");
    assert_eq!(pusher.ask("EXEC"), "*1\r\n*-1\r\n");
    // Each of those who wait gets one item, and what came after its command is done after it.
    let mut waiters: Vec<Client> = (0..20).map(|_| Client::connect(port)).collect();
    for waiter in &mut waiters {
        let mut both = Vec::new();
        encode("BLPOP q 0", &mut both);
        encode("INCR n", &mut both);
        waiter.send(&both);
    }
    let items: Vec<String> = (0..20).map(|n| format!("item{n}")).collect();
    pusher.ask(&format!("RPUSH q {}", items[..7].join(" ")));
    items[7..]
        .iter()
        .for_each(|item| pusher.say(&format!("LPUSH q {item}")));
    let mut got: Vec<String> = waiters.iter_mut().map(Client::reply).collect();
    let mut all: Vec<String> = items.iter().map(|item| one(item)).collect();
    got.sort();
    all.sort();
    assert_eq!(got, all);
    let mut counts: Vec<String> = waiters.iter_mut().map(Client::reply).collect();
    counts.sort();
    assert!(counts.iter().all(|count| count.starts_with(':')));
    items[7..].iter().for_each(|_| drop(pusher.reply()));
    assert_eq!(pusher.ask("LLEN q"), ":0\r\n");
    // A chain.
    waiters[0].say("BLPOP last 0");
    waiters[1].say("BRPOPLPUSH first last 0");
    pusher.ask("LPUSH first x");
    assert_eq!(waiters[1].reply(), "$1\r\nx\r\n");
    assert!(waiters[0].reply().ends_with("$1\r\nx\r\n"));
    // Nothing is given to who has gone.
    let before = connections(&mut pusher);
    let mut gone = Client::connect(port);
    gone.say("BLPOP kept 0");
    let limit = Instant::now() + Duration::from_secs(10);
    while connections(&mut pusher) <= before {
        assert!(Instant::now() < limit, "it is there");
    }
    drop(gone);
    while connections(&mut pusher) > before {
        assert!(Instant::now() < limit, "it is gone");
    }
    assert_eq!(pusher.ask("RPUSH kept x"), ":1\r\n");
    assert_eq!(pusher.ask("LLEN kept"), ":1\r\n");
}

#[test]
fn an_item_pushed_through_another_front_end_is_found() {
    let dir = tempfile::tempdir().expect("directory");
    let mut group = Group::start(dir.path());
    let (mut here, mut there) = (Client::connect(group.port), Client::connect(group.other));
    for n in 0..6 {
        here.say("BLPOP q 0");
        if n == 3 {
            group.replicas[0].0.kill().expect("SIGKILL");
        }
        assert_eq!(there.ask(&format!("RPUSH q {n}")), ":1\r\n");
        assert_eq!(here.reply(), format!("*2\r\n$1\r\nq\r\n$1\r\n{n}\r\n"));
    }
}

#[test]
fn pipelines_are_answered_in_order() {
    let dir = tempfile::tempdir().expect("directory");
    let (_node, port) = alone(dir.path(), "");
    let mut clients: Vec<Client> = (0..40).map(|_| Client::connect(port)).collect();
    let mut requests = Vec::new();
    for n in 0..100 {
        encode(&format!("APPEND log {}", n % 10), &mut requests);
        encode("PING", &mut requests);
        encode("INCR n", &mut requests);
        encode("LPUSH log x", &mut requests);
    }
    for client in &mut clients {
        client.send(&requests);
    }
    for client in &mut clients {
        let mut last = (0, 0);
        for _ in 0..100 {
            let number = |reply: String| reply[1..].trim_end().parse().expect("a number");
            let len: u64 = number(client.reply());
            assert_eq!(client.reply(), "+PONG\r\n");
            let n: u64 = number(client.reply());
            assert!(client.reply().starts_with("-WRONGTYPE "));
            assert!(len > last.0 && n > last.1, "{len} {n} after {last:?}");
            last = (len, n);
        }
    }
    assert_eq!(Client::connect(port).ask("GET n"), "$4\r\n4000\r\n");
}

#[test]
fn transactions_watch_and_abort() {
    let dir = tempfile::tempdir().expect("directory");
    let (_node, port) = alone(dir.path(), "");
    let (mut one, mut two) = (Client::connect(port), Client::connect(port));
    assert_eq!(one.ask("SET k 1"), "+OK\r\n");
    // In one piece: each part waits for what it needs to know.
    let lines = [
        "WATCH k", "MULTI", "INCR k", "PING", "GET k", "EXEC", "GET k",
    ];
    let mut all = Vec::new();
    lines.iter().for_each(|line| encode(line, &mut all));
    one.send(&all);
    let replies: Vec<String> = lines.iter().map(|_| one.reply()).collect();
    assert_eq!(replies[5], "*3\r\n:2\r\n+PONG\r\n$1\r\n2\r\n");
    assert_eq!(replies[6], "$1\r\n2\r\n");
    one.ask("WATCH k absent");
    assert_eq!(two.ask("SET absent now"), "+OK\r\n");
    one.ask("MULTI");
    assert_eq!(one.ask("SET k 9"), "+QUEUED\r\n");
    assert_eq!(one.ask("EXEC"), "*-1\r\n");
    assert_eq!(one.ask("GET k"), "$1\r\n2\r\n");
    one.ask("MULTI");
    assert!(
        one.ask("NOSUCH")
            .starts_with("-ERR unknown command 'NOSUCH'")
    );
    assert!(one.ask("EXEC").starts_with("-EXECABORT "));
    assert!(one.ask("EXEC").starts_with("-ERR EXEC without MULTI"));
    one.ask("MULTI");
    assert_eq!(one.ask("DISCARD"), "+OK\r\n");
}

#[test]
fn protocols_passwords_and_limits() {
    let dir = tempfile::tempdir().expect("directory");
    let more = "password = \"open sesame\"\nmax-connections = 2\n";
    let (_node, port) = alone(dir.path(), more);
    let mut client = Client::connect(port);
    assert!(client.ask("GET a").starts_with("-NOAUTH "));
    assert!(client.ask("AUTH guess").starts_with("-WRONGPASS "));
    client.send(b"*2\r\n$4\r\nAUTH\r\n$11\r\nopen sesame\r\n");
    assert_eq!(client.reply(), "+OK\r\n");
    client.ask("HSET h f v");
    assert_eq!(client.ask("HGETALL h"), "*2\r\n$1\r\nf\r\n$1\r\nv\r\n");
    assert_eq!(client.ask("GET a"), "$-1\r\n");
    assert!(client.ask("HELLO 3").starts_with("%7\r\n"));
    assert_eq!(client.ask("HGETALL h"), "%1\r\n$1\r\nf\r\n$1\r\nv\r\n");
    assert_eq!(client.ask("GET a"), "_\r\n");
    assert!(client.ask("HELLO 4").starts_with("-NOPROTO "));
    let _second = Client::connect(port);
    // It is counted from when it was accepted, which is soon.
    let limit = Instant::now() + Duration::from_secs(10);
    while !Client::connect(port)
        .rest()
        .contains("max number of clients")
    {
        assert!(Instant::now() < limit, "the third is turned away");
    }
    for megabytes in [5, 20] {
        let long = "x".repeat(megabytes << 20);
        let reply = client.ask(&format!("SET a {long}"));
        assert!(reply.starts_with("-ERR the command"), "{reply}");
    }
    assert_eq!(client.ask("SET a b"), "+OK\r\n");
    client.say("QUIT");
    assert_eq!(client.rest(), "+OK\r\n");
}

#[test]
fn hostile_bytes_end_their_connection_alone() {
    let dir = tempfile::tempdir().expect("directory");
    let (_node, port) = alone(dir.path(), "");
    let mut friend = Client::connect(port);
    assert_eq!(friend.ask("SET a 1"), "+OK\r\n");
    let mut whole = Vec::new();
    encode("SET a 2", &mut whole);
    for cut in 0..whole.len() {
        let mut client = Client::connect(port);
        client.send(&whole[..cut]);
        drop(client);
    }
    for bad in [
        &b"*1\r\n:1\r\n"[..],
        b"*2147483647\r\n",
        b"*1\r\n$-5\r\n",
        b"*1\r\n$1\r\nabc",
    ] {
        let mut client = Client::connect(port);
        client.send(b"GET a\r\n");
        client.send(bad);
        let rest = client.rest();
        assert!(rest.contains("-ERR Protocol error: "), "{rest}");
    }
    let mut noise = 1u64;
    for _ in 0..50 {
        let mut client = Client::connect(port);
        let bytes: Vec<u8> = (0..2_000)
            .map(|_| {
                noise = noise
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                (noise >> 56) as u8
            })
            .collect();
        // The server may end the connection before everything is written.
        let _ = client.0.get_mut().write_all(&bytes);
    }
    assert_eq!(friend.ask("GET a"), "$1\r\n1\r\n");
}

#[test]
fn who_does_not_read_is_not_served_and_nobody_else_waits() {
    let dir = tempfile::tempdir().expect("directory");
    let (node, port) = alone(dir.path(), "");
    let mut friend = Client::connect(port);
    friend.ask(&format!("SET big {}", "x".repeat(3_000)));
    let mut greedy = Client::connect(port);
    let mut requests = Vec::new();
    (0..1_000).for_each(|_| encode("GET big", &mut requests));
    let stream = greedy.0.get_mut();
    stream
        .set_write_timeout(Some(Duration::from_secs(1)))
        .expect("a timeout");
    // 30 MB of replies a round, never read, until the server takes no more.
    let stuck = (0..4_000).any(|_| stream.write_all(&requests).is_err());
    assert!(stuck, "the server goes on for who does not read");
    assert!(friend.ask("GET big").starts_with("$3000\r\n"));
    let pid = node.0.id();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
    let memory = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes: u64 = memory
        .and_then(|text| text.split_whitespace().next())
        .and_then(|text| text.parse().ok())
        .expect("a size");
    assert!(kilobytes < 100_000, "{kilobytes} kB");
}
