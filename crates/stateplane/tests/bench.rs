//! The benchmark runs, measures every device and says so in JSON. How fast it is, is
//! not a test's business. Needs root and nft; skipped without.

use std::process::Command;

use serde_json::Value;

#[test]
fn the_nat_benchmark_compares_three_devices() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: the benchmark needs root");
        return;
    }
    if Command::new("nft").arg("--version").output().is_err() {
        eprintln!("skipped: nft is missing (Debian package nftables)");
        return;
    }
    let output = Command::new(env!("CARGO_BIN_EXE_stateplane"))
        .args([
            "bench",
            "nat",
            "--rounds",
            "1",
            "--seconds",
            "0.3",
            "--pings",
            "200",
        ])
        .args(["--flows", "64", "--json"])
        .output()
        .expect("the binary starts");
    let said = String::from_utf8_lossy(&output.stderr);
    let report: Value = serde_json::from_slice(&output.stdout).expect(&said);
    assert!(output.status.success(), "{said}");
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
