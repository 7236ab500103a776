//! Sites: namespaces on one network, each with a broker and a node that copies regions.

use std::fs;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use stateplane_host::link::Netlink;
use stateplane_host::netns::Namespace;
use stateplane_host::spawn::Process;
use stateplane_region::{Host, ReadError, Reader, Writer};

use super::{Node, nodes, stateplane, until};

pub const BYTES: usize = 64 << 10;
pub const REGION: &str = "/t/site1/lb/weights";

/// Namespaces on one network, a bridge in the first.
pub fn sites<const N: usize>() -> std::io::Result<[Namespace; N]> {
    let spaces: Vec<Namespace> = (1..=N)
        .map(|n| Namespace::create(&format!("site{n}")))
        .collect::<Result<_, _>>()?;
    let spaces: [Namespace; N] = spaces.try_into().expect("as many");
    let far: Vec<Namespace> = spaces[1..]
        .iter()
        .map(Namespace::try_clone)
        .collect::<Result<_, _>>()?;
    spaces[0].run(move || {
        let netlink = Netlink::open()?;
        netlink.add_bridge("lan")?;
        for (n, far) in (2..).zip(&far) {
            let near = format!("w{n}");
            netlink.add_veth(&near, "lan0")?;
            netlink.move_to("lan0", far.as_fd())?;
            netlink.attach_to_bridge(&near, "lan")?;
            netlink.set_up(&near)?;
        }
        netlink.add_address("lan", Ipv4Addr::new(10, 78, 0, 1), 24)?;
        netlink.set_up("lan")
    })?;
    for (n, space) in (2..).zip(&spaces[1..]) {
        space.run(move || {
            let netlink = Netlink::open()?;
            netlink.add_address("lan0", Ipv4Addr::new(10, 78, 0, n), 24)?;
            netlink.set_up("lan0")
        })?;
    }
    Ok(spaces)
}

/// The file of one site, of `sites`: its broker is a machine's own matter. `ways`: of each
/// entry, between whom the region is copied.
pub fn site<W: AsRef<str>>(dir: &Path, number: u8, sites: u8, ways: &[W]) -> PathBuf {
    let dir = dir.join(format!("site{number}"));
    fs::create_dir(&dir).expect("directory");
    let shown = dir.display();
    let copies = ways.iter().map(|way| {
        let way = way.as_ref();
        format!("{{ region = \"{REGION}\", bytes = {BYTES}, schema = \"w1\", {way} }}")
    });
    let copies: Vec<String> = copies.collect();
    let mut text = format!(
        "[cluster]\nname = \"t\"\nkey = \"000102030405060708090a0b0c0d0e0f\"\n\
         admin-dir = \"{shown}\"\n[io]\nlose-one-in = 10\n\
         [regions]\ndir = \"{shown}\"\ncopies = [ {} ]\n",
        copies.join(", ")
    );
    for n in 1..=sites {
        text += &format!("[node.site{n}]\nroles = [\"regions\"]\ncontrol = \"10.78.0.{n}:7000\"\n");
    }
    let config = dir.join("t.toml");
    fs::write(&config, text).expect("write");
    config
}

pub fn start(config: &Path, number: u8, space: &Namespace) -> Process {
    let name = format!("site{number}");
    let log = fs::File::create(config.with_extension("log")).expect("log");
    let mut command = stateplane(&["run", "--node", &name, "--config"]);
    command
        .arg(config)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log);
    Process::spawn(&name, command, space).expect("the binary starts")
}

/// The original: every word of it is the number of its version.
pub struct Original(pub Writer<[u64]>, pub u64);

impl Original {
    pub fn publish(&mut self) {
        self.1 += 1;
        let number = self.1;
        self.0.edit_all().fill(number);
        self.0.publish().expect("the writer in force");
    }
}

/// The copy, of whichever process has it; panics at one that is torn.
pub fn read(host: &Host, reader: &mut Option<Reader<[u64]>>) -> Option<u64> {
    if reader.is_none() {
        *reader = host.attach(&REGION.parse().expect("a name"), "w1").ok();
    }
    match reader.as_ref()?.snapshot() {
        Ok(snapshot) => {
            let first = snapshot[0];
            assert!(snapshot.iter().all(|word| *word == first), "torn");
            Some(first)
        }
        Err(ReadError::Superseded { .. }) => {
            *reader = None;
            None
        }
        Err(_) => None,
    }
}

pub fn broker(dir: &Path) -> (Node, Host) {
    let mut command = stateplane(&["region", "broker", "--dir"]);
    let child = command.arg(dir).spawn().expect("the binary starts");
    let host = until("the broker answers", || Host::connect(dir).ok());
    (Node(child), host)
}

/// What a node says of the region, in a field of its status.
pub fn said(config: &Path, number: u8, way: &str, field: &str) -> Option<u64> {
    let nodes = nodes(config);
    let name = format!("site{number}");
    let here = nodes.iter().find(|node| node["node"] == *name)?;
    here["regions"][way][0][field].as_u64()
}
