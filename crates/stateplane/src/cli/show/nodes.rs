//! `show nodes`: one line for each.

use serde_json::Value;

use super::{Answers, good, table, text, words};

/// Every node.
pub(super) fn show(answers: &Answers) -> String {
    let rows = good(answers).map(|(name, status)| {
        let state = if status["ready"] == true {
            "ready"
        } else {
            "not ready"
        };
        let detail = match words(&status["waiting_for"]) {
            waiting if waiting.is_empty() => detail(status),
            waiting => format!("waits: {waiting}"),
        };
        let uptime = format!("{:.0}s", status["uptime_s"].as_f64().unwrap_or(0.0));
        let roles = words(&status["roles"]);
        vec![
            name.clone(),
            roles,
            state.to_owned(),
            text(&status["pid"]),
            uptime,
            detail,
        ]
    });
    table(
        &["NODE", "ROLES", "STATE", "PID", "UP", "DETAIL"],
        rows.collect(),
    )
}

/// What a node's roles do, in a few words.
fn detail(status: &Value) -> String {
    let mut parts = Vec::new();
    let replica = &status["replica"];
    if replica.is_object() {
        parts.push(format!(
            "{} of view {}, log {}, commit {}",
            text(&replica["role"]),
            replica["view"],
            replica["log"],
            replica["commit"]
        ));
        let disk = &replica["disk"];
        if disk.is_object() {
            parts.push(format!(
                "journal {} bytes, {} syncs, checkpoint at record {}",
                disk["bytes"], disk["syncs"], disk["checkpoint"]
            ));
        }
    }
    let sequencer = &status["sequencer"];
    if sequencer.is_object() {
        parts.push(format!(
            "session {}, number {}, stamped {}",
            sequencer["session"],
            sequencer["sequence"],
            text(&sequencer["stamping"])
        ));
    }
    let function = &status["function"];
    if function.is_object() {
        let runs = function["runs"].as_array().into_iter().flatten();
        parts.push(format!(
            "{}: {} flows, {} parked",
            runs.map(text).collect::<Vec<_>>().join(", "),
            function["flows"],
            function["parked"]
        ));
        let fast = &function["fast_path"];
        if let Some(share) = fast["share"].as_f64() {
            parts.push(format!(
                "fast path {share:.1} % of packets, {} of {} slots",
                fast["flows"], fast["slots"]
            ));
        }
    }
    if let Some(instances) = status["switch"]["instances"].as_array() {
        let each = instances
            .iter()
            .map(|i| format!("{} {}", text(&i["node"]), text(&i["health"])));
        parts.push(each.collect::<Vec<_>>().join(", "));
    }
    if let Some(others) = status["uses"]["other_configurations"].as_object() {
        let others = others
            .iter()
            .map(|(node, keys)| format!("{node} runs another configuration: {}", text(keys)));
        parts.extend(others);
    }
    parts.join("; ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nodes_are_one_greppable_line_each() {
        let ready = json!({
            "roles": ["switch"], "ready": true, "pid": 7, "uptime_s": 3.2, "waiting_for": [],
            "switch": { "instances": [{ "node": "gw1", "health": "live" }] },
            "uses": { "other_configurations": { "gw1": "nat.ports" } },
        });
        let waiting = json!({ "roles": ["replica"], "ready": false, "waiting_for": ["replica: it is booting"] });
        let silent = Err(anyhow::anyhow!("not running here"));
        let answers = Answers::from([
            ("sw".to_owned(), Ok(ready)),
            ("r1".to_owned(), Ok(waiting)),
            ("r2".to_owned(), silent),
        ]);
        let shown = show(&answers);
        let lines: Vec<&str> = shown.lines().collect();
        assert_eq!(lines.len(), 3, "{shown}");
        assert!(lines[1].contains("r1") && lines[1].contains("waits: replica: it is booting"));
        assert!(lines[2].contains("gw1 live") && lines[2].contains("ready"));
        let other = "gw1 runs another configuration: nat.ports";
        assert!(lines[2].contains(other), "{shown}");
    }
}
