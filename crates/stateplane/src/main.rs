//! The `stateplane` command.
//!
//! * [`cli`]: words and options; `run`, `check`, `show`, `sim`
//! * [`lab`], [`demo`]: real traffic through real nodes in network namespaces
//! * [`bench`]: beside the kernel, as ratios
//! * [`say`]: printing results
#![forbid(unsafe_code)]

mod bench;
mod cli;
mod demo;
mod lab;
mod say;
mod scheduled;

use std::process::ExitCode;

/// Replicas and clients allocate one small piece of memory per operation, the simulator many.
#[global_allocator]
static MEMORY: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    cli::main()
}
