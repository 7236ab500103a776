//! Starting a node: its roles, each on a thread of its own, and its end.

use std::io;
use std::net::SocketAddrV4;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use stateplane_base::Incarnation;
use stateplane_host::priority;
use tracing::{error, info};

use crate::admin::{Facts, Socket};
use crate::channel::{Channel, Identity, new_incarnation};
use crate::client::{Embedded, GroupClient, StateClient};
use crate::config::{self, Config, Node, Role, Runs, State};
use crate::failure::Failure;
use crate::function::{Desk, FunctionSetup, FunctionStatus, Question, Work, WorkerSetup};
use crate::heartbeat::Heartbeat;
use crate::members::{self, Wish};
use crate::regions::copies::{Copies, CopiesStatus};
use crate::regions::keeper::{Ends, Keeper, UseStatus, configured_home};
use crate::regions::local::Local;
use crate::regions::{telemetry, weights};
use crate::replica::{Replica, ReplicaStatus};
use crate::resp::{Resp, RespStatus};
use crate::sequencer::{Sequencer, SequencerStatus, random};
use crate::status::Board;
use crate::stop::Stop;
use crate::switch::{Switch, SwitchStatus};
use crate::{store, worker};

/// How often a node looks whether its roles are alive. They say so when they end, but not when they panic.
const WATCH: Duration = Duration::from_millis(200);
/// The same once they are asked to end.
const GLANCE: Duration = Duration::from_millis(20);
/// How long the roles may take to finish after they were asked to.
const GRACE: Duration = Duration::from_secs(5);

/// A role, ready to run on its own thread.
type Job = Box<dyn FnOnce(&Stop) -> Result<(), Failure> + Send>;

/// Runs the node called `name` until `stop` is raised or a role fails.
///
/// Whatever can fail at the start (ports, sockets, programs) fails here, before
/// the first role runs.
pub fn run(config: &Config, name: &str, stop: &Stop) -> Result<(), Failure> {
    let started = Instant::now();
    let node = config.node(name).ok_or_else(|| {
        let names: Vec<&str> = config.nodes.keys().map(String::as_str).collect();
        Failure::Usage(format!(
            "the file declares no node \"{name}\"; it declares: {}",
            names.join(", ")
        ))
    })?;
    let socket = Socket::bind(&config.cluster.admin_dir, name)?;
    let mut board = Board::default();
    let (desk, questions) = Desk::for_each(node.workers().len());
    let (weights, wanted) = weights::desk();
    let keeper = Keeper::new(config, node, wanted, || {
        board.add_other("uses", UseStatus::default())
    })?;
    let (keeper, ends) = keeper.map_or((None, Ends::default()), |(keeper, ends)| {
        (Some(keeper), ends)
    });
    let mut starter = Starter {
        config,
        node,
        incarnation: new_incarnation(),
        stop,
        board: &mut board,
        ends,
    };
    let (members, wishes) = members::desk();
    let (mut questions, mut wishes) = (Some(questions), Some(wishes));
    let mut jobs = Vec::new();
    for role in &node.roles {
        let job = starter.job(*role, &mut questions, &mut wishes)?;
        jobs.push((*role, pinned(node.cpu.get(role).copied(), job)?));
    }
    let desk = node.is(Role::Function).then_some(desk);
    let board = Arc::new(board);
    let facts = Facts {
        config: config.clone(),
        node: name.to_owned(),
        board: Arc::clone(&board),
        desk,
        members: node.is(Role::Replica).then_some(members),
        weights: node.switch.is_some().then_some(weights),
        started,
    };
    let server = socket.serve(facts)?;
    let counting = telemetry::Telling::new(config, name, board);
    let keeper = keeper
        .map(|keeper| keeper.start(counting, stop))
        .transpose()?;
    info!(node = name, roles = ?node.roles, admin = %server.path().display(), "started");
    let result = supervise(jobs, stop);
    stop.raise();
    // Its regions are given up in order; a panic there was reported there.
    let _ = keeper.map(JoinHandle::join);
    drop(server);
    info!(node = name, "stopped");
    result
}

/// The job, on the processor that the file names for it.
fn pinned(cpu: Option<usize>, job: Job) -> Result<Job, Failure> {
    let Some(cpu) = cpu else {
        return Ok(job);
    };
    let allowed = priority::allowed_cpus().map_err(Failure::running)?;
    if !allowed.contains(&cpu) {
        let names: Vec<String> = allowed.iter().map(usize::to_string).collect();
        return Err(Failure::missing(
            format!("`cpu = {cpu}`: this process may not run on that processor"),
            format!("here it may use: {}", names.join(", ")),
        ));
    }
    Ok(Box::new(move |stop| {
        priority::pin_to(cpu).map_err(|error| {
            Failure::running(format!("cannot stay on processor {cpu}: {error}"))
        })?;
        job(stop)
    }))
}

/// Prepares the roles of one node.
struct Starter<'a> {
    config: &'a Config,
    node: &'a Node,
    incarnation: Incarnation,
    stop: &'a Stop,
    board: &'a mut Board,
    ends: Ends,
}

impl Starter<'_> {
    fn job(
        &mut self,
        role: Role,
        questions: &mut Option<Vec<Receiver<Question>>>,
        wishes: &mut Option<Receiver<Wish>>,
    ) -> Result<Job, Failure> {
        let io = self.config.io;
        match role {
            Role::Sequencer => {
                let status = self.board.add("sequencer", SequencerStatus::default());
                let channel = self.channel(role)?;
                let sequencer = Sequencer::new(self.config, &self.node.name, channel, status)?;
                Ok(Box::new(move |stop| sequencer.run(io, stop)))
            }
            Role::Replica => {
                let status = self.board.add("replica", ReplicaStatus::default());
                let channel = self.channel(role)?;
                let replica = Replica::new(
                    self.config,
                    &self.node.name,
                    self.incarnation,
                    channel,
                    status,
                    wishes.take().expect("a checked node has each role once"),
                )?;
                Ok(Box::new(move |stop| replica.run(io, stop)))
            }
            Role::Switch => {
                let status = self.board.add("switch", SwitchStatus::default());
                let switch = self.node.switch.as_ref();
                let switch = switch.expect("a checked switch node has its part");
                let channel = self.channel(role)?;
                let (name, ends) = (&self.node.name, self.ends.switch.take());
                let switch = Switch::new(self.config, name, switch, channel, ends, status)?;
                Ok(Box::new(move |stop| switch.run(io, stop)))
            }
            Role::Function => {
                let questions = questions.take().expect("a checked node has each role once");
                let setup = self.function(questions)?;
                Ok(Box::new(move |_| worker::run(setup)))
            }
            Role::Resp => {
                let status = self.board.add("resp", RespStatus::default());
                let settings = self.node.resp.as_ref();
                let settings = settings.expect("a checked front end has its part");
                let state = self.state(role)?;
                let name = &self.node.name;
                let life = self.incarnation;
                let resp = Resp::new(self.config, name, settings, life, state, status)?;
                Ok(Box::new(move |stop| resp.run(io, stop)))
            }
            Role::Regions => {
                let status = self.board.add("regions", CopiesStatus::default());
                let (name, life) = (&self.node.name, self.incarnation);
                let copies = Copies::new(self.config, name, life, status)?;
                Ok(Box::new(move |stop| copies.run(stop)))
            }
        }
    }

    fn function(&mut self, questions: Vec<Receiver<Question>>) -> Result<FunctionSetup, Failure> {
        let function = self
            .node
            .function
            .as_ref()
            .expect("a checked function node has its part");
        let work = function.runs.iter().map(|runs| match runs {
            Runs::Nat => self.config.nat.clone().map(Work::Nat),
            Runs::Meter => self.config.meter.clone().map(Work::Meter),
        });
        let workers = self.node.workers().into_iter().zip(questions);
        let workers = workers.map(|(worker, questions)| self.worker(worker, questions));
        Ok(FunctionSetup {
            incarnation: self.incarnation,
            workers: workers.collect::<Result<_, Failure>>()?,
            home: configured_home(self.config, &self.node.name),
            homes: self.ends.home.take(),
            interfaces: function.clone(),
            work: work
                .collect::<Option<_>>()
                .expect("a checked function has its section"),
            lease: self.config.lease,
            park: self.config.park,
            fast_path: self.config.fast_path,
            dead: self.config.detect.dead,
            heartbeat: self.heartbeat(self.identity(Role::Function))?,
            status: self.board.add("function", FunctionStatus::default()),
            stop: self.stop.clone(),
        })
    }

    fn worker(
        &self,
        worker: config::Worker,
        questions: Receiver<Question>,
    ) -> Result<WorkerSetup, Failure> {
        let identity = Identity::new(self.config, &worker.name, Role::Function, self.incarnation);
        Ok(WorkerSetup {
            cpu: worker.cpu,
            // Not two of them alike: workers begin in the same microsecond.
            seed: random() ^ self.incarnation.0,
            state: match worker.control {
                Some(address) => self.state_at(Role::Function, address, identity)?,
                None => self.state(Role::Function)?,
            },
            local: Local::new(self.config, self.stop)?,
            questions,
            name: worker.name,
        })
    }

    /// The store, as `role` asks it.
    fn state(&self, role: Role) -> Result<StateClient, Failure> {
        match &self.config.state {
            State::Embedded => {
                let store = store::new(self.config)?;
                Ok(StateClient::Embedded(Embedded::new(store)))
            }
            State::Group { .. } => {
                let address = self.node.control.get(&role);
                let address = *address.expect("a checked node has an address for this role");
                self.state_at(role, address, self.identity(role))
            }
        }
    }

    /// The same, with the answers to this address, for a client called so.
    fn state_at(
        &self,
        role: Role,
        address: SocketAddrV4,
        identity: Identity,
    ) -> Result<StateClient, Failure> {
        if let State::Embedded = &self.config.state {
            return self.state(role);
        }
        let id = identity.client_id();
        let channel = self.channel_at(role, address, identity)?;
        let client = GroupClient::new(self.config, &self.node.name, id, channel);
        Ok(StateClient::Group(Box::new(client)))
    }

    /// The heartbeat's socket is its own: what it sends goes to switches only,
    /// so its counter never meets the store client's.
    fn heartbeat(&self, identity: Identity) -> Result<Heartbeat, Failure> {
        let switches: Vec<_> = self
            .config
            .switches_of(&self.node.name)
            .filter_map(|(switch, index)| Some((*switch.control.get(&Role::Switch)?, index)))
            .collect();
        let Some(own) = self
            .node
            .control
            .get(&Role::Function)
            .filter(|_| !switches.is_empty())
        else {
            return Ok(Heartbeat::silent());
        };
        let channel = Channel::sending_from(*own.ip(), identity)
            .map_err(|e| Failure::bind("the heartbeat", own.ip(), &e))?;
        Ok(Heartbeat::new(
            channel,
            switches,
            self.config.detect.heartbeat,
        ))
    }

    fn identity(&self, role: Role) -> Identity {
        Identity::new(self.config, &self.node.name, role, self.incarnation)
    }

    fn channel(&self, role: Role) -> Result<Channel, Failure> {
        let address = self.node.control.get(&role);
        let address = *address.expect("a checked node has an address for this role");
        self.channel_at(role, address, self.identity(role))
    }

    fn channel_at(
        &self,
        role: Role,
        address: SocketAddrV4,
        identity: Identity,
    ) -> Result<Channel, Failure> {
        let mut channel = Channel::bind(address, identity)
            .map_err(|e| Failure::bind(&format!("the {role}"), address, &e))?;
        if role == Role::Replica {
            channel.lose(self.config.io.lose_one_in);
        }
        if self.config.io.one_by_one {
            channel.one_by_one();
        }
        Ok(channel)
    }
}

/// Runs every job on its thread. The first to fail ends them all.
fn supervise(jobs: Vec<(Role, Job)>, stop: &Stop) -> Result<(), Failure> {
    let (ended, ends) = channel();
    let mut threads: Vec<(Role, JoinHandle<()>)> = Vec::new();
    for (role, job) in jobs {
        let (ended, own_stop) = (ended.clone(), stop.clone());
        let body = move || {
            let result = job(&own_stop);
            let _ = ended.send((role, result));
        };
        let spawned = std::thread::Builder::new()
            .name(role.to_string())
            .spawn(body);
        match spawned {
            Ok(thread) => threads.push((role, thread)),
            Err(failed) => {
                stop.raise();
                return Err(Failure::running(format!("cannot start a thread: {failed}")));
            }
        }
    }
    drop(ended);
    let mut result = Ok(());
    let mut deadline = None;
    while threads.iter().any(|(_, thread)| !thread.is_finished()) {
        let patience = if stop.is_raised() { GLANCE } else { WATCH };
        if let Ok((role, Err(failure))) = ends.recv_timeout(patience) {
            error!(%role, %failure, "failed");
            result = result.and(Err(failure));
        }
        // A node works with all its roles or not at all; one that panicked ends
        // without a word.
        if threads.iter().any(|(_, thread)| thread.is_finished()) {
            stop.raise();
        }
        if stop.is_raised() {
            let deadline = *deadline.get_or_insert_with(|| Instant::now() + GRACE);
            if Instant::now() >= deadline {
                let stuck = threads.iter().filter(|(_, t)| !t.is_finished());
                let names: Vec<&str> = stuck.map(|(role, _)| role.word()).collect();
                let why = format!(
                    "did not stop in {} s: {}",
                    GRACE.as_secs(),
                    names.join(", ")
                );
                return result.and(Err(Failure::running(why)));
            }
        }
    }
    for (role, thread) in threads {
        if thread.join().is_err() {
            stop.raise();
            result = result.and(Err(Failure::running(format!("the {role} panicked"))));
        }
    }
    for (role, end) in ends.try_iter() {
        if let Err(failure) = end {
            error!(%role, %failure, "failed");
            result = result.and(Err(failure));
        }
    }
    result
}

/// Raises `stop` at SIGTERM or SIGINT; a second signal ends the process at once.
pub fn stop_at_signals(stop: &Stop) -> Result<(), Failure> {
    let failed = |error: io::Error| Failure::running(format!("signals: {error}"));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(failed)?;
    let stop = stop.clone();
    let (ready, registered) = channel();
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            runtime.block_on(async move {
                use tokio::signal::unix::{SignalKind, signal};
                let both = signal(SignalKind::terminate())
                    .and_then(|term| Ok((term, signal(SignalKind::interrupt())?)));
                let (mut term, mut int) = match both {
                    Ok(both) => {
                        let _ = ready.send(Ok(()));
                        both
                    }
                    Err(error) => {
                        let _ = ready.send(Err(error));
                        return;
                    }
                };
                tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
                info!("asked to stop");
                stop.raise();
                tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
                std::process::exit(130);
            });
        })
        .map_err(failed)?;
    registered.recv().unwrap_or(Ok(())).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A role that works until it is asked to stop.
    fn patient() -> Job {
        Box::new(|stop| {
            while !stop.is_raised() {
                std::thread::sleep(Duration::from_millis(1));
            }
            Ok(())
        })
    }

    #[test]
    fn a_role_that_fails_ends_the_node_with_its_reason() {
        let failing: Job = Box::new(|_| Err(Failure::missing("no interface", "plug it in")));
        let jobs = vec![(Role::Switch, patient()), (Role::Function, failing)];
        let failure = supervise(jobs, &Stop::default()).expect_err("a role failed");
        assert_eq!(
            (failure.exit_code(), failure.help()),
            (3, Some("plug it in"))
        );
    }

    #[test]
    fn a_panic_in_a_role_is_a_failure_while_running() {
        let panicking: Job = Box::new(|_| panic!("as the test wants it"));
        let jobs = vec![(Role::Replica, panicking), (Role::Switch, patient())];
        let failure = supervise(jobs, &Stop::default()).expect_err("a role panicked");
        assert_eq!(failure.to_string(), "the replica panicked");
        assert_eq!(failure.exit_code(), 1);
    }

    #[test]
    fn asked_to_stop_all_roles_end_well() {
        let stop = Stop::default();
        stop.raise();
        assert!(
            supervise(
                vec![(Role::Switch, patient()), (Role::Replica, patient())],
                &stop
            )
            .is_ok()
        );
    }
}
