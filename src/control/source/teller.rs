//! Tells what a cluster says, and keeps it on disk for a start while the cluster cannot be asked.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::time::Instant;

use super::cluster::Said;
use super::discovered::Discovered;
use super::state_file::StateFile;
use crate::config::Style;
use crate::route::Source;

/// Writes of the state file come no closer together.
const WRITES: Duration = Duration::from_secs(1);

/// To whom is told what a source knows, in the form `F` on disk.
pub(super) struct Teller<F> {
    source: Source,
    /// The other end of what is told.
    pub(super) tell: watch::Sender<Said>,
    file: StateFile<F>,
    /// Why what is known could not be kept.
    file_trouble: Option<String>,
    /// When the state file is due.
    write_at: Option<Instant>,
}

impl<F: DeserializeOwned + Serialize> Teller<F> {
    /// Nothing told yet of the cluster that `source` is, in which this is `node`.
    pub(super) fn new(source: Source, state_file: &Path, node: &str, tell: watch::Sender<Said>) -> Self {
        let file = StateFile::new(state_file, node);
        Self { source, tell, file, file_trouble: None, write_at: None }
    }

    /// What the state file has, for the time until the cluster says it anew.
    pub(super) fn recall(&self) -> Option<F> {
        match self.file.read() {
            Ok(facts) => facts,
            Err(why) => {
                tracing::warn!("what was known of the cluster is lost: {why}");
                None
            }
        }
    }

    /// Tells what was known when the state file was written.
    pub(super) fn say_old(&self, found: Discovered, style: Style, nodes: usize) {
        self.tell.send_modify(|said| {
            *said = Said {
                found: Some(Arc::new(found)),
                style: Some(style),
                is_old: true,
                nodes,
                ..Said::default()
            };
        });
    }

    /// Tells what the cluster says now, and what is wrong with it.
    pub(super) fn say(&mut self, found: Discovered, style: Style, nodes: usize, problems: Vec<String>) {
        self.write_at.get_or_insert_with(|| Instant::now() + WRITES);
        self.tell.send_if_modified(|said| {
            let found = match &said.found {
                Some(before) if **before == found => Arc::clone(before),
                _ => Arc::new(found),
            };
            let lost = said.lost.clone();
            let now = Said { found: Some(found), style: Some(style), lost, is_old: false, nodes, problems };
            let news = *said != now;
            *said = now;
            news
        });
    }

    /// Tells what is wrong now, beside what the cluster says.
    pub(super) fn say_problems(&self, problems: Vec<String>) {
        self.tell.send_if_modified(|said| {
            let news = said.problems != problems;
            said.problems = problems;
            news
        });
    }

    /// The cluster cannot be followed for now.
    pub(super) fn lose(&self, why: String) {
        self.tell.send_if_modified(|said| {
            let news = said.lost.as_ref() != Some(&why);
            if said.lost.is_none() && said.found.is_some() {
                let source = self.source.name();
                tracing::warn!("source {source}: not followed for now, the last state stays: {why}");
            }
            said.lost = Some(why);
            news
        });
    }

    /// It can be followed again.
    pub(super) fn find(&self) {
        self.tell.send_if_modified(|said| {
            let news = said.lost.take().is_some();
            if news {
                tracing::info!("source {}: followed again", self.source.name());
            }
            news
        });
    }

    /// When [`Teller::write`] is due.
    pub(super) fn write_at(&self) -> Option<Instant> {
        self.write_at
    }

    /// What keeps the state file from being written.
    pub(super) fn file_trouble(&self) -> Option<&String> {
        self.file_trouble.as_ref()
    }

    /// Writes the state file.
    pub(super) fn write(&mut self, facts: &F) {
        self.write_at = None;
        let trouble = self.file.keep(facts).err().map(|why| {
            let source = self.source.name();
            format!("the state is not kept, so a start needs the cluster: {why}; correct `state_file` under [source.{source}]")
        });
        if self.file_trouble != trouble
            && let Some(why) = &trouble
        {
            tracing::warn!("source {}: {why}", self.source.name());
        }
        self.file_trouble = trouble;
    }
}
