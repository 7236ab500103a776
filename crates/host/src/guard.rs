//! Settings of an interface that a run changes, and puts back.
//!
//! | setting | on veth | on other drivers | why |
//! |---|---|---|---|
//! | tx-checksum, tso, gso | off | unchanged | no hardware finishes what the kernel leaves undone, and XDP at the peer would see it |
//! | gro | unchanged | off | a merged packet exceeds a frame; veth does not merge before XDP |
//!
//! Nothing can be restored after SIGKILL, except that XDP programs detach; what was
//! changed is in the log for that case.

use std::fmt;
use std::io;

use crate::ethtool::{self, Offload};
use crate::ifreq;

/// One setting, with the value it had.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Change {
    Offload { which: Offload, was: bool },
    Mtu { was: u32, now: u32 },
    Promiscuous,
}

/// An interface whose settings go back to what they were when this is dropped.
#[derive(Debug)]
pub struct InterfaceGuard {
    interface: String,
    changes: Vec<Change>,
}

impl InterfaceGuard {
    /// Guards `interface`, changing nothing yet.
    pub fn new(interface: &str) -> io::Result<Self> {
        ifreq::index(interface).map_err(|error| named(interface, "looking it up", error))?;
        Ok(Self {
            interface: interface.to_owned(),
            changes: Vec::new(),
        })
    }

    /// Makes the interface fit for raw frames: see the table above.
    pub fn for_raw_frames(interface: &str) -> io::Result<Self> {
        let mut guard = Self::new(interface)?;
        let driver = ethtool::driver(interface);
        let driver = driver.map_err(|error| named(interface, "asking for its driver", error))?;
        if driver == "veth" {
            for offload in [Offload::Tso, Offload::Gso, Offload::TxChecksum] {
                guard.set_offload(offload, false)?;
            }
        } else if let Err(error) = guard.set_offload(Offload::Gro, false) {
            // Only generic XDP runs after merging, so this need not be the end.
            tracing::warn!("{error}; merged packets would be dropped");
        }
        Ok(guard)
    }

    /// Turns an offload on or off.
    pub fn set_offload(&mut self, which: Offload, on: bool) -> io::Result<()> {
        let failed = |error| named(&self.interface, &format!("setting {which}"), error);
        let was = ethtool::offload(&self.interface, which).map_err(failed)?;
        if was != on {
            ethtool::set_offload(&self.interface, which, on).map_err(failed)?;
            self.changes.push(Change::Offload { which, was });
        }
        Ok(())
    }

    /// Sets the MTU.
    pub fn set_mtu(&mut self, now: u32) -> io::Result<()> {
        let failed = |error| named(&self.interface, "setting its MTU", error);
        let was = ifreq::mtu(&self.interface).map_err(failed)?;
        if was != now {
            ifreq::set_mtu(&self.interface, now).map_err(failed)?;
            self.changes.push(Change::Mtu { was, now });
        }
        Ok(())
    }

    /// Has the interface take every frame, whomever it is addressed to.
    pub fn set_promiscuous(&mut self) -> io::Result<()> {
        let failed = |error| named(&self.interface, "making it promiscuous", error);
        let flags = ifreq::flags(&self.interface).map_err(failed)?;
        if flags & ifreq::PROMISCUOUS == 0 {
            ifreq::set_flag(&self.interface, ifreq::PROMISCUOUS, true).map_err(failed)?;
            self.changes.push(Change::Promiscuous);
        }
        Ok(())
    }

    /// Whether anything was changed.
    pub fn has_changes(&self) -> bool {
        !self.changes.is_empty()
    }
}

fn named(interface: &str, step: &str, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{interface}: {step}: {error}"))
}

/// What was changed, for the log: `wan0: tso off (was on), mtu 1400 (was 1500)`.
impl fmt::Display for InterfaceGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = |on| if on { "on" } else { "off" };
        write!(f, "{}: ", self.interface)?;
        if self.changes.is_empty() {
            return f.write_str("nothing changed");
        }
        for (number, change) in self.changes.iter().enumerate() {
            let comma = if number > 0 { ", " } else { "" };
            match *change {
                Change::Offload { which, was } => {
                    write!(f, "{comma}{which} {} (was {})", word(!was), word(was))?;
                }
                Change::Mtu { was, now } => write!(f, "{comma}mtu {now} (was {was})")?,
                Change::Promiscuous => write!(f, "{comma}promiscuous on (was off)")?,
            }
        }
        Ok(())
    }
}

impl Drop for InterfaceGuard {
    /// The last change first, since later ones may depend on earlier ones. The
    /// interface may be gone by now, which restores it as well.
    fn drop(&mut self) {
        for change in self.changes.drain(..).rev() {
            let interface = &self.interface;
            let restored = match change {
                Change::Offload { which, was } => ethtool::set_offload(interface, which, was),
                Change::Mtu { was, .. } => ifreq::set_mtu(interface, was),
                Change::Promiscuous => ifreq::set_flag(interface, ifreq::PROMISCUOUS, false),
            };
            if let Err(error) = restored
                && ifreq::index(interface).is_ok()
            {
                tracing::warn!("{interface}: could not restore {change:?}: {error}");
            }
        }
    }
}
