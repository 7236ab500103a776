//! The store's procedure and a real `redis-server`, side by side.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command as Process, Stdio};
use std::time::{Duration, Instant, SystemTime};

use stateplane_base::LogTime;
use stateplane_state::builtin::redis::Command;
use stateplane_state::builtin::redis::codec::{self, ABORTED, Watched};
use stateplane_state::op::{self, ReplyError};
use stateplane_state::{Application, Limits, Refusal, Registry, Store};

/// A reply of RESP3.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Reply {
    Nil,
    Status(String),
    Error(String),
    Int(i64),
    Bulk(Vec<u8>),
    Array(Vec<Reply>),
    Set(BTreeSet<Reply>),
    Map(BTreeSet<(Reply, Reply)>),
}

fn read_reply(input: &mut impl BufRead) -> Reply {
    let mut line = String::new();
    input.read_line(&mut line).expect("a line");
    let line = line.strip_suffix("\r\n").expect("a whole line");
    let (kind, text) = line.split_at(1);
    let many = |input: &mut _, count: usize| (0..count).map(|_| read_reply(input)).collect();
    let count = || text.parse::<usize>().expect("a count");
    match kind {
        "_" => Reply::Nil,
        "*" | "$" if text == "-1" => Reply::Nil,
        "+" => Reply::Status(text.to_owned()),
        "-" => Reply::Error(text.to_owned()),
        ":" => Reply::Int(text.parse().expect("an integer")),
        "$" => {
            let mut bytes = vec![0; count() + 2];
            input.read_exact(&mut bytes).expect("a string");
            bytes.truncate(count());
            Reply::Bulk(bytes)
        }
        "*" => Reply::Array(many(input, count())),
        "~" => {
            let members: Vec<_> = many(input, count());
            Reply::Set(members.into_iter().collect())
        }
        "%" => {
            let words: Vec<_> = many(input, count() * 2);
            let (pairs, _) = words.as_chunks::<2>();
            Reply::Map(pairs.iter().map(|[a, b]| (a.clone(), b.clone())).collect())
        }
        _ => panic!("not a reply: {line}"),
    }
}

pub(crate) type Words = Vec<Vec<u8>>;

/// The store, fed as a front end feeds it.
pub(crate) struct Ours {
    pub(crate) store: Store,
    pub(crate) now: LogTime,
}

fn wall() -> LogTime {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    LogTime::from_nanos(now.expect("after 1970").as_nanos() as u64)
}

impl Ours {
    pub(crate) fn new() -> Self {
        Self::with(Limits::default())
    }

    pub(crate) fn with(limits: Limits) -> Self {
        let store = Store::new(Registry::builtin(), limits);
        Self { store, now: wall() }
    }

    /// How many of the commands were executed, and what they said.
    pub(crate) fn run(
        &mut self,
        flags: u8,
        watched: &[Watched],
        commands: &[Words],
    ) -> Result<(u16, Vec<Reply>), Refusal> {
        let mut op = Vec::new();
        codec::begin(flags, watched, &mut op);
        for words in commands {
            let command = Command::named(&words[0]).expect("a command");
            codec::push_command(command, words[1..].iter().map(Vec::as_slice), &mut op);
        }
        let mut reply = Vec::new();
        self.store.execute(self.now, &op, &mut reply);
        let body = match op::decode_reply(&reply) {
            Ok(body) => body,
            Err(ReplyError::Refused(refusal)) => return Err(refusal),
            Err(ReplyError::Malformed) => panic!("malformed"),
        };
        let (executed, mut said) = codec::split_reply(body).expect("a body");
        let count = if executed == ABORTED { 0 } else { executed };
        let replies = (0..count).map(|_| read_reply(&mut said)).collect();
        assert!(said.is_empty(), "more replies than commands");
        Ok((executed, replies))
    }

    pub(crate) fn ask(&mut self, words: &[&str]) -> Reply {
        let words = words.iter().map(|word| word.as_bytes().to_vec()).collect();
        let (_, replies) = self.run(0, &[], &[words]).expect("not refused");
        replies.into_iter().next().expect("one reply")
    }
}

/// A server of our own, on a socket in a directory that goes with it.
pub(crate) struct Theirs {
    child: Child,
    stream: BufReader<UnixStream>,
    _dir: tempfile::TempDir,
}

impl Drop for Theirs {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Theirs {
    pub(crate) fn start() -> Option<Self> {
        let dir = tempfile::tempdir().expect("directory");
        let socket = dir.path().join("s");
        let spawned = Process::new("redis-server")
            .args([
                "--port",
                "0",
                "--save",
                "",
                "--appendonly",
                "no",
                // Looks after those who wait in vain more often than ten times a second.
                "--hz",
                "500",
                "--unixsocket",
            ])
            .arg(&socket)
            .current_dir(dir.path())
            .stdout(Stdio::null())
            .spawn();
        let child = match spawned {
            Ok(child) => child,
            Err(error) => {
                eprintln!("skipped: redis-server does not start: {error}");
                return None;
            }
        };
        let stream = BufReader::new(connect(&socket));
        let mut theirs = Self {
            child,
            stream,
            _dir: dir,
        };
        theirs.ask(&[b"HELLO".to_vec(), b"3".to_vec()]);
        Some(theirs)
    }

    pub(crate) fn ask(&mut self, words: &[Vec<u8>]) -> Reply {
        let mut request = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            request.extend(format!("${}\r\n", word.len()).bytes());
            request.extend(word);
            request.extend(b"\r\n");
        }
        self.stream.get_mut().write_all(&request).expect("write");
        read_reply(&mut self.stream)
    }
}

fn connect(socket: &Path) -> UnixStream {
    let limit = Instant::now() + Duration::from_secs(10);
    loop {
        match UnixStream::connect(socket) {
            Ok(stream) => return stream,
            Err(error) => assert!(Instant::now() < limit, "redis-server: {error}"),
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
