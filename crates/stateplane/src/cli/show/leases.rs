//! `show leases`: what instances hold, and what the store has lent.

use super::{Answers, good, table, text};

/// The instances' own, then the store's list.
pub(super) fn show(answers: &Answers) -> String {
    let mut rows = Vec::new();
    for (name, answer) in good(answers) {
        let list = answer["leases"].as_array().map(Vec::as_slice);
        rows.extend(list.unwrap_or_default().iter().map(|lease| {
            let left = lease["left_ms"].as_u64().unwrap_or(0) as f64 / 1e3;
            vec![
                name.clone(),
                text(&lease["covers"]),
                text(&lease["state"]),
                text(&lease["epoch"]),
                format!("{left:.1}s"),
            ]
        }));
    }
    let own = table(&["NODE", "COVERS", "STATE", "EPOCH", "LEFT"], rows);
    format!(
        "{}\n\n{}",
        own.trim_end(),
        stores_leases(answers).trim_end()
    )
}

/// The list of the store, as the first that got it has it: all have the same store.
fn stores_leases(answers: &Answers) -> String {
    let Some(list) = good(answers).find_map(|(_, answer)| answer["store"].as_array()) else {
        let why = good(answers)
            .map(|(_, answer)| text(&answer["store_error"]))
            .next();
        return format!("the store's own list: {}", why.unwrap_or_default());
    };
    if list.is_empty() {
        return "the store has lent no partition".to_owned();
    }
    let rows = list.iter().map(|lease| {
        let left = lease["left_ms"].as_u64().unwrap_or(0) as f64 / 1e3;
        vec![
            text(&lease["partition"]),
            text(&lease["owner"]),
            text(&lease["state"]),
            text(&lease["epoch"]),
            format!("{left:.1}s"),
            text(&lease["heir"]),
        ]
    });
    table(
        &["PARTITION", "OWNER", "STATE", "EPOCH", "LEFT", "HEIR"],
        rows.collect(),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn leases_say_who_holds_what_and_for_how_long() {
        let lease =
            json!({ "covers": "2 port blocks", "state": "held", "epoch": 7, "left_ms": 9_250 });
        let lent = json!({ "partition": "0x2a", "owner": "gw2", "state": "asked back", "epoch": 3,
            "left_ms": 1_000, "heir": "gw1" });
        let answers = Answers::from([
            (
                "gw1".to_owned(),
                Ok(json!({ "leases": [lease], "store": [lent] })),
            ),
            ("gw2".to_owned(), Ok(json!({ "leases": [] }))),
        ]);
        let shown = show(&answers);
        let line = shown.lines().nth(1).expect("one lease");
        for word in ["gw1", "2 port blocks", "held", " 7 ", "9.2s"] {
            assert!(line.contains(word), "{word} in {shown}");
        }
        let last = shown.lines().last().expect("the store's list");
        for word in ["0x2a", "gw2", "asked back", " 3 ", "1.0s", "gw1"] {
            assert!(last.contains(word), "{word} in {shown}");
        }
        assert_eq!(
            shown.lines().count(),
            5,
            "two tables and a line between: {shown}"
        );
    }
}
