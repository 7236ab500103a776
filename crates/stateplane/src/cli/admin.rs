//! Asking running nodes over their unix sockets.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::header::HOST;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use stateplane_node::admin::socket_path;
use stateplane_node::config::{Config, LoadError};
use tokio::net::UnixStream;

use super::Where;

/// Where nodes answer when nobody says otherwise.
const USUAL_DIR: &str = "/run/stateplane";
/// A node that does not answer within this does not answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// No answer is longer.
const MAX_ANSWER: usize = 64 << 20;

/// The nodes to ask, by name, and where each answers.
pub(super) type Targets = BTreeMap<String, PathBuf>;

/// The nodes of the configuration, or every socket in the directory.
pub(super) fn targets(place: &Where) -> Result<Targets, LoadError> {
    if let Some(file) = &place.config {
        let (config, _) = Config::load(file)?;
        let dir = place
            .admin_dir
            .as_ref()
            .unwrap_or(&config.cluster.admin_dir);
        let names = config.nodes.keys();
        return Ok(names
            .map(|name| (name.clone(), socket_path(dir, name)))
            .collect());
    }
    let dir = place.admin_dir.as_deref().unwrap_or(Path::new(USUAL_DIR));
    let entries = std::fs::read_dir(dir).map_err(|source| LoadError::Read {
        path: dir.to_owned(),
        source,
    })?;
    let sockets = entries.flatten().map(|entry| entry.path());
    let sockets = sockets.filter(|path| path.extension().is_some_and(|e| e == "sock"));
    let named = sockets.filter_map(|path| Some((path.file_stem()?.to_str()?.to_owned(), path)));
    Ok(named.collect())
}

/// What one node answered, or why not.
pub(super) type Answer = Result<Value>;

/// Asks all of them at once.
pub(super) fn ask_all(targets: &Targets, path: &str) -> Result<BTreeMap<String, Answer>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    Ok(runtime.block_on(async {
        let asked: Vec<_> = targets
            .iter()
            .map(|(name, socket)| async move { (name.clone(), ask(socket, path).await) })
            .collect();
        futures_util::future::join_all(asked)
            .await
            .into_iter()
            .collect()
    }))
}

/// Asks one of them to do something.
pub(super) fn post(socket: &Path, path: &str) -> Answer {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(timely(exchange(socket, Method::POST, path)))
}

async fn ask(socket: &Path, path: &str) -> Answer {
    timely(exchange(socket, Method::GET, path)).await
}

async fn timely(answer: impl Future<Output = Answer>) -> Answer {
    tokio::time::timeout(PATIENCE, answer)
        .await
        .with_context(|| format!("no answer within {} s", PATIENCE.as_secs()))?
}

/// One request, one connection.
async fn exchange(socket: &Path, method: Method, path: &str) -> Answer {
    let stream = UnixStream::connect(socket)
        .await
        .map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => anyhow::anyhow!("not running here"),
            std::io::ErrorKind::ConnectionRefused => anyhow::anyhow!("not running any more"),
            _ => anyhow::Error::new(error),
        })?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, "node")
        .body(Empty::<Bytes>::new())?;
    let exchange = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER)
            .collect()
            .await;
        let body = body.map_err(|error| anyhow::anyhow!("{error}"))?.to_bytes();
        anyhow::Ok((status, body))
    };
    let (status, body) = tokio::select! {
        result = exchange => result?,
        ended = connection => {
            ended?;
            bail!("the connection ended before the answer");
        }
    };
    let value: Value = serde_json::from_slice(&body).context("the answer is not JSON")?;
    if status != StatusCode::OK {
        bail!("{}", value["error"].as_str().unwrap_or(status.as_str()));
    }
    Ok(value)
}
