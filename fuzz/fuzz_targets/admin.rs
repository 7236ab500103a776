//! Requests to the admin API: any path and query is answered, with JSON. (What carries them,
//! HTTP, is a library's.)
#![no_main]

use std::cell::OnceCell;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use http_body_util::BodyExt;
use libfuzzer_sys::fuzz_target;
use stateplane_node::admin::{Facts, router};
use stateplane_node::config::Config;
use stateplane_node::status::Board;
use tokio::runtime::Runtime;
use tower::ServiceExt;

const CONFIG: &str = r#"
[cluster]
name = "edge"
key = "000102030405060708090a0b0c0d0e0f"
[node.r1]
roles = ["replica"]
control = "127.0.0.1:7400"
[node.seq]
roles = ["sequencer"]
control = "127.0.0.1:7401"
[state]
backend = "group"
sequencer = "seq"
replicas = ["r1"]
"#;

fn served() -> (Runtime, Router) {
    let config = Config::parse("edge.toml", CONFIG, Path::new("/nonexistent"));
    let facts = Facts {
        config: config.expect("a usual configuration").0,
        node: "r1".to_owned(),
        board: Board::default().into(),
        desk: None,
        members: None,
        weights: None,
        started: Instant::now(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread();
    (
        { runtime }.build().expect("a runtime"),
        router(Arc::new(facts)),
    )
}

thread_local! {
    static SERVED: OnceCell<(Runtime, Router)> = const { OnceCell::new() };
}

fuzz_target!(|data: &[u8]| {
    let Some((&method, rest)) = data.split_first() else {
        return;
    };
    let method = ["GET", "POST", "PUT"][usize::from(method) % 3];
    let request = Request::builder().method(method).uri(rest);
    let Ok(request) = request.body(Body::empty()) else {
        return; // no such address
    };
    SERVED.with(|served| {
        let (runtime, router) = served.get_or_init(self::served);
        let answer = runtime.block_on(async {
            let answer = router.clone().oneshot(request).await;
            let answer = answer.expect("there is always an answer");
            let status = answer.status();
            let body = answer.into_body().collect().await.expect("it is whole");
            (status, body.to_bytes())
        });
        assert!(!answer.0.is_server_error(), "{answer:?}");
        assert!(answer.0 != 200 || answer.1.starts_with(b"{"), "{answer:?}");
    });
});
