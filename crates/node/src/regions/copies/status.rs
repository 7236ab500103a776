//! What the role says about itself.

use std::collections::BTreeMap;

use serde::Serialize;

use super::super::telemetry::Sheet;
use crate::status::RoleStatus;

/// What the role publishes.
#[derive(Clone, Debug, Default, Serialize)]
pub struct CopiesStatus {
    /// Regions that begin here, or are passed on.
    pub sent: Vec<SentStatus>,
    /// Regions that end here.
    pub received: Vec<ReceivedStatus>,
}

/// A region that begins here, or is passed on.
#[derive(Clone, Debug, Default, Serialize)]
pub struct SentStatus {
    /// Its name.
    pub region: String,
    /// The nodes by which it came here, its writer's first; none if it is written here.
    pub path: Vec<String>,
    /// Why it is not sent, if it is not.
    pub waits_for: Option<String>,
    /// The version that is being sent.
    pub version: u64,
    /// Of which writer.
    pub epoch: u64,
    /// Versions taken up.
    pub versions: u64,
    /// Pieces sent.
    pub pieces: u64,
    /// Pieces sent again because a receiver missed them.
    pub repairs: u64,
    /// Times that a receiver had to be led on from an older version, or from nothing.
    pub caught_up: u64,
    /// Receivers that said something lately, and the version each has.
    pub receivers: BTreeMap<String, u64>,
    /// Nodes of its scope that say nothing.
    pub silent: Vec<String>,
    /// Datagrams sent to its group, for several receivers each.
    pub to_group: u64,
    /// Datagrams of nobody known, forged, replayed or malformed.
    pub refused: u64,
}

/// A region that ends here.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ReceivedStatus {
    /// Its name.
    pub region: String,
    /// Who sends it here.
    pub from: String,
    /// The nodes by which it came, its writer's first.
    pub path: Vec<String>,
    /// Why it is not received, if it is not.
    pub waits_for: Option<String>,
    /// The version of the copy.
    pub version: u64,
    /// Of which writer.
    pub epoch: u64,
    /// How long ago that was known to be all there is.
    pub age_ms: Option<f64>,
    /// Versions that came whole.
    pub versions: u64,
    /// Versions given up for newer ones.
    pub given_up: u64,
    /// Pieces that came.
    pub pieces: u64,
    /// Pieces asked for again.
    pub missed: u64,
    /// Datagrams that came by its group.
    pub by_group: u64,
    /// Datagrams lost on purpose.
    pub lost: u64,
    /// Datagrams of nobody known, forged, replayed or malformed.
    pub refused: u64,
}

impl RoleStatus for CopiesStatus {
    fn readiness(&self) -> Result<(), String> {
        let sent = self.sent.iter().map(|s| (&s.region, &s.waits_for));
        let received = self.received.iter().map(|r| (&r.region, &r.waits_for));
        let waiting = sent.chain(received).find_map(|(region, why)| {
            let why = why.as_ref()?;
            Some(format!("{region}: {why}"))
        });
        waiting.map_or(Ok(()), Err)
    }

    fn count(&self, out: &mut Sheet) {
        let sent = |of: fn(&SentStatus) -> u64| self.sent.iter().map(of).sum();
        out.count("sent.versions", "versions", sent(|s| s.versions));
        out.count("sent.pieces", "pieces", sent(|s| s.pieces));
        out.count("sent.repairs", "pieces", sent(|s| s.repairs));
        let received = |of: fn(&ReceivedStatus) -> u64| self.received.iter().map(of).sum();
        out.count("received.versions", "versions", received(|r| r.versions));
        out.count("received.pieces", "pieces", received(|r| r.pieces));
        out.count("received.missed", "pieces", received(|r| r.missed));
        let refused = received(|r| r.refused) + sent(|s| s.refused);
        out.count("refused", "datagrams", refused);
    }
}
