//! Commands that concern the connection or the front end: they need no store.

use stateplane_host::clock;
use stateplane_state::builtin::redis::{Command, Shape};

use super::connection::Session;
use super::info::{Facts, Figures};
use super::reply::{self, Protocol};

/// What a command may look at.
pub(super) struct Context<'a> {
    pub(super) facts: &'a Facts,
    pub(super) figures: Figures,
    pub(super) password: Option<&'a str>,
    /// Followers that certainly have whatever was acknowledged.
    pub(super) certain: usize,
}

/// Who asks.
pub(super) struct Who<'a> {
    pub(super) id: u64,
    pub(super) peer: &'a str,
}

/// What is to happen with the connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum After {
    GoOn,
    Close,
}

/// A command's shape if this module answers it.
pub(super) fn shape(name: &[u8]) -> Option<Shape> {
    let of = |name, arity| Shape {
        name,
        arity,
        writes: false,
        keys: (0, 0, 0),
    };
    Some(match name.to_ascii_lowercase().as_slice() {
        b"ping" => of("ping", -1),
        b"echo" => of("echo", 2),
        b"select" => of("select", 2),
        b"auth" => of("auth", -2),
        b"hello" => of("hello", -1),
        b"client" => of("client", -2),
        b"command" => of("command", -1),
        b"config" => of("config", -2),
        b"time" => of("time", 1),
        b"wait" => of("wait", 3),
        b"quit" => of("quit", -1),
        b"reset" => of("reset", 1),
        _ => return None,
    })
}

/// Commands the connection itself handles, and their shapes, for `COMMAND`.
pub(super) const SESSION: [(&str, i8); 6] = [
    ("multi", 1),
    ("exec", 1),
    ("discard", 1),
    ("watch", -2),
    ("unwatch", 1),
    ("info", -1),
];

/// Answers a command whose arity is right.
pub(super) fn answer(
    shape: Shape,
    args: &[&[u8]],
    session: &mut Session,
    who: &Who<'_>,
    context: &Context<'_>,
    out: &mut Vec<u8>,
) -> After {
    let protocol = session.protocol;
    match shape.name {
        "ping" => match args {
            [] => reply::status("PONG", out),
            [text] => reply::bulk(text, out),
            _ => arity("ping", out),
        },
        "echo" => reply::bulk(args[0], out),
        "select" => match args[0] {
            b"0" => reply::status("OK", out),
            _ => reply::error(
                "ERR DB index is out of range: there is one database, 0",
                out,
            ),
        },
        "auth" => auth(args, session, context, out),
        "hello" => hello(args, session, who, context, out),
        "client" => client(args, session, who, out),
        "command" => command(protocol, args, out),
        "config" => config(protocol, args, context, out),
        "time" => {
            let micros = clock::wall().as_nanos() / 1_000;
            reply::array(2, out);
            reply::bulk((micros / 1_000_000).to_string().as_bytes(), out);
            reply::bulk((micros % 1_000_000).to_string().as_bytes(), out);
        }
        "wait" => match args.iter().all(|arg| number(arg).is_some()) {
            true => reply::int(context.certain as i64, out),
            false => reply::error("ERR value is not an integer or out of range", out),
        },
        "reset" => {
            *session = Session::new(context.password.is_none());
            reply::status("RESET", out);
        }
        _ => {
            reply::status("OK", out);
            return After::Close;
        }
    }
    After::GoOn
}

pub(super) fn arity(name: &str, out: &mut Vec<u8>) {
    let text = format!("ERR wrong number of arguments for '{name}' command");
    reply::error(&text, out);
}

fn number(text: &[u8]) -> Option<i64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Whether a password is right, in a time that does not tell how much of it is.
fn is_right(given: &[u8], password: &str) -> bool {
    let differ = given
        .iter()
        .zip(password.bytes().cycle())
        .fold(0, |differ, (a, b)| differ | (a ^ b));
    given.len() == password.len() && differ == 0
}

fn log_in(user: &[u8], given: &[u8], session: &mut Session, context: &Context<'_>) -> bool {
    let right = context
        .password
        .is_none_or(|password| is_right(given, password));
    let right = right && user == b"default";
    session.authenticated |= right;
    right
}

const WRONG_PASSWORD: &str = "WRONGPASS invalid username-password pair or user is disabled.";

fn auth(args: &[&[u8]], session: &mut Session, context: &Context<'_>, out: &mut Vec<u8>) {
    let (user, given) = match args {
        [given] if context.password.is_none() => {
            let _ = given;
            return reply::error(
                "ERR AUTH <password> called without any password configured for the default user. \
                 Are you sure your configuration is correct?",
                out,
            );
        }
        [given] => (&b"default"[..], given),
        [user, given] => (*user, given),
        _ => return reply::error("ERR syntax error", out),
    };
    match log_in(user, given, session, context) {
        true => reply::status("OK", out),
        false => reply::error(WRONG_PASSWORD, out),
    }
}

fn hello(
    args: &[&[u8]],
    session: &mut Session,
    who: &Who<'_>,
    context: &Context<'_>,
    out: &mut Vec<u8>,
) {
    let (wanted, mut rest) = match args {
        [] => (session.protocol, args),
        [b"2", rest @ ..] => (Protocol::Resp2, rest),
        [b"3", rest @ ..] => (Protocol::Resp3, rest),
        [version, ..] if number(version).is_none() => {
            return reply::error(
                "ERR Protocol version is not an integer or out of range",
                out,
            );
        }
        _ => return reply::error("NOPROTO unsupported protocol version", out),
    };
    let mut name = None;
    while let [option, more @ ..] = rest {
        rest = match (option.to_ascii_lowercase().as_slice(), more) {
            (b"auth", [user, given, more @ ..]) => {
                if !log_in(user, given, session, context) {
                    return reply::error(WRONG_PASSWORD, out);
                }
                more
            }
            (b"setname", [given, more @ ..]) => {
                name = Some(*given);
                more
            }
            _ => return reply::error("ERR Syntax error in HELLO", out),
        };
    }
    if !session.authenticated {
        return reply::error(
            "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO \
             <proto> AUTH <user> <pass> option can be used to authenticate the client and select the \
             RESP protocol version at the same time",
            out,
        );
    }
    if let Some(name) = name
        && !set_name(name, session)
    {
        return reply::error(BAD_NAME, out);
    }
    session.protocol = wanted;
    reply::map(wanted, 7, out);
    let mut word = |name: &str, value: &str| {
        reply::bulk(name.as_bytes(), out);
        reply::bulk(value.as_bytes(), out);
    };
    word("server", "redis");
    word("version", super::REDIS_VERSION);
    word("mode", "standalone");
    word("role", "master");
    for (name, value) in [("proto", wanted.number()), ("id", who.id as i64)] {
        reply::bulk(name.as_bytes(), out);
        reply::int(value, out);
    }
    reply::bulk(b"modules", out);
    reply::array(0, out);
}

const BAD_NAME: &str = "ERR Client names cannot contain spaces, newlines or special characters.";

/// Longest name a connection may have.
const NAME: usize = 256;

fn set_name(name: &[u8], session: &mut Session) -> bool {
    let plain = name.iter().all(u8::is_ascii_graphic) && name.len() <= NAME;
    if plain {
        name.clone_into(&mut session.name);
    }
    plain
}

fn client(args: &[&[u8]], session: &mut Session, who: &Who<'_>, out: &mut Vec<u8>) {
    let line = |session: &Session| {
        format!(
            "id={} addr={} name={} db=0 resp={} user=default\n",
            who.id,
            who.peer,
            String::from_utf8_lossy(&session.name),
            session.protocol.number()
        )
    };
    match (args[0].to_ascii_lowercase().as_slice(), &args[1..]) {
        (b"id", []) => reply::int(who.id as i64, out),
        (b"getname", []) if session.name.is_empty() => reply::nil(session.protocol, out),
        (b"getname", []) => reply::bulk(&session.name, out),
        (b"setname", [name]) => match set_name(name, session) {
            true => reply::status("OK", out),
            false => reply::error(BAD_NAME, out),
        },
        (b"setinfo", [_, _]) | (b"no-evict" | b"no-touch", [_]) => reply::status("OK", out),
        (b"info" | b"list", _) => reply::text(session.protocol, &line(session), out),
        (word, _) => {
            let word = String::from_utf8_lossy(word);
            let text = format!("ERR unknown subcommand or wrong number of arguments for '{word}'");
            reply::error(&text, out);
        }
    }
}

/// Every command's name, arity and shape.
fn all() -> Vec<Shape> {
    let hidden = |shape: &Shape| !shape.name.starts_with('~');
    let store = Command::ALL
        .iter()
        .map(|command| command.shape())
        .filter(hidden);
    let own = SESSION.iter().map(|(name, arity)| Shape {
        name,
        arity: *arity,
        writes: false,
        keys: (0, 0, 0),
    });
    let names = [
        "ping", "echo", "select", "auth", "hello", "client", "command", "config", "time", "wait",
        "quit", "reset",
    ];
    let local = names.iter().filter_map(|name| shape(name.as_bytes()));
    store.chain(own).chain(local).collect()
}

fn command(protocol: Protocol, args: &[&[u8]], out: &mut Vec<u8>) {
    let all = all();
    let Some((sub, rest)) = args.split_first() else {
        reply::array(all.len(), out);
        return all.iter().for_each(|shape| describe(shape, out));
    };
    match sub.to_ascii_lowercase().as_slice() {
        b"count" => reply::int(all.len() as i64, out),
        b"docs" => reply::map(protocol, 0, out),
        b"list" => {
            reply::array(all.len(), out);
            all.iter()
                .for_each(|shape| reply::bulk(shape.name.as_bytes(), out));
        }
        b"info" => {
            reply::array(rest.len(), out);
            for name in rest {
                let known = |shape: &&Shape| shape.name.as_bytes().eq_ignore_ascii_case(name);
                match all.iter().find(known) {
                    Some(shape) => describe(shape, out),
                    None => reply::nil_array(protocol, out),
                }
            }
        }
        _ => reply::error("ERR unknown subcommand of COMMAND", out),
    }
}

fn describe(shape: &Shape, out: &mut Vec<u8>) {
    reply::array(6, out);
    reply::bulk(shape.name.as_bytes(), out);
    reply::int(shape.arity.into(), out);
    reply::array(1, out);
    reply::status(if shape.writes { "write" } else { "readonly" }, out);
    let (first, last, step) = shape.keys;
    [first, last, step]
        .iter()
        .for_each(|n| reply::int((*n).into(), out));
}

fn config(protocol: Protocol, args: &[&[u8]], context: &Context<'_>, out: &mut Vec<u8>) {
    match (args[0].to_ascii_lowercase().as_slice(), &args[1..]) {
        (b"get", names @ [_, ..]) => {
            // What is on disk is the replicas' business: here nothing is ever saved.
            let known = [
                ("save", String::new()),
                ("appendonly", "no".to_owned()),
                ("databases", "1".to_owned()),
                ("maxclients", context.facts.max_clients.to_string()),
                ("maxmemory-policy", "noeviction".to_owned()),
            ];
            let asked = |name: &str| {
                names
                    .iter()
                    .any(|n| n.eq_ignore_ascii_case(name.as_bytes()))
            };
            let found: Vec<_> = known.iter().filter(|(name, _)| asked(name)).collect();
            reply::map(protocol, found.len(), out);
            for (name, value) in found {
                reply::bulk(name.as_bytes(), out);
                reply::bulk(value.as_bytes(), out);
            }
        }
        (b"resetstat", []) => reply::error("ERR figures are never reset", out),
        _ => reply::error(
            "ERR CONFIG answers GET alone: the configuration is the nodes' file",
            out,
        ),
    }
}
