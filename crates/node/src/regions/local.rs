//! The store's committed tables on this machine, for a function.
//!
//! A thread finds the region of a replica on this machine, and finds it again when it has another
//! writer; the packet loop never waits for that.

use std::cell::RefCell;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::Duration;

use stateplane_committed::{Committed, Found};
use stateplane_functions::local::{LocalRow, LocalTables};
use stateplane_region::{Host, Name, ReadError};
use stateplane_state::settled::TableName;
use tracing::{info, warn};

use crate::config::Config;
use crate::failure::Failure;
use crate::stop::Stop;

/// How often it is looked for.
const LOOK: Duration = Duration::from_millis(100);

/// The tables, as soon as they are there.
#[derive(Debug)]
pub struct Local {
    found: Receiver<Committed>,
    tables: RefCell<Option<Committed>>,
}

impl Local {
    /// Looks for tables of a replica on this machine, if the file says that they are shared.
    pub fn new(config: &Config, stop: &Stop) -> Result<Option<Self>, Failure> {
        let Some(regions) = config.regions.as_ref().filter(|r| !r.tables.is_empty()) else {
            return Ok(None);
        };
        let host = super::host(regions)?;
        let names = config
            .nodes
            .values()
            .filter(|node| node.is(crate::config::Role::Replica));
        let names: Vec<Name> = names
            .filter_map(|node| super::tables_of(&config.cluster.name, &node.name))
            .collect();
        let (to, found) = sync_channel(1);
        let stop = stop.clone();
        thread::Builder::new()
            .name("local-tables".to_owned())
            .spawn(move || search(&host, &names, &to, &stop))
            .map_err(|error| Failure::running(format!("cannot start a thread: {error}")))?;
        Ok(Some(Self {
            found,
            tables: RefCell::default(),
        }))
    }
}

impl LocalTables for Local {
    fn get(&self, table: TableName, key: &[u8], value: &mut [u8]) -> Option<LocalRow> {
        let mut tables = self.tables.borrow_mut();
        if let Ok(found) = self.found.try_recv() {
            *tables = Some(found);
        }
        let known = tables.as_ref()?;
        let answer = known.get(known.table_of(table)?, key, value);
        if let Err(ReadError::Superseded { .. }) = answer {
            // Of a writer that is replaced: the thread brings the next one's.
            *tables = None;
        }
        let answer = answer.ok()?;
        let Found::Value(len) = answer.found else {
            return None;
        };
        let at = answer.at.time;
        (len <= value.len()).then_some(LocalRow { len, at })
    }
}

/// Finds the region as often as it must be found.
fn search(host: &Host, names: &[Name], to: &SyncSender<Committed>, stop: &Stop) {
    let mut current: Option<Committed> = None;
    let mut told = String::new();
    while !stop.is_raised() {
        let lost = |tables: &Committed| matches!(tables.at(), Err(ReadError::Superseded { .. }));
        if current.as_ref().is_none_or(lost) {
            current = find(host, names, &mut told);
            if let Some(found) = &current
                && let Err(TrySendError::Disconnected(_)) = to.try_send(found.clone())
            {
                return;
            }
        }
        thread::sleep(LOOK);
    }
}

fn find(host: &Host, names: &[Name], told: &mut String) -> Option<Committed> {
    for name in names {
        let Ok(reader) = host.attach(name, stateplane_committed::SCHEMA) else {
            continue;
        };
        match Committed::open(reader) {
            Ok(tables) => {
                info!(region = %name, "reads tables of the store in place");
                return Some(tables);
            }
            // Its replica is about to publish.
            Err(stateplane_committed::NotCommitted::Read(ReadError::Empty)) => {}
            Err(error) => {
                let text = format!("{name}: {error}");
                if *told != text {
                    warn!("{text}");
                    *told = text;
                }
            }
        }
    }
    None
}
