//! `MULTI`, `EXEC` and `WATCH`: commands that wait for each other.

use stateplane_state::builtin::redis::Command;

use super::super::batch::{Batch, TooLarge};
use super::super::reply;
use super::words::{Words, too_large};
use super::{Connection, Next, Purpose, Sizes};

/// Keys a connection may watch.
const WATCHED: usize = 64;

/// A transaction that is being written.
#[derive(Debug)]
pub(super) struct Multi {
    pub(super) batch: Batch,
    /// A command was refused: `EXEC` will be, too.
    pub(super) broken: bool,
}

impl Connection {
    pub(super) fn multi(&mut self) -> Next {
        if self.session.multi.is_some() {
            return self.refuse(|out| reply::error("ERR MULTI calls can not be nested", out));
        }
        // The watched keys' versions must be known.
        if !self.batch.is_empty() {
            return Next::Wait;
        }
        self.session.multi = Some(Multi {
            batch: Batch::transaction(&self.session.watched),
            broken: false,
        });
        self.say(|_, out| reply::status("OK", out));
        Next::Taken
    }

    pub(super) fn exec(&mut self) -> Next {
        if !self.batch.is_empty() {
            return Next::Wait;
        }
        let Some(multi) = self.session.multi.take() else {
            self.say(|_, out| reply::error("ERR EXEC without MULTI", out));
            return Next::Taken;
        };
        let watches = !std::mem::take(&mut self.session.watched).is_empty();
        if multi.broken {
            let text = "EXECABORT Transaction discarded because of previous errors.";
            self.say(|_, out| reply::error(text, out));
            return Next::Taken;
        }
        let mut batch = multi.batch;
        if !batch.asks_store() && watches {
            // The store alone knows whether what was watched has changed.
            batch.ask_nothing();
        }
        if !batch.asks_store() {
            reply::array(batch.replies(), &mut self.link.output);
            let done = batch.write(self.session.protocol, 0, &[], &mut self.link.output);
            self.link.dead |= done.is_err();
            return Next::Taken;
        }
        self.batch = batch;
        self.purpose = Purpose::Exec;
        Next::Last
    }

    pub(super) fn discard(&mut self) -> Next {
        self.session.watched.clear();
        let text = match self.session.multi.take() {
            Some(_) => None,
            None => Some("ERR DISCARD without MULTI"),
        };
        self.say(|_, out| match text {
            None => reply::status("OK", out),
            Some(text) => reply::error(text, out),
        });
        Next::Taken
    }

    pub(super) fn unwatch(&mut self) -> Next {
        match &mut self.session.multi {
            // Executed with the others it finds nothing to do.
            Some(multi) => {
                multi.batch.give(b"+OK\r\n".to_vec());
                self.say(|_, out| reply::status("QUEUED", out));
            }
            None => {
                self.session.watched.clear();
                self.say(|_, out| reply::status("OK", out));
            }
        }
        Next::Taken
    }

    pub(super) fn watch(&mut self, words: Words<'_>, sizes: Sizes) -> Next {
        if self.session.multi.is_some() {
            let text = "ERR WATCH inside MULTI is not allowed";
            self.say(|_, out| reply::error(text, out));
            return Next::Taken;
        }
        if !self.batch.is_empty() {
            return Next::Wait;
        }
        let keys: Vec<Vec<u8>> = words.arguments().map(<[u8]>::to_vec).collect();
        if self.session.watched.len() + keys.len() > WATCHED {
            let text = format!("ERR a connection watches {WATCHED} keys at most");
            self.say(|_, out| reply::error(&text, out));
            return Next::Taken;
        }
        let pushed = self
            .batch
            .push(Command::Versions, words.arguments(), sizes.most);
        if pushed == Err(TooLarge) {
            return self.refuse(|out| too_large(sizes, out));
        }
        self.purpose = Purpose::Watch(keys);
        Next::Last
    }
}
