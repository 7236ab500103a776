//! The clients of a run: what they ask, what they are told.
use crate::check::{Ended, Record};
use crate::plan::MS;
use crate::recorder;
use crate::spec::{Action, Outcome};
use crate::store;
use crate::tape::{Choice, Of};
use crate::workload::Way;
use crate::world::{Event, Phase, World};
use stateplane_group::Committed;

/// What became of one submission.
pub(crate) struct Finished {
    /// The record it belongs to.
    pub record: usize,
    /// The reply and where it took effect, unless the client gave up.
    pub committed: Option<Committed>,
}

impl World<'_> {
    /// A client asks for something, now and then for several things at once.
    pub(crate) fn ask(&mut self, client: usize) -> Result<(), String> {
        if self.phase != Phase::Faulty || self.remaining[client] == 0 {
            return Ok(());
        }
        let node = self.layout.client(client);
        let serial = self.asks[client];
        self.asks[client] += 1;
        self.workload.turn_to(client, serial);
        let of = Of::Ask(u8::try_from(client).expect("clients are few"));
        let choice = Choice { of, serial };
        if !self.nodes[node].paused && self.tape.keeps(choice) {
            self.tape.note(choice, true);
            for _ in 0..self.workload.burst().min(self.remaining[client]) {
                if self.nodes[node].asked.len() >= self.plan.outstanding {
                    break;
                }
                let action = self.workload.next();
                let way = self.workload.way(action);
                if self.submit(node, action, way) {
                    self.remaining[client] -= 1;
                }
            }
            self.settle_accounts(node)?;
        }
        let wait = self.workload.think();
        self.agenda.add(self.now + wait, Event::Submit { client });
        Ok(())
    }

    /// Hands an action to a client core; false if it has no room.
    pub(crate) fn submit(&mut self, node: usize, action: Action, way: Way) -> bool {
        let tag = self.records.len() as u64 + 1;
        let op = store::encode(tag, action);
        if !self.nodes[node].submit(self.now, op, self.records.len(), way) {
            return false;
        }
        self.say(|| format!("{} asks #{tag} {action:?}", self.layout.name(node)));
        self.open += 1;
        self.records.push(Record {
            tag,
            action,
            invoked: self.now,
            ended: None,
            read_at: None,
        });
        true
    }

    /// A client learned how an operation ended.
    pub(crate) fn finish(&mut self, node: usize, finished: Finished) -> Result<(), String> {
        let now = self.now;
        let record = &mut self.records[finished.record];
        let (tag, action) = (record.tag, record.action);
        if record.ended.is_some() {
            return Err(format!("client: #{tag} ended twice"));
        }
        let outcome = match &finished.committed {
            None => None,
            Some(Committed { reply, place }) => {
                let (seen, reply) = match place.read {
                    true => recorder::seen(reply).map_or((None, &reply[..]), |(n, r)| (Some(n), r)),
                    false => (None, &reply[..]),
                };
                record.read_at = seen;
                Some(store::decode(action, reply).ok_or_else(|| {
                    format!("nonsense: {action:?} (#{tag}) was answered {reply:02x?}")
                })?)
            }
        };
        self.open -= 1;
        let outcome = match outcome {
            Some(Outcome::Sum(sum)) if std::mem::take(&mut self.canary) => {
                Some(Outcome::Sum(sum + 1))
            }
            other => other,
        };
        record.ended = Some(Ended { at: now, outcome });
        let took_ms = (now - record.invoked) / MS;
        self.say(|| format!("{} learns #{tag} {outcome:?}", self.layout.name(node)));
        match (outcome, action) {
            (None, _) => self.mark("outcome-unknown"),
            (Some(Outcome::Found(Some(item))), Action::Take(pool)) => {
                self.workload.took(pool, item);
            }
            _ => {}
        }
        if outcome.is_some() {
            self.run.operations += 1;
        }
        if took_ms > 500 {
            self.mark("operation-took-half-a-second");
        }
        if self.phase == Phase::Scanning && outcome.is_none() {
            let group = self.describe();
            return Err(format!(
                "liveness: #{tag} failed after all faults had ended; {group}"
            ));
        }
        Ok(())
    }

    /// The client's process is about to go: it will never learn what became of
    /// its operations.
    pub(crate) fn abandon(&mut self, node: usize) {
        let now = self.now;
        for record in self.nodes[node].forget() {
            self.open -= 1;
            self.records[record].ended = Some(Ended {
                at: now,
                outcome: None,
            });
        }
    }

    /// All faults have ended and nothing is in flight: every client reads.
    pub(crate) fn scan(&mut self) -> Result<(), String> {
        self.phase = Phase::Scanning;
        let scan = self.workload.scan();
        for client in 0..self.plan.clients {
            let node = self.layout.client(client);
            for (i, action) in scan.iter().enumerate() {
                let mine = client == 0 || i == client;
                if mine && !self.submit(node, *action, Way::of(*action, i)) {
                    return Err(format!(
                        "liveness: {} is still busy",
                        self.layout.name(node)
                    ));
                }
            }
            self.settle_accounts(node)?;
        }
        Ok(())
    }
}
