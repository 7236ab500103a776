//! Numbers no honest peer sends: refused at the door, so that arithmetic on views
//! and slots cannot overflow behind it.

use stateplane_wire::group::{Body, Summary};

/// At a billion a second this takes a century.
pub(super) const BOUND: u64 = 1 << 62;

/// Whether all views and slots of a replica's message are within reason.
pub(super) fn sane(body: &Body) -> bool {
    let below = |values: &[u64]| values.iter().all(|v| *v < BOUND);
    let summary = |s: &Summary| below(&[s.commit, s.len, s.known_from]);
    match body {
        Body::Fetch {
            view,
            basis,
            from,
            to,
        } => below(&[*view, *basis, *from, *to]),
        Body::Entries(m) => below(&[m.view, m.basis, m.base, m.from]),
        Body::GapCommit { view, from, to } | Body::GapAck { view, from, to } => {
            below(&[*view, *from, *to])
        }
        Body::Prepare(m) => below(&[m.view, m.commit, m.from]),
        Body::Heartbeat {
            view, summary: s, ..
        } => below(&[*view]) && summary(s),
        Body::SyncAck { view, upto } => below(&[*view, *upto]),
        Body::ViewChange(m) => {
            below(&[m.view, m.last_normal, m.session_base]) && summary(&m.summary)
        }
        Body::StartView(m) => {
            below(&[m.view, m.basis, m.session, m.session_base]) && summary(&m.summary)
        }
        Body::SnapshotRequest {
            floor, at, offset, ..
        } => below(&[*floor, *at, *offset]),
        Body::SnapshotChunk(m) => below(&[m.at, m.total, m.offset]),
        Body::Learn(m) => below(&[m.floor]),
        Body::Learned { upto, .. } => below(&[*upto]),
        Body::Hint(m) => below(&[m.view]),
        _ => true,
    }
}
