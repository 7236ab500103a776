//! `show meter`: what each subscriber sent and received, and what is left of its allowance.

use serde_json::Value;

use super::{Answers, good, table, text};

/// Bytes for people.
fn bytes(value: &Value) -> String {
    let Some(bytes) = value.as_u64() else {
        return "-".to_owned();
    };
    let units = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    match units.into_iter().find(|(_, shift)| bytes >> shift > 0) {
        Some((unit, shift)) => {
            let tenths = (u128::from(bytes) * 10) >> shift;
            format!("{}.{} {unit}", tenths / 10, tenths % 10)
        }
        None => format!("{bytes} B"),
    }
}

/// The accounts are the store's: whoever answers has them all.
pub(super) fn show(answers: &Answers) -> String {
    let header = [
        "subscriber",
        "out",
        "packets",
        "in",
        "packets",
        "allowance",
        "left",
        "period ends",
        "owner",
    ];
    let Some((_, value)) = good(answers).next() else {
        return String::new();
    };
    let row = |row: &Value| {
        let ends = row["period_left_s"].as_u64();
        vec![
            text(&row["subscriber"]),
            bytes(&row["bytes_out"]),
            text(&row["packets_out"]),
            bytes(&row["bytes_in"]),
            text(&row["packets_in"]),
            bytes(&row["allowance"]),
            bytes(&row["left"]),
            ends.map_or_else(|| "-".to_owned(), |s| format!("in {s} s")),
            row["owner"].as_str().unwrap_or("-").to_owned(),
        ]
    };
    let rows = value["subscribers"].as_array().into_iter().flatten();
    table(&header, rows.map(row).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_subscriber_is_a_line() {
        let limited = json!({ "subscriber": "10.0.1.5", "packets_out": 3, "bytes_out": 2048,
            "packets_in": 4, "bytes_in": 10, "allowance": 1 << 30, "left": 1 << 29,
            "period_left_s": 77, "owner": "gw1", "partition": "0x1" });
        let free = json!({ "subscriber": "10.0.0.5", "packets_out": 1, "bytes_out": 60,
            "packets_in": 0, "bytes_in": 0, "allowance": null, "left": null,
            "period_left_s": null, "owner": null, "partition": "0x2" });
        let answer = Ok(json!({ "subscribers": [limited, free] }));
        let shown = show(&Answers::from([("gw1".to_owned(), answer)]));
        let lines: Vec<Vec<&str>> = shown
            .lines()
            .map(|l| l.split_whitespace().collect())
            .collect();
        let wanted = "10.0.1.5 2.0 KiB 3 10 B 4 1.0 GiB 512.0 MiB in 77 s gw1";
        assert_eq!(lines[1].join(" "), wanted, "{shown}");
        assert_eq!(
            lines[2].join(" "),
            "10.0.0.5 60 B 1 0 B 0 - - - -",
            "{shown}"
        );
    }

    #[test]
    fn bytes_are_rounded_down() {
        for (n, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (10_737_418_239, "9.9 GiB"),
            (u64::MAX, "16777215.9 TiB"),
        ] {
            assert_eq!(bytes(&json!(n)), text);
        }
        assert_eq!(bytes(&Value::Null), "-");
    }
}
