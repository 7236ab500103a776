//! The benchmark runs, measures every device and says so in JSON. How fast it is, is
//! not a test's business. Needs root and nft; skipped without.

use std::process::Command;

use serde_json::Value;

fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: the benchmark needs root");
    }
    root
}

/// What `stateplane bench ARGS --json` reports.
fn report(args: &str) -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_stateplane"))
        .arg("bench")
        .args(args.split(' '))
        .arg("--json")
        .output()
        .expect("the binary starts");
    let said = String::from_utf8_lossy(&output.stderr);
    let report = serde_json::from_slice(&output.stdout).expect(&said);
    assert!(output.status.success(), "{said}");
    report
}

#[test]
fn the_nat_benchmark_compares_three_devices() {
    if !is_root() {
        return;
    }
    if Command::new("nft").arg("--version").output().is_err() {
        eprintln!("skipped: nft is missing (Debian package nftables)");
        return;
    }
    let report = report("nat --rounds 1 --seconds 0.3 --pings 200 --flows 64");
    assert_eq!(report["bench"], "nat");
    let rows = report["rows"].as_array().expect("rows");
    assert_eq!(rows.len(), 3);
    for row in rows {
        assert!(row["pps"].as_f64() > Some(1000.0), "packets pass: {row}");
        assert!(
            row["rtt_p50_us"].as_f64() > Some(0.0),
            "a round trip takes time: {row}"
        );
    }
    let ratios = report["ratios"].as_object().expect("ratios");
    assert!(
        ratios.values().all(|r| r.as_f64() > Some(0.0)),
        "{ratios:?}"
    );
    assert!(
        ratios.contains_key("slow_pps_vs_nftables_snat_64_flows"),
        "{ratios:?}"
    );
}

/// Every device that can be here is measured under every load, what arrives is as it must be,
/// and all comparisons are made.
#[test]
fn the_datapath_benchmark_measures_every_device() {
    if !is_root() {
        return;
    }
    if Command::new("nft").arg("--version").output().is_err() {
        eprintln!("skipped: nft is missing (Debian package nftables)");
        return;
    }
    let report = report("datapath --quick");
    assert_eq!(report["quick"], true);
    let rows = report["rows"].as_array().expect("rows");
    let count = |part: &str, device: &str| {
        let of = |row: &&Value| row["part"] == part && row["device"] == device;
        rows.iter().filter(of).count()
    };
    let skipped = |what: &str| {
        let why = report["skipped"].get(what);
        if let Some(why) = why {
            eprintln!("skipped: {what}: {why}");
        }
        why.is_some()
    };
    for device in DATAPATH_DEVICES {
        let expected = if skipped(device) { 0 } else { 1 };
        // Three numbers of flows, and large frames with the middle one.
        assert_eq!(count("inline", device), 4 * expected, "{device}: {rows:#?}");
        assert_eq!(count("cross", device), 4 * expected, "{device}: {rows:#?}");
        assert_eq!(count("latency", device), 2 * expected, "{device}");
    }
    for device in ["nftables-snat", "stateplane-slow", "stateplane-fast"] {
        assert_eq!(count("new-flows", device), 2, "{device}");
        for (part, tool) in [("tcp", "iperf3"), ("http", "wrk")] {
            let expected = if skipped(tool) { 0 } else { 1 };
            assert_eq!(count(part, device), expected, "{device}: {part}");
        }
    }
    for row in rows {
        let main = [
            "pps",
            "p50_ns",
            "flows_per_s",
            "gbit_per_s",
            "requests_per_s",
        ];
        let found = main.iter().find_map(|name| row.get(name));
        assert!(found.and_then(Value::as_f64) > Some(0.0), "{row}");
        assert_eq!(
            row.get("wrong").map_or(Some(0.0), Value::as_f64),
            Some(0.0),
            "{row}"
        );
    }
    // New flows come with what each process did for one, and all replicas have them.
    let ours = |row: &&Value| {
        let device = row["device"].as_str().expect("a name");
        row["part"] == "new-flows" && device.starts_with("stateplane")
    };
    for row in rows.iter().filter(ours) {
        let parts = ["gateway", "sequencer", "leader", "follower-1", "follower-2"];
        for part in parts.map(|part| &row["profile"][part]) {
            assert!(part["us_per_flow"].as_f64() > Some(0.0), "{row}");
            assert!(part["received_per_flow"].as_f64() > Some(0.0), "{row}");
        }
        let bindings = row["bindings_per_operation"].as_f64().expect("a number");
        assert!((1.0..=64.0).contains(&bindings), "{row}");
        assert!(
            row["flows_in_every_replica"].as_f64() >= row["flows_passed"].as_f64(),
            "{row}"
        );
    }
    let ratios = report["ratios"].as_object().expect("ratios");
    for name in [
        "fast_vs_nftables_snat",
        "fast_vs_nftables_snat_cross",
        "fast_vs_nftables_snat_1m",
        "fast_vs_xdp_lookup_10k",
        "fast_vs_xdp_lookup_1m",
        "slow_vs_afxdp_l2fwd",
        "new_flows_vs_nftables",
        "latency_vs_nftables",
    ] {
        assert!(ratios[name].is_f64(), "{name} in {ratios:?}");
    }
}

const DATAPATH_DEVICES: [&str; 11] = [
    "wire",
    "kernel-forwarding",
    "nftables-snat",
    "nftables-firewall",
    "ipvs",
    "xdp-redirect",
    "xdp-lookup",
    "xdp-nat",
    "afxdp-l2fwd",
    "stateplane-slow",
    "stateplane-fast",
];

/// Every group of our own is started, loaded and measured; peers are, or the report says
/// why not.
#[test]
fn the_replication_benchmark_measures_every_system() {
    if !is_root() {
        return;
    }
    let report = report("replication --quick");
    let rows = report["rows"].as_array().expect("rows");
    for system in [
        "unreplicated",
        "vr",
        "vr-batched",
        "nopaxos",
        "nopaxos-shared",
        "nopaxos-veth",
        "nopaxos-xdp",
        "redis-wait2",
        "etcd",
    ] {
        let of = |row: &&Value| row["system"] == system;
        if report["missing"].get(system).is_some() {
            continue;
        }
        for row in rows.iter().filter(of) {
            assert!(row["ops_per_s"].as_f64() > Some(0.0), "{row}");
            assert!(row["p99_us"].as_f64() >= row["p50_us"].as_f64(), "{row}");
            assert!(row["p50_us"].as_f64() > Some(1.0), "{row}");
        }
        assert!(rows.iter().filter(of).count() >= 2, "{system}: {rows:#?}");
    }
    let ratios = report["ratios"].as_object().expect("ratios");
    for name in [
        "nopaxos_vs_unreplicated_throughput",
        "nopaxos_vs_vr_throughput",
        "nopaxos_vs_vr_batched_throughput",
        "loss_1pct_vs_lossless",
    ] {
        assert!(ratios[name].as_f64() > Some(0.0), "{name} in {ratios:?}");
    }
}

/// Every step of the work is measured, the kernel's limit beside it, and the report says who
/// is the bottleneck.
#[test]
fn the_sequencer_benchmark_takes_the_work_apart() {
    if !is_root() {
        return;
    }
    let report = report("sequencer --rounds 1 --seconds 0.05 --sizes 200,1514");
    let rows = report["rows"].as_array().expect("rows");
    assert_eq!(rows.len(), 11, "{rows:#?}");
    for row in rows {
        assert!(row["messages_per_s"].as_f64() > Some(1000.0), "{row}");
        let limits = ["generator", "sequencer", "shared processor"];
        let limited_by = row["limited_by"].as_str().expect("somebody");
        assert!(limits.contains(&limited_by), "{row}");
    }
    let timed = rows.iter().filter(|row| row["latency_p50_ns"] != 0);
    assert_eq!(timed.count(), 3, "{rows:#?}");
    let parts = report["ns_by_part"].as_object().expect("parts");
    assert_eq!(parts.len(), 5, "{parts:?}");
    assert!(parts.contains_key(report["bottleneck"].as_str().expect("a part")));
    let ratios = report["ratios"].as_object().expect("ratios");
    for name in [
        "xdp_vs_limit",
        "xdp_vs_limit_64_bytes",
        "xdp_vs_user_space_own_core",
    ] {
        assert!(ratios[name].as_f64() > Some(0.0), "{name} in {ratios:?}");
    }
}
