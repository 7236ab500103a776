//! `show regions`: what is shared in place, and what is copied between machines.

use serde_json::Value;

use super::{Answers, good, table, text};

/// Tables read in place, regions sent, regions received: a table for each that there is.
pub(super) fn show(answers: &Answers) -> String {
    let (mut shared, mut sent, mut received) = (Vec::new(), Vec::new(), Vec::new());
    for (node, status) in good(answers) {
        let replica = &status["replica"]["shared"];
        for row in list(&replica["tables"]) {
            let mut line = vec![node.clone(), text(&replica["region"])];
            line.extend(["name", "rows", "max_rows", "left_out"].map(|key| text(&row[key])));
            line.push(text(&replica["slot"]));
            line.push(state_of_tables(replica));
            shared.push(line);
        }
        for row in list(&status["regions"]["sent"]) {
            let lag = receivers(row);
            let mut line = vec![node.clone(), text(&row["region"]), path(row)];
            let keys = ["version", "versions", "pieces", "repairs", "caught_up"];
            line.extend(keys.map(|key| text(&row[key])));
            line.push(lag);
            sent.push(line);
        }
        for row in list(&status["regions"]["received"]) {
            let mut line = vec![node.clone(), text(&row["region"]), path(row)];
            let keys = ["version", "versions", "given_up", "pieces", "missed"];
            line.extend(keys.map(|key| text(&row[key])));
            let age = row["age_ms"].as_f64().map(|ms| format!("{ms:.1}ms"));
            line.push(age.unwrap_or_default());
            line.push(text(&row["waits_for"]));
            received.push(line);
        }
    }
    let parts = [
        table(
            &[
                "NODE", "REGION", "TABLE", "ROWS", "MAX", "LEFT OUT", "SLOT", "STATE",
            ],
            shared,
        ),
        table(
            &[
                "NODE",
                "SENDS",
                "FROM",
                "VERSION",
                "VERSIONS",
                "PIECES",
                "REPAIRS",
                "CAUGHT UP",
                "RECEIVERS",
            ],
            sent,
        ),
        table(
            &[
                "NODE",
                "RECEIVES",
                "FROM",
                "VERSION",
                "VERSIONS",
                "GIVEN UP",
                "PIECES",
                "MISSED",
                "AGE",
                "WAITS FOR",
            ],
            received,
        ),
    ];
    let parts: Vec<String> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    if parts.is_empty() {
        return "no node shares or copies regions; the file says so under `[regions]`".to_owned();
    }
    parts.join("\n")
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// By which nodes a region comes here, its writer's first.
fn path(row: &Value) -> String {
    let nodes: Vec<String> = list(&row["path"]).iter().map(text).collect();
    if nodes.is_empty() {
        return "here".to_owned();
    }
    nodes.join(" > ")
}

fn state_of_tables(shared: &Value) -> String {
    if shared["fenced"] == true {
        "another process writes the region".to_owned()
    } else if shared["copying"] == true {
        "a copy is being made".to_owned()
    } else {
        format!("{} changes held back", shared["held"])
    }
}

/// How far each receiver is behind; who says nothing.
fn receivers(sent: &Value) -> String {
    if let Some(why) = sent["waits_for"].as_str() {
        return format!("none yet: {why}");
    }
    let version = sent["version"].as_u64().unwrap_or(0);
    let mut all = Vec::new();
    if let Some(has) = sent["receivers"].as_object() {
        for (node, has) in has {
            let behind = version.saturating_sub(has.as_u64().unwrap_or(0));
            all.push(match behind {
                0 => format!("{node} has it"),
                behind => format!("{node} is {behind} behind"),
            });
        }
    }
    let silent = list(&sent["silent"]).iter();
    all.extend(silent.map(|node| format!("{} is silent", text(node))));
    all.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_way_of_a_copy_is_told_with_its_age() {
        let received = json!({
            "region": "/edge/w", "from": "rack1", "path": ["site1", "rack1"], "version": 9,
            "age_ms": 1.26,
        });
        let sent = json!({ "region": "/edge/w", "path": ["site1"], "version": 9 });
        let node =
            |sent, received| Ok(json!({ "regions": { "sent": sent, "received": received } }));
        let answers = Answers::from([
            ("h1".to_owned(), node(json!([]), json!([received]))),
            ("rack1".to_owned(), node(json!([sent]), json!([]))),
            (
                "site1".to_owned(),
                node(json!([{ "region": "/edge/w" }]), json!([])),
            ),
        ]);
        let shown = show(&answers);
        let line = |start: &str| {
            let mut lines = shown.lines().map(str::trim_start);
            let found = lines.find(|line| line.starts_with(start));
            found.unwrap_or_else(|| panic!("{shown}")).to_owned()
        };
        assert!(
            line("h1").contains("site1 > rack1") && line("h1").contains("1.3ms"),
            "{shown}"
        );
        assert!(
            line("rack1").contains("site1") && line("site1").contains("here"),
            "{shown}"
        );
    }

    #[test]
    fn lag_and_silence_are_told() {
        let sent = json!({
            "region": "/edge/w", "version": 9, "versions": 9, "pieces": 12, "repairs": 1,
            "caught_up": 0, "receivers": { "b": 9, "c": 7 }, "silent": ["d"],
        });
        let answers = Answers::from([(
            "a".to_owned(),
            Ok(json!({ "regions": { "sent": [sent], "received": [] } })),
        )]);
        let shown = show(&answers);
        assert!(
            shown.contains("b has it, c is 2 behind, d is silent"),
            "{shown}"
        );
        assert!(!shown.contains("RECEIVES"), "{shown}");
        assert!(show(&Answers::default()).contains("[regions]"));
    }
}
