//! The broker's messages for a fuzzer, which is no part of this crate.

use super::message::{Access, Claim, Entry, Refusal, Reply, Request};

/// A request that decodes, written back.
pub fn request(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    Request::decode(bytes).ok()?.encode(&mut out);
    Some(out)
}

/// A reply that decodes, written back.
pub fn reply(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    Reply::decode(bytes).ok()?.encode(&mut out);
    Some(out)
}

/// One message of each kind.
pub fn samples() -> Vec<Vec<u8>> {
    let name = || "/edge/gw1/fw/acl".parse().expect("a name");
    let entry = |writer| Entry {
        name: name(),
        epoch: 3,
        owner: 1000,
        access: Access::Group,
        bytes: 12_288,
        writer,
        readable: true,
    };
    let requests = [
        Request::Claim {
            name: name(),
            how: Claim::IfVacant,
            access: Access::Everyone,
            bytes: 4096,
        },
        Request::Offer(name()),
        Request::OfferAgain(name()),
        Request::Attach(name()),
        Request::Release {
            name: name(),
            epoch: 7,
        },
        Request::Delete(name()),
        Request::List {
            prefix: "/edge".to_owned(),
            after: "/edge/gw0".to_owned(),
        },
    ];
    let replies = [
        Reply::Done,
        Reply::Promised { epoch: 8, slot: 5 },
        Reply::Attached { slot: 5 },
        Reply::Listed {
            entries: vec![entry(Some(77)), entry(None)],
            more: true,
        },
        Reply::Refused(Refusal::NotThere),
        Reply::Refused(Refusal::Busy(77)),
        Reply::Refused(Refusal::Fenced(9)),
    ];
    let mut all = Vec::new();
    let mut out = Vec::new();
    for request in &requests {
        request.encode(&mut out);
        all.push(out.clone());
    }
    for reply in &replies {
        reply.encode(&mut out);
        all.push(out.clone());
    }
    all
}
