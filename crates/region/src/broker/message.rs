//! What clients and the broker say to each other, one message a packet of a Unix socket.
//!
//! A request begins with its kind, then the name, then what the kind needs; a reply with
//! its kind. All fields are big-endian. Objects travel beside the bytes.

use stateplane_wire::codec::{Malformed, Reader, Writer};

use crate::board::MAX_REGIONS;
use crate::name::Name;

/// Bytes of the longest message.
pub(crate) const MESSAGE_MAX: usize = 32 << 10;
/// Regions in one reply.
pub(crate) const LIST_MAX: usize = 64;

/// Who may read a region. Its owner and root always may.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Access {
    /// The user who created it.
    #[default]
    Owner,
    /// Processes of the same primary group, too.
    Group,
    /// Everyone on this machine who reaches the broker.
    Everyone,
}

impl Access {
    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::Owner => 0,
            Self::Group => 1,
            Self::Everyone => 2,
        }
    }

    pub(crate) const fn from_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::Owner),
            1 => Some(Self::Group),
            2 => Some(Self::Everyone),
            _ => None,
        }
    }
}

/// How a writer comes to a region.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Claim {
    /// It creates it; a region of this name is an error.
    New,
    /// It creates it, or goes on from the last version if its writer has gone.
    IfVacant,
    /// Also if there is a writer: that one is fenced.
    Force,
}

/// A region as the broker lists it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Its name.
    pub name: Name,
    /// The epoch of the writer whose memory readers get.
    pub epoch: u64,
    /// The user it belongs to.
    pub owner: u32,
    /// Who may read it.
    pub access: Access,
    /// Bytes of memory it takes, all images together.
    pub bytes: u64,
    /// The writer's process, while there is one.
    pub writer: Option<u32>,
    /// Whether there is anything to attach to: not yet, if its writer has only begun, or
    /// if the broker is new and the writer has not come back.
    pub readable: bool,
}

/// Why the broker does not do it.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    /// No region of this name.
    #[error("there is no such region")]
    NotThere,
    /// The name is known, the memory is not there.
    #[error("its writer has not offered it yet")]
    NotYet,
    /// It should be new.
    #[error("it exists already; take it over, or delete it first")]
    Exists,
    /// It has a writer.
    #[error("process {0} writes it; take it over by force, or wait until that ends")]
    Busy(u32),
    /// It belongs to another user.
    #[error("it belongs to user {0}")]
    NotAllowed(u32),
    /// A later writer has been promised the region.
    #[error("a later writer has it, of epoch {0}")]
    Fenced(u64),
    /// A bound of the broker is reached.
    #[error("no more {0}: the broker's limit is reached")]
    Full(&'static str),
    /// Not understood, or not what it says it is.
    #[error("the broker did not take it: {0}")]
    Wrong(&'static str),
}

const FULL: [&str; 5] = [
    "regions",
    "memory",
    "memory of this user",
    "regions of this user",
    "memory that was asked for",
];
const WRONG: [&str; 3] = ["request", "object", "no object"];

/// A request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Request {
    Claim {
        name: Name,
        how: Claim,
        access: Access,
        bytes: u64,
    },
    /// With the object.
    Offer(Name),
    /// With the object.
    OfferAgain(Name),
    Attach(Name),
    Release {
        name: Name,
        epoch: u64,
    },
    Delete(Name),
    List {
        prefix: String,
        after: String,
    },
}

/// A reply.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Reply {
    Done,
    /// With the object to go on from, if there is one.
    Promised {
        epoch: u64,
        slot: u32,
    },
    /// With the object.
    Attached {
        slot: u32,
    },
    Listed {
        entries: Vec<Entry>,
        more: bool,
    },
    Refused(Refusal),
}

impl Request {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.clear();
        let mut w = Writer::new(out);
        let mut plain = |kind: u8, name: &Name| {
            w.u8(kind);
            w.string(name.as_str().as_bytes());
        };
        match self {
            Self::Claim {
                name,
                how,
                access,
                bytes,
            } => {
                plain(1, name);
                w.u8(*how as u8);
                w.u8(access.code());
                w.u64(*bytes);
            }
            Self::Offer(name) => plain(2, name),
            Self::OfferAgain(name) => plain(3, name),
            Self::Attach(name) => plain(4, name),
            Self::Release { name, epoch } => {
                plain(5, name);
                w.u64(*epoch);
            }
            Self::Delete(name) => plain(6, name),
            Self::List { prefix, after } => {
                w.u8(7);
                w.string(prefix.as_bytes());
                w.string(after.as_bytes());
            }
        }
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(bytes);
        let kind = r.u8()?;
        let request = match kind {
            1 => Self::Claim {
                name: name(&mut r)?,
                how: match r.u8()? {
                    0 => Claim::New,
                    1 => Claim::IfVacant,
                    2 => Claim::Force,
                    _ => return Err(Malformed("claim")),
                },
                access: access(&mut r)?,
                bytes: r.u64()?,
            },
            2 => Self::Offer(name(&mut r)?),
            3 => Self::OfferAgain(name(&mut r)?),
            4 => Self::Attach(name(&mut r)?),
            5 => Self::Release {
                name: name(&mut r)?,
                epoch: r.u64()?,
            },
            6 => Self::Delete(name(&mut r)?),
            7 => Self::List {
                prefix: text(&mut r)?,
                after: text(&mut r)?,
            },
            _ => return Err(Malformed("kind of request")),
        };
        r.finish()?;
        Ok(request)
    }
}

impl Reply {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.clear();
        let mut w = Writer::new(out);
        match self {
            Self::Done => w.u8(1),
            Self::Promised { epoch, slot } => {
                w.u8(2);
                w.u64(*epoch);
                w.u32(*slot);
            }
            Self::Attached { slot } => {
                w.u8(3);
                w.u32(*slot);
            }
            Self::Listed { entries, more } => {
                w.u8(4);
                w.u8(u8::from(*more));
                w.u32(u32::try_from(entries.len()).expect("at most LIST_MAX"));
                entries.iter().for_each(|entry| put_entry(&mut w, entry));
            }
            Self::Refused(refusal) => {
                w.u8(5);
                put_refusal(&mut w, refusal);
            }
        }
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(bytes);
        let reply = match r.u8()? {
            1 => Self::Done,
            2 => Self::Promised {
                epoch: r.u64()?,
                slot: slot(&mut r)?,
            },
            3 => Self::Attached {
                slot: slot(&mut r)?,
            },
            4 => {
                let more = r.u8()? != 0;
                let count = r.u32()? as usize;
                if count > LIST_MAX {
                    return Err(Malformed("too many entries"));
                }
                let entries = (0..count)
                    .map(|_| entry(&mut r))
                    .collect::<Result<_, _>>()?;
                Self::Listed { entries, more }
            }
            5 => Self::Refused(refusal(&mut r)?),
            _ => return Err(Malformed("kind of reply")),
        };
        r.finish()?;
        Ok(reply)
    }
}

fn text(r: &mut Reader<'_>) -> Result<String, Malformed> {
    let bytes = r.string()?;
    String::from_utf8(bytes.to_vec()).map_err(|_| Malformed("text"))
}

fn name(r: &mut Reader<'_>) -> Result<Name, Malformed> {
    text(r)?.parse().map_err(|_| Malformed("name"))
}

/// A place on the board, which has no others.
fn slot(r: &mut Reader<'_>) -> Result<u32, Malformed> {
    let slot = r.u32()?;
    let exists = (slot as usize) < MAX_REGIONS;
    exists.then_some(slot).ok_or(Malformed("slot"))
}

fn access(r: &mut Reader<'_>) -> Result<Access, Malformed> {
    Access::from_code(r.u8()?).ok_or(Malformed("access"))
}

fn put_entry(w: &mut Writer<'_>, entry: &Entry) {
    w.string(entry.name.as_str().as_bytes());
    w.u64(entry.epoch);
    w.u32(entry.owner);
    w.u8(entry.access.code());
    w.u64(entry.bytes);
    w.u8(u8::from(entry.writer.is_some()));
    w.u32(entry.writer.unwrap_or(0));
    w.u8(u8::from(entry.readable));
}

fn entry(r: &mut Reader<'_>) -> Result<Entry, Malformed> {
    Ok(Entry {
        name: name(r)?,
        epoch: r.u64()?,
        owner: r.u32()?,
        access: access(r)?,
        bytes: r.u64()?,
        writer: {
            let (there, process) = (r.u8()? != 0, r.u32()?);
            there.then_some(process)
        },
        readable: r.u8()? != 0,
    })
}

fn put_refusal(w: &mut Writer<'_>, refusal: &Refusal) {
    let index = |texts: &[&str], text: &str| {
        let found = texts.iter().position(|t| *t == text);
        found.expect("a text of the table") as u64
    };
    let (kind, value) = match refusal {
        Refusal::NotThere => (1, 0),
        Refusal::NotYet => (2, 0),
        Refusal::Exists => (3, 0),
        Refusal::Busy(process) => (4, (*process).into()),
        Refusal::NotAllowed(user) => (5, (*user).into()),
        Refusal::Fenced(epoch) => (6, *epoch),
        Refusal::Full(what) => (7, index(&FULL, what)),
        Refusal::Wrong(what) => (8, index(&WRONG, what)),
    };
    w.u8(kind);
    w.u64(value);
}

fn refusal(r: &mut Reader<'_>) -> Result<Refusal, Malformed> {
    let (kind, value) = (r.u8()?, r.u64()?);
    let number = u32::try_from(value).map_err(|_| Malformed("refusal"));
    let of = |texts: &[&'static str]| {
        let found = usize::try_from(value).ok().and_then(|at| texts.get(at));
        found.copied().ok_or(Malformed("refusal"))
    };
    Ok(match kind {
        1 => Refusal::NotThere,
        2 => Refusal::NotYet,
        3 => Refusal::Exists,
        4 => Refusal::Busy(number?),
        5 => Refusal::NotAllowed(number?),
        6 => Refusal::Fenced(value),
        7 => Refusal::Full(of(&FULL)?),
        8 => Refusal::Wrong(of(&WRONG)?),
        _ => return Err(Malformed("refusal")),
    })
}

#[cfg(test)]
mod tests;
