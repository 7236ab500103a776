//! A replica's tables, for others on its machine to read in place.
//!
//! The replica's thread only notes what changes and when it is final ([`Settled`]); a thread of its
//! own writes the region. To write a row costs two or three cache misses, and to publish a copy
//! that was made anew tens of milliseconds: neither may hold the replica up.

use std::mem;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use serde::Serialize;
use stateplane_base::Blob;
use stateplane_committed::{Publication, Shared, View};
use stateplane_group::Progress;
use stateplane_region::Name;
use stateplane_state::Store;
use stateplane_state::settled::{Image, Position, Settled};
use tracing::{error, info};

use crate::config::{Config, Regions};
use crate::failure::Failure;

/// Rows taken in one turn while a copy is being made.
const ROWS: usize = 1024;
/// Batches on their way to the writing thread.
const BATCHES: usize = 64;
/// Steps that wait for room on that way; beyond these the copy is made anew, later.
const MOST: usize = 1 << 19;
/// Steps handed over although nothing is to be shown yet.
const MANY: usize = 4096;

/// What a replica publishes about its shared tables.
#[derive(Clone, Debug, Default, Serialize)]
pub struct SharedStatus {
    /// The region they are in.
    pub region: String,
    /// What is shown includes all operations up to this slot.
    pub slot: u64,
    /// Its time, nanoseconds since 1970.
    pub log_time_ns: u64,
    /// Changes that wait until they are final.
    pub held: u64,
    /// How often a copy was begun.
    pub begun: u64,
    /// A copy is being made.
    pub copying: bool,
    /// Versions published.
    pub published: u64,
    /// Another process writes the region.
    pub fenced: bool,
    /// The tables.
    pub tables: Vec<SharedTableStatus>,
}

/// One shared table.
#[derive(Clone, Debug, Default, Serialize)]
pub struct SharedTableStatus {
    /// Its name.
    pub name: String,
    /// Rows in the region.
    pub rows: u64,
    /// Rows there is room for.
    pub max_rows: u64,
    /// Rows that did not fit: too many of them, or too long.
    pub left_out: u64,
}

/// Most rows fit in place.
type Key = Blob<22>;
type Value = Blob<46>;

/// A step of the copy.
#[derive(Debug)]
enum Step {
    Begin,
    Put(u16, Key, Value),
    Remove(u16, Key),
    Clear(u16),
    Show(Position, View),
}

/// Steps to be sent, as the copy they lead to.
#[derive(Debug, Default)]
struct Steps {
    all: Vec<Step>,
    view: View,
}

impl Image for Steps {
    fn begin(&mut self) {
        self.all.push(Step::Begin);
    }
    fn put(&mut self, table: usize, key: &[u8], value: &[u8]) {
        self.all
            .push(Step::Put(table as u16, key.into(), value.into()));
    }
    fn remove(&mut self, table: usize, key: &[u8]) {
        self.all.push(Step::Remove(table as u16, key.into()));
    }
    fn clear(&mut self, table: usize) {
        self.all.push(Step::Clear(table as u16));
    }
    fn show(&mut self, at: Position) {
        self.all.push(Step::Show(at, self.view));
    }
}

/// The replica's end.
#[derive(Debug)]
pub(crate) struct Share {
    settled: Settled,
    steps: Steps,
    /// There was no room for the steps.
    waits: bool,
    names: Vec<String>,
    /// None: the writing thread has ended.
    to: Option<SyncSender<Vec<Step>>>,
    writer: Option<JoinHandle<()>>,
    status: Arc<Mutex<SharedStatus>>,
}

impl Share {
    /// Shares the configured tables of `store`, if there are any.
    pub(crate) fn new(
        config: &Config,
        node: &str,
        store: &mut Store,
    ) -> Result<Option<Self>, Failure> {
        let Some(regions) = config.regions.as_ref().filter(|r| !r.tables.is_empty()) else {
            return Ok(None);
        };
        let names: Vec<&str> = regions.tables.iter().map(|t| t.name.as_str()).collect();
        let known = store.summary();
        store.share(&names).map_err(|name| {
            let known: Vec<&str> = known.iter().map(|table| table.name).collect();
            Failure::Usage(format!(
                "regions.tables: the store has no table \"{name}\"; it has: {}",
                known.join(", ")
            ))
        })?;
        let (name, publication) = publication(config, regions, node)?;
        let status = SharedStatus {
            region: name.to_string(),
            ..SharedStatus::default()
        };
        let status = Arc::new(Mutex::new(status));
        let (to, steps) = sync_channel(BATCHES);
        let (seen, tables) = (Arc::clone(&status), regions.tables.clone());
        let writer = thread::Builder::new()
            .name("tables".to_owned())
            .spawn(move || {
                let rooms = tables.iter().map(|t| (t.name.clone(), t.rows)).collect();
                Scribe {
                    publication,
                    rooms,
                    status: seen,
                }
                .run(&steps);
            })
            .map_err(|error| Failure::running(format!("cannot start a thread: {error}")))?;
        info!(region = %name, tables = names.join(", "), "shares tables");
        Ok(Some(Self {
            settled: Settled::default(),
            steps: Steps::default(),
            waits: false,
            names: names.into_iter().map(str::to_owned).collect(),
            to: Some(to),
            writer: Some(writer),
            status,
        }))
    }

    /// Hands on what became final. After what was sent and written in this turn: nobody may see
    /// what a disk might still lose.
    pub(crate) fn turn(&mut self, store: &mut Store, progress: Progress) {
        if self.to.is_none() {
            return;
        }
        self.steps.view = View {
            formation: progress.formation,
            view: progress.view,
        };
        let executed = Position {
            slot: progress.executed,
            time: progress.log_time,
        };
        let (settled, steps) = (&mut self.settled, &mut self.steps);
        let new = settled.turn(store, executed, progress.commit, ROWS, steps);
        if new || self.waits || self.steps.all.len() >= MANY {
            self.hand_over(store);
        }
    }

    fn hand_over(&mut self, store: &mut Store) {
        let Some(to) = &self.to else { return };
        self.waits = false;
        match to.try_send(mem::take(&mut self.steps.all)) {
            Ok(()) => {}
            Err(TrySendError::Full(steps)) if steps.len() < MOST => {
                (self.steps.all, self.waits) = (steps, true);
            }
            Err(TrySendError::Full(_)) => {
                // The other thread does not keep up: what it lacks is gone, so from the beginning.
                let names: Vec<&str> = self.names.iter().map(String::as_str).collect();
                let again = store.share(&names);
                debug_assert!(again.is_ok(), "they were shared before");
            }
            Err(TrySendError::Disconnected(_)) => self.to = None,
        }
    }

    /// Whether another turn should come soon.
    pub(crate) fn is_busy(&self) -> bool {
        self.to.is_some() && (self.settled.is_taking() || self.waits)
    }

    /// What there is to say about it.
    pub(crate) fn status(&self) -> SharedStatus {
        SharedStatus {
            held: self.settled.held() as u64,
            begun: self.settled.begun(),
            copying: self.settled.is_taking(),
            ..lock(&self.status).clone()
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.to = None;
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

/// The region, of which this process becomes the writer: a former one has ended, or must.
fn publication(
    config: &Config,
    regions: &Regions,
    node: &str,
) -> Result<(Name, Publication), Failure> {
    let tables: Vec<Shared<'_>> = regions
        .tables
        .iter()
        .map(|table| Shared {
            name: &table.name,
            rows: table.rows,
            key_bytes: table.key_bytes,
            value_bytes: table.value_bytes,
        })
        .collect();
    let unfit = |error| Failure::Usage(format!("regions.tables: {error}"));
    let spec = Publication::spec(&tables).map_err(unfit)?;
    let name = super::tables_of(&config.cluster.name, node);
    let name = name.ok_or_else(|| Failure::Usage("regions: no region can be named so".into()))?;
    let host = super::host(regions)?;
    let region = super::take_over(&host, &name, &spec);
    let region = region.map_err(super::missing)?;
    let publication = Publication::new(region, &tables).map_err(unfit)?;
    Ok((name, publication))
}

/// The writing thread.
struct Scribe {
    publication: Publication,
    /// Names of the tables, and rows there is room for.
    rooms: Vec<(String, usize)>,
    status: Arc<Mutex<SharedStatus>>,
}

impl Scribe {
    fn run(mut self, steps: &Receiver<Vec<Step>>) {
        while let Ok(batch) = steps.recv() {
            self.take(batch);
            if let Some(fenced) = self.publication.fenced() {
                error!(%fenced, "tables are not shared any more");
                lock(&self.status).fenced = true;
                return;
            }
        }
    }

    /// Takes the steps. Of several positions only the last is worth a version.
    fn take(&mut self, batch: Vec<Step>) {
        let last = batch
            .iter()
            .rposition(|step| matches!(step, Step::Show(..)));
        for (index, step) in batch.into_iter().enumerate() {
            let copy = &mut self.publication;
            match step {
                Step::Begin => copy.begin(),
                Step::Put(table, key, value) => copy.put(table.into(), &key, &value),
                Step::Remove(table, key) => copy.remove(table.into(), &key),
                Step::Clear(table) => copy.clear(table.into()),
                Step::Show(at, view) if last == Some(index) => self.show(at, view),
                Step::Show(..) => {}
            }
        }
    }

    fn show(&mut self, at: Position, view: View) {
        self.publication.seen_in(view);
        self.publication.show(at);
        let tables = (0..)
            .zip(&self.rooms)
            .map(|(table, (name, room))| SharedTableStatus {
                name: name.clone(),
                rows: self.publication.rows(table) as u64,
                max_rows: *room as u64,
                left_out: self.publication.left_out(table),
            });
        let tables = tables.collect();
        let mut status = lock(&self.status);
        status.slot = at.slot;
        status.log_time_ns = at.time.as_nanos();
        status.published = self.publication.tally().published;
        status.tables = tables;
    }
}

fn lock(status: &Mutex<SharedStatus>) -> std::sync::MutexGuard<'_, SharedStatus> {
    status.lock().unwrap_or_else(PoisonError::into_inner)
}
