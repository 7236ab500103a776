//! Leases: what an instance holds, what the store has lent to whom, and planned moves.

use std::time::Duration;

use axum::Json;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use stateplane_base::LogTime;
use stateplane_lease::grant::Grant;
use stateplane_lease::ops::{List, Migrate, PAGE};
use stateplane_lease::{InstanceId, Partition};
use stateplane_state::Refusal;
use stateplane_state::op::ReplyError;

use super::{Answer, Facts, Shared, error};
use crate::config::Config;
use crate::function::{Desk, Unanswered};

/// Leases of the store in one answer, at most.
const MOST: usize = 16 * PAGE;

pub(super) async fn list(State(facts): Shared) -> Answer {
    let (Some(part), Some(desk)) = (facts.board.part("function"), &facts.desk) else {
        return Err(error(StatusCode::NOT_FOUND, "this node is not a function"));
    };
    let mut value = json!({ "node": facts.node, "leases": part["leases"] });
    match of_store(&facts.config, desk).await {
        Ok(leases) => value["store"] = json!(leases),
        Err(why) => value["store_error"] = json!(why.to_string()),
    }
    Ok(Json(value))
}

/// The store's list, page by page.
pub(super) async fn of_store(config: &Config, desk: &Desk) -> Result<Vec<Value>, Unanswered> {
    let (mut from, mut leases) = (Partition(0), Vec::new());
    while leases.len() < MOST {
        let limit = PAGE as u16;
        let page = desk.ask_store(&List { from, limit }).await?;
        let view =
            |(partition, grant): &(Partition, Grant)| lease(config, *partition, grant, page.now);
        leases.extend(page.leases.iter().map(view));
        match page.leases.last() {
            Some((Partition(last), _)) if page.leases.len() == PAGE && *last < u64::MAX => {
                from = Partition(last + 1);
            }
            _ => break,
        }
    }
    Ok(leases)
}

fn lease(config: &Config, partition: Partition, grant: &Grant, now: LogTime) -> Value {
    let left = |until: LogTime| u64::try_from(until.since(now).as_millis()).unwrap_or(u64::MAX);
    let heir = grant.asked_back(now);
    let state = match (heir, grant.is_over(now)) {
        (None, false) => "lent",
        (Some(_), false) => "asked back",
        (Some(_), true) => "promised",
        (None, true) if grant.is_released() => "free",
        (None, true) => "lapsed",
    };
    json!({
        "partition": format!("{:#x}", partition.0),
        "state": state,
        "owner": name(config, grant.owner.instance),
        "epoch": grant.owner.epoch,
        "left_ms": left(grant.ends),
        "writes": grant.sequence,
        "heir": heir.map(|heir| name(config, heir.instance)),
        "heir_left_ms": heir.map(|heir| left(heir.until)),
        "stays_ms": left(grant.stays),
    })
}

/// The node whose instance it is, or its worker, or the bare number.
fn name(config: &Config, instance: InstanceId) -> String {
    let workers = config.nodes.values().flat_map(|node| node.workers());
    let mut names = workers.map(|worker| worker.name);
    let found = names.find(|name| InstanceId::of(name) == instance);
    found.unwrap_or_else(|| format!("{:#x}", instance.0))
}

#[derive(Deserialize)]
pub(super) struct Wanted {
    partition: String,
    heir: String,
    /// For how long it stays there whoever has packets for it.
    #[serde(default = "a_minute")]
    stays_s: u32,
}

/// Time enough to lead packets there.
const fn a_minute() -> u32 {
    60
}

pub(super) async fn move_to(State(facts): Shared, Query(wanted): Query<Wanted>) -> Answer {
    let Some(desk) = &facts.desk else {
        return Err(error(StatusCode::NOT_FOUND, "this node is not a function"));
    };
    let Facts { config, node, .. } = &*facts;
    let bad = |message: String| error(StatusCode::BAD_REQUEST, &message);
    let partition = parse(&wanted.partition).map_err(bad)?;
    let heir = &wanted.heir;
    if !config
        .nodes
        .get(heir)
        .is_some_and(|node| node.is(crate::config::Role::Function))
    {
        let message = format!("\"{heir}\" is not a function of this configuration");
        return Err(error(StatusCode::BAD_REQUEST, &message));
    }
    let migrate = Migrate {
        partition,
        heir: InstanceId::of(heir),
        // An order in any case.
        stays: Duration::from_secs(wanted.stays_s.into()).max(Duration::from_nanos(1)),
    };
    let text = format!("{:#x}", partition.0);
    match desk.ask_store(&migrate).await {
        Ok(Ok(lent)) => Ok(Json(json!({
            "node": node,
            "partition": text,
            "heir": heir,
            "epoch": lent.epoch,
            "stays_s": wanted.stays_s,
            "free_within_ms": u64::try_from(lent.span.as_millis()).unwrap_or(u64::MAX),
        }))),
        Ok(Err(refused)) => Err(error(StatusCode::CONFLICT, &refused.to_string())),
        Err(Unanswered::Wrong(ReplyError::Refused(Refusal::NotFound))) => {
            let message = format!("nobody has had partition {text}; `show leases` lists all");
            Err(error(StatusCode::NOT_FOUND, &message))
        }
        Err(why) => Err(error(StatusCode::SERVICE_UNAVAILABLE, &why.to_string())),
    }
}

/// A partition's number as `show leases` writes it, or in decimal.
fn parse(text: &str) -> Result<Partition, String> {
    let number = match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => text.parse(),
    };
    let wanted = "a number as in `show leases` is wanted, such as 0x2a";
    number
        .map(Partition)
        .map_err(|_| format!("\"{text}\" is no partition: {wanted}"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;
    use std::time::Instant;

    use stateplane_base::Incarnation;
    use stateplane_lease::ops::Acquire;
    use stateplane_lease::{Life, Terms, procedures};
    use stateplane_state::op::Operation;
    use stateplane_state::{Application, Limits, Registry, Store};

    use super::*;
    use crate::client::Missed;
    use crate::function::{FunctionStatus, Question};
    use crate::status::Board;

    const FILE: &str = "[cluster]\nname = \"edge\"\nkey = \"000102030405060708090a0b0c0d0e0f\"\n\
        [node.gw1]\nroles = [\"function\"]\ninside = \"a\"\noutside = \"b\"\n\
        [nat]\ninside-prefixes = [\"10.0.0.0/16\"]\noutside-addresses = [\"198.51.100.0-198.51.100.3\"]\n";
    const NOW: LogTime = LogTime::from_millis(5_000);

    fn run<O: Operation>(store: &mut Store, op: &O) -> O::Reply {
        let mut reply = Vec::new();
        store.execute(NOW, &op.encode(), &mut reply);
        O::decode_reply(&reply).expect("it is executed")
    }

    /// A store with leases of gw1's and of somebody unknown, behind a worker that answers.
    fn facts(answers: bool) -> Shared {
        let mut registry = Registry::builtin();
        let terms = Terms::new(std::time::Duration::from_secs(10));
        procedures::register(&mut registry, terms).expect("names are free");
        let mut store = Store::new(registry, Limits::default());
        for n in 0..PAGE as u64 + 2 {
            let owner = if n == 3 { "other" } else { "gw1" };
            let life = Life {
                instance: InstanceId::of(owner),
                incarnation: Incarnation(1),
            };
            let partition = Partition(n);
            run(&mut store, &Acquire { life, partition })
                .answer
                .expect("it is free");
        }
        let (desk, mut questions) = Desk::for_each(1);
        let questions = questions.remove(0);
        std::thread::spawn(move || {
            while let Ok(question) = questions.recv() {
                let Question::Store { op, answer, .. } = question else {
                    continue;
                };
                let mut reply = Vec::new();
                store.execute(NOW, &op, &mut reply);
                let outcome = if answers {
                    Ok(reply)
                } else {
                    Err(Missed::Unknown)
                };
                answer.send(outcome).expect("somebody waits");
            }
        });
        let mut board = Board::default();
        board.add("function", FunctionStatus::default());
        State(Arc::new(Facts {
            config: Config::parse("edge.toml", FILE, Path::new("/"))
                .expect("it is right")
                .0,
            node: "gw1".to_owned(),
            board: Arc::new(board),
            weights: None,
            desk: Some(desk),
            members: None,
            started: Instant::now(),
        }))
    }

    fn wanted(partition: &str, heir: &str) -> Query<Wanted> {
        let (partition, heir) = (partition.to_owned(), heir.to_owned());
        let stays_s = a_minute();
        Query(Wanted {
            partition,
            heir,
            stays_s,
        })
    }

    #[tokio::test]
    async fn the_stores_list_is_whole_and_names_nodes() {
        let Json(value) = list(facts(true)).await.expect("it is listed");
        let store = value["store"].as_array().expect("a list");
        assert_eq!(store.len(), PAGE + 2, "of two pages");
        assert_eq!(store[2]["owner"], "gw1");
        assert_eq!(store[2]["partition"], "0x2");
        assert_eq!(
            (&store[2]["state"], &store[2]["left_ms"]),
            (&json!("lent"), &json!(10_000))
        );
        let other = format!("{:#x}", InstanceId::of("other").0);
        assert_eq!(store[3]["owner"], other);
        let Json(value) = list(facts(false))
            .await
            .expect("the node's own view is there");
        assert!(
            value["store_error"]
                .as_str()
                .is_some_and(|why| why.contains("in time"))
        );
    }

    #[tokio::test]
    async fn a_move_is_asked_for_or_refused_with_the_reason() {
        let facts = facts(true);
        let asked = |partition: &str, heir: &str| {
            move_to(State(Arc::clone(&facts.0)), wanted(partition, heir))
        };
        let Json(value) = asked("0x3", "gw1").await.expect("it is asked back");
        assert_eq!(
            (&value["heir"], &value["free_within_ms"]),
            (&json!("gw1"), &json!(10_000))
        );
        let Json(value) = list(State(Arc::clone(&facts.0)))
            .await
            .expect("it is listed");
        let moved = &value["store"][3];
        assert_eq!(
            (&moved["state"], &moved["heir"]),
            (&json!("asked back"), &json!("gw1"))
        );
        for (partition, heir, why) in [
            ("77777", "gw1", "nobody has had partition 0x12fd1"),
            ("2a", "gw1", "is no partition"),
            ("3", "gw9", "is not a function"),
        ] {
            let (_, Json(refused)) = asked(partition, heir).await.expect_err(why);
            assert!(
                refused["error"]
                    .as_str()
                    .is_some_and(|said| said.contains(why)),
                "{refused}"
            );
        }
    }
}
