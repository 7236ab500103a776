//! Answers made here: to ARP requests, and ICMP errors, of which there are only so many.

use core::time::Duration;

use stateplane_base::{Reason, Time};
use stateplane_flow::PortId;
use stateplane_wire::arp::{Arp, Operation};
use stateplane_wire::eth::Mac;
use stateplane_wire::icmp_error;
use stateplane_wire::packet::Headers;

use super::{Disposition, Runtime};
use crate::function::NetworkFunction;

impl<F: NetworkFunction> Runtime<F> {
    pub(super) fn on_arp(&mut self, port: PortId, buffer: &mut [u8], len: usize) -> Disposition {
        let bytes = buffer.get(..len).unwrap_or(buffer);
        let request = match Arp::parse(bytes) {
            Ok(arp) if arp.operation == Operation::Request => arp,
            Ok(_) => return self.drop(Reason::NotOurs),
            Err(_) => return self.drop(Reason::Malformed),
        };
        let answer = self.function.answer_arp(port, &request);
        match answer.and_then(|mac: Mac| request.reply(mac).write(buffer)) {
            Some(len) => {
                self.counters.answered += 1;
                Disposition::Answer { len }
            }
            None => self.drop(Reason::NotOurs),
        }
    }

    /// Whether the frame is a request for an address that the function has.
    pub(crate) fn has_asked_address(&mut self, port: PortId, frame: &[u8]) -> bool {
        let request = Arp::parse(frame).ok();
        let request = request.filter(|arp| arp.operation == Operation::Request);
        request.is_some_and(|request| self.function.answer_arp(port, &request).is_some())
    }

    /// Drops the packet and tells its sender, if that is allowed.
    pub(super) fn reject(
        &mut self,
        now: Time,
        port: PortId,
        buffer: &mut [u8],
        headers: &Headers,
        error: icmp_error::Error,
        reason: Reason,
    ) -> Disposition {
        let Some(port) = self.config.ports.get(usize::from(port.0)) else {
            return self.drop(reason);
        };
        if !icmp_error::allowed(buffer, headers) {
            return self.drop(reason);
        }
        if !self.errors.take(now) {
            return self.drop(Reason::IcmpLimited);
        }
        match icmp_error::build(buffer, headers, error, port.address) {
            Some(len) => {
                self.counters.drop(reason);
                self.counters.answered += 1;
                Disposition::Answer { len }
            }
            None => self.drop(reason),
        }
    }
}

/// A token bucket: so many a second, a tenth of it at once.
#[derive(Debug)]
pub(super) struct Allowance {
    /// The moment up to which everything is used, or earlier.
    used_until: Time,
    interval: Duration,
    burst: Duration,
}

impl Allowance {
    pub(super) fn new(per_s: u32) -> Self {
        let interval = Duration::from_secs(1)
            .checked_div(per_s)
            .unwrap_or(Duration::MAX);
        Self {
            used_until: Time::ZERO,
            interval,
            burst: Duration::from_millis(100).max(interval),
        }
    }

    pub(super) fn take(&mut self, now: Time) -> bool {
        let next = self.used_until.max(now - self.burst) + self.interval;
        let allowed = next <= now;
        if allowed {
            self.used_until = next;
        }
        allowed
    }
}
