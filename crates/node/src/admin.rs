//! The admin API: JSON over HTTP on the unix socket `DIR/NODE.sock`.
//!
//! ```text
//! GET /v1/status            node, roles, ready (or what it waits for), one part per role
//! GET /v1/sessions?limit=N  a function's sessions
//! GET /v1/leases            what an instance owns, and for how long; and the store's own list
//! POST /v1/leases?partition=P&heir=NODE&stays_s=S  a planned move: the owner is asked to give P up, and for
//!                           S seconds (60) nobody takes it back for the sake of packets
//! GET /v1/store             a replica's view, session, log and tables
//! GET /v1/group             a replica's members, by name
//! POST /v1/group?out=A&in=B a change of them: A leaves, B joins (either or both)
//! POST /v1/weights?instance=A&weight=N  another share for an instance (at a switch)
//! GET /v1/counters          what every role counts
//! GET /v1/nodes             all nodes of the file; a switch adds who lives
//! ```
//!
//! It runs on a thread of its own, reads what the roles publish and asks them through
//! bounded queues, so it can neither stop a packet nor an operation.

mod leases;
mod meter;

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};
use stateplane_group::Change;
use tokio::sync::oneshot;

use crate::config::{self, Config};
use crate::failure::Failure;
use crate::function::Desk;
use crate::members;
use crate::regions::weights;
use crate::status::Board;

/// Sessions answered when the asker names no limit, and at most.
const SESSIONS: usize = 1_000;
const MAX_SESSIONS: usize = 100_000;
/// How long answers under way may delay the node's end.
const GRACE: Duration = Duration::from_millis(250);

/// Where a node answers.
pub fn socket_path(dir: &Path, node: &str) -> PathBuf {
    dir.join(format!("{node}.sock"))
}

/// What the API tells about.
pub struct Facts {
    /// The whole file.
    pub config: Config,
    /// This node's name.
    pub node: String,
    /// What the roles publish.
    pub board: Arc<Board>,
    /// A function's worker.
    pub desk: Option<Desk>,
    /// A replica's desk for changes of the members.
    pub members: Option<members::Desk>,
    /// The desk for changes of the weights, at a switch.
    pub weights: Option<weights::Desk>,
    /// When the node started.
    pub started: Instant,
}

/// A bound socket that nobody answers yet. Dropping it removes the file.
#[derive(Debug)]
pub struct Socket {
    path: PathBuf,
    listener: Option<UnixListener>,
}

impl Socket {
    /// Binds `DIR/NODE.sock`, making `DIR` and replacing what a dead process left.
    pub fn bind(dir: &Path, node: &str) -> Result<Self, Failure> {
        let path = socket_path(dir, node);
        let failed = |what: &str, error: io::Error| {
            let help = match error.kind() {
                io::ErrorKind::PermissionDenied => "run as root, or change `cluster.admin-dir`",
                _ => "change `cluster.admin-dir` to a directory that can be written",
            };
            Failure::missing(format!("{what} {}: {error}", path.display()), help)
        };
        fs::create_dir_all(dir).map_err(|e| failed("cannot make the directory of", e))?;
        match UnixStream::connect(&path) {
            Ok(_) => {
                let what = format!(
                    "node \"{node}\" already runs here: {} answers",
                    path.display()
                );
                return Err(Failure::missing(
                    what,
                    "stop it first, or start another node",
                ));
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused && is_socket(&path) => {
                fs::remove_file(&path).map_err(|e| failed("cannot replace", e))?;
            }
            Err(_) => {} // usually: no such file; binding will tell
        }
        let listener = UnixListener::bind(&path).map_err(|e| failed("cannot listen at", e))?;
        let socket = Self {
            path: path.clone(),
            listener: Some(listener),
        };
        fs::set_permissions(&path, Permissions::from_mode(0o660))
            .map_err(|e| failed("cannot protect", e))?;
        Ok(socket)
    }

    /// Answers from a thread of its own until the handle is dropped.
    pub fn serve(mut self, facts: Facts) -> Result<Server, Failure> {
        let listener = self.listener.take().expect("a socket is served once");
        let failed = |error: io::Error| Failure::running(format!("admin API: {error}"));
        listener.set_nonblocking(true).map_err(failed)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(failed)?;
        let (stop, stopped) = oneshot::channel::<()>();
        let serve = async move {
            let listener = tokio::net::UnixListener::from_std(listener)?;
            // Of both channels a dropped sender says the same as a sent word.
            let (finish, finishing) = oneshot::channel::<()>();
            let answer = axum::serve(listener, router(Arc::new(facts)));
            let answer = answer.with_graceful_shutdown(async move {
                let _ = finishing.await;
            });
            tokio::select! {
                ended = answer => ended,
                // Whoever sends half a request, or reads no answer, is not waited for.
                () = async {
                    let _ = stopped.await;
                    drop(finish);
                    tokio::time::sleep(GRACE).await;
                } => Ok(()),
            }
        };
        let thread = std::thread::Builder::new()
            .name("admin".to_owned())
            .spawn(move || {
                if let Err(error) = runtime.block_on(serve) {
                    tracing::error!(%error, "the admin API ended");
                }
                // Connections that are still open do not delay the node's end.
                runtime.shutdown_background();
            })
            .map_err(failed)?;
        Ok(Server {
            stop: Some(stop),
            thread: Some(thread),
            socket: self,
        })
    }
}

/// A file that is not a socket refuses connections too; it is not ours to remove.
fn is_socket(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket())
}

impl Drop for Socket {
    fn drop(&mut self) {
        // If it cannot be removed the next start replaces it.
        let _ = fs::remove_file(&self.path);
    }
}

/// The answering thread. Dropping it ends the thread and removes the socket.
#[derive(Debug)]
pub struct Server {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    socket: Socket,
}

impl Server {
    /// The socket's path.
    pub fn path(&self) -> &Path {
        &self.socket.path
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic there was reported there.
            let _ = thread.join();
        }
    }
}

type Shared = State<Arc<Facts>>;
type Answer = Result<Json<Value>, (StatusCode, Json<Value>)>;

/// What answers, without the socket.
pub fn router(facts: Arc<Facts>) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/sessions", get(sessions))
        .route("/v1/leases", get(leases::list).post(leases::move_to))
        .route("/v1/meter", get(meter::accounts))
        .route("/v1/store", get(store))
        .route("/v1/group", get(group).post(change))
        .route("/v1/weights", axum::routing::post(weigh))
        .route("/v1/counters", get(counters))
        .route("/v1/nodes", get(nodes))
        .fallback(|| async { error(StatusCode::NOT_FOUND, "no such resource; see /v1/status") })
        .with_state(facts)
}

fn error(code: StatusCode, message: &str) -> (StatusCode, Json<Value>) {
    (code, Json(json!({ "error": message })))
}

async fn status(State(facts): Shared) -> Json<Value> {
    let (parts, waiting) = facts.board.all();
    let mut value = json!({
        "node": facts.node,
        "roles": facts.board.roles(),
        "ready": waiting.is_empty(),
        "waiting_for": waiting,
        "pid": std::process::id(),
        "uptime_s": facts.started.elapsed().as_secs_f64(),
        "version": env!("CARGO_PKG_VERSION"),
        "cluster": facts.config.cluster.name,
    });
    for (role, part) in parts {
        value[role] = part;
    }
    Json(value)
}

#[derive(Deserialize)]
struct Limit {
    limit: Option<usize>,
}

async fn sessions(State(facts): Shared, Query(query): Query<Limit>) -> Answer {
    let Some(desk) = &facts.desk else {
        return Err(error(StatusCode::NOT_FOUND, "this node is not a function"));
    };
    let limit = query.limit.unwrap_or(SESSIONS).min(MAX_SESSIONS);
    match desk.sessions(limit).await {
        Some(sessions) => Ok(Json(json!({ "node": facts.node, "sessions": sessions }))),
        None => Err(error(
            StatusCode::SERVICE_UNAVAILABLE,
            "the worker did not answer",
        )),
    }
}

async fn store(State(facts): Shared) -> Answer {
    match facts.board.part("replica") {
        Some(part) => Ok(Json(json!({ "node": facts.node, "replica": part }))),
        None => Err(error(StatusCode::NOT_FOUND, "this node is not a replica")),
    }
}

/// The nodes of the group in the order of their seats.
fn seats(config: &Config) -> Vec<&str> {
    match &config.state {
        config::State::Group {
            replicas, spares, ..
        } => replicas.iter().chain(spares).map(String::as_str).collect(),
        config::State::Embedded => Vec::new(),
    }
}

async fn group(State(facts): Shared) -> Answer {
    let Some(part) = facts.board.part("replica") else {
        return Err(error(StatusCode::NOT_FOUND, "this node is not a replica"));
    };
    let seats = seats(&facts.config);
    let names = |list: &Value| -> Vec<&str> {
        let numbers = list.as_array().into_iter().flatten();
        let numbers = numbers.filter_map(|n| usize::try_from(n.as_u64()?).ok());
        numbers.filter_map(|n| seats.get(n).copied()).collect()
    };
    let members = &part["members"];
    Ok(Json(json!({
        "node": facts.node,
        "seats": seats,
        "role": part["role"],
        "view": part["view"],
        "normal": part["normal"],
        "members": names(&members["now"]),
        "former": names(&members["former"]),
        "present": names(&members["present"]),
        "pending": members["pending"],
    })))
}

#[derive(Deserialize)]
struct Wanted {
    out: Option<String>,
    #[serde(rename = "in")]
    into: Option<String>,
}

async fn change(State(facts): Shared, Query(wanted): Query<Wanted>) -> Answer {
    let Some(desk) = &facts.members else {
        return Err(error(StatusCode::NOT_FOUND, "this node is not a replica"));
    };
    let seats = seats(&facts.config);
    let seat = |name: Option<String>| match name {
        None => Ok(None),
        Some(name) => {
            let place = seats.iter().position(|seat| *seat == name);
            let seat = place.and_then(|n| u8::try_from(n).ok());
            let unknown = || {
                let message = format!("\"{name}\" is neither in `replicas` nor in `spares`");
                error(StatusCode::BAD_REQUEST, &message)
            };
            seat.map(Some).ok_or_else(unknown)
        }
    };
    let change = Change {
        out: seat(wanted.out)?,
        into: seat(wanted.into)?,
    };
    match desk.ask(change).await {
        Some(answer) => Ok(Json(json!({ "node": facts.node, "answer": answer.name() }))),
        None => Err(error(
            StatusCode::SERVICE_UNAVAILABLE,
            "the leader did not answer",
        )),
    }
}

#[derive(Deserialize)]
struct Wished {
    instance: String,
    weight: u32,
}

async fn weigh(State(facts): Shared, Query(wished): Query<Wished>) -> Answer {
    let Some(desk) = &facts.weights else {
        let message = "this node is no switch";
        return Err(error(StatusCode::NOT_FOUND, message));
    };
    match desk.ask((wished.instance, wished.weight)).await {
        Some(Ok(weight)) => Ok(Json(json!({ "node": facts.node, "weight": weight }))),
        Some(Err(why)) => Err(error(StatusCode::BAD_REQUEST, &why)),
        None => Err(error(
            StatusCode::SERVICE_UNAVAILABLE,
            "no answer: the file has no `[regions]`, or this node is very busy",
        )),
    }
}

async fn counters(State(facts): Shared) -> Json<Value> {
    let mut value = json!({ "node": facts.node });
    for (role, part) in facts.board.all().0 {
        value[role] = numbers_of(part);
    }
    Json(value)
}

/// Keeps what is counted: numbers, and maps of numbers.
fn numbers_of(part: Value) -> Value {
    let Value::Object(fields) = part else {
        return part;
    };
    let counted = fields.into_iter().filter(|(_, value)| match value {
        Value::Number(_) => true,
        Value::Object(map) => !map.is_empty() && map.values().all(Value::is_number),
        _ => false,
    });
    Value::Object(counted.collect())
}

async fn nodes(State(facts): Shared) -> Json<Value> {
    let nodes: Vec<Value> = facts
        .config
        .nodes
        .values()
        .map(|node| {
            json!({
                "node": node.name,
                "roles": node.roles,
                "control": node.control.values().map(ToString::to_string).collect::<Vec<_>>(),
            })
        })
        .collect();
    let instances = facts
        .board
        .part("switch")
        .map(|part| part["instances"].clone());
    Json(json!({ "node": facts.node, "nodes": nodes, "instances": instances }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn what_a_dead_process_left_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = socket_path(dir.path(), "gw1");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "a listener's end leaves the file");
        let socket = Socket::bind(dir.path(), "gw1").unwrap();
        let refused = Socket::bind(dir.path(), "gw1").unwrap_err();
        assert_eq!(refused.exit_code(), 3);
        assert!(
            refused.to_string().contains("already runs here"),
            "{refused}"
        );
        drop(socket);
        assert!(!path.exists());
    }

    #[test]
    fn a_file_that_is_no_socket_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = socket_path(dir.path(), "gw1");
        fs::write(&path, "mine").unwrap();
        assert_eq!(Socket::bind(dir.path(), "gw1").unwrap_err().exit_code(), 3);
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
    }

    #[test]
    fn half_a_request_does_not_delay_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let text = "[cluster]\nname = \"edge\"\nkey = \"000102030405060708090a0b0c0d0e0f\"\n\
                    [node.r1]\nroles = [\"replica\"]\ncontrol = \"127.0.0.1:7400\"\n\
                    [node.seq]\nroles = [\"sequencer\"]\ncontrol = \"127.0.0.1:7401\"\n\
                    [state]\nbackend = \"group\"\nsequencer = \"seq\"\nreplicas = [\"r1\"]\n";
        let facts = Facts {
            config: Config::parse("edge.toml", text, dir.path()).unwrap().0,
            node: "r1".to_owned(),
            board: Arc::default(),
            desk: None,
            members: None,
            weights: None,
            started: Instant::now(),
        };
        let server = Socket::bind(dir.path(), "r1")
            .unwrap()
            .serve(facts)
            .unwrap();
        let mut asker = UnixStream::connect(server.path()).unwrap();
        asker.write_all(b"GET /v1/st").unwrap();
        std::thread::sleep(Duration::from_millis(50));
        let (ended, end) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            drop(server);
            ended.send(()).unwrap();
        });
        end.recv_timeout(Duration::from_secs(5))
            .expect("the server ends although a request is under way");
    }

    #[test]
    fn counters_are_the_numbers_of_a_part() {
        let part = json!({ "n": 1, "word": "x", "drops": { "a": 2 }, "list": [1], "ports": { "p": "native" } });
        assert_eq!(numbers_of(part), json!({ "n": 1, "drops": { "a": 2 } }));
    }
}
