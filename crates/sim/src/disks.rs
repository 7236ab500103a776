//! Replicas that have disks: nothing they say leaves before it is synced, and what
//! they come back as must be what they said they were.
use crate::dice::Dice;
use crate::disk::{Disk, Found};
use crate::node::Node;
use crate::plan::{MS, Plan, US};
use crate::world::{Event, Phase, World};
use stateplane_group::{Message, Mutation, Peer, Persist};
use stateplane_wire::group::Body;

/// A replica's disk and what waits for it.
pub(crate) struct Storage {
    pub disk: Disk,
    dice: Dice,
    /// What may leave once the disk has confirmed.
    held: Vec<(Peer, Message)>,
    /// The highest view it spoke of, and how far it said its log reached in one.
    said: u64,
    acked: (u64, u64),
}

impl Storage {
    pub(crate) fn new(dice: Dice) -> Self {
        Self {
            disk: Disk::default(),
            dice,
            held: Vec::new(),
            said: 0,
            acked: (0, 0),
        }
    }

    /// Remembers what a message promises.
    fn note(&mut self, message: &Message) {
        let (view, upto) = match &message.body {
            Body::ViewChange(m) => (m.view, None),
            Body::StartView(m) => (m.view, Some(m.summary.len)),
            Body::Heartbeat { view, summary, .. } => (*view, Some(summary.len)),
            Body::SyncAck { view, upto } => (*view, Some(*upto)),
            Body::Reply(m) => (m.view, Some(m.slot)),
            _ => return,
        };
        self.said = self.said.max(view);
        if let Some(upto) = upto {
            self.acked = self.acked.max((view, upto));
        }
    }

    fn forget(&mut self) {
        (self.said, self.acked) = (0, (0, 0));
    }
}

impl Node {
    /// Whether the process does not read its socket now.
    pub(crate) fn is_deaf(&self) -> bool {
        self.paused || self.syncs()
    }

    /// Whether a crash costs a replica nothing: its life, and all it has promised in it, is
    /// on its disk.
    pub(crate) fn is_durable(&self) -> bool {
        let disk = self.storage.as_ref().and_then(|s| s.disk.life());
        disk.is_some_and(|life| self.core_life().is_none_or(|now| now == life))
    }

    /// Memory for what is to wait again.
    fn holds_again(&mut self, empty: Vec<(Peer, Message)>) {
        let held = self.storage.as_mut().map(|storage| &mut storage.held);
        if let Some(held) = held.filter(|held| held.is_empty()) {
            *held = empty;
        }
    }

    fn core_life(&self) -> Option<u64> {
        Some(self.stance()?.incarnation)
    }

    /// The life whose memory a replica has: in a process, or on a disk.
    pub(crate) fn life(&self) -> Option<u64> {
        match self.core_life() {
            Some(life) => self.sound.then_some(life),
            None => self.storage.as_ref()?.disk.life(),
        }
    }

    /// Whether what it did last is not on its disk yet: nobody knows of it.
    pub(crate) fn syncs(&self) -> bool {
        self.storage.as_ref().is_some_and(|s| s.disk.is_busy())
    }

    /// Whether a replica has its memory.
    pub(crate) fn remembers(&self) -> bool {
        self.life().is_some()
    }
}

/// How long a disk takes to confirm, at the plan's pace.
fn latency(plan: &Plan, calm: bool, dice: &mut Dice) -> u64 {
    let usual = dice.exponential(plan.sync) + 5 * US;
    let stalls = dice.chance(plan.stall);
    let stall = dice.between(2 * MS, 50 * MS);
    if stalls && !calm { stall } else { usual }
}

impl World<'_> {
    /// A replica wants something on its disk.
    pub(crate) fn persist(&mut self, index: usize, what: Persist) {
        let calm = self.phase != Phase::Faulty;
        let node = &mut self.nodes[index];
        let life = node.incarnation;
        let whose = node.stance().map_or(0, |core| core.incarnation);
        let Some(storage) = node.storage.as_mut() else {
            unreachable!("only replicas with disks ask for it");
        };
        let wait = latency(&self.plan, calm, &mut storage.dice);
        match what {
            Persist::Record(body) => storage.disk.append(body),
            Persist::Checkpoint { bytes, urgent } => {
                storage.disk.replace(bytes, urgent, whose);
                if !urgent {
                    let at = self.now + wait * 20;
                    self.agenda.add(at, Event::Behind { node: index, life });
                    return;
                }
            }
        }
        self.agenda
            .add(self.now + wait, Event::Synced { node: index, life });
    }

    /// Sends, or keeps back what rests on something that is not synced.
    pub(crate) fn emit(&mut self, from: usize, to: Peer, message: &Message) -> Result<(), String> {
        if let Some(storage) = self.nodes[from].storage.as_mut() {
            if storage.disk.is_busy() {
                storage.held.push((to, message.clone()));
                return Ok(());
            }
            storage.note(message);
        }
        self.send(from, to, message)
    }

    /// The disk has confirmed: what waited leaves, and the next turn begins.
    pub(crate) fn synced(&mut self, index: usize, life: u64) -> Result<(), String> {
        let node = &mut self.nodes[index];
        if node.role.is_none() || node.incarnation != life || !node.syncs() {
            return Ok(());
        }
        if node.paused {
            // The kernel is done, and the process hears of it when it goes on.
            self.agenda
                .add(self.now + MS, Event::Synced { node: index, life });
            return Ok(());
        }
        let storage = node.storage.as_mut().expect("it syncs");
        let fails = storage.disk.remembers() && storage.dice.chance(self.plan.disk_fails);
        if fails && self.phase == Phase::Faulty {
            // After an error nobody knows what is on disk: the process ends.
            self.mark("disk-failed");
            self.crash(index);
            let lift = Event::Lift(crate::chaos::Strike::Crash(index));
            self.agenda.add(self.now + 5 * MS, lift);
            return Ok(());
        }
        storage.disk.confirm();
        let mut held = std::mem::take(&mut storage.held);
        for (to, message) in held.drain(..) {
            self.emit(index, to, &message)?;
        }
        self.nodes[index].holds_again(held);
        self.turn(index)
    }

    /// A checkpoint that was written behind the records is in place.
    pub(crate) fn behind(&mut self, index: usize, life: u64) {
        let node = &mut self.nodes[index];
        let storage = node.storage.as_mut().filter(|_| node.incarnation == life);
        if storage.is_some_and(|s| !s.disk.confirm_behind()) {
            let at = self.now + MS;
            self.agenda.add(at, Event::Behind { node: index, life });
        }
    }

    /// A process that was busy reads all that waited in its socket, then acts.
    pub(crate) fn turn(&mut self, index: usize) -> Result<(), String> {
        self.nodes[index].wake = None;
        let mut waiting = std::mem::take(&mut self.nodes[index].backlog);
        self.gathering = true;
        let read = waiting.drain(..).try_for_each(|(datagram, flipped)| {
            let read = self.read(index, &datagram, flipped);
            self.pool.recycle(datagram);
            read
        });
        self.gathering = false;
        read?;
        let backlog = &mut self.nodes[index].backlog;
        if backlog.is_empty() {
            *backlog = waiting; // its memory serves again
        }
        self.settle_accounts(index)?;
        self.wake(index)
    }

    /// A process and its memory are gone; what its disk holds stays.
    pub(crate) fn crash(&mut self, index: usize) {
        self.gather_marks(index);
        let node = &mut self.nodes[index];
        node.stop();
        if let Some(storage) = node.storage.as_mut() {
            storage.held.clear();
            if let Some(mark) = storage.disk.crash(&mut storage.dice) {
                self.mark(mark);
            }
        }
    }

    /// The disk of a replica that is down loses a bit.
    pub(crate) fn rot(&mut self, index: usize) {
        let storage = self.nodes[index].storage.as_mut();
        if storage.is_some_and(|s| s.disk.rot(&mut s.dice)) {
            self.mark("disk-rot");
        }
    }

    /// What a starting replica finds on its disk, if it has one.
    pub(crate) fn read_disk(&mut self, index: usize) -> Result<Option<Found>, String> {
        let lenient = self.mutation == Some(Mutation::TornTailAccepted);
        let Some(storage) = self.nodes[index].storage.as_mut() else {
            return Ok(None);
        };
        let found = storage.disk.recover(lenient)?;
        match (&found, self.samples) {
            (Found::Memory(memory), Some(samples)) => samples.borrow_mut().remember(memory),
            (Found::Memory(_), None) => {}
            _ => storage.forget(),
        }
        Ok(Some(found))
    }

    /// A replica that came back from its disk is what it had said it was.
    pub(crate) fn keeps_its_word(&self, index: usize) -> Result<(), String> {
        let node = &self.nodes[index];
        let (Some(storage), Some(status)) = (&node.storage, node.status()) else {
            return Ok(());
        };
        if !status.member {
            return Ok(());
        }
        let (view, upto) = storage.acked;
        let name = self.layout.name(index);
        if status.view < storage.said {
            let (said, is) = (storage.said, status.view);
            return Err(format!(
                "promise: {name} spoke of view {said} and is back in {is}"
            ));
        }
        if status.last_normal == view && status.len < upto {
            let len = status.len;
            return Err(format!(
                "promise: {name} had {upto} slots of view {view} and has {len}"
            ));
        }
        Ok(())
    }
}
