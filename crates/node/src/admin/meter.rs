//! Accounts of the meter: what the store counts, and who owns what.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use axum::Json;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use serde_json::{Value, json};
use stateplane_functions::meter::ops::{Account, List, PAGE};

use super::leases::of_store;
use super::{Answer, Limit, Shared, error};
use crate::function::{Desk, Unanswered};

/// Accounts in one answer unless somebody wants another number.
const USUAL: usize = 1_000;

pub(super) async fn accounts(State(facts): Shared, Query(query): Query<Limit>) -> Answer {
    let (Some(part), Some(desk)) = (facts.board.part("function"), &facts.desk) else {
        return Err(error(StatusCode::NOT_FOUND, "this node is not a function"));
    };
    if facts.config.meter.is_none() {
        return Err(error(StatusCode::NOT_FOUND, "the file has no `[meter]`"));
    }
    let silent = |why: Unanswered| error(StatusCode::SERVICE_UNAVAILABLE, &why.to_string());
    let limit = query.limit.unwrap_or(USUAL);
    let accounts = list(desk, limit).await.map_err(silent)?;
    let leases = of_store(&facts.config, desk).await.map_err(silent)?;
    let owned = leases.iter().filter(|lease| {
        let state = lease["state"].as_str().unwrap_or_default();
        ["lent", "asked back"].contains(&state)
    });
    let owners: BTreeMap<&str, &Value> = owned
        .filter_map(|lease| Some((lease["partition"].as_str()?, &lease["owner"])))
        .collect();
    let rows: Vec<Value> = accounts
        .iter()
        .map(|account| row(account, &owners))
        .collect();
    Ok(Json(json!({
        "node": facts.node,
        "meter": part["meter"],
        "subscribers": rows,
        "more": accounts.len() == limit,
    })))
}

/// The store's list, page by page.
async fn list(desk: &Desk, limit: usize) -> Result<Vec<Account>, Unanswered> {
    let (mut from, mut accounts) = (Ipv4Addr::UNSPECIFIED, Vec::new());
    while accounts.len() < limit {
        let wanted = PAGE.min(limit - accounts.len());
        let page = desk
            .ask_store(&List {
                from,
                limit: wanted as u16,
            })
            .await?;
        let (whole, last) = (page.accounts.len() == wanted, page.accounts.last());
        let next = last.and_then(|last| last.subscriber.to_bits().checked_add(1));
        accounts.extend_from_slice(&page.accounts);
        match next.filter(|_| whole) {
            Some(next) => from = Ipv4Addr::from_bits(next),
            None => break,
        }
    }
    Ok(accounts)
}

fn row(account: &Account, owners: &BTreeMap<&str, &Value>) -> Value {
    let partition = format!("{:#x}", account.partition.0);
    let [packets_out, packets_in] = account.passed.packets;
    let [bytes_out, bytes_in] = account.passed.bytes;
    let allowance = account.allowance;
    json!({
        "subscriber": account.subscriber.to_string(),
        "packets_out": packets_out,
        "bytes_out": bytes_out,
        "packets_in": packets_in,
        "bytes_in": bytes_in,
        "allowance": allowance.map(|left| left.of),
        "left": allowance.map(|left| left.left),
        "period_left_s": allowance.map(|left| left.span.as_secs()),
        "owner": owners.get(partition.as_str()),
        "partition": partition,
    })
}
