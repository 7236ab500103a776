//! A meter and a NAT in one instance, with real packets: counted, translated, in front of the process as
//! in it, and the same at another instance when the first one dies.

mod support;

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use serde_json::Value;
use support::instances::{FREE, LIMITED, Lab, SERVER, ask, begin, exhaust};

const ALLOWED: u64 = 300_000;
const POOL: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
/// Says who one seems to be.
const MIRROR: u16 = 7001;

fn lab() -> Option<Lab> {
    let sections = format!(
        "[lease]\nlength = \"2s\"\n[park]\ntimeout-ms = 400\n\
         [meter]\ninside-prefixes = [\"10.0.0.0/16\"]\npartitions = 8\n\
         allowances = [ {{ prefix = \"10.0.1.0/24\", allowance = \"{} kB\", period = \"300d\" }} ]\n\
         [nat]\ninside-prefixes = [\"10.0.0.0/16\"]\noutside-addresses = [\"{POOL}\"]",
        ALLOWED / 1000
    );
    let lab = Lab::start("[\"meter\", \"nat\"]", &sections)?;
    mirror(&lab);
    Some(lab)
}

/// A server that says who is there: to each datagram, and to each line of a connection.
fn mirror(lab: &Lab) {
    let (ready, is_ready) = channel();
    let datagrams = ready.clone();
    let serve = move || {
        let socket = UdpSocket::bind((SERVER, MIRROR))?;
        let _ = datagrams.send(());
        let mut buffer = [0; 64];
        while let Ok((_, from)) = socket.recv_from(&mut buffer) {
            socket.send_to(from.to_string().as_bytes(), from)?;
        }
        Ok::<(), std::io::Error>(())
    };
    lab.server.spawn_thread("mirror", serve).expect("a thread");
    let serve = move || {
        let listener = TcpListener::bind((SERVER, MIRROR))?;
        let _ = ready.send(());
        for stream in listener.incoming() {
            let stream = stream?;
            thread::spawn(move || answer_lines(&stream));
        }
        Ok::<(), std::io::Error>(())
    };
    lab.server.spawn_thread("lines", serve).expect("a thread");
    is_ready.recv().expect("it serves datagrams");
    is_ready.recv().expect("it serves connections");
}

fn answer_lines(mut stream: &TcpStream) -> std::io::Result<()> {
    let from = stream.peer_addr()?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    while reader.read_line(&mut line)? > 0 {
        writeln!(stream, "{from} {}", line.trim())?;
        line.clear();
    }
    Ok(())
}

/// Whom the world takes this socket for.
fn seen(socket: &UdpSocket) -> SocketAddrV4 {
    support::until("the mirror answers", || {
        let mut buffer = [0; 64];
        socket.send_to(b"who am I?", (SERVER, MIRROR)).ok()?;
        let (len, _) = socket.recv_from(&mut buffer).ok()?;
        std::str::from_utf8(&buffer[..len]).ok()?.parse().ok()
    })
}

/// A connection that survives.
struct Lines {
    stream: TcpStream,
    reader: BufReader<TcpStream>,
    count: u32,
}

impl Lines {
    fn open(lab: &Lab) -> Self {
        let open = || TcpStream::connect((SERVER, MIRROR));
        let stream = lab.client.run(open).expect("it connects");
        stream.set_nodelay(true).expect("an option");
        let wait = Some(Duration::from_secs(30));
        stream.set_read_timeout(wait).expect("a timeout");
        let reader = BufReader::new(stream.try_clone().expect("a second handle"));
        Self {
            stream,
            reader,
            count: 0,
        }
    }

    /// Whom the server takes us for; it must have got the line.
    fn say(&mut self) -> SocketAddrV4 {
        self.count += 1;
        writeln!(self.stream, "{}", self.count).expect("it is open");
        let mut line = String::new();
        self.reader.read_line(&mut line).expect("an answer");
        let (from, count) = line.trim().split_once(' ').expect("two words");
        assert_eq!(count, self.count.to_string());
        from.parse().expect("an endpoint")
    }
}

/// A socket that is not bound to one server.
fn socket(lab: &Lab) -> UdpSocket {
    let open = || {
        let socket = UdpSocket::bind((FREE, 0))?;
        socket.set_read_timeout(Some(Duration::from_millis(400)))?;
        Ok(socket)
    };
    lab.client.run(open).expect("a socket")
}

fn function(lab: &Lab, node: &str) -> Value {
    let nodes = support::nodes(&lab.file());
    let mut named = nodes.into_iter().filter(|one| one["node"] == node);
    named
        .next()
        .map(|one| one["function"].clone())
        .unwrap_or_default()
}

#[test]
fn a_flow_is_counted_and_translated_in_the_kernel_and_goes_on_at_another_instance() {
    let Some(mut lab) = lab() else {
        return;
    };
    let free = lab.socket(FREE);
    let sent = begin(&free);
    assert_eq!(
        sent, 1,
        "the first packet waits for lease and mapping, and passes"
    );
    // In front of the process, both ways, and counted to the byte.
    lab.passes_counted(&free);

    // A connection, too.
    let wanderer = socket(&lab);
    let who = seen(&wanderer);
    assert_eq!(*who.ip(), POOL);
    let mut lines = Lines::open(&lab);
    let mapped = lines.say();
    assert_eq!(*mapped.ip(), POOL);
    let before = lab.fast_path_hits(0);
    assert!((0..100).all(|_| lines.say() == mapped));
    support::until("its segments passed in the kernel", || {
        (lab.fast_path_hits(0) >= before + 190).then_some(())
    });

    // The node speaks for both functions.
    let said = function(&lab, "gw1");
    assert_eq!(said["runs"], serde_json::json!(["meter", "nat"]));
    assert_eq!(said["meter"]["active"], 1, "{said:#}");
    let covers = said["leases"].as_array().expect("leases").iter();
    let covers: Vec<&str> = covers
        .filter_map(|lease| lease["covers"].as_str())
        .collect();
    assert!(
        covers.iter().any(|what| what.contains("port blocks")),
        "{covers:?}"
    );
    assert!(
        covers.iter().any(|what| !what.contains("port blocks")),
        "{covers:?}"
    );
    let sessions = lab.show("sessions")["sessions"].clone();
    let is_known = |session: &Value| session["outside"] == mapped.to_string();
    let known = sessions.as_array().into_iter().flatten().any(is_known);
    assert!(known, "{sessions:#}");

    // kill -9: another one translates as before, and counts on when the lease is over.
    let kept = lab.account(FREE)["packets_out"].as_u64().expect("a number");
    let mut gw1 = lab.nodes.remove(4);
    gw1.kill().expect("SIGKILL");
    lab.lead_to(1).expect("another gateway");
    assert_eq!(seen(&wanderer), who, "the same mapping");
    assert_eq!(lines.say(), mapped, "the connection goes on");
    let before = lab.fast_path_hits(1);
    assert!((0..50).all(|_| lines.say() == mapped));
    support::until("in the kernel there", || {
        (lab.fast_path_hits(1) >= before + 80).then_some(())
    });
    support::until("gw2 counts", || {
        let account = lab.account(FREE);
        (account["owner"] == "gw2" && account["packets_out"].as_u64() >= Some(kept + 52))
            .then_some(())
    });

    // Asked to stop, it gives back what both functions have, and says what passed: all of it.
    let sent = lab.account(FREE)["packets_out"].as_u64().expect("a number");
    lab.run("gw1").expect("it starts again");
    lab.ready(6);
    let mut gw2 = lab.nodes.remove(4);
    gw2.stop(Duration::from_secs(10)).expect("SIGTERM");
    lab.lead_to(0).expect("the first gateway");
    assert_eq!((seen(&wanderer), lines.say()), (who, mapped));
    support::until("gw1 counts", || {
        let account = lab.account(FREE);
        (account["owner"] == "gw1" && account["packets_out"].as_u64() >= Some(sent + 2))
            .then_some(())
    });
}

#[test]
fn an_allowance_that_is_used_up_stops_packets_in_the_kernel_too() {
    let Some(lab) = lab() else {
        return;
    };
    let (limited, free) = (lab.socket(LIMITED), lab.socket(FREE));
    begin(&limited);
    begin(&free);
    let answered = exhaust(&limited, ALLOWED);
    support::until(
        "three quarters of what is reserved at once passed in the kernel",
        || (lab.fast_path_hits(0) >= 45).then_some(()),
    );
    assert!(ask(&free, b"I may"), "others go on");
    lab.used_up(answered, ALLOWED);
    let said = function(&lab, "gw1");
    assert!(said["drops"]["allowance"].as_u64() >= Some(1), "{said:#}");
}
