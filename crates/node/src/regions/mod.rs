//! Regions in use: state that lies in memory shared with others.
//!
//! * [`share`]: a replica lets others on its machine read tables of its store in place
//! * [`local`]: a function reads them there
//! * [`copies`]: the role that copies regions between machines

pub mod copies;
pub mod local;
pub mod share;

use stateplane_region::{Host, HostError, Name};

use crate::config::Regions;
use crate::failure::Failure;

/// The region in which the replica called `node` shares its tables.
pub fn tables_of(cluster: &str, node: &str) -> Option<Name> {
    format!("/{cluster}/{node}/{TABLES}").parse().ok()
}

/// The last part of the name of a region of tables.
const TABLES: &str = "tables";

/// The regions of this machine.
fn host(regions: &Regions) -> Result<Host, Failure> {
    Host::connect(&regions.dir).map_err(missing)
}

fn missing(error: HostError) -> Failure {
    let help = match &error {
        HostError::NoBroker { dir, .. } => format!(
            "`stateplane region broker --dir {}` serves the regions of a machine; \
             `regions.dir` names its directory",
            dir.display()
        ),
        _ => String::new(),
    };
    Failure::missing(error, help)
}
