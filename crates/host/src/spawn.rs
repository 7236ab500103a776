//! Child processes inside a network namespace that never outlive us.
//!
//! `PR_SET_PDEATHSIG` kills the child when the *thread* that started it ends
//! (prctl(2)), so every child is started from one thread that lives as long
//! as the process. Children get a process group of their own: a Ctrl-C at the
//! terminal reaches their owner, who then stops them in the right order.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus};
use std::sync::mpsc::{self, Sender};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::netns::{self, Namespace};

type Job = Box<dyn FnOnce() + Send>;

/// The thread from which every child is started.
fn spawner() -> io::Result<Sender<Job>> {
    static SPAWNER: OnceLock<Mutex<Sender<Job>>> = OnceLock::new();
    let sender = SPAWNER.get_or_init(|| {
        let (sender, jobs) = mpsc::channel::<Job>();
        // If the thread cannot start, `jobs` is dropped and sending fails.
        let _ = std::thread::Builder::new()
            .name("spawner".to_owned())
            .spawn(move || jobs.iter().for_each(|job| job()));
        Mutex::new(sender)
    });
    sender
        .lock()
        .map(|s| s.clone())
        .map_err(|_| io::Error::other("the spawner is gone"))
}

/// A running child; killed and reaped when dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    status: Option<ExitStatus>,
}

impl Process {
    /// Starts `command` inside `namespace`; it dies with this process.
    pub fn spawn(name: &str, mut command: Command, namespace: &Namespace) -> io::Result<Self> {
        let place: OwnedFd = namespace.as_fd().try_clone_to_owned()?;
        let parent = rustix::process::getpid();
        let prepare = move || {
            netns::enter(place.as_fd())?;
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
            // The parent may have died before the signal was asked for.
            if rustix::process::getppid() != Some(parent) {
                return Err(io::Error::from(io::ErrorKind::Interrupted));
            }
            Ok(())
        };
        command.process_group(0);
        // SAFETY: between fork and exec the closure makes only system calls
        // (setns, prctl, getppid) and neither allocates nor takes locks.
        unsafe { command.pre_exec(prepare) };

        let (answer, result) = mpsc::channel();
        let job: Job = Box::new(move || {
            let _ = answer.send(command.spawn());
        });
        let gone = || io::Error::other("the spawner is gone");
        spawner()?.send(job).map_err(|_| gone())?;
        let child = result.recv().map_err(|_| gone())??;
        Ok(Self {
            name: name.to_owned(),
            child,
            status: None,
        })
    }

    /// The name given at the start.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The kernel's number of the process.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The child's pipes, to be taken by whoever reads them.
    pub fn pipes(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Sends a signal, unless the child has been reaped already.
    pub fn signal(&mut self, signal: Signal) -> io::Result<()> {
        if self.poll()?.is_some() {
            return Ok(());
        }
        let id = rustix::process::Pid::from_child(&self.child);
        Ok(rustix::process::kill_process(id, signal)?)
    }

    /// Whether the child has ended, and how.
    pub fn poll(&mut self) -> io::Result<Option<ExitStatus>> {
        if self.status.is_none() {
            self.status = self.child.try_wait()?;
        }
        Ok(self.status)
    }

    /// Waits at most `limit` for the end.
    pub fn wait(&mut self, limit: Duration) -> io::Result<Option<ExitStatus>> {
        let until = Instant::now() + limit;
        loop {
            let status = self.poll()?;
            if status.is_some() || Instant::now() >= until {
                return Ok(status);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// SIGKILL, at once, and reap.
    pub fn kill(&mut self) -> io::Result<()> {
        self.signal(Signal::KILL)?;
        if self.status.is_none() {
            self.status = Some(self.child.wait()?);
        }
        Ok(())
    }

    /// SIGTERM, a grace period, then SIGKILL.
    pub fn stop(&mut self, grace: Duration) -> io::Result<()> {
        self.signal(Signal::TERM)?;
        if self.wait(grace)?.is_none() {
            self.kill()?;
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::process::Stdio;

    #[test]
    fn a_child_runs_inside_and_survives_the_thread_that_asked_for_it() {
        let Ok(ns) = Namespace::create("t") else {
            eprintln!("skipped: namespaces need CAP_SYS_ADMIN");
            return;
        };
        let mut child = std::thread::spawn(move || {
            let mut command = Command::new("sh");
            command.args(["-c", "cat /proc/self/net/dev; exec sleep 100"]);
            command.stdout(Stdio::piped());
            Process::spawn("t", command, &ns).expect("spawn")
        })
        .join()
        .expect("asking thread");
        std::thread::sleep(Duration::from_millis(50));
        assert!(child.poll().expect("poll").is_none(), "died with the asker");
        child.kill().expect("kill");
        let mut text = String::new();
        let mut out = child.pipes().stdout.take().expect("pipe");
        out.read_to_string(&mut text).expect("read");
        assert!(text.contains("lo:") && text.lines().count() == 3, "{text}");
    }

    #[test]
    fn a_missing_program_is_an_error_not_a_child() {
        let Ok(ns) = Namespace::create("t") else {
            return;
        };
        let error = Process::spawn("t", Command::new("/no/such"), &ns).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
