//! Waiting for what a process that ended has not let go of.
//!
//! The kernel takes a dead process apart in its own time: its memory first, then its descriptors, and a queue
//! of an interface is free only when deferred work has come to it. Who starts again at once finds it taken.

use std::fmt::Display;
use std::fs;
use std::io;
use std::time::{Duration, Instant};

/// How long is waited by default: the kernel needs milliseconds, and a machine under load some hundreds.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(10);
/// Where the ring of empty frames lies in an AF_XDP socket (`XDP_UMEM_PGOFF_FILL_RING`), as listed of a
/// process's memory.
const FILL_RING: &str = "100000000";

/// Attempts it again while it is busy, for `patience` at most, and says so once.
pub(crate) fn wait_while<T, E>(
    what: impl Display,
    patience: Duration,
    is_busy: impl Fn(&E) -> bool,
    mut attempt: impl FnMut() -> Result<T, E>,
) -> Result<T, E> {
    let began = Instant::now();
    let mut said = false;
    loop {
        match attempt() {
            Err(error) if is_busy(&error) && began.elapsed() < patience => {
                if !said {
                    let seconds = patience.as_secs_f64();
                    tracing::warn!("{what} is still taken: waiting for it, {seconds} s at most");
                    said = true;
                }
                std::thread::sleep(PAUSE);
            }
            result => {
                if said && result.is_ok() {
                    let ms = began.elapsed().as_millis();
                    tracing::info!("{what} is free after {ms} ms");
                }
                return result;
            }
        }
    }
}

/// Other processes that have AF_XDP sockets and live in our network namespace, as `name (number)`. The kernel
/// does not tell everywhere whose queue is whose, but it tells who has mapped such a socket's rings.
pub(crate) fn users_of_af_xdp() -> Vec<String> {
    let here = fs::read_link("/proc/thread-self/ns/net").ok();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let others = numbers.filter(|&number| number != std::process::id());
    let uses = |number: &u32| -> io::Result<bool> {
        let there = fs::read_link(format!("/proc/{number}/ns/net"))?;
        let maps = fs::read_to_string(format!("/proc/{number}/maps"))?;
        Ok(here.as_ref() == Some(&there) && maps.lines().any(is_ring))
    };
    let users = others.filter(|number| uses(number).unwrap_or(false));
    users
        .map(|number| {
            let name = fs::read_to_string(format!("/proc/{number}/comm"));
            let name = name.unwrap_or_default();
            format!("{} (process {number})", name.trim())
        })
        .collect()
}

/// Whether a line of a process's memory is the ring of empty frames of an AF_XDP socket: range, rights, offset,
/// device, inode, name.
fn is_ring(line: &str) -> bool {
    let mut fields = line.split_ascii_whitespace();
    fields.nth(2) == Some(FILL_RING)
        && fields
            .nth(2)
            .is_some_and(|name| name.starts_with("socket:["))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_waits_while_busy_only_and_not_for_ever() {
        let mut left = 3;
        let found = wait_while(
            "it",
            PATIENCE,
            |busy| *busy,
            || {
                left -= 1;
                if left == 0 { Ok("free") } else { Err(true) }
            },
        );
        assert_eq!((found, left), (Ok("free"), 0));
        let mut attempts = 0;
        let other = wait_while(
            "it",
            PATIENCE,
            |busy| *busy,
            || {
                attempts += 1;
                Err::<(), _>(false)
            },
        );
        assert_eq!(
            (other, attempts),
            (Err(false), 1),
            "something else is wrong"
        );
        let never = wait_while("it", 2 * PAUSE, |busy| *busy, || Err::<(), _>(true));
        assert_eq!(never, Err(true));
    }

    #[test]
    fn rings_are_told_from_other_memory() {
        for (line, is) in [
            ("7f0-7f1 rw-s 100000000 00:08 4711      socket:[4711]", true),
            ("7f0-7f1 rw-s 80000000 00:08 4711      socket:[4711]", false),
            ("7f0-7f1 rw-s 100000000 fe:01 4711      /var/lib/big", false),
            ("7f0-7f1 rw-p 00000000 00:00 0", false),
            ("", false),
        ] {
            assert_eq!(is_ring(line), is, "{line}");
        }
    }
}
