//! The larger bodies of messages, to bytes and back.

use alloc::vec::Vec;

use stateplane_base::ClientId;

use super::batch::{decode_results, encode_results};
use super::parts::{decode_entry, decode_lives, encode_entry, encode_lives};
use super::{
    Batch, Entries, Hint, MAX_BATCH, Membership, Prepare, Read, ReadReply, Reply, SnapshotChunk,
    StartView, Summary, ViewChange,
};
use crate::codec::{Malformed, Reader, Writer};

fn decode_flag(r: &mut Reader<'_>) -> Result<bool, Malformed> {
    match r.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Malformed("flag")),
    }
}

pub(super) fn words(w: &mut Writer<'_>, values: &[u64]) {
    values.iter().for_each(|v| w.u64(*v));
}

impl Reply {
    pub(super) fn encode(&self, w: &mut Writer<'_>) {
        words(w, &[self.view, self.session, self.slot]);
        w.u8(self.replica);
        w.u8(self.sequencer);
        w.u8(self.quorum);
        w.u64(self.client.0);
        encode_results(&self.results, w);
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        let (view, session, slot) = (r.u64()?, r.u64()?, r.u64()?);
        let (replica, sequencer, quorum) = (r.u8()?, r.u8()?, r.u8()?);
        let client = ClientId(r.u64()?);
        Ok(Self {
            view,
            session,
            slot,
            replica,
            sequencer,
            quorum,
            client,
            results: decode_results(r)?,
        })
    }
}

impl Read {
    pub(super) fn encode(&self, w: &mut Writer<'_>) {
        words(w, &[self.client.0, self.serial]);
        self.batch.encode(w);
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Self {
            client: ClientId(r.u64()?),
            serial: r.u64()?,
            batch: Batch::decode(r)?,
        })
    }
}

impl Hint {
    pub(super) fn encode(&self, w: &mut Writer<'_>) {
        w.u64(self.view);
        self.members.encode(w);
        w.u8(u8::from(self.settled));
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Self {
            view: r.u64()?,
            members: Membership::decode(r)?,
            settled: decode_flag(r)?,
        })
    }
}

impl ReadReply {
    pub(super) fn encode(&self, w: &mut Writer<'_>) {
        words(w, &[self.view, self.session, self.slot]);
        w.u8(self.replica);
        w.u8(self.quorum);
        words(w, &[self.client.0, self.serial]);
        encode_results(&self.results, w);
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        let (view, session, slot) = (r.u64()?, r.u64()?, r.u64()?);
        let (replica, quorum) = (r.u8()?, r.u8()?);
        let (client, serial) = (ClientId(r.u64()?), r.u64()?);
        Ok(Self {
            view,
            session,
            slot,
            replica,
            quorum,
            client,
            serial,
            results: decode_results(r)?,
        })
    }
}

impl Entries {
    pub(super) fn encode(&self, w: &mut Writer<'_>) {
        words(w, &[self.view, self.basis, self.base, self.from]);
        w.u16(u16::try_from(self.items.len()).expect("an answer is cut to far fewer slots"));
        self.items
            .iter()
            .for_each(|item| encode_entry(item.as_ref(), w));
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        let (view, basis, base, from) = (r.u64()?, r.u64()?, r.u64()?, r.u64()?);
        let count = usize::from(r.u16()?);
        if count > MAX_BATCH {
            return Err(Malformed("entries"));
        }
        let mut items = Vec::with_capacity(count.min(r.remaining()));
        for _ in 0..count {
            items.push(decode_entry(r)?);
        }
        Ok(Self {
            view,
            basis,
            base,
            from,
            items,
        })
    }
}

impl Prepare {
    pub(super) fn encode(&self, w: &mut Writer<'_>) {
        words(w, &[self.view, self.commit, self.from]);
        w.u16(u16::try_from(self.entries.len()).expect("a Prepare fits a datagram"));
        self.entries
            .iter()
            .for_each(|entry| encode_entry(Some(entry), w));
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        let (view, commit, from) = (r.u64()?, r.u64()?, r.u64()?);
        let count = usize::from(r.u16()?);
        if count > MAX_BATCH {
            return Err(Malformed("prepare"));
        }
        let mut entries = Vec::with_capacity(count.min(r.remaining()));
        for _ in 0..count {
            entries.push(decode_entry(r)?.ok_or(Malformed("prepare"))?);
        }
        Ok(Self {
            view,
            commit,
            from,
            entries,
        })
    }
}

impl ViewChange {
    pub(super) fn encode(&self, w: &mut Writer<'_>) {
        words(w, &[self.view, self.last_normal, self.incarnation]);
        words(w, &[self.session, self.nonce, self.session_base]);
        self.members.encode(w);
        encode_lives(&self.joining, w);
        self.summary.encode(w);
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        let (view, last_normal, incarnation) = (r.u64()?, r.u64()?, r.u64()?);
        let (session, nonce, session_base) = (r.u64()?, r.u64()?, r.u64()?);
        let members = Membership::decode(r)?;
        let joining = decode_lives(r)?;
        let summary = Summary::decode(r)?;
        Ok(Self {
            view,
            last_normal,
            incarnation,
            session,
            nonce,
            session_base,
            members,
            joining,
            summary,
        })
    }
}

impl StartView {
    pub(super) fn encode(&self, w: &mut Writer<'_>) {
        words(
            w,
            &[
                self.view,
                self.basis,
                self.session,
                self.nonce,
                self.session_base,
            ],
        );
        self.members.encode(w);
        self.summary.encode(w);
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        let (view, basis, session, nonce, session_base) =
            (r.u64()?, r.u64()?, r.u64()?, r.u64()?, r.u64()?);
        let members = Membership::decode(r)?;
        Ok(Self {
            view,
            basis,
            session,
            nonce,
            session_base,
            members,
            summary: Summary::decode(r)?,
        })
    }
}

impl SnapshotChunk {
    pub(super) fn encode(&self, w: &mut Writer<'_>) {
        words(w, &[self.at, self.total, self.offset]);
        w.string(&self.bytes);
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        let (at, total, offset) = (r.u64()?, r.u64()?, r.u64()?);
        let bytes = r.string()?.to_vec();
        if offset
            .checked_add(bytes.len() as u64)
            .is_none_or(|end| end > total)
        {
            return Err(Malformed("chunk"));
        }
        Ok(Self {
            at,
            total,
            offset,
            bytes,
        })
    }
}
