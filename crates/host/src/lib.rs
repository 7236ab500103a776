//! Linux underneath: everything that needs `unsafe` or a system call.

pub mod link;
pub mod netns;
pub mod spawn;
