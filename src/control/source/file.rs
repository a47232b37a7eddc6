//! The configuration file as a source: pools, peers and their subnets, read at start and at each reload.

use std::path::{Path, PathBuf};

use crate::config::{self, Config, ConfigErrors};
use crate::control::engine::edits::lines::Culprits;
use crate::control::engine::refusal::{Kind, Refusal};
use crate::control::engine::{Asked, Event, Update, look};
use crate::control::host::Host;
use crate::route::Source;

/// The file, and how often it has been read.
#[derive(Debug)]
pub struct FileSource {
    path: PathBuf,
    generation: u64,
}

impl FileSource {
    /// The file at `path`.
    pub fn new(path: PathBuf) -> Self {
        Self { path, generation: 0 }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it says at start.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn read(&mut self) -> Result<Config, ConfigErrors> {
        self.generation += 1;
        config::load(&self.path)
    }

    /// What it says now, as an update for the engine, with what the host looks like where the new pools
    /// and subnets are. `uplink` is the name of the uplink.
    pub async fn update(&mut self, host: &Host, uplink: &str) -> FileUpdate {
        self.generation += 1;
        let path = self.path.clone();
        // A large file takes long to parse, and others want answers meanwhile.
        let read = tokio::task::spawn_blocking(move || config::load(&path)).await;
        let config = match read {
            Ok(Ok(config)) => Ok(Box::new(config)),
            Ok(Err(errors)) => Err(refusal(&errors)),
            Err(failed) => Err(Refusal::new(Kind::Busy, failed.to_string())),
        };
        let view = match &config {
            Ok(config) => host.observe(&look(config, uplink, None)).await.ok().map(Box::new),
            Err(_) => None,
        };
        FileUpdate { generation: self.generation, update: Update::Configuration { config, view } }
    }
}

/// What the file says now.
pub struct FileUpdate {
    generation: u64,
    update: Update,
}

impl FileUpdate {
    /// The event for the engine; `asked` is told what came of it.
    pub fn asked_by(self, asked: Asked) -> Event {
        let Self { generation, update } = self;
        Event::Update { source: Source::Static, generation, update, request: Some(asked) }
    }
}

/// Each error of a file is a culprit.
fn refusal(errors: &ConfigErrors) -> Refusal {
    let mut culprits = Culprits::default();
    errors.to_string().lines().for_each(|line| culprits.push(|| line.to_owned()));
    Refusal::of(Kind::Malformed, culprits)
}
