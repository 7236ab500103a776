//! One connection: bytes in, commands to the store, replies out in the order of the commands.
//!
//! A connection has at most one operation under way. The commands that arrive meanwhile go together
//! into the next one. So they are executed in their order even if the network loses or reorders
//! datagrams, which operations of their own would not be; and a pipeline costs few operations.

use std::io::{self, Write};
use std::net::TcpStream;

use stateplane_base::Time;
use stateplane_host::epoll::Ready;
use stateplane_state::builtin::redis::codec::{self, ABORTED, Watched};
use stateplane_state::builtin::redis::{Command, Shape};
use stateplane_state::op::{self, ReplyError};

use crate::client::Missed;

use super::batch::{Batch, Malformed, TooLarge};
use super::info::Page;
use super::local::{self, After, Context, Who};
use super::reply::{self, Protocol};
use super::request::{Decoder, Event};

mod blocking;
mod link;
mod transaction;
mod words;

use blocking::Blocked;
use link::{Got, Link};
use transaction::Multi;
use words::{Words, before_authentication, too_large, unknown};

/// Nothing more is executed for a client that has so many bytes to read.
const OUTPUT: usize = 256 << 10;
/// Commands of one operation: their results must be kept until they are acknowledged.
const COMMANDS: usize = 512;

/// Bounds on operations.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    /// No operation is longer.
    pub(super) most: usize,
    /// One of several commands is no longer than this.
    pub(super) usual: usize,
}

/// What a client has agreed with us.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) protocol: Protocol,
    pub(super) authenticated: bool,
    pub(super) name: Vec<u8>,
    multi: Option<Multi>,
    watched: Vec<Watched>,
}

impl Session {
    pub(super) fn new(authenticated: bool) -> Self {
        Self {
            protocol: Protocol::default(),
            authenticated,
            name: Vec::new(),
            multi: None,
            watched: Vec::new(),
        }
    }
}

/// What an operation's reply is for.
#[derive(Debug)]
enum Purpose {
    Plain,
    Exec,
    Watch(Vec<Vec<u8>>),
    Wait(Blocked),
}

/// What a client is told when the store does not answer.
fn explain(missed: Missed) -> &'static str {
    match missed {
        Missed::NotAsked => "TRYAGAIN the store takes no more operations now; nothing was executed",
        Missed::Unknown => {
            "UNKNOWN no answer from a majority of the replicas in time: the command may have been \
             executed, or may be yet, or not"
        }
    }
}

/// What became of a request.
enum Next {
    /// It was taken.
    Taken,
    /// It has to wait until what was taken before it is done.
    Wait,
    /// It was taken, and nothing may be taken after it until it is done.
    Last,
}

/// A connection.
#[derive(Debug)]
pub(super) struct Connection {
    link: Link,
    pub(super) id: u64,
    peer: String,
    /// Nothing is taken because the peer has too much to read.
    held: bool,
    /// It stands in the queue of those to be served.
    pub(super) queued: bool,
    /// It stands in the queue of those the store has no room for.
    pub(super) stalled: bool,
    session: Session,
    decoder: Decoder,
    batch: Batch,
    purpose: Purpose,
    under_way: bool,
    /// Nothing more is read; it ends when everything is written.
    closing: bool,
}

impl Connection {
    pub(super) fn new(stream: TcpStream, id: u64, authenticated: bool, sizes: Sizes) -> Self {
        let peer = stream.peer_addr().map(|peer| peer.to_string());
        Self {
            link: Link::new(stream),
            id,
            peer: peer.unwrap_or_default(),
            held: false,
            queued: false,
            stalled: false,
            session: Session::new(authenticated),
            // On the wire a word has a longer header than in an operation.
            decoder: Decoder::new(sizes.most * 2),
            batch: Batch::default(),
            purpose: Purpose::Plain,
            under_way: false,
            closing: false,
        }
    }

    /// Whether it is over.
    pub(super) fn is_over(&self) -> bool {
        self.link.dead || self.closing && !self.under_way && self.link.unsent() == 0
    }

    /// Whether it waits for the store.
    pub(super) fn is_waiting(&self) -> bool {
        self.under_way
    }

    /// Whether it was held and need not be any more.
    pub(super) fn may_go_on(&mut self) -> bool {
        self.held && !self.is_full() && std::mem::take(&mut self.held)
    }

    /// Whether there is an operation to be submitted.
    pub(super) fn has_operation(&self) -> bool {
        !self.under_way && !self.link.dead && !self.is_blocked() && self.batch.asks_store()
    }

    fn is_full(&self) -> bool {
        self.link.unsent() >= OUTPUT
    }

    /// What the kernel says of its socket.
    pub(super) fn ready(&mut self, ready: Ready) {
        self.link.ready(ready);
        self.link.dead |= self.link.ended && self.is_blocked();
    }

    /// Reads and understands until there is something to ask the store, or nothing more to do.
    pub(super) fn advance(
        &mut self,
        scratch: &mut [u8],
        sizes: Sizes,
        now: Time,
        context: &mut Context<'_>,
    ) {
        while !self.under_way && !self.link.dead && !self.closing && !self.batch.asks_store() {
            self.held = self.is_full();
            if self.held {
                break;
            }
            self.understand(sizes, now, context);
            if self.batch.asks_store() || self.closing || self.is_full() {
                continue;
            }
            // What is left is the beginning of a request.
            if !self.link.is_readable() {
                break;
            }
            match self.link.read(scratch) {
                Got::End => self.closing = true,
                Got::Bytes(len) => context.figures.received += len as u64,
            }
        }
    }

    /// Takes requests from the input.
    fn understand(&mut self, sizes: Sizes, now: Time, context: &mut Context<'_>) {
        let input = std::mem::take(&mut self.link.input);
        let (mut at, mut ranges) = (0, Vec::new());
        while self.batch.len() < sizes.usual
            && self.batch.replies() < COMMANDS
            && self.link.unsent() < OUTPUT
        {
            let (used, event) = match self.decoder.next(&input[at..], &mut ranges) {
                Ok(Some(next)) => next,
                Ok(None) => break,
                Err(violation) => {
                    self.say(|_, out| reply::error(&format!("ERR {violation}"), out));
                    self.closing = true;
                    break;
                }
            };
            let next = match event {
                None | Some(Event::Nothing) => Next::Taken,
                Some(Event::TooLarge) => self.refuse_too_large(sizes),
                Some(Event::Request) => {
                    let words = Words {
                        bytes: &input[at..],
                        ranges: &ranges,
                    };
                    self.request(words, sizes, now, context)
                }
            };
            match next {
                Next::Wait => break,
                Next::Taken => at += used,
                Next::Last => {
                    at += used;
                    break;
                }
            }
            context.figures.commands += u64::from(event == Some(Event::Request));
        }
        let done = if self.closing { input.len() } else { at };
        self.link.input = input;
        self.link.consume(done);
    }

    fn refuse_too_large(&mut self, sizes: Sizes) -> Next {
        if let Some(multi) = &mut self.session.multi {
            multi.broken = true;
        }
        self.say(|_, out| too_large(sizes, out));
        Next::Taken
    }

    /// Gives a reply in its place among the store's.
    fn say(&mut self, write: impl FnOnce(Protocol, &mut Vec<u8>)) {
        let protocol = self.session.protocol;
        if self.batch.is_empty() {
            write(protocol, &mut self.link.output);
        } else {
            let mut bytes = Vec::new();
            write(protocol, &mut bytes);
            self.batch.give(bytes);
        }
    }

    fn request(
        &mut self,
        words: Words<'_>,
        sizes: Sizes,
        now: Time,
        context: &mut Context<'_>,
    ) -> Next {
        let name = words.name();
        let command = Command::named(name);
        if !self.session.authenticated && !before_authentication(name) {
            self.say(|_, out| reply::error("NOAUTH Authentication required.", out));
            return Next::Taken;
        }
        if let Some(command) = command.filter(|_| !name.starts_with(b"~")) {
            if !command.shape().admits(words.len()) {
                return self.refuse(|out| local::arity(command.shape().name, out));
            }
            return self.ask(command, words, sizes, now);
        }
        let word = name.to_ascii_lowercase();
        if let Some((name, arity)) = local::SESSION
            .iter()
            .find(|known| known.0.as_bytes() == word)
        {
            let fits = words.len() == arity.unsigned_abs() as usize
                || *arity < 0 && words.len() > arity.unsigned_abs() as usize;
            if !fits {
                return self.refuse(|out| local::arity(name, out));
            }
            return match *name {
                "multi" => self.multi(),
                "exec" => self.exec(),
                "discard" => self.discard(),
                "watch" => self.watch(words, sizes),
                "unwatch" => self.unwatch(),
                _ => self.info(words, sizes, now, context),
            };
        }
        match local::shape(name) {
            Some(shape) if !shape.admits(words.len()) => {
                self.refuse(|out| local::arity(shape.name, out))
            }
            Some(shape) => self.local(shape, words, context),
            None => self.refuse(|out| unknown(words, out)),
        }
    }

    /// Refuses a request, and with it the transaction it is part of.
    fn refuse(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> Next {
        if let Some(multi) = &mut self.session.multi {
            multi.broken = true;
        }
        self.say(|_, out| write(out));
        Next::Taken
    }

    /// A command for the store.
    fn ask(&mut self, command: Command, words: Words<'_>, sizes: Sizes, now: Time) -> Next {
        if let Some(multi) = &mut self.session.multi {
            if multi.batch.push(command, words.arguments(), sizes.most) == Err(TooLarge) {
                return self.refuse(|out| too_large(sizes, out));
            }
            self.say(|_, out| reply::status("QUEUED", out));
            return Next::Taken;
        }
        if command.may_wait() {
            return self.ask_waiting(command, words, sizes, now);
        }
        // It may be the first of its operation, and then as long as any may be.
        let most = match self.batch.asks_store() {
            true => sizes.usual,
            false => sizes.most,
        };
        match self.batch.push(command, words.arguments(), most) {
            Ok(()) => Next::Taken,
            Err(TooLarge) if self.batch.asks_store() => Next::Wait,
            Err(TooLarge) => self.refuse(|out| too_large(sizes, out)),
        }
    }

    fn local(&mut self, shape: Shape, words: Words<'_>, context: &Context<'_>) -> Next {
        // What changes the form of replies waits for those before it.
        let changes = matches!(shape.name, "hello" | "reset" | "quit");
        if changes && !self.batch.is_empty() {
            return Next::Wait;
        }
        let args: Vec<&[u8]> = words.arguments().collect();
        let who = Who {
            id: self.id,
            peer: &self.peer,
        };
        let mut bytes = Vec::new();
        let after = local::answer(shape, &args, &mut self.session, &who, context, &mut bytes);
        match &mut self.session.multi {
            Some(multi) if after == After::GoOn && !changes => {
                multi.batch.give(bytes);
                self.say(|_, out| reply::status("QUEUED", out));
            }
            _ => self.say(|_, out| out.extend_from_slice(&bytes)),
        }
        self.closing |= after == After::Close;
        match after {
            After::GoOn => Next::Taken,
            After::Close => Next::Last,
        }
    }

    fn info(&mut self, words: Words<'_>, sizes: Sizes, now: Time, context: &Context<'_>) -> Next {
        let args: Vec<&[u8]> = words.arguments().collect();
        let page = Page::new(&args, context.facts, context.figures, now);
        let (batch, most) = match &mut self.session.multi {
            Some(multi) => (&mut multi.batch, sizes.most),
            None => (&mut self.batch, sizes.usual),
        };
        match (batch.push_info(page, most), &self.session.multi) {
            (Err(TooLarge), Some(_)) => self.refuse(|out| too_large(sizes, out)),
            (Err(TooLarge), None) => Next::Wait,
            (Ok(()), Some(_)) => {
                self.say(|_, out| reply::status("QUEUED", out));
                Next::Taken
            }
            (Ok(()), None) => Next::Taken,
        }
    }

    /// The operation to ask the store next, if there is one and none is under way.
    pub(super) fn operation(&mut self) -> Option<Ask> {
        if !self.has_operation() {
            return None;
        }
        self.under_way = true;
        let op = self.batch.op().to_vec();
        Some(match self.batch.needs_slot() && !self.waits_reading() {
            true => Ask::Execute(op),
            false => Ask::Read(op),
        })
    }

    /// The operation's end: the store's reply, or why there is none. Answers which lists may
    /// have got how many items.
    pub(super) fn complete(
        &mut self,
        now: Time,
        result: Result<&[u8], Missed>,
    ) -> Vec<(u64, usize)> {
        self.under_way = false;
        let mut batch = std::mem::take(&mut self.batch);
        let mut purpose = std::mem::replace(&mut self.purpose, Purpose::Plain);
        if let Purpose::Wait(blocked) = &mut purpose
            && self.goes_on_waiting(now, &mut batch, blocked, result)
        {
            return Vec::new();
        }
        let pushed = batch.take_pushed();
        let outcome = match result.map(op::decode_reply) {
            Ok(Ok(body)) => codec::split_reply(body).ok_or(Failed::Malformed),
            Ok(Err(ReplyError::Refused(refusal))) => Err(Failed::Said(format!("ERR {refusal}"))),
            Ok(Err(ReplyError::Malformed)) => Err(Failed::Malformed),
            Err(missed) => Err(Failed::Said(explain(missed).to_owned())),
        };
        let done = match outcome {
            Ok((executed, said)) => self.replied(batch, purpose, executed, said),
            Err(Failed::Said(text)) => {
                match purpose {
                    Purpose::Plain | Purpose::Wait(_) => batch.fail(&text, &mut self.link.output),
                    Purpose::Exec | Purpose::Watch(_) => reply::error(&text, &mut self.link.output),
                }
                Ok(())
            }
            Err(Failed::Malformed) => Err(Malformed),
        };
        if done.is_err() {
            // Nobody knows any more which reply is for which command.
            reply::error("ERR the store's reply is malformed", &mut self.link.output);
            self.closing = true;
        }
        pushed
    }

    fn replied(
        &mut self,
        batch: Batch,
        purpose: Purpose,
        executed: u16,
        mut said: &[u8],
    ) -> Result<(), Malformed> {
        let protocol = self.session.protocol;
        match purpose {
            Purpose::Watch(keys) => {
                let versions = reply::strings(&mut said).ok_or(Malformed)?;
                for (key, version) in keys.into_iter().zip(versions) {
                    let version = std::str::from_utf8(&version).ok();
                    let version = version.and_then(|version| version.parse().ok());
                    let version = version.ok_or(Malformed)?;
                    self.session.watched.push(Watched { key, version });
                }
                reply::status("OK", &mut self.link.output);
            }
            Purpose::Exec if executed == ABORTED => {
                reply::nil_array(protocol, &mut self.link.output);
            }
            Purpose::Exec => {
                reply::array(batch.replies(), &mut self.link.output);
                let rest = batch.write(protocol, executed.into(), said, &mut self.link.output)?;
                if rest.is_some() {
                    return Err(Malformed);
                }
            }
            Purpose::Plain | Purpose::Wait(_) => {
                let rest = batch.write(protocol, executed.into(), said, &mut self.link.output)?;
                self.batch = rest.unwrap_or_default();
            }
        }
        Ok(())
    }

    /// Writes what the socket takes; how many bytes that were.
    pub(super) fn write(&mut self) -> usize {
        self.link.write()
    }

    /// Says why it is not served.
    pub(super) fn turn_away(mut stream: TcpStream) -> io::Result<()> {
        stream.write_all(b"-ERR max number of clients reached\r\n")
    }
}

/// An operation for the store.
pub(super) enum Ask {
    /// It has a place in the log.
    Execute(Vec<u8>),
    /// It only reads.
    Read(Vec<u8>),
}

/// Why an operation has no result.
enum Failed {
    Said(String),
    Malformed,
}
