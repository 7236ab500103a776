//! Why a node does not run (any more), as people and scripts need to know it.

use std::fmt::Display;
use std::io;

/// The end of a node, with a remedy where there is one.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// What was asked for makes no sense: wrong file, wrong name.
    #[error("{0}")]
    Usage(String),
    /// The machine lacks something: privileges, XDP, an interface, a free port.
    #[error("{what}")]
    Missing {
        /// What is missing.
        what: String,
        /// How to get it.
        help: String,
    },
    /// It failed while it was running.
    #[error("{0}")]
    Running(String),
}

impl Failure {
    /// Something the machine lacks, and how to get it.
    pub fn missing(what: impl Display, help: impl Display) -> Self {
        Self::Missing {
            what: what.to_string(),
            help: help.to_string(),
        }
    }

    /// A failure while running.
    pub fn running(what: impl Display) -> Self {
        Self::Running(what.to_string())
    }

    /// The process's exit code: 2 for usage, 3 for what is missing, 1 otherwise.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Running(_) => 1,
            Self::Usage(_) => 2,
            Self::Missing { .. } => 3,
        }
    }

    /// How to mend it, if known.
    pub fn help(&self) -> Option<&str> {
        match self {
            Self::Missing { help, .. } if !help.is_empty() => Some(help),
            _ => None,
        }
    }

    /// A socket that could not be bound.
    pub fn bind(what: &str, address: impl Display, error: &io::Error) -> Self {
        let help = match error.kind() {
            io::ErrorKind::AddrInUse => {
                "another process uses this port: stop it, or change `control` \
                 (`ss -lunp` names it)"
            }
            io::ErrorKind::AddrNotAvailable => {
                "this machine does not have the address: add it to an interface, \
                 or start the node where it is"
            }
            io::ErrorKind::PermissionDenied => "run as root, or choose a port above 1023",
            _ => "",
        };
        Self::missing(format!("{what} cannot listen at {address}: {error}"), help)
    }
}
