//! Where and how eagerly a thread runs.

use std::io;

use rustix::process::{getpid, setpriority_process};
use rustix::thread::{CpuSet, gettid, sched_getaffinity, sched_setaffinity};

/// Lets the calling thread run on `cpu` only.
pub fn pin_to(cpu: usize) -> io::Result<()> {
    let mut set = CpuSet::new();
    if cpu >= CpuSet::MAX_CPU {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    set.set(cpu);
    Ok(sched_setaffinity(None, &set)?)
}

/// The processors the calling thread may run on.
pub fn allowed_cpus() -> io::Result<Vec<usize>> {
    let set = sched_getaffinity(None)?;
    Ok((0..CpuSet::MAX_CPU)
        .filter(|&cpu| set.is_set(cpu))
        .collect())
}

/// Sets the calling thread's niceness: -20 first, 19 last. Going below the present one
/// needs `CAP_SYS_NICE`. Threads and processes started from it inherit it.
pub fn set_nice(nice: i32) -> io::Result<()> {
    // Linux keeps niceness per thread: a thread's number selects that thread.
    Ok(setpriority_process(Some(gettid()), nice)?)
}

/// Sets the niceness of the process's first thread, and so of those it starts later.
pub fn set_process_nice(nice: i32) -> io::Result<()> {
    Ok(setpriority_process(Some(getpid()), nice)?)
}

/// Puts the calling thread before all that are not real-time threads (SCHED_FIFO, the
/// lowest level), or back among them. Needs `CAP_SYS_NICE`. Not inherited.
pub fn set_realtime(wanted: bool) -> io::Result<()> {
    if wanted {
        set_policy(libc::SCHED_FIFO, 1)
    } else {
        set_policy(libc::SCHED_OTHER, 0)
    }
}

/// Has the calling thread run only while no other wants its processor (SCHED_IDLE): any other
/// interrupts it at once, where one of the lowest niceness would finish its slice first.
pub fn set_idle() -> io::Result<()> {
    set_policy(libc::SCHED_IDLE, 0)
}

fn set_policy(policy: libc::c_int, level: libc::c_int) -> io::Result<()> {
    // SAFETY: plain numbers, of which zero is a value.
    let mut parameters: libc::sched_param = unsafe { std::mem::zeroed() };
    parameters.sched_priority = level;
    let policy = policy | libc::SCHED_RESET_ON_FORK;
    // SAFETY: 0 is the calling thread; the parameters are read during the call.
    match unsafe { libc::sched_setscheduler(0, policy, &raw const parameters) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_is_pinned_alone() {
        let all = allowed_cpus().unwrap();
        let cpu = all[all.len() - 1];
        std::thread::spawn(move || {
            pin_to(cpu).unwrap();
            assert_eq!(allowed_cpus().unwrap(), [cpu]);
        })
        .join()
        .unwrap();
        assert_eq!(allowed_cpus().unwrap(), all);
        assert!(pin_to(usize::MAX).is_err());
    }

    #[test]
    fn niceness_is_the_threads_own() {
        let nice = |thread| rustix::process::getpriority_process(thread).unwrap();
        let before = nice(Some(gettid()));
        std::thread::spawn(move || {
            set_nice(19).unwrap();
            assert_eq!(nice(Some(gettid())), 19);
        })
        .join()
        .unwrap();
        assert_eq!(nice(Some(gettid())), before);
    }

    #[test]
    fn a_thread_works_in_what_others_leave() {
        let policy = std::thread::spawn(|| {
            set_idle().unwrap();
            // SAFETY: asks for the calling thread's policy.
            unsafe { libc::sched_getscheduler(0) }
        });
        let policy = policy.join().unwrap() & !libc::SCHED_RESET_ON_FORK;
        assert_eq!(policy, libc::SCHED_IDLE);
    }

    #[test]
    fn a_thread_goes_before_all_others_and_back() {
        // SAFETY: asks for the calling thread's policy.
        let policy = || unsafe { libc::sched_getscheduler(0) } & !libc::SCHED_RESET_ON_FORK;
        match set_realtime(true) {
            Ok(()) => assert_eq!(policy(), libc::SCHED_FIFO),
            Err(error) => println!("not tested: no real-time threads here: {error}"),
        }
        set_realtime(false).unwrap();
        assert_eq!(policy(), libc::SCHED_OTHER);
    }
}
