//! Mappings asked for by the packets of a burst.
//!
//! ```text
//! nat.bind@2      0         16   17      20       26        32
//!   arguments     | owner   |prot| rsv 3 | inside | outside | ...    the last 16 bytes repeated,
//!                                                                   at most 64 times
//!   reply         0         8    9       10        16        24
//!                 | now     |code| class | outside | expires | ...   the last 16 bytes for each
//! ```
//!
//! `code` is 0, or a refusal's; then the rest is zero. The highest bit of `class` says that the
//! mapping was made just now.

use alloc::vec::Vec;

use stateplane_base::LogTime;
use stateplane_flow::{Endpoint, Protocol};
use stateplane_state::op::{Item, OK};
use stateplane_state::{ProcedureId, Refusal};
use zerocopy::byteorder::network_endian::U64;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{Class, Operation, Owner, WireEndpoint, WireOwner};

/// Most bindings of one [`Bind`]: request and reply fit a datagram.
pub const MAX_BINDINGS: usize = 64;

/// In an answer's class: the mapping is new.
const MADE: u8 = 1 << 7;

/// Bindings, each answered by itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Bind {
    /// Who proposes; must own the blocks of the outside endpoints.
    pub owner: Owner,
    /// At most [`MAX_BINDINGS`].
    pub bindings: Vec<Binding>,
}

/// Makes the proposed mapping, unless the inside endpoint has one: then that one is the answer,
/// whoever asks, and it is kept alive as by traffic that opens a flow.
///
/// The store does not know what the instance let out before the answer. If packets left with the
/// proposed endpoint and another was bound, or none, the proposed port must rest in the instance for
/// as long as the store lets ports rest, or answers could reach whom the port serves next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Binding {
    /// The protocol.
    pub protocol: Protocol,
    /// Whose packet it was.
    pub inside: Endpoint,
    /// The endpoint proposed for it.
    pub outside: Endpoint,
}

/// The mapping that an inside endpoint has now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bound {
    /// The time of the answer.
    pub now: LogTime,
    /// The traffic that last set `expires`.
    pub class: Class,
    /// The endpoint the NAT lends it.
    pub outside: Endpoint,
    /// When the mapping ends if nobody refreshes it.
    pub expires: LogTime,
    /// Whether it is the one proposed just now.
    pub made: bool,
}

/// What became of each binding, in the order asked.
pub type Bindings = Vec<Result<Bound, Refusal>>;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
pub(crate) struct WireBinding {
    protocol: u8,
    reserved: [u8; 3],
    inside: WireEndpoint,
    outside: WireEndpoint,
}

impl WireBinding {
    fn of(binding: &Binding) -> Self {
        Self {
            protocol: binding.protocol.number(),
            reserved: [0; 3],
            inside: binding.inside.into(),
            outside: binding.outside.into(),
        }
    }

    /// `None` if there is no such protocol.
    pub(crate) fn decode(&self) -> Option<Binding> {
        Some(Binding {
            protocol: Protocol::from_number(self.protocol)?,
            inside: self.inside.into(),
            outside: self.outside.into(),
        })
    }
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct WireBound {
    code: u8,
    class: u8,
    outside: WireEndpoint,
    expires: U64,
}

impl WireBound {
    fn of(answer: &Result<Bound, Refusal>) -> Self {
        match answer {
            Ok(bound) => Self {
                code: OK,
                class: bound.class as u8 | if bound.made { MADE } else { 0 },
                outside: bound.outside.into(),
                expires: bound.expires.as_nanos().into(),
            },
            Err(refusal) => Self {
                code: refusal.code(),
                ..Self::new_zeroed()
            },
        }
    }

    fn decode(&self, now: LogTime) -> Option<Result<Bound, Refusal>> {
        if self.code != OK {
            return Refusal::from_code(self.code).map(Err);
        }
        Some(Ok(Bound {
            now,
            class: Class::from_number(self.class & !MADE)?,
            outside: self.outside.into(),
            expires: LogTime::from_nanos(self.expires.get()),
            made: self.class & MADE != 0,
        }))
    }
}

/// The head of a reply, and its answers.
fn split(body: &[u8]) -> Option<(LogTime, &[WireBound])> {
    let (now, rest) = body.split_first_chunk::<8>()?;
    let now = LogTime::from_nanos(u64::from_be_bytes(*now));
    Some((now, <[WireBound]>::ref_from_bytes(rest).ok()?))
}

impl Bind {
    /// Reads the arguments: the owner, and bindings yet to be decoded.
    pub(crate) fn from_arguments(bytes: &[u8]) -> Option<(Owner, &[WireBinding])> {
        let (owner, rest) = WireOwner::ref_from_prefix(bytes).ok()?;
        let bindings = <[WireBinding]>::ref_from_bytes(rest).ok()?;
        (bindings.len() <= MAX_BINDINGS).then(|| ((*owner).into(), bindings))
    }

    /// Begins a reply.
    pub(crate) fn write_time(now: LogTime, out: &mut Vec<u8>) {
        out.extend_from_slice(&now.as_nanos().to_be_bytes());
    }

    /// Appends one binding's answer to a reply.
    pub(crate) fn write_answer(answer: &Result<Bound, Refusal>, out: &mut Vec<u8>) {
        out.extend_from_slice(WireBound::of(answer).as_bytes());
    }
}

impl Operation for Bind {
    const PROCEDURE: ProcedureId = super::BIND;
    type Reply = Bindings;

    fn arguments(&self, out: &mut Vec<u8>) {
        Binding::common(&self.owner, out);
        self.bindings.iter().for_each(|binding| binding.write(out));
    }

    fn read(body: &[u8]) -> Option<Bindings> {
        let (now, answers) = split(body)?;
        answers.iter().map(|answer| answer.decode(now)).collect()
    }
}

impl Item for Binding {
    const PROCEDURE: ProcedureId = super::BIND;
    const MOST: usize = MAX_BINDINGS;
    type Common = Owner;
    type Answer = Bound;

    fn common(owner: &Owner, out: &mut Vec<u8>) {
        out.extend_from_slice(WireOwner::from(*owner).as_bytes());
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(WireBinding::of(self).as_bytes());
    }

    fn answer(body: &[u8], at: usize) -> Option<Result<Bound, Refusal>> {
        let (now, answers) = split(body)?;
        answers.get(at)?.decode(now)
    }
}
