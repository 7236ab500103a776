//! Committed tables of a store's replica, read in place by whoever is on the same machine.
//!
//! A replica keeps a copy of some of its tables in a *region*: [`Publication`]. Functions on the
//! same machine look rows up there, [`Committed`], which takes a cache miss or two instead of a
//! round trip. What they see is final, whole operations up to one slot, and of one version; it is
//! not the newest, and says how old it is.
//!
//! Why a copy, and not the store's own tables in shared memory: those hold what is executed, which
//! on a leader is more than is final; they move when they grow; and a snapshot from a peer replaces
//! them at once. [`stateplane_state::settled`] says how the copy gets what is final alone.
//!
//! ```
//! use stateplane_base::LogTime;
//! use stateplane_committed::{Committed, Found, Publication, Shared, View};
//! use stateplane_region::{Reader, Writer};
//! use stateplane_state::settled::{Image, Position};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let tables = [Shared { name: "users", rows: 1000, key_bytes: 16, value_bytes: 40 }];
//! let region = Writer::create(&Publication::spec(&tables)?)?;
//! let fd = region.fd().try_clone_to_owned()?;
//! let mut replica = Publication::new(region, &tables)?;
//! replica.put(0, b"alice", b"online");
//! replica.seen_in(View { formation: 1, view: 4 });
//! replica.show(Position { slot: 17, time: LogTime::from_millis(5) });
//!
//! let committed = Committed::open(Reader::open(fd, "")?)?;
//! let users = committed.table("users").expect("it is shared");
//! let mut value = [0; 40];
//! let answer = committed.get(users, b"alice", &mut value)?;
//! assert_eq!(answer.found, Found::Value(6));
//! assert_eq!((&value[..6], answer.at.slot), (&b"online"[..], 17));
//! assert_eq!(committed.get(users, b"bob", &mut value)?.found, Found::Absent);
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

mod layout;
mod publication;
mod reader;

pub use layout::{MAX_KEY, MAX_TABLES, MAX_VALUE, SCHEMA, Shared, Unfit, View};
pub use publication::{Publication, Tally};
pub use reader::{Answer, Committed, Found, LocalTable, NotCommitted, TableView};
