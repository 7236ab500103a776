//! The labs themselves: nothing breaks with the store, everything breaks
//! without it, and nothing is left behind. Needs root; skipped without.

use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

/// One lab at a time: they share two cores and the clock decides who is dead.
static STAGE: Mutex<()> = Mutex::new(());

fn stage() -> Option<MutexGuard<'static, ()>> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: a lab needs root");
        return None;
    }
    Some(STAGE.lock().unwrap_or_else(PoisonError::into_inner))
}

fn lab(arguments: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stateplane"));
    command.args(["lab", "run"]).args(arguments.split(' '));
    command
}

fn play(arguments: &str) -> (Option<i32>, Value) {
    let Output {
        status,
        stdout,
        stderr,
    } = lab(arguments)
        .arg("--json")
        .output()
        .expect("the binary starts");
    let report = serde_json::from_slice(&stdout).unwrap_or_else(|e| {
        panic!("{e}: {}", String::from_utf8_lossy(&stderr));
    });
    (status.code(), report)
}

#[test]
fn killing_the_busiest_instance_and_the_leader_breaks_nothing() {
    let Some(_stage) = stage() else { return };
    let (code, report) = play(
        "failover --connections 40 --udp 4 --rate 100 --pace 1.5 --duration 6 --no-real-clients",
    );
    assert_eq!(code, Some(0), "{report:#}");
    assert_eq!(report["verdict"], "pass");
    for count in ["broken", "failed_connects", "remapped"] {
        assert_eq!(report[count], 0, "{report:#}");
    }
    assert_eq!(
        (&report["long_tcp"], &report["long_udp"]),
        (&40.into(), &4.into())
    );
    assert_eq!(report["kills"].as_array().map(Vec::len), Some(2));
}

/// On a veth a packet comes by the queue of the processor that sent it: those of one flow by several,
/// to workers that did not decide about it.
#[test]
fn several_workers_serve_all_flows_and_break_none_when_they_are_killed() {
    let Some(_stage) = stage() else { return };
    if std::thread::available_parallelism().map_or(1, usize::from) < 2 {
        eprintln!("skipped: a veth has no more queues than processors");
        return;
    }
    for way in ["", " --no-fast-path"] {
        let (code, report) = play(&format!(
            "failover --workers 2 --kill nf --connections 40 --udp 4 --rate 100 --pace 1.5 \
             --duration 5 --no-real-clients{way}"
        ));
        assert_eq!(code, Some(0), "{report:#}");
        for count in ["broken", "failed_connects", "remapped"] {
            assert_eq!(report[count], 0, "{report:#}");
        }
        let nodes = report["states"].as_object().expect("the states of nodes");
        let functions = nodes.values().map(|status| &status["function"]);
        let alive: Vec<&Value> = functions.filter(|f| f["registered"] == true).collect();
        assert!(!alive.is_empty(), "one instance lives");
        for function in alive {
            let workers = function["workers"].as_array().expect("workers");
            assert_eq!(workers.len(), 2, "{function:#}");
            for (queue, worker) in workers.iter().enumerate() {
                let queues = serde_json::json!([[queue], [queue]]);
                assert_eq!(worker["queues"], queues, "{worker:#}");
                let received = |side: usize| worker["received"][side].as_u64() > Some(0);
                assert!(received(0) || received(1), "{worker:#}");
            }
        }
    }
}

#[test]
fn weights_change_under_traffic_and_nothing_breaks() {
    let Some(_stage) = stage() else { return };
    let (code, report) = play(
        "failover --kill weight,weight,weight --connections 40 --udp 4 --rate 100 --pace 1.5 \
         --duration 7 --no-real-clients",
    );
    assert_eq!(code, Some(0), "{report:#}");
    for count in ["broken", "failed_connects", "remapped"] {
        assert_eq!(report[count], 0, "{report:#}");
    }
    // One lost everything, got its share back, and then one lost everything again.
    let switch = &report["states"]["sw"]["switch"];
    let instances = switch["instances"].as_array().expect("instances");
    let mut serve: Vec<(u64, bool)> = instances
        .iter()
        .map(|i| (i["weight"].as_u64().unwrap_or(7), i["serving"] == true))
        .collect();
    serve.sort_unstable();
    assert_eq!(serve, [(0, false), (100, true)], "{switch:#}");
    assert!(switch["resteered"].as_u64() >= Some(4), "{switch:#}");
}

#[test]
fn programs_of_other_people_do_not_notice_a_kill() {
    let Some(_stage) = stage() else { return };
    for tool in ["curl", "nginx", "ping", "iperf3"] {
        if Command::new(tool).arg("--version").output().is_err() {
            eprintln!("skipped: {tool} is missing (`make setup` installs it)");
            return;
        }
    }
    let (code, report) = play(
        "failover --connections 20 --udp 4 --rate 50 --pace 1.5 --duration 6 --download-mb 30 \
         --kill nf",
    );
    assert_eq!(code, Some(0), "{report:#}");
    assert_eq!(report["curl"]["intact"], true, "{report:#}");
    assert_eq!(report["curl"]["bytes"], 30_000_000);
    assert!(
        report["iperf3"]["mbit_per_s"].as_f64() > Some(1.0),
        "{report:#}"
    );
    assert!(report["ping"]["lost"].as_u64() < Some(20), "{report:#}");
}

/// Beside the generator's flows, packets that the kernel makes: each flow is looked at by itself.
#[test]
fn no_flow_of_a_high_rate_of_packets_breaks_either() {
    let Some(_stage) = stage() else { return };
    let (code, report) = play(
        "failover --connections 10 --udp 2 --rate 20 --pace 1.5 --duration 5 --kill nf \
         --no-real-clients --load 20000 --load-flows 400",
    );
    assert_eq!(code, Some(0), "{report:#}");
    let load = &report["load"];
    for fault in ["wrong", "flows_silent", "flows_remapped", "flows_sharing"] {
        assert_eq!(load[fault], 0, "{report:#}");
    }
    let number = |name: &str| load[name].as_u64().unwrap_or(0);
    assert!(number("sent") > 10_000, "{report:#}");
    assert!(number("lost") < number("sent") / 4, "{report:#}");
}

#[test]
fn without_the_store_the_same_kill_breaks_connections() {
    let Some(_stage) = stage() else { return };
    let (code, report) = play(
        "failover --state local --connections 40 --udp 4 --rate 50 --pace 1.5 --duration 3 \
         --no-real-clients",
    );
    assert_eq!(code, Some(1), "{report:#}");
    assert_eq!(report["verdict"], "fail");
    assert!(report["broken"].as_u64() >= Some(40), "{report:#}");
    assert!(report["remapped"].as_u64() >= Some(1), "{report:#}");
}

#[test]
fn requests_through_one_instance_and_answers_through_the_other_are_not_delayed() {
    let Some(_stage) = stage() else { return };
    let (code, report) = play("asymmetric --rate 100 --duration 3");
    assert_eq!(code, Some(0), "{report:#}");
    assert_eq!(report["delayed_connects"], 0);
    assert!(report["new_connections"].as_u64() > Some(100), "{report:#}");
}

/// The store lab with these options, its verdict checked against its exit code.
fn play_store(arguments: &str) -> (Option<i32>, Value) {
    if Command::new("nft").arg("--version").output().is_err() {
        eprintln!("skipped: nft is missing (`make setup` installs it)");
        return (None, Value::Null);
    }
    play(&format!("store {arguments}"))
}

#[test]
fn what_clients_of_a_store_saw_is_linearizable_whoever_is_struck() {
    let Some(_stage) = stage() else { return };
    let (code, report) = play_store(
        "--pace 0.3 --clients 4 --faults kill-leader,kill-sequencer,pause-leader,cut-replica,mute-leader",
    );
    let Some(code) = code else { return };
    assert_eq!(code, 0, "{:#}", report["reasons"]);
    let cases = report["cases"].as_array().expect("cases");
    assert_eq!(cases.len(), 6, "{report:#}");
    for case in cases {
        assert_eq!(case["verdict"], "linearizable", "{case:#}");
        assert!(case["operations"].as_u64() > Some(50), "{case:#}");
        // The judges find what is planted, or they judge nothing.
        assert!(case["planted_faults"].as_u64() > Some(0), "{case:#}");
        assert_eq!(case["planted_faults"], case["planted_faults_found"]);
    }
}

#[test]
fn a_durable_store_keeps_what_it_acknowledged_when_all_of_it_is_killed() {
    let Some(_stage) = stage() else { return };
    let (code, report) = play_store("--durable --pace 0.3 --clients 4 --faults kill-all");
    let Some(code) = code else { return };
    assert_eq!(code, 0, "{:#}", report["reasons"]);
    let cases = report["cases"].as_array().expect("cases");
    assert_eq!(cases.len(), 2, "{report:#}");
    assert!(cases[1]["acknowledged_writes"].as_u64() > Some(20));
}

#[test]
fn a_lost_write_fails_the_run() {
    let Some(_stage) = stage() else { return };
    let (code, report) = play_store("--pace 0.3 --faults none --falsify lost-write");
    let Some(code) = code else { return };
    assert_eq!((code, &report["verdict"]), (1, &"fail".into()));
    let reasons = report["reasons"].to_string();
    assert!(reasons.contains("lost: "), "{reasons}");
    assert!(reasons.contains("no order explains"), "{reasons}");
}

/// Processes whose parent is `parent`, and files of a lab run by it.
fn traces_of(parent: u32) -> Vec<String> {
    let mut traces = Vec::new();
    for entry in std::fs::read_dir("/proc").expect("proc").flatten() {
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        if fields.split_whitespace().nth(1) == Some(&parent.to_string()) {
            traces.push(stat);
        }
    }
    let prefix = format!("stateplane-lab-{parent}-");
    let files = std::fs::read_dir(std::env::temp_dir()).expect("temporary directory");
    traces.extend(files.flatten().filter_map(|f| {
        let name = f.file_name().into_string().ok()?;
        name.starts_with(&prefix).then_some(name)
    }));
    traces
}

/// Starts a lab and waits until its nodes run.
fn running_lab() -> Child {
    let child = lab("failover --kill none --duration 60 --no-real-clients")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary starts");
    let until = Instant::now() + Duration::from_secs(20);
    while traces_of(child.id()).len() < 8 {
        assert!(Instant::now() < until, "the nodes never came up");
        std::thread::sleep(Duration::from_millis(50));
    }
    child
}

#[test]
fn an_interrupted_lab_leaves_nothing_behind() {
    let Some(_stage) = stage() else { return };
    let mut child = running_lab();
    let id = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(id, rustix::process::Signal::INT).expect("signal");
    assert_eq!(child.wait().expect("end").code(), Some(130));
    assert_eq!(traces_of(child.id()), Vec::<String>::new());
}

#[test]
fn even_a_killed_lab_leaves_only_files_and_the_next_one_removes_them() {
    let Some(_stage) = stage() else { return };
    let mut child = running_lab();
    let nodes = traces_of(child.id());
    let nodes: Vec<PathBuf> = nodes
        .iter()
        .filter_map(|stat| Some(PathBuf::from("/proc").join(stat.split_once(" (")?.0)))
        .collect();
    child.kill().expect("kill");
    child.wait().expect("end");
    std::thread::sleep(Duration::from_millis(500));
    let alive = |process: &PathBuf| {
        std::fs::read_to_string(process.join("stat")).is_ok_and(|s| !s.contains(") Z "))
    };
    let alive: Vec<_> = nodes.iter().filter(|p| alive(p)).collect();
    assert!(alive.is_empty(), "nodes outlived the lab: {alive:?}");
    assert!(
        traces_of(child.id())
            .iter()
            .all(|t| t.starts_with("stateplane-lab-"))
    );
    let mut next = running_lab();
    assert_eq!(traces_of(child.id()), Vec::<String>::new());
    next.kill().expect("kill");
    next.wait().expect("end");
}
