//! Packets of the ordered unreliable multicast (NOPaxos, section 4).
//!
//! A request and the ordered message it becomes have one layout, so that a sequencer
//! stamps *in place* and changes no length. All fields are big-endian; "from" is the
//! number of the sequencer, 0 in a request.
//!
//! ```text
//!   0      2     3      4       5      6            8                          16
//!  +------+-----+------+-------+------+------------+---------------------------+
//!  | "SO" | ver | kind | groups| from | reply port | outer tag                 |
//!  +------+-----+------+-------+------+------------+---------------------------+
//!  | formation                                     | session                   |  16
//!  | reply address (IPv6, or IPv4-mapped)                                      |  32
//!  | log time                                      | sequence number 0         |  48
//!  | sequence number 1                             | sequence number 2         |  64
//!  | sequence number 3                             | inner tag                 |  80
//!  | client                                        | counter                   |  96
//!  | group 0  | group 1  | group 2  | group 3      | done below                | 112
//!  +-----------------------------------------------+---------------------------+
//!  | operations: id 8 | length 2 | bytes, up to the end ...                    | 128
//!  +---------------------------------------------------------------------------+
//!
//!  request   outer tag over  88..112 (inner tag, client, counter) and 2..8
//!  ordered   outer tag over  16..56+8*groups (the stamps), 88..96 (inner tag) and 2..8
//!  both      inner tag over  96..end (client, counter, groups, what is asked)
//! ```
//!
//! * The client writes the inner tag, over what no sequencer changes. A sequencer does not
//!   look at it: it verifies the *outer* tag and renews it, which costs the same for every
//!   length of request. Replicas verify both. A message whose outer tag is right and whose
//!   inner tag is wrong counts as lost: its number becomes a drop notification.
//! * What a request carries in place of the stamps, and as reply address and port, is
//!   ignored and overwritten.
//! * A request's (client, counter) never repeats, so sequencers refuse replays. Ordered
//!   messages need no counter: (session, sequence number) names each, and a second copy
//!   falls on a slot already filled.
//! * The three tags have keys of their own, derived from the cluster's key and number; a
//!   tag of one use is worth nothing in another, or in another cluster.
//! * The outer tag of an ordered message starts with what is constant during a session, and
//!   ends in the bytes that fit into SipHash's last block: an XDP program absorbs the
//!   former once a session and the latter for nothing.

mod packet;
mod sip;
mod stamps;
#[cfg(test)]
mod tests;

pub use packet::{
    Ask, HEADER_LEN, Keys, Kind, MAGIC, OpenError, VERSION, client_id, kind, life_of, open_ordered,
    open_request, read_request, seal_request, sender_of, stamp,
};
pub use sip::SipState;
pub use stamps::{GroupId, Groups, MAX_STAMPS, Stamp, Stamps};
