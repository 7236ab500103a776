//! Which flow a packet belongs to: the module's table.

use stateplane_base::Reason;
use stateplane_flow::{Endpoint, FlowKey, PortId, Protocol};
use stateplane_wire::packet::{Fragment, Headers, Inner, Transport};

use super::config::NatConfig;

/// The flow, or why the packet is dropped.
pub(super) fn flow(config: &NatConfig, port: PortId, headers: &Headers) -> Result<FlowKey, Reason> {
    match port {
        PortId::INSIDE => from_inside(config, headers),
        PortId::OUTSIDE => from_outside(config, headers),
        _ => Err(Reason::NotOurs),
    }
}

fn from_inside(config: &NatConfig, headers: &Headers) -> Result<FlowKey, Reason> {
    let destination = headers.destination;
    let local = config.is_inside(destination) || destination.is_multicast();
    if local || destination.is_broadcast() || destination.is_unspecified() {
        return Err(Reason::NotOurs);
    }
    let hairpin = config.outside.contains(destination);
    if let Transport::Error(inner) = headers.transport {
        let (protocol, (_, port)) = quoted(&inner)?;
        // Whoever complains: the error is about what a host of ours was sent.
        if !config.is_inside(inner.destination) {
            return Err(Reason::NotOurs);
        }
        if hairpin {
            return Err(Reason::Unsupported);
        }
        let source = Endpoint {
            addr: inner.destination,
            port,
        };
        return Ok(FlowKey {
            protocol,
            source,
            destination: Endpoint::ANY,
        });
    }
    if !config.is_inside(headers.source) {
        return Err(Reason::NotOurs);
    }
    let (protocol, (source, destination)) = ports(headers)?;
    if source == 0 && protocol != Protocol::IcmpEcho {
        return Err(Reason::Malformed); // nobody could answer it
    }
    let source = Endpoint {
        addr: headers.source,
        port: source,
    };
    if !hairpin {
        return Ok(FlowKey {
            protocol,
            source,
            destination: Endpoint::ANY,
        });
    }
    // An echo has one identifier and would need two.
    if protocol == Protocol::IcmpEcho {
        return Err(Reason::Unsupported);
    }
    let destination = Endpoint {
        addr: headers.destination,
        port: destination,
    };
    Ok(FlowKey {
        protocol,
        source,
        destination,
    })
}

fn from_outside(config: &NatConfig, headers: &Headers) -> Result<FlowKey, Reason> {
    if !config.outside.contains(headers.destination) {
        return Err(Reason::NotOurs);
    }
    if let Transport::Error(inner) = headers.transport {
        let (protocol, (port, _)) = quoted(&inner)?;
        if inner.source != headers.destination {
            return Err(Reason::NotOurs);
        }
        let destination = Endpoint {
            addr: inner.source,
            port,
        };
        return Ok(FlowKey {
            protocol,
            source: Endpoint::ANY,
            destination,
        });
    }
    let (protocol, (_, port)) = ports(headers)?;
    let destination = Endpoint {
        addr: headers.destination,
        port,
    };
    Ok(FlowKey {
        protocol,
        source: Endpoint::ANY,
        destination,
    })
}

/// A whole packet's protocol and ports. Fragments are not translated: a later one does
/// not say which flow it belongs to, and a first one is worth nothing without it.
fn ports(headers: &Headers) -> Result<(Protocol, (u16, u16)), Reason> {
    if headers.fragment != Fragment::Whole {
        return Err(Reason::Fragment);
    }
    let ports = headers.ports().ok_or(Reason::Unsupported)?;
    let protocol = Protocol::from_number(headers.protocol).ok_or(Reason::Unsupported)?;
    Ok((protocol, ports))
}

fn quoted(inner: &Inner) -> Result<(Protocol, (u16, u16)), Reason> {
    let ports = inner.ports.ok_or(Reason::Unsupported)?;
    let protocol = Protocol::from_number(inner.protocol).ok_or(Reason::Unsupported)?;
    Ok((protocol, ports))
}
