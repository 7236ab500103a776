//! `show sessions`, `show fast-path` and `show workers`: what function instances do.

use serde_json::Value;

use super::{Answers, good, table, text};

/// Who speaks with whom.
pub(super) fn sessions(answers: &Answers) -> String {
    let mut rows = Vec::new();
    for (name, answer) in good(answers) {
        for session in answer["sessions"]
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default()
        {
            let field = |key: &str| text(&session[key]);
            let valid = session["valid_ms"]
                .as_u64()
                .map(|ms| format!("{:.1}s", ms as f64 / 1e3));
            rows.push(vec![
                name.clone(),
                field("protocol"),
                field("inside"),
                field("outside"),
                field("remote"),
                field("state"),
                valid.unwrap_or_default(),
            ]);
        }
    }
    table(
        &[
            "NODE", "PROTO", "INSIDE", "OUTSIDE", "REMOTE", "STATE", "VALID",
        ],
        rows,
    )
}

/// What passes in the kernel.
pub(super) fn fast_path(answers: &Answers) -> String {
    let rows = good(answers).map(|(name, status)| {
        let fast = &status["function"]["fast_path"];
        let Some(share) = fast["share"].as_f64() else {
            let off = match text(&status["function"]["fast_path_off"]) {
                why if why.is_empty() => "off".to_owned(),
                why => format!("off: {why}"),
            };
            return vec![name.clone(), off];
        };
        let punts = fast["punts"].as_object().into_iter().flatten();
        let punts = punts.map(|(why, count)| format!("{why} {count}"));
        let field = |key: &str| text(&fast[key]);
        vec![
            name.clone(),
            format!("{share:.1} %"),
            field("hits"),
            format!("{}/{}", fast["flows"], fast["slots"]),
            field("slots_in_use"),
            field("full"),
            field("next_hops"),
            field("destinations"),
            punts.collect::<Vec<_>>().join(", "),
        ]
    });
    table(
        &[
            "NODE",
            "SHARE",
            "PACKETS",
            "FLOWS",
            "IN USE",
            "FULL",
            "HOPS",
            "DESTINATIONS",
            "LEFT TO THE PROCESS",
        ],
        rows.collect(),
    )
}

/// One row for each worker.
pub(super) fn workers(answers: &Answers) -> String {
    let mut rows = Vec::new();
    for (name, status) in good(answers) {
        let workers = status["function"]["workers"].as_array();
        for worker in workers.into_iter().flatten() {
            let both = |key: &str, side: usize| text(&worker[key][side]);
            let cpu = text(&worker["cpu"]);
            rows.push(vec![
                name.clone(),
                text(&worker["name"]),
                if worker["registered"] == true {
                    "serves"
                } else {
                    "waits"
                }
                .to_owned(),
                if cpu.is_empty() {
                    "any".to_owned()
                } else {
                    cpu
                },
                queues(&worker["queues"]),
                both("received", 0),
                both("received", 1),
                both("sent", 0),
                both("sent", 1),
                text(&worker["flows"]),
                text(&worker["decisions"]),
                text(&worker["dropped"]),
                text(&worker["waited"]),
            ]);
        }
    }
    let head = [
        "NODE",
        "WORKER",
        "STATE",
        "CPU",
        "QUEUES",
        "FROM INSIDE",
        "FROM OUTSIDE",
        "TO INSIDE",
        "TO OUTSIDE",
        "FLOWS",
        "DECISIONS",
        "DROPPED",
        "WAITED",
    ];
    table(&head, rows)
}

/// The numbers of both sides, or one list if they are the same.
fn queues(queues: &Value) -> String {
    let list = |side: usize| {
        let numbers = queues[side].as_array().into_iter().flatten();
        numbers.map(text).collect::<Vec<_>>().join(",")
    };
    match (list(0), list(1)) {
        (inside, outside) if inside == outside => inside,
        (inside, outside) => format!("{inside}; {outside}"),
    }
}
