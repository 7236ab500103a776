//! `show store`: the replicas, and what is in their tables.

use serde_json::Value;

use super::{Answers, good, table, text};

/// The replicas, and the newest tables.
pub(super) fn show(answers: &Answers) -> String {
    let mut rows = Vec::new();
    let mut tables = Vec::new();
    for (name, answer) in good(answers) {
        let replica = &answer["replica"];
        let field = |key: &str| text(&replica[key]);
        let keys = [
            "role", "view", "session", "log", "commit", "executed", "clients",
        ];
        let mut row = vec![name.clone()];
        row.extend(keys.map(field));
        let disk = &replica["disk"];
        row.push(match disk.is_object() {
            true => format!("{} bytes", text(&disk["bytes"])),
            false => "in memory".to_owned(),
        });
        rows.push(row);
        // Followers execute a little later: the leader's tables are the newest.
        if replica["leader"] == true || tables.is_empty() {
            let list = replica["tables"]
                .as_array()
                .map(Vec::as_slice)
                .unwrap_or_default();
            let row = |t: &Value| {
                ["name", "rows", "max_rows"]
                    .map(|key| text(&t[key]))
                    .to_vec()
            };
            tables = list.iter().map(row).collect();
        }
    }
    let header = [
        "NODE", "ROLE", "VIEW", "SESSION", "LOG", "COMMIT", "EXECUTED", "CLIENTS", "JOURNAL",
    ];
    let replicas = table(&header, rows);
    let tables = table(&["TABLE", "ROWS", "MAX"], tables);
    format!("{replicas}\n{tables}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_leaders_tables_are_shown_once() {
        let replica = |leader: bool, rows: u64| {
            let tables = json!([{ "name": "kv", "rows": rows, "max_rows": 10 }]);
            let role = if leader { "leader" } else { "follower" };
            Ok(
                json!({ "replica": { "role": role, "leader": leader, "view": 3, "tables": tables } }),
            )
        };
        let answers = Answers::from([
            ("r1".to_owned(), replica(false, 1)),
            ("r2".to_owned(), replica(true, 2)),
            ("r3".to_owned(), replica(false, 1)),
        ]);
        let shown = show(&answers);
        assert!(
            shown.contains("kv") && shown.contains(" 2 ") && !shown.contains(" 1 "),
            "{shown}"
        );
        assert_eq!(shown.matches("kv").count(), 1);
    }
}
