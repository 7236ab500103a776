//! Messages to bytes and back. The decoder is total and accepts exactly what
//! the encoder writes.

use alloc::boxed::Box;
use alloc::vec::Vec;

use stateplane_base::LogTime;

use super::bodies::words;
use super::parts::{decode_lives, encode_lives};
use super::{
    Answer, Body, Change, Entries, Hint, Learn, Message, Prepare, Read, ReadReply, Reply,
    ResultPart, ResultRequest, SnapshotChunk, StartView, Summary, VERSION, ViewChange,
};
use crate::codec::{Malformed, Reader, Writer};

impl Message {
    /// Appends the message to `out`.
    ///
    /// # Panics
    /// For a request or an ordered message: they travel as packets of [`crate::oum`].
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut w = Writer::new(out);
        let mut head = [0; 10];
        (head[0], head[1]) = (self.body.kind(), VERSION);
        head[2..].copy_from_slice(&self.formation.to_be_bytes());
        w.bytes(&head);
        self.body.encode(&mut w);
    }

    /// Reads a message that fills `bytes`.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(bytes);
        let kind = r.u8()?;
        if r.u8()? != VERSION {
            return Err(Malformed("version"));
        }
        let formation = r.u64()?;
        let body = Body::decode(kind, &mut r)?;
        r.finish()?;
        Ok(Self { formation, body })
    }
}

impl Body {
    /// The number that stands for this kind of message.
    pub const fn kind(&self) -> u8 {
        match self {
            Self::Request(_) => 1,
            Self::Ordered(_) => 2,
            Self::Reply(_) => 3,
            Self::SessionRequest { .. } => 4,
            Self::SessionGrant { .. } => 5,
            Self::SessionInfo { .. } => 6,
            Self::Tail { .. } => 7,
            Self::Fetch { .. } => 8,
            Self::Entries(_) => 9,
            Self::GapCommit { .. } => 10,
            Self::GapAck { .. } => 11,
            Self::Heartbeat { .. } => 12,
            Self::SyncAck { .. } => 13,
            Self::ViewChange(_) => 14,
            Self::StartView(_) => 15,
            Self::Boot { .. } => 16,
            Self::Hint(_) => 17,
            Self::SnapshotRequest { .. } => 18,
            Self::SnapshotChunk(_) => 19,
            Self::Read(_) => 20,
            Self::ReadReply(_) => 21,
            Self::Invite { .. } => 22,
            Self::Prepare(_) => 23,
            Self::Reconfigure { .. } => 25,
            Self::ReconfigureReply { .. } => 26,
            Self::Learn(_) => 28,
            Self::Learned { .. } => 29,
            Self::ResultRequest(_) => 27,
            Self::ResultPart(_) => 30,
        }
    }

    /// The kind's name, for logs and traces.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Request(_) => "request",
            Self::Ordered(_) => "ordered",
            Self::Reply(_) => "reply",
            Self::SessionRequest { .. } => "session-request",
            Self::SessionGrant { .. } => "session-grant",
            Self::SessionInfo { .. } => "session-info",
            Self::Tail { .. } => "tail",
            Self::Fetch { .. } => "fetch",
            Self::Entries(_) => "entries",
            Self::GapCommit { .. } => "gap-commit",
            Self::GapAck { .. } => "gap-ack",
            Self::Heartbeat { .. } => "heartbeat",
            Self::SyncAck { .. } => "sync-ack",
            Self::ViewChange(_) => "view-change",
            Self::StartView(_) => "start-view",
            Self::Boot { .. } => "boot",
            Self::Hint(_) => "hint",
            Self::SnapshotRequest { .. } => "snapshot-request",
            Self::SnapshotChunk(_) => "snapshot-chunk",
            Self::Read(_) => "read",
            Self::ReadReply(_) => "read-reply",
            Self::Invite { .. } => "invite",
            Self::Prepare(_) => "prepare",
            Self::Reconfigure { .. } => "reconfigure",
            Self::ReconfigureReply { .. } => "reconfigure-reply",
            Self::Learn { .. } => "learn",
            Self::Learned { .. } => "learned",
            Self::ResultRequest(_) => "result-request",
            Self::ResultPart(_) => "result-part",
        }
    }

    fn encode(&self, w: &mut Writer<'_>) {
        match self {
            Self::Request(_) | Self::Ordered(_) => {
                panic!("requests and ordered messages travel as packets of their own")
            }
            Self::Reply(m) => m.encode(w),
            Self::SessionRequest { nonce } => w.u64(*nonce),
            Self::SessionGrant {
                session,
                nonce,
                time,
                runs,
            } => {
                words(w, &[*session, *nonce, time.as_nanos()]);
                w.u8(u8::from(*runs));
            }
            Self::SessionInfo { session, nonce } => words(w, &[*session, *nonce]),
            Self::Tail {
                session,
                group,
                sequence,
            } => {
                w.u64(*session);
                w.u16(*group);
                w.u64(*sequence);
            }
            Self::Fetch {
                view,
                basis,
                from,
                to,
            } => words(w, &[*view, *basis, *from, *to]),
            Self::Entries(m) => m.encode(w),
            Self::GapCommit { view, from, to } | Self::GapAck { view, from, to } => {
                words(w, &[*view, *from, *to])
            }
            Self::Heartbeat {
                view,
                clock,
                summary,
            } => {
                words(w, &[*view, clock.as_nanos()]);
                summary.encode(w);
            }
            Self::SyncAck { view, upto } => words(w, &[*view, *upto]),
            Self::ViewChange(m) => m.encode(w),
            Self::StartView(m) => m.encode(w),
            Self::Boot { incarnation, heard } => {
                w.u64(*incarnation);
                encode_lives(heard, w);
            }
            Self::Hint(m) => m.encode(w),
            Self::SnapshotRequest {
                floor,
                at,
                offset,
                chunks,
            } => {
                words(w, &[*floor, *at, *offset]);
                w.u16(*chunks);
            }
            Self::SnapshotChunk(m) => m.encode(w),
            Self::Read(m) => m.encode(w),
            Self::ReadReply(m) => m.encode(w),
            Self::Invite { session } => w.u64(*session),
            Self::Prepare(m) => m.encode(w),
            Self::Reconfigure { ticket, change } => change.encode(*ticket, w),
            Self::ReconfigureReply { ticket, answer } => answer.encode(*ticket, w),
            Self::Learn(m) => m.encode(w),
            Self::Learned { incarnation, upto } => words(w, &[*incarnation, *upto]),
            Self::ResultRequest(m) => m.encode(w),
            Self::ResultPart(m) => m.encode(w),
        }
    }

    fn decode(kind: u8, r: &mut Reader<'_>) -> Result<Self, Malformed> {
        match kind {
            1..=7 | 20..=22 | 27 | 30 => Self::decode_outside(kind, r),
            _ => Self::decode_inside(kind, r),
        }
    }

    /// What clients and sequencers say and are told.
    fn decode_outside(kind: u8, r: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(match kind {
            3 => Self::Reply(Reply::decode(r)?),
            4 => Self::SessionRequest { nonce: r.u64()? },
            5 => {
                let (session, nonce) = (r.u64()?, r.u64()?);
                Self::SessionGrant {
                    session,
                    nonce,
                    time: LogTime::from_nanos(r.u64()?),
                    runs: match r.u8()? {
                        0 => false,
                        1 => true,
                        _ => return Err(Malformed("grant")),
                    },
                }
            }
            6 => Self::SessionInfo {
                session: r.u64()?,
                nonce: r.u64()?,
            },
            7 => Self::Tail {
                session: r.u64()?,
                group: r.u16()?,
                sequence: r.u64()?,
            },
            20 => Self::Read(Read::decode(r)?),
            21 => Self::ReadReply(ReadReply::decode(r)?),
            22 => Self::Invite { session: r.u64()? },
            27 => Self::ResultRequest(ResultRequest::decode(r)?),
            30 => Self::ResultPart(ResultPart::decode(r)?),
            _ => return Err(Malformed("kind")),
        })
    }

    /// What replicas tell each other.
    fn decode_inside(kind: u8, r: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(match kind {
            8 => Self::Fetch {
                view: r.u64()?,
                basis: r.u64()?,
                from: r.u64()?,
                to: r.u64()?,
            },
            9 => Self::Entries(Entries::decode(r)?),
            10 => Self::GapCommit {
                view: r.u64()?,
                from: r.u64()?,
                to: r.u64()?,
            },
            11 => Self::GapAck {
                view: r.u64()?,
                from: r.u64()?,
                to: r.u64()?,
            },
            12 => Self::Heartbeat {
                view: r.u64()?,
                clock: LogTime::from_nanos(r.u64()?),
                summary: Summary::decode(r)?,
            },
            13 => Self::SyncAck {
                view: r.u64()?,
                upto: r.u64()?,
            },
            14 => Self::ViewChange(Box::new(ViewChange::decode(r)?)),
            15 => Self::StartView(Box::new(StartView::decode(r)?)),
            16 => Self::Boot {
                incarnation: r.u64()?,
                heard: decode_lives(r)?,
            },
            17 => Self::Hint(Hint::decode(r)?),
            18 => Self::SnapshotRequest {
                floor: r.u64()?,
                at: r.u64()?,
                offset: r.u64()?,
                chunks: r.u16()?,
            },
            19 => Self::SnapshotChunk(SnapshotChunk::decode(r)?),
            23 => Self::Prepare(Prepare::decode(r)?),
            25 => Self::Reconfigure {
                ticket: r.u64()?,
                change: Change::decode(r)?,
            },
            26 => Self::ReconfigureReply {
                ticket: r.u64()?,
                answer: Answer::decode(r)?,
            },
            28 => Self::Learn(Learn::decode(r)?),
            29 => Self::Learned {
                incarnation: r.u64()?,
                upto: r.u64()?,
            },
            _ => return Err(Malformed("kind")),
        })
    }
}
