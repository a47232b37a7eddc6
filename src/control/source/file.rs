//! The configuration file, read at start and at each reload.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::oneshot::{self, error::TryRecvError};
use tokio::time::timeout;

use crate::config::{self, Config, ConfigErrors, Pool};
use crate::control::engine::edits::lines::Culprits;
use crate::control::engine::refusal::{Kind, Refusal};

/// The file with what was given beside it.
#[derive(Debug)]
pub struct FileSource {
    path: PathBuf,
    /// A pool that the command line adds.
    pool: Option<Pool>,
    /// What comes of a reading that has not ended in time.
    reading: Option<oneshot::Receiver<Read>>,
}

type Read = Result<Config, ConfigErrors>;

/// How long a reading may take: a file system may be away.
const PATIENCE: Duration = Duration::from_secs(10);

impl FileSource {
    /// The file at `path`, and a pool beside those of the file.
    pub fn new(path: PathBuf, pool: Option<Pool>) -> Self {
        Self { path, pool, reading: None }
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
        with_pool(config::load(&self.path), self.pool)
    }

    /// What it says now. It is read in a thread of its own, which nothing waits for when it does not come back, not
    /// even the end of the daemon.
    ///
    /// # Errors
    /// Everything that is wrong with it; [`Kind::Busy`] when it cannot be read now.
    pub async fn read_again(&mut self) -> Result<Config, Refusal> {
        let busy = |text: String| Refusal::new(Kind::Busy, text);
        let path = self.path.display();
        if let Some(Err(TryRecvError::Empty)) = self.reading.as_mut().map(oneshot::Receiver::try_recv) {
            return Err(busy(format!(
                "{path}: an earlier reading has not come back; is its file system there?"
            )));
        }
        let (told, mut read) = oneshot::channel();
        let (file, pool) = (self.path.clone(), self.pool);
        let thread = std::thread::Builder::new().name("configuration".to_owned());
        // Who waited may have given up.
        let thread = thread.spawn(move || drop(told.send(with_pool(config::load_again(&file), pool))));
        thread.map_err(|error| busy(format!("{path}: cannot be read now: {error}")))?;
        match timeout(PATIENCE, &mut read).await {
            Ok(Ok(config)) => config.map_err(|errors| refusal(&errors)),
            Ok(Err(_)) => Err(busy(format!("{path}: the reading failed"))),
            Err(_) => {
                self.reading = Some(read);
                let seconds = PATIENCE.as_secs();
                Err(busy(format!("{path}: not read within {seconds} s; is its file system there?")))
            }
        }
    }
}

fn with_pool(read: Read, pool: Option<Pool>) -> Read {
    match pool {
        Some(pool) => read.and_then(|config| config.with_pool(pool)),
        None => read,
    }
}

/// Each error of a file is a culprit.
fn refusal(errors: &ConfigErrors) -> Refusal {
    let mut culprits = Culprits::default();
    errors.to_string().lines().for_each(|line| culprits.push(|| line.to_owned()));
    Refusal::of(Kind::Malformed, culprits)
}
