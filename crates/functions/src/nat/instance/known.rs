//! What answers of the store have in common.

use stateplane_base::LogTime;
use stateplane_flow::{Endpoint, Protocol};

use crate::nat::ops::{Binding, Bound, Class, Mapping};

/// What the store said of a mapping, as far as it matters here.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    pub(super) protocol: Protocol,
    pub(super) class: Class,
    pub(super) inside: Endpoint,
    pub(super) outside: Endpoint,
    pub(super) expires: LogTime,
}

impl Known {
    pub(super) fn of(asked: &Binding, bound: &Bound) -> Self {
        Self {
            protocol: asked.protocol,
            class: bound.class,
            inside: asked.inside,
            outside: bound.outside,
            expires: bound.expires,
        }
    }
}

impl From<Mapping> for Known {
    fn from(mapping: Mapping) -> Self {
        Self {
            protocol: mapping.protocol,
            class: mapping.class,
            inside: mapping.inside,
            outside: mapping.outside,
            expires: mapping.expires,
        }
    }
}
