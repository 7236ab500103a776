//! Anonymous network namespaces, held by a file descriptor and nothing else.
//!
//! A namespace made by `ip netns add` is pinned by a bind mount and outlives
//! its maker. One that is held by an open descriptor of `/proc/…/ns/net`
//! disappears with the last descriptor, thread or process that uses it: even
//! a maker that dies of SIGKILL leaves nothing behind (namespaces(7)).

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::thread::{self, JoinHandle};

use rustix::thread::{LinkNameSpaceType, UnshareFlags};

/// A network namespace that lives as long as this handle and its users.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    fd: OwnedFd,
}

impl Namespace {
    /// Makes a new, empty namespace. The name is only for people.
    pub fn create(name: &str) -> io::Result<Self> {
        let fd = on_own_thread(name, || {
            // SAFETY: only the network namespace of this short-lived thread
            // changes; no file descriptor table is unshared.
            unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET)? };
            own_namespace()
        })??;
        Ok(Self {
            name: name.to_owned(),
            fd,
        })
    }

    /// The namespace of the calling thread.
    pub fn current() -> io::Result<Self> {
        Ok(Self {
            name: "current".to_owned(),
            fd: own_namespace()?,
        })
    }

    /// The name given at creation.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Another handle on the same namespace.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self {
            name: self.name.clone(),
            fd: self.fd.try_clone()?,
        })
    }

    /// Runs `work` on a thread inside the namespace and waits for its result.
    pub fn run<T, F>(&self, work: F) -> io::Result<T>
    where
        T: Send,
        F: FnOnce() -> io::Result<T> + Send,
    {
        on_own_thread(&self.name, || {
            enter(self.fd.as_fd())?;
            work()
        })?
    }

    /// Starts a thread that lives inside the namespace.
    pub fn spawn_thread<T, F>(&self, name: &str, work: F) -> io::Result<JoinHandle<io::Result<T>>>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        let fd = self.fd.try_clone()?;
        thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || enter(fd.as_fd()).map(|()| work()))
    }

    /// Writes network sysctls, named as below `/proc/sys/net`, for example
    /// `("ipv4/ip_forward", "0")`.
    pub fn set_sysctls(&self, settings: &[(&str, &str)]) -> io::Result<()> {
        self.run(|| {
            for (name, value) in settings {
                std::fs::write(format!("/proc/sys/net/{name}"), value)
                    .map_err(|e| io::Error::new(e.kind(), format!("sysctl net/{name}: {e}")))?;
            }
            Ok(())
        })
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Moves the calling thread into the namespace behind `fd`. Async-signal-safe.
pub(crate) fn enter(fd: BorrowedFd<'_>) -> io::Result<()> {
    rustix::thread::move_into_link_name_space(fd, Some(LinkNameSpaceType::Network))?;
    Ok(())
}

fn own_namespace() -> io::Result<OwnedFd> {
    Ok(File::open("/proc/thread-self/ns/net")?.into())
}

/// Namespaces belong to threads, so each piece of work gets a thread of its
/// own and the caller never changes place.
fn on_own_thread<T: Send>(name: &str, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    thread::scope(|scope| {
        thread::Builder::new()
            .name(name.to_owned())
            .spawn_scoped(scope, work)?
            .join()
            .map_err(|_| io::Error::other("a thread inside a network namespace panicked"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interfaces() -> io::Result<Vec<String>> {
        let text = std::fs::read_to_string("/proc/thread-self/net/dev")?;
        Ok(text
            .lines()
            .skip(2)
            .filter_map(|l| Some(l.split_once(':')?.0.trim().to_owned()))
            .collect())
    }

    #[test]
    fn a_new_namespace_has_only_its_loopback_and_the_caller_stays_where_it_was() {
        let before = interfaces().expect("own interfaces");
        let Ok(ns) = Namespace::create("t") else {
            eprintln!("skipped: namespaces need CAP_SYS_ADMIN");
            return;
        };
        assert_eq!(ns.run(interfaces).expect("run inside"), ["lo"]);
        assert_eq!(interfaces().expect("own interfaces"), before);
    }

    #[test]
    fn sysctls_apply_to_the_namespace_only() {
        let Ok(ns) = Namespace::create("t") else {
            return;
        };
        let path = "/proc/sys/net/ipv4/ip_default_ttl";
        let outside = std::fs::read_to_string(path).expect("sysctl");
        ns.set_sysctls(&[("ipv4/ip_default_ttl", "77")])
            .expect("set");
        let inside = ns.run(|| std::fs::read_to_string(path)).expect("read");
        assert_eq!(inside.trim(), "77");
        assert_eq!(std::fs::read_to_string(path).expect("sysctl"), outside);
        let wrong = ns.set_sysctls(&[("ipv4/no_such", "1")]).unwrap_err();
        assert!(wrong.to_string().contains("ipv4/no_such"), "{wrong}");
    }
}
