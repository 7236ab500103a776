//! Packets of the ordered unreliable multicast (NOPaxos, section 4).
//!
//! A request and the ordered message it becomes have one layout, so that a sequencer
//! stamps *in place* and changes no length. All fields are big-endian; "from" is the
//! number of the sequencer; "n" is how many groups it is for, in one byte.
//!
//! ```text
//!   0      2     3      4      5                       8                          16
//!  +------+-----+------+------+-----------------------+---------------------------+
//!  | "SO" | ver | kind | from | 0                     | outer tag                 |
//!  +------+-----+------+------+-----------------------+---------------------------+
//!  | formation                                        | session                   |  16
//!  | log time                                         | sequence number 0         |  32
//!  | sequence number 1                                | sequence number 2         |  48
//!  | sequence number 3                                | inner tag                 |  64
//!  | client                                           | n | counter               |  80
//!  | group 0  | group 1  | group 2  | group 3         | done below                |  96
//!  +--------------------------------------------------+---------------------------+
//!  | operations: id 8 | length 2 | bytes, up to the end ...                       | 112
//!  +------------------------------------------------------------------------------+
//!
//!  request   outer tag over  client and counter: 80..88, 89..96
//!  ordered   outer tag over  0..8 and 16..40 (who stamped, and when), 72..80 (inner tag),
//!                            48..40+8n (the other numbers) and 41..48 (the first)
//!  both      inner tag over  80..end (client, counter, groups, what is asked)
//! ```
//!
//! * The client writes the inner tag, over what no sequencer changes. A sequencer does not
//!   look at it: it verifies the *outer* tag and renews it, which costs the same for every
//!   length of request. Replicas verify both. A message whose outer tag is right and whose
//!   inner tag is wrong counts as lost: its number becomes a drop notification.
//! * What a request carries in place of the stamps is ignored and overwritten. Where replies
//!   go is not in the packet: replicas know every client's address.
//! * A request's (client, counter) never repeats, so sequencers refuse replays. Ordered
//!   messages need no counter: (session, sequence number) names each, and a second copy
//!   falls on a slot already filled.
//! * The three tags have keys of their own, derived from the cluster's key and number; a
//!   tag of one use is worth nothing in another, or in another cluster. So the outer tag of a
//!   request needs to cover no more than what makes it new: whoever could change the rest on
//!   the way could as well change the operations, and replicas refuse both.
//! * Outer tags are short because a sequencer has some fifty nanoseconds for them. That of an
//!   ordered message starts with what is constant during a session, which an XDP program
//!   absorbs once a session. Both end in a number of seven bytes ([`LAST_NUMBER`]), which
//!   SipHash's last block holds beside the length.

mod packet;
mod sip;
mod stamps;
#[cfg(test)]
mod tests;

pub use packet::{
    Ask, HEADER_LEN, Keys, Kind, MAGIC, OpenError, VERSION, client_id, head, kind, life_of,
    open_ordered, open_request, read_request, seal_request, sender_of, stamp,
};
pub use sip::SipState;
pub use stamps::{GroupId, Groups, LAST_NUMBER, MAX_STAMPS, Stamp, Stamps};
