//! What was last known of a cluster, on disk, for a start while it cannot be asked.

use std::fs::File;
use std::io::{self, Read};
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::files::{self, Modes};

/// More than the largest cluster takes.
const LARGEST: u64 = 256 << 20;
/// It is for the daemon alone.
const MODES: Modes = Modes { file: 0o600, directory: 0o755 };

/// The file, of what is known in the form `F`.
pub(super) struct StateFile<F> {
    path: PathBuf,
    node: String,
    holds: PhantomData<fn(F) -> F>,
}

#[derive(Deserialize)]
struct Stored<F> {
    node: String,
    facts: F,
}

#[derive(Serialize)]
struct Written<'a, F> {
    node: &'a str,
    facts: &'a F,
}

impl<F: DeserializeOwned + Serialize> StateFile<F> {
    /// The file at `path`, of a daemon that is the node `node`.
    pub(super) fn new(path: &Path, node: &str) -> Self {
        Self { path: path.to_owned(), node: node.to_owned(), holds: PhantomData }
    }

    /// What is in it; `None` where there is none, or of another node.
    ///
    /// # Errors
    /// Why it cannot be read.
    pub(super) fn read(&self) -> Result<Option<F>, String> {
        let about = |error: &dyn std::fmt::Display| format!("{}: {error}", self.path.display());
        let file = match File::open(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file.map_err(|error| about(&error))?,
        };
        let mut text = String::new();
        file.take(LARGEST).read_to_string(&mut text).map_err(|error| about(&error))?;
        let Stored { node, facts } = serde_json::from_str(&text).map_err(|error| about(&error))?;
        if node != self.node {
            return Ok(None);
        }
        Ok(Some(facts))
    }

    /// Has `facts` in it, in place of what was there or not at all.
    ///
    /// # Errors
    /// Why that cannot be.
    pub(super) fn keep(&self, facts: &F) -> Result<(), String> {
        let text =
            serde_json::to_vec(&Written { node: &self.node, facts }).map_err(|error| error.to_string())?;
        files::replace(&self.path, &text, MODES).map_err(|error| format!("{}: {error}", self.path.display()))
    }
}
