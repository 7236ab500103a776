//! The course of a run: the group forms, clients ask, faults strike one after the other,
//! and after each everything is read back and judged.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use stateplane_base::Time;
use stateplane_host::clock;
use stateplane_node::config::Config;

use super::config::{self, Cast};
use super::fault::{Fault, Who};
use super::judge::{self, judge};
use super::load::{Entry, Habits, Load};
use super::network::Network;
use super::options::StoreArgs;
use super::report::{Case, Moment, Report};
use crate::lab::nodes::Nodes;
use crate::lab::patience::Patience;
use crate::lab::scenario::Interrupted;
use crate::lab::view::Watcher;

/// How long a group may take to form, or a node to be ready again.
const READY_LIMIT: Duration = Duration::from_secs(20);
/// How long faults last that are mended.
const LASTS: Duration = Duration::from_secs(1);
/// A supervisor starts again what died; ours waits this long.
const RESTART_AFTER: Duration = Duration::from_millis(700);
/// Shorter than any time-out of the group.
const BLINK: Duration = Duration::from_millis(20);
/// Power comes back.
const DARK: Duration = Duration::from_millis(300);
const FRAME: Duration = Duration::from_millis(20);

/// Everything that runs. Dropped in this order: processes before cables.
pub(super) struct Stage<'a> {
    args: &'a StoreArgs,
    watcher: &'a mut dyn Watcher,
    stop: &'a AtomicBool,
    cast: Cast,
    nodes: Nodes,
    load: Load,
    network: Network,
    dir: &'a Path,
    /// Spaces of objects that were used.
    space: u64,
    /// What is done to mend the present fault.
    moments: Vec<Moment>,
}

impl<'a> Stage<'a> {
    pub(super) fn set(
        args: &'a StoreArgs,
        dir: &'a Path,
        watcher: &'a mut dyn Watcher,
        stop: &'a AtomicBool,
    ) -> Result<Self> {
        let cast = Cast::new(args.replicas);
        watcher.say("building the network");
        let network = Network::build(&cast.machines())?;
        let file = dir.join("lab.toml");
        std::fs::write(&file, config::render(&cast, args.durable, dir))?;
        let (config, _) = Config::load(&file).context("the lab's own configuration")?;
        let mut nodes = Nodes::new(dir, file, cast.replicas.clone());
        for name in cast.nodes() {
            nodes.start_one(name, network.namespace(name))?;
        }
        watcher.say(&format!("starting {}", nodes.names().join(" ")));
        nodes.wait_ready(READY_LIMIT, || check(stop))?;
        let habits = Habits {
            clients: args.clients,
            pipeline: args.pipeline,
            think: Duration::from_millis(args.think_ms),
        };
        let machines = cast.clients.iter().map(|c| (c, network.namespace(c)));
        let load = Load::start(&config, machines, habits)?;
        Ok(Self {
            args,
            watcher,
            stop,
            cast,
            nodes,
            load,
            network,
            dir,
            space: 0,
            moments: Vec::new(),
        })
    }

    /// Plays all faults; an undisturbed stretch first.
    pub(super) fn play(mut self) -> Result<Report> {
        let began = Instant::now();
        let mut report = Report::new(self.args);
        let faults = self.args.faults();
        let all = faults.len();
        report.cases.push(self.case(None)?);
        for (n, fault) in faults.into_iter().enumerate() {
            if let Some(why) = self.cannot(fault) {
                self.watcher.say(&format!("skipped: {fault}: {why}"));
                report.skip(fault, why);
                continue;
            }
            match self.case(Some(fault)) {
                Ok(case) => {
                    let (n, told) = (n + 1, case.line());
                    self.watcher.say(&format!("[{n}/{all}] {told}"));
                    report.cases.push(case);
                }
                Err(error) if error.is::<Interrupted>() => return Err(error),
                // The group does not serve any more: that, too, is a result.
                Err(error) => {
                    self.watcher.say(&format!("{fault}: {error:#}"));
                    report.broken = Some(format!("{fault}: {error:#}"));
                    break;
                }
            }
        }
        report.states = self.nodes.states();
        report.duration = began.elapsed();
        if let Err(error) = self.load.finish() {
            let known = report.broken.take().unwrap_or_default();
            report.broken = Some(format!("{known}\nclients: {error:#}"));
        }
        self.nodes.stop();
        Ok(report)
    }

    /// Why this fault cannot be played here, if it cannot.
    fn cannot(&mut self, fault: Fault) -> Option<String> {
        match fault {
            Fault::KillAll if !self.args.durable => {
                Some("a group without --durable forgets when all of it dies".to_owned())
            }
            Fault::Rough(weather) => {
                let tried = self.network.roughen(weather).err();
                let healed = self.network.heal().err();
                let why = tried.or(healed)?;
                Some(format!("{why:#}"))
            }
            _ => None,
        }
    }

    /// One fault under load, from the first operation to the verdict.
    fn case(&mut self, fault: Option<Fault>) -> Result<Case> {
        let pace = Duration::from_secs_f64(self.args.pace.clamp(0.1, 600.0));
        self.space += 1;
        self.moments.clear();
        let began = clock::now();
        self.load.work(self.space)?;
        self.pause(pace)?;
        let mut struck = None;
        if let Some(fault) = fault {
            let (whom, at) = self.strike(fault)?;
            struck = Some((fault, whom, at));
            self.await_ready()?;
            self.pause(pace)?;
        }
        let ended = clock::now();
        let mut entries: Vec<Entry> = Vec::new();
        let mut late = Duration::ZERO;
        for delivery in self.load.rest()? {
            late = late.max(delivery.late);
            entries.extend(delivery.entries);
        }
        let back = self.load.read_back(self.space)?;
        let mut records: Vec<_> = entries.iter().chain(&back.entries).collect();
        records.sort_by_key(|e| e.record.invoked);
        let mut history: Vec<_> = records.into_iter().map(|e| e.record.clone()).collect();
        if let Some(what) = self.args.falsify {
            let falsified = judge::falsify(&history, what);
            (_, history) = falsified.context("the history has nothing that could be falsified")?;
        }
        let judgement = judge(&history);
        let name = fault.map_or_else(|| "undisturbed".to_owned(), |f| f.to_string());
        if self.args.keep || !judgement.wrong.is_empty() || judgement.undecided > 0 {
            let text: String = history.iter().map(|r| format!("{r:?}\n")).collect();
            let file = self.dir.join(format!("history-{}-{name}.txt", self.space));
            std::fs::write(file, text)?;
        }
        let mut case = Case::new(struck, (began, ended), &entries, late, judgement);
        case.moments = std::mem::take(&mut self.moments);
        Ok(case)
    }

    /// Has the fault strike, and mends it; whom it struck when.
    fn strike(&mut self, fault: Fault) -> Result<(Vec<String>, Time)> {
        let whom = match fault {
            Fault::Kill(who)
            | Fault::Restart(who)
            | Fault::Blink(who)
            | Fault::Pause(who)
            | Fault::Cut(who, _) => vec![self.find(who)?],
            Fault::KillBoth | Fault::Between => {
                vec![self.find(Who::Leader)?, self.find(Who::Sequencer)?]
            }
            Fault::KillAll => self.cast.nodes().cloned().collect(),
            Fault::Rough(_) => Vec::new(),
        };
        let at = clock::now();
        self.mark(at, &format!("{fault} {}", whom.join(" ")));
        match fault {
            Fault::Kill(_) | Fault::KillBoth => self.kill(&whom, RESTART_AFTER)?,
            Fault::KillAll => self.kill(&whom, DARK)?,
            Fault::Restart(_) => {
                self.nodes.end(&whom[0])?;
                self.start(&whom[0])?;
            }
            Fault::Blink(_) => self.freeze(&whom[0], BLINK)?,
            Fault::Pause(_) => self.freeze(&whom[0], LASTS)?,
            Fault::Cut(_, way) => self.network.cut(&whom[0], &[], way)?,
            Fault::Between => {
                let way = super::network::Way::Both;
                self.network.cut(&whom[0], &[&whom[1]], way)?;
            }
            Fault::Rough(weather) => self.network.roughen(weather)?,
        }
        if matches!(fault, Fault::Cut(..) | Fault::Between | Fault::Rough(_)) {
            self.pause(LASTS)?;
            self.network.heal()?;
            self.mark(clock::now(), "the network is whole again");
        }
        Ok((whom, at))
    }

    fn find(&self, who: Who) -> Result<String> {
        let mut patience = Patience::begin(READY_LIMIT, &self.nodes);
        loop {
            let found = match who {
                Who::Leader => self.nodes.leader(),
                Who::Replica => self.nodes.follower(),
                Who::Sequencer => self.sequencer(),
            };
            if let Some(name) = found {
                return Ok(name);
            }
            if patience.is_over(&self.nodes) {
                bail!("there is no {} to strike", who.word());
            }
            check(self.stop)?;
            std::thread::sleep(FRAME);
        }
    }

    /// The sequencer in force.
    fn sequencer(&self) -> Option<String> {
        let serves = |name: &&String| {
            let status = self.nodes.ask(name, "/v1/status").unwrap_or_default();
            let said = &status["sequencer"];
            said["session"].as_u64() > Some(0) && said["stands_by"] == false
        };
        self.cast.sequencers.iter().find(serves).cloned()
    }

    fn kill(&mut self, names: &[String], dark: Duration) -> Result<()> {
        for name in names {
            self.nodes.signal(name, Signal::KILL)?;
        }
        for name in names {
            self.nodes.kill(name, || ())?;
        }
        self.pause(dark)?;
        names.iter().try_for_each(|name| self.start(name))
    }

    fn start(&mut self, name: &str) -> Result<()> {
        self.mark(clock::now(), &format!("{name} starts again"));
        self.nodes.start_one(name, self.network.namespace(name))
    }

    fn freeze(&mut self, name: &str, span: Duration) -> Result<()> {
        self.nodes.signal(name, Signal::STOP)?;
        let until = Instant::now() + span;
        // A pause as short as a blink must not wait for anything else.
        while until.saturating_duration_since(Instant::now()) > FRAME {
            self.pause(FRAME)?;
        }
        std::thread::sleep(until.saturating_duration_since(Instant::now()));
        self.nodes.signal(name, Signal::CONT)?;
        self.mark(clock::now(), &format!("{name} goes on"));
        Ok(())
    }

    fn mark(&mut self, at: Time, what: &str) {
        let what = what.trim_end().to_owned();
        self.watcher.say(&what);
        self.moments.push(Moment { at, what });
    }

    /// Lets `span` pass.
    fn pause(&mut self, span: Duration) -> Result<()> {
        let until = Instant::now() + span;
        loop {
            check(self.stop)?;
            if let Some(name) = self.nodes.first_dead()? {
                bail!("{}", self.last_words(&name));
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(FRAME));
        }
    }

    fn last_words(&self, name: &str) -> String {
        format!(
            "node {name} ended by itself:\n{}",
            self.nodes.log_tail(name)
        )
    }

    /// Everybody serves again, and clients get answers.
    fn await_ready(&mut self) -> Result<()> {
        let stop = self.stop;
        self.nodes.wait_ready(READY_LIMIT, || check(stop))?;
        let before = self.load.completed();
        let mut patience = Patience::begin(READY_LIMIT, &self.nodes);
        while self.load.completed() == before {
            if patience.is_over(&self.nodes) {
                bail!("all nodes are ready, and no client gets an answer");
            }
            self.pause(FRAME)?;
        }
        Ok(())
    }
}

fn check(stop: &AtomicBool) -> Result<()> {
    if stop.load(Ordering::Relaxed) {
        return Err(Interrupted.into());
    }
    Ok(())
}
