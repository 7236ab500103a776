//! Versioned shared memory: one writer, atomic snapshots for any number of readers.
//!
//! A *region* is memory that one process writes and others on the same machine read, each
//! at its own time, always at one version. After Tasvir (Panda et al.): the writer decides
//! when its changes become visible, by calling [`check_in`](Publisher::check_in) in its
//! loop.
//!
//! ```
//! use stateplane_region::{Reader, Spec, Writer};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut weights = Writer::<[u32]>::create(&Spec::array::<u32>(1000).schema("weights-v1"))?;
//! weights.set(|w| &w[7], 500);
//! weights.publish()?;
//!
//! // In another process that was handed the file descriptor:
//! let reader = Reader::<[u32]>::open(weights.fd().try_clone_to_owned()?, "weights-v1")?;
//! let mut snapshot = reader.snapshot()?;
//! assert_eq!(snapshot[7], 500);
//!
//! weights.set(|w| &w[7], 501);
//! assert!(!reader.refresh(&mut snapshot)?, "not published yet");
//! weights.check_in()?;
//! assert!(reader.refresh(&mut snapshot)?);
//! assert_eq!((snapshot[7], snapshot.edition().version), (501, 2));
//! # Ok(())
//! # }
//! ```
//!
//! What it promises:
//!
//! * **A snapshot is of one version**, whole, whatever the writer does meanwhile, and
//!   whenever it is killed. Versions never go back.
//! * **The writer waits for nobody**: not for readers, not for a lock, not for a daemon.
//! * **A publish costs what changed**, not what the region holds: one bit for each line of
//!   64 bytes, and a list of those that changed. Safe code cannot change the contents
//!   without their being noted.
//! * **Readers cannot write**: the memory is sealed by the kernel.
//!
//! Structures that lie in a region ([`Map`], [`Ring`], [`Text`], [`Counters`]), regions of
//! many writers read as one ([`Merged`]), copies on other machines ([`sync`]) and regions
//! by name ([`Host`], [`Broker`]) build on that.
//!
//! What it does not: a version is in memory, of this machine. What must survive the
//! machine belongs into a replicated store.

mod board;
mod broker;
mod clock;
mod dirty;
mod fence;
mod host;
mod inside;
mod layout;
mod memory;
mod merge;
mod name;
mod object;
mod pace;
mod protocol;
mod publisher;
mod reader;
mod spec;
pub mod sync;
mod writer;

pub use board::MAX_REGIONS;
pub use broker::message::{Access, Entry, Refusal};
#[doc(hidden)]
pub use broker::outside;
pub use broker::{Broker, Limits};
pub use fence::Fenced;
pub use host::{Host, HostError};
pub use inside::{
    Counted, Counter, Counters, Full, How, Map, Ring, Seen, Source, Tally, Text, TooLong,
};
pub use layout::MAX_LEN;
pub use memory::LINE;
pub use merge::{Count, Distinct, Frequencies, Largest, Level, Members, Merge, Merged};
pub use name::{Name, WrongName};
pub use object::OpenError;
pub use protocol::MAX_IMAGES;
pub use publisher::{Publisher, publish_together};
pub use reader::{Edition, Part, ReadError, Reader, Snapshot, View, read_together};
pub use spec::{Content, Spec};
pub use writer::Writer;
