//! What was last known of the cluster, on disk, for a start while the API server is away.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::facts::Facts;

/// More than the largest cluster takes.
const LARGEST: u64 = 256 << 20;

/// The file.
pub(super) struct StateFile {
    path: PathBuf,
    node: String,
    /// What is in it.
    kept: Option<Facts>,
}

#[derive(Deserialize)]
struct Stored {
    node: String,
    facts: Facts,
}

#[derive(Serialize)]
struct Written<'a> {
    node: &'a str,
    facts: &'a Facts,
}

impl StateFile {
    /// The file at `path`, of a daemon that is the node `node`.
    pub(super) fn new(path: &Path, node: &str) -> Self {
        Self { path: path.to_owned(), node: node.to_owned(), kept: None }
    }

    /// What is in it; `None` where there is none, or of another node.
    ///
    /// # Errors
    /// Why it cannot be read.
    pub(super) fn read(&mut self) -> Result<Option<Facts>, String> {
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
        self.kept = Some(facts.clone());
        Ok(Some(facts))
    }

    /// Has `facts` in it, in place of what was there or not at all.
    ///
    /// # Errors
    /// Why that cannot be.
    pub(super) fn keep(&mut self, facts: &Facts) -> Result<(), String> {
        if self.kept.as_ref() == Some(facts) {
            return Ok(());
        }
        let text =
            serde_json::to_vec(&Written { node: &self.node, facts }).map_err(|error| error.to_string())?;
        replace(&self.path, &text, 0o600).map_err(|error| format!("{}: {error}", self.path.display()))?;
        self.kept = Some(facts.clone());
        Ok(())
    }
}

/// Has `bytes` in the file at `path`, in place of what was there or not at all: readers see one or the other.
///
/// # Errors
/// Of the file system.
pub(super) fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}", std::process::id()));
    let new = path.with_file_name(name);
    let written = File::options().write(true).create(true).truncate(true).mode(mode).open(&new);
    let written = written.and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_data()?;
        fs::rename(&new, path)
    });
    if written.is_err() {
        // Best effort: what remains is ours and is written over the next time.
        let _ = fs::remove_file(&new);
    }
    written
}
