//! Giving an interface's receive work a thread, and that thread a processor.
//!
//! The kernel receives in the context of whoever happens to run. For a measurement of
//! one device's work this hides whose work it is; a NAPI thread on a processor of its
//! own shows it (Documentation/networking/napi.rst, "Threaded NAPI").

use std::fs;
use std::io;
use std::path::PathBuf;

use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::process::Pid;
use rustix::thread::{CpuSet, UnshareFlags, sched_setaffinity};

/// Has `interface` of the calling thread's network namespace receive on a thread of its
/// own on processor `cpu`. The interface must be up and poll already (GRO, XDP).
///
/// The switch is in sysfs, which shows the namespace it was mounted in: call this on a
/// thread that is about to end, since it gets a private view of the file system.
pub fn receive_on(interface: &str, cpu: usize) -> io::Result<()> {
    // SAFETY: only the calling thread's view of mounts changes; no descriptor table is
    // unshared.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS)? };
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private)?;
    mount("sysfs", "/sys", "sysfs", MountFlags::empty(), None)?;
    let name = format!("napi/{interface}-");
    let others = threads(&name)?;
    let switch = PathBuf::from(format!("/sys/class/net/{interface}/threaded"));
    fs::write(&switch, "1").map_err(|error| {
        io::Error::new(error.kind(), format!("{interface}: threaded NAPI: {error}"))
    })?;
    let mut ours = threads(&name)?;
    ours.retain(|thread| !others.contains(thread));
    let mut set = CpuSet::new();
    set.set(cpu);
    for thread in &ours {
        sched_setaffinity(Pid::from_raw(*thread), &set)?;
    }
    if ours.is_empty() {
        return Err(io::Error::other(format!(
            "{interface}: no thread '{name}…' appeared"
        )));
    }
    Ok(())
}

/// The kernel's threads whose names begin so. An interface of the same name in another
/// namespace has threads of the same name.
fn threads(name: &str) -> io::Result<Vec<i32>> {
    let is_named = |number: &i32| {
        let command = fs::read_to_string(format!("/proc/{number}/comm"));
        command.is_ok_and(|command| command.starts_with(name))
    };
    let numbers = fs::read_dir("/proc")?.flatten();
    Ok(numbers
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(is_named)
        .collect())
}
