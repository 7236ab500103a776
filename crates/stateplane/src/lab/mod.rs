//! x
pub(crate) mod traffic;
