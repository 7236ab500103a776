//! Holders against a store: what was wrong in the public store of RedPlane, and what holders promise.

mod faults;
mod harness;
mod holder;
