//! Datagrams that wait to be sent: each stored once, however many it is for, and
//! grouped by destination, so that those of one size leave as one train.

use std::net::SocketAddr;

use super::MAX_DATAGRAM;
use super::sys::{BATCH, MAX_PIECES, Train};

/// Datagrams in one outbox.
const MAX_LETTERS: usize = 1024;
/// Destinations of one outbox.
const MAX_DESTINATIONS: usize = 64;
/// Datagrams in one train, as the kernel bounds it.
const MAX_SEGMENTS: usize = 64;
/// Bytes in one outbox.
const MAX_BYTES: usize = 4 * MAX_DATAGRAM;
/// No letter.
const NONE: u32 = u32::MAX;

/// One datagram for one destination: where its bytes are, and the next for the same.
struct Letter {
    start: u32,
    end: u32,
    next: u32,
}

struct Destination {
    to: SocketAddr,
    first: u32,
    last: u32,
}

/// Datagrams that wait to be sent.
pub(super) struct Outbox {
    bytes: Vec<u8>,
    letters: Vec<Letter>,
    destinations: Vec<Destination>,
    /// Where the last letter went: most follow it.
    recent: usize,
    trains: Vec<Train>,
    pieces: Vec<(u32, u32)>,
}

impl Outbox {
    pub(super) fn new() -> Self {
        Self {
            bytes: Vec::with_capacity(MAX_BYTES),
            letters: Vec::with_capacity(MAX_LETTERS),
            destinations: Vec::with_capacity(MAX_DESTINATIONS),
            recent: 0,
            trains: Vec::with_capacity(BATCH),
            pieces: Vec::with_capacity(MAX_PIECES),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.letters.len()
    }

    /// Whether a datagram of any size for `copies` destinations still finds room.
    pub(super) fn has_room(&self, copies: usize) -> bool {
        self.bytes.len() + MAX_DATAGRAM <= MAX_BYTES
            && self.letters.len() + copies <= MAX_LETTERS
            && self.destinations.len() + copies <= MAX_DESTINATIONS
    }

    /// Lets `write` append a datagram; where it lies. None, and nothing is kept, if it
    /// is larger than a datagram can be.
    pub(super) fn write(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> Option<(u32, u32)> {
        let start = self.bytes.len();
        write(&mut self.bytes);
        if self.bytes.len() < start || self.bytes.len() - start > MAX_DATAGRAM {
            self.bytes.truncate(start);
            return None;
        }
        Some((start as u32, self.bytes.len() as u32))
    }

    /// Addresses a written datagram.
    pub(super) fn address(&mut self, to: SocketAddr, (start, end): (u32, u32)) {
        let letter = self.letters.len() as u32;
        self.letters.push(Letter {
            start,
            end,
            next: NONE,
        });
        let known = |d: &Destination| d.to == to;
        let place = match self.destinations.get(self.recent) {
            Some(recent) if known(recent) => Some(self.recent),
            _ => self.destinations.iter().position(known),
        };
        match place {
            Some(place) => {
                let destination = &mut self.destinations[place];
                self.letters[destination.last as usize].next = letter;
                destination.last = letter;
                self.recent = place;
            }
            None => {
                self.recent = self.destinations.len();
                self.destinations.push(Destination {
                    to,
                    first: letter,
                    last: letter,
                });
            }
        }
    }

    /// Takes the next trains out, at most as many as one call sends, with datagrams of
    /// at most `gso` bytes joined. False if nothing is left.
    pub(super) fn load(&mut self, gso: usize) -> bool {
        self.trains.clear();
        self.pieces.clear();
        for destination in &mut self.destinations {
            while destination.first != NONE {
                if self.trains.len() == BATCH || self.pieces.len() + MAX_SEGMENTS > MAX_PIECES {
                    return true;
                }
                let train = couple(destination, &self.letters, gso, &mut self.pieces);
                self.trains.push(train);
            }
        }
        !self.trains.is_empty()
    }

    /// What [`Self::load`] took out.
    pub(super) fn trains(&self) -> &[Train] {
        &self.trains
    }

    /// The bytes of the trains from number `first` on.
    pub(super) fn pieces(&self, first: usize) -> impl Iterator<Item = &[u8]> {
        let before: usize = self.trains[..first].iter().map(|train| train.pieces).sum();
        let pieces = self.pieces[before..].iter();
        pieces.map(|&(start, end)| &self.bytes[start as usize..end as usize])
    }

    /// How many datagrams train number `index` carries.
    pub(super) fn carried(&self, index: usize) -> u64 {
        match self.trains[index].segment {
            None => 1,
            Some(segment) => self.datagrams(index, segment).count() as u64,
        }
    }

    /// The datagrams of a train, one by one.
    pub(super) fn datagrams(&self, index: usize, segment: u16) -> impl Iterator<Item = &[u8]> {
        let own = self.trains[index].pieces;
        // All datagrams but the last are of one size, and a piece ends with a datagram.
        let pieces = self.pieces(index).take(own);
        pieces.flat_map(move |piece| piece.chunks(usize::from(segment)))
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.letters.clear();
        self.destinations.clear();
        self.trains.clear();
        self.pieces.clear();
        self.recent = 0;
    }
}

/// Takes the longest train off the front of what waits for a destination.
fn couple(
    destination: &mut Destination,
    letters: &[Letter],
    gso: usize,
    pieces: &mut Vec<(u32, u32)>,
) -> Train {
    let letter = &letters[destination.first as usize];
    let segment = letter.end - letter.start;
    let joined = pieces.len();
    pieces.push((letter.start, letter.end));
    destination.first = letter.next;
    let (mut count, mut bytes) = (1, segment as usize);
    // A datagram without bytes would be lost in a train.
    let mut open = segment > 0 && segment as usize <= gso;
    while open && destination.first != NONE && count < MAX_SEGMENTS {
        let letter = &letters[destination.first as usize];
        let len = letter.end - letter.start;
        if len > segment || len == 0 || bytes + len as usize > MAX_DATAGRAM {
            break;
        }
        match pieces.last_mut() {
            Some(piece) if piece.1 == letter.start => piece.1 = letter.end,
            _ => pieces.push((letter.start, letter.end)),
        }
        (count, bytes) = (count + 1, bytes + len as usize);
        destination.first = letter.next;
        // A shorter one is the last.
        open = len == segment;
    }
    Train {
        to: destination.to,
        pieces: pieces.len() - joined,
        segment: (count > 1).then_some(segment as u16),
    }
}
