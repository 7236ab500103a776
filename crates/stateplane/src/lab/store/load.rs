//! Clients that ask, and remember what they asked and were answered.
//!
//! One thread a machine carries many clients over one socket. Most ask one thing at a time;
//! some have several under way. All ask about the same few objects, so that their
//! operations overlap. The objects are new ones after every fault: a history is complete.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use stateplane_base::Time;
use stateplane_functions::Ticket;
use stateplane_host::netns::Namespace;
use stateplane_host::{clock, poll};
use stateplane_node::channel::{Channel, Identity, new_incarnation};
use stateplane_node::client::{GroupClient, Missed, StateClient};
use stateplane_node::config::{Config, Role};
use stateplane_sim::check::{Ended, Record};
use stateplane_sim::spec::{Action, Object, Outcome};
use stateplane_sim::store;

use super::work::{Scan, Work};

/// How a machine's clients behave.
#[derive(Clone, Copy, Debug)]
pub(super) struct Habits {
    /// Clients that ask one thing at a time.
    pub(super) clients: u16,
    /// Operations that each of the others has under way.
    pub(super) pipeline: u16,
    /// Mean time until a client asks again.
    pub(super) think: Duration,
}

/// One operation, and whose it was.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) client: u32,
    /// It was asked for without a slot of the log.
    pub(super) read: bool,
    pub(super) record: Record,
}

/// What a machine recorded since its last orders.
#[derive(Debug, Default)]
pub(super) struct Delivery {
    pub(super) entries: Vec<Entry>,
    /// The longest time by which its thread was late.
    pub(super) late: Duration,
}

/// What the clients of a machine are told.
#[derive(Clone, Copy, Debug)]
enum Order {
    /// Ask about the objects of this space.
    Work(u64),
    /// Ask nothing more; deliver as soon as everything has ended.
    Rest,
    /// Read back everything in this space, and deliver.
    ReadBack(u64),
}

/// The clients of all machines.
pub(super) struct Load {
    machines: Vec<Machine>,
    completed: Arc<AtomicU64>,
}

struct Machine {
    orders: Sender<Order>,
    deliveries: Receiver<Delivery>,
    thread: JoinHandle<std::io::Result<Result<()>>>,
}

impl Load {
    /// Starts the clients of each node in its namespace. They wait for orders.
    pub(super) fn start<'a>(
        config: &Config,
        machines: impl Iterator<Item = (&'a String, &'a Namespace)>,
        habits: Habits,
    ) -> Result<Self> {
        let completed = Arc::new(AtomicU64::new(0));
        let machines = (0..).zip(machines).map(|(number, (name, namespace))| {
            let (orders, to_do) = channel();
            let (done, deliveries) = channel();
            let (config, node) = (config.clone(), name.clone());
            let completed = Arc::clone(&completed);
            let work = move || -> Result<()> {
                let mut driver = Driver::new(&config, &node, number, habits, completed)?;
                driver.serve(&to_do, &done)
            };
            let thread = namespace.spawn_thread(name, work)?;
            Ok(Machine {
                orders,
                deliveries,
                thread,
            })
        });
        Ok(Self {
            machines: machines.collect::<Result<_>>()?,
            completed,
        })
    }

    /// Operations that were answered so far.
    pub(super) fn completed(&self) -> u64 {
        self.completed.load(Relaxed)
    }

    /// All clients begin to ask about objects of `space`.
    pub(super) fn work(&self, space: u64) -> Result<()> {
        self.machines
            .iter()
            .try_for_each(|m| m.order(Order::Work(space)))
    }

    /// All clients stop asking; what they recorded.
    pub(super) fn rest(&self) -> Result<Vec<Delivery>> {
        self.machines
            .iter()
            .try_for_each(|m| m.order(Order::Rest))?;
        self.machines.iter().map(Machine::delivery).collect()
    }

    /// One client reads back everything in `space`.
    pub(super) fn read_back(&self, space: u64) -> Result<Delivery> {
        let first = self.machines.first().context("there are clients")?;
        first.order(Order::ReadBack(space))?;
        first.delivery()
    }

    /// Ends all clients; an error if one had failed.
    pub(super) fn finish(self) -> Result<()> {
        for machine in self.machines {
            drop(machine.orders);
            let ended = machine.thread.join();
            ended.map_err(|_| anyhow!("a client's thread panicked"))???;
        }
        Ok(())
    }
}

/// Longer than any operation may take until its outcome counts as unknown, many times over.
const DELIVERY_LIMIT: Duration = Duration::from_secs(60);

impl Machine {
    fn order(&self, order: Order) -> Result<()> {
        self.orders
            .send(order)
            .context("a client's thread has ended")
    }

    fn delivery(&self) -> Result<Delivery> {
        self.deliveries
            .recv_timeout(DELIVERY_LIMIT)
            .context("the clients did not come to an end: the store does not answer")
    }
}

/// The clients of one machine.
struct Driver {
    state: StateClient,
    work: Work,
    scan: Option<Scan>,
    /// Objects are those of this space; none: nothing is asked.
    space: Option<u64>,
    machine: u64,
    next: u64,
    /// Under way: whose they are, and what was asked when.
    pending: BTreeMap<Ticket, Entry>,
    delivery: Delivery,
    completed: Arc<AtomicU64>,
}

/// A thread with nothing to do looks for orders this often.
const GLANCE: Duration = Duration::from_millis(5);

impl Driver {
    fn new(
        config: &Config,
        node: &str,
        machine: u64,
        habits: Habits,
        completed: Arc<AtomicU64>,
    ) -> Result<Self> {
        let found = config.node(node).context("a client's node")?;
        let address = *found.control.get(&Role::Function).context("its address")?;
        let identity = Identity::new(config, node, Role::Function, new_incarnation());
        let id = identity.client_id();
        let channel = Channel::bind(address, identity)?;
        let client = GroupClient::new(config, node, id, channel);
        Ok(Self {
            state: StateClient::Group(Box::new(client)),
            work: Work::new(machine, habits),
            scan: None,
            space: None,
            machine,
            next: 0,
            pending: BTreeMap::new(),
            delivery: Delivery::default(),
            completed,
        })
    }

    fn serve(&mut self, orders: &Receiver<Order>, done: &Sender<Delivery>) -> Result<()> {
        let mut answered = Vec::new();
        let mut resting = true;
        let mut owes = false;
        loop {
            match orders.try_recv() {
                Ok(order) => {
                    resting = !matches!(order, Order::Work(_));
                    owes |= resting;
                    self.obey(order);
                }
                Err(TryRecvError::Empty) => {}
                Err(TryRecvError::Disconnected) => return Ok(()),
            }
            let now = clock::now();
            if !resting {
                self.ask(now);
            }
            self.read_on();
            self.state.flush(clock::now());
            self.state.poll(clock::now(), &mut answered);
            for (ticket, reply) in answered.drain(..) {
                self.hear(ticket, reply)?;
            }
            let scanned = self.scan.as_ref().is_none_or(Scan::is_done);
            if owes && resting && scanned && self.pending.is_empty() {
                owes = false;
                self.scan = None;
                if done.send(std::mem::take(&mut self.delivery)).is_err() {
                    return Ok(());
                }
            }
            self.wait(now, resting)?;
        }
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Work(space) => {
                self.space = Some(space);
                self.work.begin(clock::now());
            }
            Order::Rest => {}
            Order::ReadBack(space) => {
                self.space = Some(space);
                self.scan = Some(Scan::default());
            }
        }
    }

    /// Whoever is due asks.
    fn ask(&mut self, now: Time) {
        while self.state.room() > 0
            && let Some((client, action, read)) = self.work.next(now)
        {
            self.submit(client, action, read);
        }
    }

    fn read_on(&mut self) {
        while let Some(action) = self.scan.as_mut().and_then(Scan::next) {
            self.submit(Work::READER, action, false);
        }
    }

    fn submit(&mut self, client: u32, action: Action, read: bool) {
        let Some(space) = self.space else { return };
        self.next += 1;
        let ticket = Ticket(self.next);
        let op = store::operation(&space.to_be_bytes(), action);
        let record = Record {
            tag: self.machine << 48 | self.next,
            action,
            invoked: clock::now().as_nanos(),
            ended: None,
            read_at: None,
        };
        let client = u32::try_from(self.machine).expect("few machines") << 16 | client;
        let entry = Entry {
            client,
            read,
            record,
        };
        self.pending.insert(ticket, entry);
        let now = clock::now();
        match read {
            true => self.state.read(now, ticket, op),
            false => self.state.submit(now, ticket, op),
        }
    }

    fn hear(&mut self, ticket: Ticket, reply: Result<Vec<u8>, Missed>) -> Result<()> {
        let entry = self.pending.remove(&ticket);
        let mut entry = entry.context("an answer to nothing that was asked")?;
        let action = entry.record.action;
        let outcome = match reply {
            Ok(reply) => {
                let outcome = store::decode(action, &reply);
                let outcome = outcome.with_context(|| format!("{action:?} got {reply:02x?}"))?;
                self.completed.fetch_add(1, Relaxed);
                Some(outcome)
            }
            Err(Missed::Unknown) => None,
            Err(Missed::NotAsked) => {
                // It never happened: it is no part of the history.
                return self.settle(&entry, None);
            }
        };
        let at = clock::now().as_nanos();
        entry.record.ended = Some(Ended { at, outcome });
        self.settle(&entry, outcome)?;
        self.delivery.entries.push(entry);
        Ok(())
    }

    /// The client may go on.
    fn settle(&mut self, entry: &Entry, outcome: Option<Outcome>) -> Result<()> {
        let client = entry.client & 0xffff;
        if client == Work::READER {
            let scan = self.scan.as_mut().context("nobody reads back")?;
            return scan.hear(entry.record.action, outcome);
        }
        self.work
            .hear(clock::now(), client, entry.record.action, outcome);
        Ok(())
    }

    fn wait(&mut self, began: Time, resting: bool) -> Result<()> {
        let core = self.state.next_timer().unwrap_or(Time::MAX);
        let ours = if resting { Time::MAX } else { self.work.due() };
        let before = clock::now();
        let span = core.min(ours).since(before).min(GLANCE);
        let fd = self.state.fd().context("a client has a socket")?;
        poll::wait(&[fd], Some(span))?;
        if !resting {
            let lost = clock::now().since(before + span) + before.since(began);
            self.delivery.late = self.delivery.late.max(lost);
        }
        Ok(())
    }
}

/// The objects that clients ask about.
pub(super) const OBJECTS: [Object; 9] = [
    Object::Key(0),
    Object::Key(1),
    Object::Key(2),
    Object::Key(3),
    Object::Counter(0),
    Object::Counter(1),
    Object::Counter(2),
    Object::Queue(0),
    Object::Queue(1),
];
