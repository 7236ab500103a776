//! What operators said last about weights, on a switch's disk.
//!
//! A region lasts as long as its machine's broker. What an operator said must outlast that: all
//! machines of a network may lose their power at once. So it is on the disk of a switch before
//! the operator has his answer, and each switch keeps what it heard from others.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tracing::error;

use super::weights::Weights;

const FILE: &str = "weights.json";

#[derive(Serialize, Deserialize)]
struct Text {
    /// Whose it is: `CLUSTER/NODE`.
    of: String,
    said: Weights,
}

/// The file.
#[derive(Debug)]
pub(super) struct Kept {
    dir: PathBuf,
    of: String,
    /// What it says.
    said: Weights,
}

impl Kept {
    /// That of a node, below `state`; with nothing in it, if there is none.
    ///
    /// # Errors
    /// There is one that cannot be read.
    pub(super) fn open(state: &Path, cluster: &str, node: &str) -> io::Result<Self> {
        let mut kept = Self {
            dir: state.join(node),
            of: format!("{cluster}/{node}"),
            said: Weights::default(),
        };
        let path = kept.dir.join(FILE);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(kept),
            Err(error) => return Err(at(&path, error)),
        };
        match serde_json::from_slice::<Text>(&bytes) {
            Ok(text) if text.of == kept.of => kept.said = text.said,
            Ok(text) => {
                let what = format!(
                    "it is of {}; give each its own `regions.state-dir`",
                    text.of
                );
                return Err(at(&path, io::Error::other(what)));
            }
            Err(damage) => {
                // A write is whole or was not; whatever did this, others may know what it said.
                let aside = path.with_extension("damaged");
                fs::rename(&path, &aside).map_err(|error| at(&path, error))?;
                error!(file = %path.display(), kept = %aside.display(), %damage,
                    "what was said about weights cannot be read: it is asked of other switches");
            }
        }
        Ok(kept)
    }

    /// What it says.
    pub(super) fn said(&self) -> &Weights {
        &self.said
    }

    /// Puts another content there, for good when this returns.
    ///
    /// # Errors
    /// The disk refuses; then it says what it said before, or this.
    pub(super) fn put(&mut self, said: Weights) -> io::Result<()> {
        if said == self.said {
            return Ok(());
        }
        fs::create_dir_all(&self.dir).map_err(|error| at(&self.dir, error))?;
        let (of, path) = (self.of.clone(), self.dir.join(FILE));
        let text = Text { of, said };
        replace(&path, &serde_json::to_vec_pretty(&text)?).map_err(|error| at(&path, error))?;
        self.said = text.said;
        Ok(())
    }
}

/// Another content for a file: who looks sees the old one or this, also after a loss of power.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let aside = path.with_extension("new");
    let mut file = File::create(&aside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&aside, path)?;
    let dir = path.parent().unwrap_or(Path::new("."));
    File::open(dir)?.sync_all()
}

fn at(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::regions::weights::Weight;

    fn said(weight: u32) -> Weights {
        let weight = Weight {
            configured: 100,
            weight,
            changed_day_ns: 5,
        };
        Weights {
            instances: [("gw1".to_owned(), weight)].into(),
        }
    }

    #[test]
    fn it_says_what_was_put_last() {
        let dir = tempfile::tempdir().unwrap();
        let open = || Kept::open(dir.path(), "edge", "sw").unwrap();
        assert_eq!(*open().said(), Weights::default());
        assert_eq!(
            fs::read_dir(dir.path()).unwrap().count(),
            0,
            "only if need be"
        );
        for weight in [7, 9] {
            let mut kept = open();
            kept.put(said(weight)).unwrap();
            assert_eq!(*kept.said(), said(weight));
            assert_eq!(*open().said(), said(weight));
        }
        // Half of another one, of a process that was killed.
        fs::write(dir.path().join("sw/weights.new"), "{\"of\":").unwrap();
        assert_eq!(*open().said(), said(9));
    }

    #[test]
    fn what_is_damaged_is_put_aside_and_what_is_anothers_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("sw").join(FILE);
        let mut kept = Kept::open(dir.path(), "edge", "sw").unwrap();
        kept.put(said(7)).unwrap();
        let refused = Kept::open(dir.path(), "other", "sw")
            .unwrap_err()
            .to_string();
        assert!(refused.contains("it is of edge/sw"), "{refused}");
        fs::write(&file, "{\"of\": \"ed").unwrap();
        let kept = Kept::open(dir.path(), "edge", "sw").unwrap();
        assert_eq!(*kept.said(), Weights::default());
        assert!(!file.exists() && file.with_extension("damaged").exists());
    }

    #[test]
    fn a_disk_that_refuses_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        let mut kept = Kept::open(&file.join("below"), "edge", "sw");
        let refused = match &mut kept {
            Ok(kept) => kept.put(said(7)).unwrap_err(),
            Err(error) => io::Error::other(error.to_string()),
        };
        assert!(refused.to_string().contains("file"), "{refused}");
    }
}
