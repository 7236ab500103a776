//! A region of this machine, sent to others.

use std::io;

use stateplane_base::Time;
use stateplane_region::sync::{At, Export};
use stateplane_region::{ReadError, Reader, Snapshot};

use super::Sender;

/// Sends a region to other machines: versions as their writer publishes them.
#[derive(Debug)]
pub struct Source {
    sender: Sender,
    reader: Reader<[u8]>,
    snapshot: Option<Snapshot<[u8]>>,
}

impl Source {
    /// Has `sender` send `reader`'s region.
    pub fn new(sender: Sender, reader: Reader<[u8]>) -> Self {
        Self {
            sender,
            reader,
            snapshot: None,
        }
    }

    /// Goes on with the memory of the region's next writer.
    pub fn follow(&mut self, reader: Reader<[u8]>) {
        (self.reader, self.snapshot) = (reader, None);
    }

    /// Everything there is to do now; when to call it next, if nothing arrives before.
    ///
    /// # Errors
    /// The socket's, and [`ReadError::Superseded`] as an [`io::Error`]: the region has
    /// another writer, to be [followed](Source::follow).
    pub fn turn(&mut self, now: Time) -> io::Result<Time> {
        let Self {
            sender,
            reader,
            snapshot,
        } = self;
        sender.turn(now, |export| take_up(now, export, reader, snapshot))
    }

    /// What it sends with.
    pub fn sender(&self) -> &Sender {
        &self.sender
    }
}

fn take_up(
    now: Time,
    export: &mut Export,
    reader: &Reader<[u8]>,
    snapshot: &mut Option<Snapshot<[u8]>>,
) -> io::Result<()> {
    if !export.is_ready(now) {
        return Ok(());
    }
    let read = match &mut *snapshot {
        Some(snapshot) => reader.refresh(snapshot),
        None => reader.snapshot().map(|first| {
            *snapshot = Some(first);
            true
        }),
    };
    match (read, snapshot) {
        (Ok(new), Some(snapshot)) => {
            let edition = snapshot.edition();
            let at = At {
                epoch: edition.epoch,
                version: edition.version,
            };
            if new {
                let day_ns = edition.published_day_ns;
                export.update(now, snapshot.bytes(), at, day_ns);
            }
            export.checked(edition.current);
            Ok(())
        }
        // Nothing yet, or too fast just now: the next turn tries again.
        (Ok(_) | Err(ReadError::Empty | ReadError::Overrun), _) => Ok(()),
        (Err(error), _) => Err(io::Error::other(error)),
    }
}
