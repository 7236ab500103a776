//! The virtual world: nodes with their own clocks, the network between them,
//! clients that ask, and faults. One seed, one run, always the same.
use crate::agenda::Agenda;
use crate::chaos::{Chaos, Strike};
use crate::check::{Executed, Record, audit, wgl};
use crate::datagram::{Pool, Shared};
use crate::dice::{Dice, Stream, mix};
use crate::disks::Storage;
use crate::layout::Layout;
use crate::mail::CLUSTER;
use crate::network::Network;
use crate::node::{self, Node};
use crate::plan::{Faults, MS, Plan, Profile};
use crate::report::Run;
use crate::samples::Samples;
use crate::store;
use crate::tape::{Choice, Choices, Tape};
use crate::watch::Watch;
use crate::workload::Workload;
use stateplane_group::{Effect, Mark, Message, Mutation, Peer, Protocol};
use stateplane_wire::envelope::Key;
use stateplane_wire::oum::Keys;
use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

/// What to run.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub seed: u64,
    pub profile: Profile,
    pub off: Faults,
    pub mutation: Option<Mutation>,
    /// The choices that take effect, if not all.
    pub keep: Option<Arc<Choices>>,
    /// One answer is falsified before it is looked at.
    pub canary: bool,
}

impl Setup {
    /// A seed with all faults of its profile and nothing broken.
    pub(crate) fn plain(seed: u64, profile: Profile) -> Self {
        Self {
            seed,
            profile,
            off: Faults::default(),
            mutation: None,
            keep: None,
            canary: false,
        }
    }
}

/// Virtual time within which a group must be whole again and have answered
/// everything once faults end.
pub(crate) const RECOVERY: u64 = 1_500 * MS;

/// Something that will happen.
pub(crate) enum Event {
    /// A datagram arrives.
    Deliver {
        to: usize,
        datagram: Shared,
        flipped: bool,
    },
    /// A node's timer may be due.
    Wake { node: usize },
    /// A client may ask again.
    Submit { client: usize },
    /// Chaos decides on a strike.
    Strike,
    /// A strike hits, and for how long.
    Blow(Strike, u64),
    /// A strike is over.
    Lift(Strike),
    /// A node's disk may have confirmed a write of this life.
    Synced { node: usize, life: u64 },
    /// A checkpoint may have been written behind the records.
    Behind { node: usize, life: u64 },
}

/// How far a run is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Phase {
    /// Faults strike and clients ask.
    Faulty,
    /// Faults have ended; what was asked must be answered.
    Healing,
    /// Clients read everything back.
    Scanning,
    /// Replicas must agree.
    Settling,
}

/// One run.
pub(crate) struct World<'a> {
    pub(crate) plan: Plan,
    pub(crate) layout: Layout,
    pub(crate) now: u64,
    pub(crate) agenda: Agenda<Event>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) network: Network,
    pub(crate) chaos: Chaos,
    pub(crate) workload: Workload,
    pub(crate) records: Vec<Record>,
    /// Operations each client may still submit.
    pub(crate) remaining: Vec<usize>,
    pub(crate) phase: Phase,
    /// Operations without an outcome.
    pub(crate) open: usize,
    /// By how much clocks leapt, all together.
    pub(crate) leapt: u64,
    /// When all faults ended.
    pub(crate) healed: u64,
    pub(crate) watch: Watch,
    pub(crate) key: Key,
    /// The keys of the ordered multicast.
    pub(crate) oum: Keys,
    pub(crate) mutation: Option<Mutation>,
    /// After which a leader may take another sequencer.
    silence: Duration,
    /// A process reads several datagrams before it acts.
    pub(crate) gathering: bool,
    pub(crate) dice: Dice,
    pub(crate) run: Run,
    /// How often processes that are gone took each rare branch.
    marks: [u64; Mark::ALL.len()],
    pub(crate) lines: Option<&'a RefCell<Vec<String>>>,
    pub(crate) samples: Option<&'a RefCell<Samples>>,
    pub(crate) tape: Tape<'a>,
    /// An answer is still to be falsified.
    pub(crate) canary: bool,
    /// How many times each client asked something.
    pub(crate) asks: Vec<u32>,
    /// Datagrams that were read, to be used again.
    pub(crate) pool: Pool,
}

/// The plan a setup stands for.
pub(crate) fn plan(setup: &Setup) -> Plan {
    Plan::draw(setup.seed, setup.profile, setup.off)
}

/// Copies of tables are looked at in one seed of so many: they cost time.
const SHARES: u64 = 4;

/// Runs one seed to its end.
pub(crate) fn run(setup: &Setup, lines: Option<&RefCell<Vec<String>>>) -> Run {
    let mut world = World::new(setup, lines);
    world.finish_play();
    world.run
}

/// Runs one seed and answers the choices that were made, too: all, and among
/// them those that were more than a delay.
pub(crate) fn record(setup: &Setup, made: &RefCell<Vec<(Choice, bool)>>) -> Run {
    let mut world = World::new(setup, None);
    world.tape.made = Some(made);
    world.finish_play();
    world.run
}

/// Runs one seed and keeps some of what was said and written.
pub(crate) fn listen(setup: &Setup, samples: &RefCell<Samples>) -> Run {
    let mut world = World::new(setup, None);
    world.samples = Some(samples);
    world.finish_play();
    world.run
}

impl<'a> World<'a> {
    fn new(setup: &'a Setup, lines: Option<&'a RefCell<Vec<String>>>) -> Self {
        let plan = plan(setup);
        let mut dice = Dice::new(setup.seed, Stream::Nodes);
        let key = Key::new([7; 16]);
        let layout = Layout {
            replicas: plan.seats(),
            sequencers: usize::from(plan.sequencers),
            clients: plan.clients,
        };
        let mut nodes: Vec<Node> = (0..layout.nodes())
            .map(|_| Node::new(&plan, &mut dice))
            .collect();
        for (serial, node) in (0..).zip(&mut nodes[..layout.replicas]) {
            let dice = Dice::new(setup.seed ^ mix(serial), Stream::Disks);
            node.storage = plan.durable().then(|| Storage::new(dice));
        }
        let world = Self {
            now: 0,
            layout,
            agenda: Agenda::new(),
            nodes,
            network: Network::new(setup.seed, plan.links.clone(), layout),
            chaos: Chaos::new(setup.seed, &plan),
            workload: Workload::new(setup.seed, &plan),
            records: Vec::new(),
            remaining: vec![plan.ops_per_client; plan.clients],
            phase: Phase::Faulty,
            open: 0,
            leapt: 0,
            healed: 0,
            watch: Watch::new(setup.seed.is_multiple_of(SHARES)),
            oum: Keys::derive(&key, CLUSTER),
            key,
            mutation: setup.mutation,
            silence: node::config(&plan, None).timing.sequencer_silence,
            gathering: false,
            dice,
            run: Run::default(),
            marks: [0; Mark::ALL.len()],
            lines,
            samples: None,
            canary: setup.canary,
            tape: Tape {
                keep: setup.keep.as_deref(),
                made: None,
            },
            asks: vec![0; plan.clients],
            pool: Pool::default(),
            plan,
        };
        world.say(|| format!("{setup:?}"));
        world.say(|| format!("{:?}", world.plan));
        world
    }

    fn finish_play(&mut self) {
        self.run.broken = self.play().err();
        self.run.virtual_ns = self.now;
    }

    /// Writes a line of the trace, if one is wanted.
    pub(crate) fn say(&self, line: impl FnOnce() -> String) {
        if let Some(lines) = self.lines {
            let (ms, ns) = (self.now / MS, self.now % MS);
            lines
                .borrow_mut()
                .push(format!("{ms:>6}.{ns:06} {}", line()));
        }
    }

    pub(crate) fn mark(&mut self, mark: &'static str) {
        *self.run.marks.entry(mark).or_default() += 1;
    }
}

/// The course of a run.
impl World<'_> {
    fn play(&mut self) -> Result<(), String> {
        self.open_the_stage()?;
        let mut limit = self.plan.faulty_until;
        loop {
            if let Some((at, event)) = self.agenda.next(limit) {
                self.now = at;
                self.run.events += 1;
                self.handle(event)?;
                if self.advance()? {
                    return self.judge();
                }
            } else if self.phase == Phase::Faulty {
                self.now = limit;
                limit += RECOVERY;
                self.heal()?;
            } else {
                return Err(self.stuck());
            }
        }
    }

    /// Goes on to the next phase when this one is done; true at the end.
    fn advance(&mut self) -> Result<bool, String> {
        let quiet = self.open == 0;
        match self.phase {
            Phase::Healing if quiet => self.scan()?,
            Phase::Scanning if quiet => self.phase = Phase::Settling,
            Phase::Settling => return self.watch.settled(&self.nodes[..self.layout.replicas]),
            _ => {}
        }
        Ok(false)
    }

    fn open_the_stage(&mut self) -> Result<(), String> {
        for node in 0..self.layout.client(0) {
            let at = self.dice.between(0, 20 * MS);
            let start = if self.layout.sequences(node) {
                Strike::CrashSequencer(node)
            } else {
                Strike::Crash(node)
            };
            self.agenda.add(at, Event::Lift(start));
        }
        for client in 0..self.plan.clients {
            self.start(self.layout.client(client))?;
            let at = self.workload.think();
            self.agenda.add(at, Event::Submit { client });
        }
        if let Some(wait) = self.chaos.pause() {
            // The group first forms undisturbed: before that, all replicas
            // are without memory, and none can be spared.
            self.agenda.add(30 * MS + wait, Event::Strike);
        }
        Ok(())
    }

    fn handle(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Deliver {
                to,
                datagram,
                flipped,
            } => self.arrive(to, datagram, flipped),
            Event::Wake { node } => self.wake(node),
            Event::Submit { client } => self.ask(client),
            Event::Strike => self.strike(),
            Event::Blow(strike, lasts) => self.hit(strike, lasts),
            Event::Lift(strike) => self.lift(&strike),
            Event::Synced { node, life } => self.synced(node, life),
            Event::Behind { node, life } => {
                self.behind(node, life);
                Ok(())
            }
        }
    }

    /// Starts a node's process in a new life.
    pub(crate) fn start(&mut self, index: usize) -> Result<(), String> {
        if self.layout.sequences(index) && self.plan.protocol != Protocol::Nopaxos {
            return Ok(()); // that machine has nothing to do
        }
        self.gather_marks(index);
        self.nodes[index].rise(&mut self.dice);
        let found = self.read_disk(index)?;
        let config = node::config(&self.plan, self.mutation);
        let (kind, node) = (self.layout.kind(index), &self.nodes[index]);
        let role = node::role(index, kind, config, node, self.now, found, &mut self.dice)?;
        self.nodes[index].role = Some(role);
        self.keeps_its_word(index)?;
        self.say(|| {
            format!(
                "START {} as {}",
                self.layout.name(index),
                self.nodes[index].incarnation
            )
        });
        self.settle_accounts(index)
    }

    /// A paused node goes on and reads what waited in its socket.
    pub(crate) fn resume(&mut self, index: usize) -> Result<(), String> {
        let node = &mut self.nodes[index];
        if !std::mem::take(&mut node.paused) || node.role.is_none() || node.is_deaf() {
            return Ok(());
        }
        self.turn(index)
    }

    /// A planned wake-up: lets the timer fire if it is due.
    pub(crate) fn wake(&mut self, index: usize) -> Result<(), String> {
        let node = &mut self.nodes[index];
        if node.wake.is_some_and(|at| at <= self.now) {
            node.wake = None;
        }
        if node.is_deaf() || node.role.is_none() {
            return Ok(());
        }
        let local = node.clock.local(self.now);
        if node.next_timer().is_some_and(|due| due <= local) {
            node.fire(self.now);
            return match self.gathering {
                true => Ok(()),
                false => self.settle_accounts(index),
            };
        }
        self.plan_wake(index);
        Ok(())
    }

    /// Lets a process handle a message.
    pub(crate) fn step(&mut self, index: usize, from: Peer, msg: Message) -> Result<(), String> {
        let undue = match from {
            Peer::Sequencer(number) if index < self.layout.replicas => {
                let silence = self.silence;
                self.nodes[index].about_to_hear(self.now, number, &msg, silence)
            }
            _ => None,
        };
        self.nodes[index].hear(self.now, from, msg);
        if let Some(undue) = undue {
            self.was_refused(index, undue)?;
        }
        if self.gathering {
            return Ok(());
        }
        self.settle_accounts(index)
    }

    /// After every step of a process: carries out what it wants, looks whether
    /// its rules hold, and plans its next timer.
    pub(crate) fn settle_accounts(&mut self, index: usize) -> Result<(), String> {
        while let Some(effect) = self.nodes[index].poll() {
            match effect {
                Effect::Send { to, msg } => {
                    self.emit(index, to, &msg)?;
                    self.nodes[index].take_back(msg);
                }
                Effect::Persist(what) => self.persist(index, what),
                Effect::Reconfigured { answer, .. } => {
                    self.mark(answer.name());
                }
                Effect::Alarm(alarm) => {
                    self.say(|| format!("{} {alarm:?}", self.layout.name(index)))
                }
            }
        }
        while let Some(finished) = self.nodes[index].finished() {
            self.finish(index, finished)?;
        }
        if index < self.layout.replicas && !self.nodes[index].syncs() {
            self.watch.look(index, &mut self.nodes[index])?;
        }
        self.plan_wake(index);
        Ok(())
    }

    pub(crate) fn plan_wake(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        let Some(due) = node.next_timer() else {
            return;
        };
        if node.wake.is_some() && node.due == due {
            return; // it is planned as early as that
        }
        node.due = due;
        let Some(at) = node.clock.truth(due) else {
            return;
        };
        let at = at.max(self.now + 1);
        if node.wake.is_none_or(|planned| at < planned) {
            node.wake = Some(at);
            self.agenda.add(at, Event::Wake { node: index });
        }
    }
}

/// The end of a run.
impl World<'_> {
    /// The replica that leads the newest view.
    pub(crate) fn leader(&self) -> Option<usize> {
        (0..self.layout.replicas)
            .filter_map(|i| Some((self.nodes[i].leads()?, i)))
            .max()
            .map(|(_, index)| index)
    }

    /// The group's state for people.
    pub(crate) fn describe(&self) -> String {
        let group: Vec<String> = (0..self.layout.replicas)
            .map(|i| format!("{}: {}", self.layout.name(i), self.nodes[i].describe()))
            .collect();
        group.join("; ")
    }

    /// Says what did not end in time.
    fn stuck(&self) -> String {
        format!(
            "liveness: {:?} after {} ms without faults, {} operations open; {}",
            self.phase,
            RECOVERY / MS,
            self.open,
            self.describe()
        )
    }

    /// Everything is quiet: was it all right?
    fn judge(&mut self) -> Result<(), String> {
        self.run.recovery_ns = self.now - self.healed;
        for node in 0..self.nodes.len() {
            self.gather_marks(node);
        }
        for (mark, count) in Mark::ALL.iter().zip(self.marks) {
            if count > 0 {
                *self.run.marks.entry(mark.name()).or_default() += count;
            }
        }
        let story = self.watch.story(&self.nodes[..self.layout.replicas]);
        let story = story.borrow();
        audit::audit(&self.records, &story.executed, store::decode)?;
        self.log_time_ran_evenly(&story.executed)?;
        let mut undecided = 0;
        wgl::check(&self.records, &mut undecided)
            .map_err(|object| format!("linearizability: no order explains {object:?}"))?;
        *self.run.marks.entry("search-undecided").or_default() += undecided;
        Ok(())
    }

    /// Whatever the time of day is at sequencers, log time runs about as fast as clocks do;
    /// unless all replicas may have been down at once, and found no time but on their disks.
    fn log_time_ran_evenly(&self, log: &[Executed]) -> Result<(), String> {
        let (Some(first), Some(last)) = (log.first(), log.last()) else {
            return Ok(());
        };
        if self.plan.durable() {
            return Ok(());
        }
        // Machines' clocks run up to 1.4 times as fast as the true one, and leap.
        let most = (self.now + self.leapt) * 3 / 2;
        let ran = last.at - first.at;
        // A group that slept as a whole does not know for how long: it asks a machine.
        if ran <= most || self.plan.durable() {
            return Ok(());
        }
        Err(format!(
            "clock: log time ran {} ms within {} ms",
            ran / MS,
            self.now / MS
        ))
    }

    /// Adds up what a process that is about to go counted.
    pub(crate) fn gather_marks(&mut self, index: usize) {
        if let Some(marks) = self.nodes[index].marks() {
            for (sum, (_, count)) in self.marks.iter_mut().zip(marks.iter()) {
                *sum += count;
            }
        }
    }
}
