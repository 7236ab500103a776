//! Packets: one at a time, or a burst in three passes.
//!
//! What a packet costs is mostly waiting for memory. A driver with several packets in
//! hand reads all of them first ([`Runtime::glance`]), then finds the flows of all
//! ([`Runtime::seek`]), and then sees each through ([`Runtime::proceed`]). The loops of the second
//! pass are short, so that the processor waits for the memory of several packets at once.

use core::hint::black_box;
use core::slice;

use stateplane_base::{Reason, Time};
use stateplane_flow::{FlowKey, PortId};
use stateplane_wire::checksum::finish_partial_checksum;
use stateplane_wire::eth;
use stateplane_wire::icmp_error;
use stateplane_wire::packet::{Headers, Malformed};

use super::{Disposition, FrameId, Parked, Runtime};
use crate::function::{Class, Decision, NetworkFunction};
use crate::table::{Place, Verdict};

/// What a first look at a frame gave; for [`Runtime::proceed`], before time passes.
#[derive(Clone, Copy, Debug)]
pub struct Glance(Seen);

#[derive(Clone, Copy, Debug)]
enum Seen {
    /// Nothing is left to be done.
    Done(Disposition),
    Packet {
        headers: Headers,
        flow: FlowKey,
        hash: u64,
        place: Option<Place>,
    },
}

impl Glance {
    /// The packet and its flow, if it is one and has one.
    pub(crate) const fn packet(&self) -> Option<(&Headers, &FlowKey)> {
        match &self.0 {
            Seen::Done(_) => None,
            Seen::Packet { headers, flow, .. } => Some((headers, flow)),
        }
    }
}

impl<F: NetworkFunction> Runtime<F> {
    /// A frame arrived on `port`: the first `len` bytes of `buffer`, whose whole room
    /// may be used for an answer.
    pub fn on_frame(
        &mut self,
        now: Time,
        port: PortId,
        frame: FrameId,
        buffer: &mut [u8],
        len: usize,
    ) -> Disposition {
        let mut glance = self.glance(now, port, buffer, len);
        self.seek(slice::from_mut(&mut glance));
        self.proceed(now, port, frame, buffer, &glance)
    }

    /// The first part of [`Self::on_frame`]: reads the packet.
    pub fn glance(&mut self, now: Time, port: PortId, buffer: &mut [u8], len: usize) -> Glance {
        Glance(self.look(now, port, buffer, len))
    }

    fn look(&mut self, now: Time, port: PortId, buffer: &mut [u8], len: usize) -> Seen {
        let bytes = buffer.get(..len).unwrap_or(buffer);
        let headers = match Headers::parse(bytes) {
            Ok(headers) => headers,
            Err(Malformed::EtherType(eth::ARP)) => {
                return Seen::Done(self.on_arp(port, buffer, len));
            }
            Err(Malformed::EtherType(_)) => return Seen::Done(self.drop(Reason::Unsupported)),
            Err(Malformed::Checksum) => return Seen::Done(self.drop(Reason::BadChecksum)),
            Err(_) => return Seen::Done(self.drop(Reason::Malformed)),
        };
        if self.config.finish_checksums && finish_partial_checksum(buffer, &headers) {
            self.counters.checksums_finished += 1;
        }
        let flow = match self.function.classify(now, port, &headers) {
            Class::Flow(flow) => flow,
            Class::Drop(reason) => return Seen::Done(self.drop(reason)),
            Class::Reject(error, reason) => {
                return Seen::Done(self.reject(now, port, buffer, &headers, error, reason));
            }
        };
        let hash = self.table.hash(&flow);
        Seen::Packet {
            headers,
            flow,
            hash,
            place: None,
        }
    }

    /// The second part: finds what is known of the packets' flows.
    #[inline]
    pub fn seek(&self, glances: &mut [Glance]) {
        // Nothing here waits for what another packet's line says.
        let hashes = glances.iter().filter_map(|glance| match glance.0 {
            Seen::Done(_) => None,
            Seen::Packet { hash, .. } => Some(hash),
        });
        black_box(hashes.fold(0, |lines, hash| lines ^ self.table.touch(hash)));
        let packets = glances.iter_mut().filter_map(|glance| match &mut glance.0 {
            Seen::Done(_) => None,
            Seen::Packet {
                flow, hash, place, ..
            } => Some((flow, hash, place)),
        });
        for (flow, hash, place) in packets {
            *place = self.table.find(*hash, flow);
            if let Some(token) = place.and_then(|place| self.table.token(place)) {
                self.function.anticipate(token);
            }
        }
    }

    /// The rest of [`Self::on_frame`], for the same frame.
    pub fn proceed(
        &mut self,
        now: Time,
        port: PortId,
        frame: FrameId,
        buffer: &mut [u8],
        glance: &Glance,
    ) -> Disposition {
        let (headers, flow, hash, place) = match &glance.0 {
            Seen::Done(disposition) => return *disposition,
            Seen::Packet {
                headers,
                flow,
                hash,
                place,
            } => (headers, flow, *hash, *place),
        };
        if headers.ttl <= 1 {
            let error = icmp_error::Error::TimeExceeded;
            return self.reject(now, port, buffer, headers, error, Reason::TtlExpired);
        }
        // What came before it in the burst may have made it known.
        let place = place.or_else(|| self.table.find(hash, flow));
        match place.and_then(|place| Some((place, self.table.at(place, now)?))) {
            Some((place, Verdict::Pass(decision)))
                if self.function.admit(now, decision.token, headers).is_ok() =>
            {
                self.counters.hits += 1;
                self.offer_once(place, flow, &decision);
                self.pass(now, port, flow, &decision, buffer, headers)
            }
            Some((_, Verdict::Deny(reason))) => self.drop(reason),
            Some(_) | None => self.undecided(now, port, frame, (*flow, hash), buffer, headers),
        }
    }

    /// A parked frame was released: rewrites it now. `buffer` as in [`Self::on_frame`],
    /// with the bytes it had when it was parked.
    pub fn release(&mut self, now: Time, parked: &Parked, buffer: &mut [u8]) -> Disposition {
        let bytes = buffer.get(..parked.len).unwrap_or(buffer);
        let Ok(headers) = Headers::parse(bytes) else {
            return self.drop(Reason::Malformed);
        };
        self.pass(
            now,
            parked.port,
            &parked.flow,
            &parked.decision,
            buffer,
            &headers,
        )
    }

    /// Carries a decision out.
    pub(super) fn pass(
        &mut self,
        now: Time,
        port: PortId,
        flow: &FlowKey,
        decision: &Decision,
        buffer: &mut [u8],
        headers: &Headers,
    ) -> Disposition {
        let action = &decision.action;
        let Some(out) = self.config.ports.get(usize::from(action.out.0)) else {
            return self.drop(Reason::Unsupported);
        };
        if headers.packet_len() > usize::from(out.mtu) {
            if !headers.dont_fragment {
                // To fragment it is left undone: hosts set the flag nearly always.
                return self.drop(Reason::TooBig);
            }
            let error = icmp_error::Error::FragmentationNeeded { mtu: out.mtu };
            return self.reject(now, port, buffer, headers, error, Reason::TooBig);
        }
        if let Err(reason) = self.function.admit(now, decision.token, headers) {
            return self.drop(reason);
        }
        if action.apply(buffer, headers).is_err() {
            return self.drop(Reason::Unsupported);
        }
        self.function.observe(now, flow, decision.token, headers);
        self.counters.forwarded[usize::from(action.out.0)] += 1;
        Disposition::Forward {
            port: action.out,
            len: headers.end,
        }
    }

    pub(super) fn drop(&mut self, reason: Reason) -> Disposition {
        self.counters.drop(reason);
        Disposition::Drop(reason)
    }
}
