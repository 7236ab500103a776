//! What a run leaves behind on an interface: nothing.

mod support;

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::thread::{CapabilitySet, CapabilitySets};
use stateplane_host::bpf::{AttachMode, Pass};
use stateplane_host::ethtool::{self, Offload};
use stateplane_host::frame::{FramePool, PoolConfig};
use stateplane_host::guard::InterfaceGuard;
use stateplane_host::ifreq;
use stateplane_host::netns::Namespace;
use stateplane_host::spawn::Process;
use stateplane_host::xsk::{XskConfig, XskPort};
use support::{End, can_make_interfaces, plain_cable};

const HERE: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);
const THERE: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 2);

fn world() -> (Namespace, Namespace) {
    let here = Namespace::create("here").unwrap();
    let there = Namespace::create("there").unwrap();
    let end = |namespace, name, last, address| End {
        namespace,
        name,
        mac: [2, 0, 0, 0, 0, last],
        address: Some(address),
    };
    plain_cable(&end(&here, "eth0", 1, HERE), &end(&there, "eth1", 2, THERE)).unwrap();
    (here, there)
}

/// Everything a guard can change.
fn settings(interface: &str) -> (Vec<bool>, u32) {
    let offload = |&which: &Offload| ethtool::offload(interface, which).unwrap();
    (
        Offload::ALL.iter().map(offload).collect(),
        ifreq::mtu(interface).unwrap(),
    )
}

#[test]
fn settings_change_and_come_back() {
    if !can_make_interfaces() {
        return;
    }
    let (here, _there) = world();
    here.run(|| {
        let before = settings("eth0");
        let mut guard = InterfaceGuard::for_raw_frames("eth0")?;
        let is_on = |which| ethtool::offload("eth0", which).unwrap();
        assert!(!is_on(Offload::TxChecksum) && !is_on(Offload::Tso) && !is_on(Offload::Gso));
        assert!(!is_on(Offload::Gro), "left as it was");
        guard.set_mtu(1400)?;
        guard.set_promiscuous()?;
        assert_eq!(ifreq::mtu("eth0")?, 1400);
        let text = guard.to_string();
        println!("{text}");
        for part in [
            "eth0: ",
            "tso off (was on)",
            "tx-checksum off (was on)",
            "mtu 1400 (was 1500)",
        ] {
            assert!(text.contains(part), "{text}");
        }
        assert!(text.contains("promiscuous on (was off)"), "{text}");
        drop(guard);
        assert_eq!(settings("eth0"), before);

        // What is already as needed is neither changed nor "restored".
        ethtool::set_offload("eth0", Offload::Tso, false)?;
        drop(InterfaceGuard::for_raw_frames("eth0")?);
        assert!(!ethtool::offload("eth0", Offload::Tso)?);
        let untouched = InterfaceGuard::new("eth0")?;
        assert_eq!(untouched.to_string(), "eth0: nothing changed");
        let error = InterfaceGuard::for_raw_frames("gone0")
            .unwrap_err()
            .to_string();
        assert!(error.contains("gone0"), "{error}");
        Ok(())
    })
    .unwrap();
}

/// The trap the guard exists for: the kernel leaves TCP checksums to hardware, and an
/// XDP program at the peer sees them unfinished; and after the guard, TCP works.
#[test]
fn tcp_crosses_guarded_interfaces_under_xdp() {
    if !can_make_interfaces() {
        return;
    }
    let (here, there) = world();
    let setup = |namespace: &Namespace, name: &'static str| {
        namespace
            .run(|| {
                Ok((
                    InterfaceGuard::for_raw_frames(name)?,
                    Pass::attach(name).unwrap(),
                ))
            })
            .unwrap()
    };
    let _held = [setup(&here, "eth0"), setup(&there, "eth1")];
    let listener = there.run(|| TcpListener::bind((THERE, 80))).unwrap();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        std::io::copy(&mut stream.try_clone().unwrap(), &mut stream).unwrap()
    });
    let stream = here.run(|| TcpStream::connect((THERE, 80))).unwrap();
    let mut writer = stream.try_clone().unwrap();
    let sender = std::thread::spawn(move || {
        std::io::Write::write_all(&mut writer, &vec![7; 1 << 20]).unwrap();
        writer.shutdown(std::net::Shutdown::Write).unwrap();
    });
    let mut back = Vec::new();
    std::io::Read::read_to_end(&mut &stream, &mut back).unwrap();
    sender.join().unwrap();
    assert_eq!(server.join().unwrap(), 1 << 20);
    assert!(back.len() == 1 << 20 && back.iter().all(|&byte| byte == 7));
}

#[test]
fn an_interface_without_native_xdp_gets_the_generic_one() {
    if !can_make_interfaces() {
        return;
    }
    let (here, _there) = world();
    let mode = |name: &'static str| {
        let pass = here.run(|| Ok(Pass::attach(name).unwrap())).unwrap();
        assert_eq!(pass.attachment().interface(), name);
        pass.attachment().mode()
    };
    assert_eq!(mode("eth0"), AttachMode::Native);
    assert_eq!(mode("lo"), AttachMode::Generic);
}

#[test]
fn missing_privileges_are_named_with_what_to_do() {
    std::thread::spawn(|| {
        // Only this thread gives its capabilities up.
        let none = CapabilitySet::empty();
        let sets = CapabilitySets {
            effective: none,
            permitted: none,
            inheritable: none,
        };
        rustix::thread::set_capabilities(None, sets).unwrap();
        let mut pool = FramePool::new(PoolConfig::default()).unwrap();
        let port = XskPort::open(&mut pool, "lo", &XskConfig::default());
        let error = port.unwrap_err().to_string();
        assert!(error.contains("lo: opening an AF_XDP socket"), "{error}");
        assert!(error.contains("CAP_NET_RAW"), "{error}");
        let error = Pass::attach("lo").unwrap_err().to_string();
        assert!(
            error.contains("'pass'") && error.contains("CAP_BPF"),
            "{error}"
        );
        let error = InterfaceGuard::new("lo")
            .unwrap()
            .set_mtu(1400)
            .unwrap_err();
        assert!(error.to_string().contains("lo: setting its MTU"), "{error}");
    })
    .join()
    .unwrap();
}

/// Tells the child below that it is one.
const CHILD: &str = "STATEPLANE_TEST_CHILD";

/// Not a test of its own: the child that the test below kills.
#[test]
fn hold_a_program_until_killed() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    let _program = Pass::attach("eth0").unwrap();
    println!("attached");
    std::thread::sleep(Duration::from_secs(60));
}

#[test]
fn a_killed_process_leaves_no_program_behind() {
    if !can_make_interfaces() {
        return;
    }
    let (here, _there) = world();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "hold_a_program_until_killed", "--nocapture"])
        .env(CHILD, "1")
        .stdout(Stdio::piped());
    let mut child = Process::spawn("holder", command, &here).unwrap();
    let output = child.pipes().stdout.take().unwrap();
    let attached = BufReader::new(output)
        .lines()
        .any(|line| line.unwrap().contains("attached"));
    assert!(attached, "the child attached");
    here.run(|| {
        let error = Pass::attach("eth0").unwrap_err().to_string();
        assert!(
            error.contains("eth0") && error.contains("native"),
            "{error}"
        );
        Ok(())
    })
    .unwrap();

    child.kill().unwrap();
    let start = Instant::now();
    while let Err(error) = here.run(|| Ok(Pass::attach("eth0"))).unwrap() {
        assert!(start.elapsed() < Duration::from_secs(1), "{error}");
        std::thread::sleep(Duration::from_millis(1));
    }
    println!("free again after {:?}", start.elapsed());
}
