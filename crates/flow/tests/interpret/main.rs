//! The fast path's reference interpreter.

mod agree;
mod entries;
mod headers;
mod tunnels;
mod world;
