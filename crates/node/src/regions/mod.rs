//! Regions in use: state that lies in memory shared with others.
//!
//! * [`share`]: a replica lets others on its machine read tables of its store in place
//! * [`local`]: a function reads them there
//! * [`copies`]: the role that copies regions between machines
//! * [`own`]: the regions that nodes write about themselves: their names, and how they are read
//! * [`steering`]: how a switch steers; [`weights`]: what share each instance is to have, which
//!   switches agree on ([`weighing`]) and keep on their disks ([`kept`])
//! * [`running`]: which configuration each node runs; [`telemetry`]: what its roles count
//! * [`keeper`]: the thread of each node that keeps its own regions, and follows those of others

pub mod copies;
pub mod keeper;
mod kept;
pub mod local;
pub mod own;
pub mod running;
pub mod share;
pub mod steering;
pub mod telemetry;
pub(crate) mod weighing;
pub mod weights;

use stateplane_region::{Content, Host, HostError, Name, Spec, Writer};

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

/// Becomes the writer of a region of this node's own: a former one has ended, or must.
fn take_over<T: ?Sized + Content>(
    host: &Host,
    name: &Name,
    spec: &Spec,
) -> Result<Writer<T>, HostError> {
    match host.take_over(name, spec) {
        // One of another layout. Who reads it must attach again.
        Err(HostError::Memory { .. }) => {
            host.delete(name)?;
            host.take_over(name, spec)
        }
        taken => taken,
    }
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
