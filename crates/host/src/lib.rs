//! Linux underneath: everything that needs `unsafe` or a system call.
//!
//! * packets: [`frame`] (memory), [`port`] (the trait), over AF_XDP ([`xsk`]), capture
//!   files ([`pcap`]) and memory ([`memory`])
//! * XDP programs: [`bpf`]
//! * interfaces: [`ethtool`], [`ifreq`], [`netdev`], [`guard`] (settings to restore), [`busy`] (what a process
//!   that ended still holds)
//! * routes and neighbours: [`neigh`]
//! * regions on other machines: [`region`]
//! * nodes: [`udp`]; clients: [`epoll`]; what replicas keep on disk: [`wal`]
//! * the lab's world: [`netns`], [`link`], [`spawn`]
//! * time and processors: [`clock`], [`poll`], [`priority`], [`napi`]

pub mod bpf;
pub mod busy;
pub mod clock;
pub mod epoll;
pub mod ethtool;
pub mod frame;
pub mod guard;
pub mod ifreq;
pub mod link;
mod map;
pub mod memory;
pub mod napi;
pub mod neigh;
pub mod netdev;
pub mod netns;
pub mod pcap;
pub mod poll;
pub mod port;
pub mod priority;
pub mod region;
pub mod spawn;
pub mod udp;
pub mod wal;
pub mod xsk;
