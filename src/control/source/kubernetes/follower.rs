//! What is known of the cluster between and during sessions with the API server, and to whom it is told.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::announce::Announcer;
use super::facts::Facts;
use super::state_file::StateFile;
use super::{discover, style_of};
use crate::config::{Kubernetes, Style};
use crate::control::source::cluster::{Announcement, Ends, Said};
use crate::control::source::discovered::Discovered;

/// Writes of the state file come no closer together.
const WRITES: Duration = Duration::from_secs(1);

/// What is known, and to whom it is told.
pub(super) struct Follower {
    pub(super) settings: Kubernetes,
    pub(super) facts: Facts,
    pub(super) announcer: Announcer,
    pub(super) announced: watch::Receiver<Option<Announcement>>,
    /// What the daemon may not read there, and the last trouble with the state file.
    pub(super) problems: BTreeSet<String>,
    file: StateFile,
    file_trouble: Option<String>,
    /// When the state file is due.
    write_at: Option<Instant>,
    pub(super) tell: watch::Sender<Said>,
}

impl Follower {
    /// Nothing known yet.
    pub(super) fn new(settings: Kubernetes, Ends { tell, announced }: Ends) -> Self {
        let node = settings.node_name.as_str();
        Self {
            file: StateFile::new(&settings.state_file, node),
            announcer: Announcer::new(node, &settings.subnet_file),
            facts: Facts::default(),
            announced,
            problems: BTreeSet::new(),
            file_trouble: None,
            write_at: None,
            tell,
            settings,
        }
    }

    /// Takes what the state file has, until the API server says it anew.
    pub(super) fn recall(&mut self) {
        match self.file.read() {
            Ok(Some(facts)) => {
                self.facts = facts;
                if self.settings.style.is_some() {
                    self.facts.style = self.settings.style;
                }
                let Some(style) = self.facts.style else { return };
                let found = Arc::new(discover(&self.facts, style, self.settings.node_name.as_str()));
                let nodes = self.facts.nodes.len();
                self.tell.send_modify(|said| {
                    *said = Said {
                        found: Some(found),
                        style: Some(style),
                        is_old: true,
                        nodes,
                        ..Said::default()
                    };
                });
            }
            Ok(None) => {}
            Err(why) => tracing::warn!("what was known of the cluster is lost: {why}"),
        }
    }

    /// Tells what the cluster says now, which all of `facts` have been read for.
    pub(super) fn say(&mut self) {
        let style = self.decide();
        let own = self.settings.node_name.as_str();
        let mut found = discover(&self.facts, style, own);
        if self.facts.nodes.is_empty() {
            found.refuse("node", own, "the API server knows no node at all");
        }
        let nodes = self.facts.nodes.len();
        self.write_at.get_or_insert_with(|| Instant::now() + WRITES);
        let problems = self.problems();
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

    /// The style: the configured one, the one decided before, or what there is.
    fn decide(&mut self) -> Style {
        if let Some(style) = self.settings.style.or(self.facts.style) {
            return *self.facts.style.insert(style);
        }
        let (style, why) = style_of(&self.facts);
        tracing::info!("source kubernetes: style {}: {why}", style.name());
        *self.facts.style.insert(style)
    }

    fn problems(&self) -> Vec<String> {
        let all = self.problems.iter().chain(&self.file_trouble).chain(self.announcer.problems());
        all.cloned().collect()
    }

    /// Tells what is wrong now, beside what the cluster says.
    pub(super) fn say_problems(&self) {
        let problems = self.problems();
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
                tracing::warn!("source kubernetes: not followed for now, the last state stays: {why}");
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
                tracing::info!("source kubernetes: followed again");
            }
            news
        });
    }

    /// What was told last.
    pub(super) fn found(&self) -> Option<Arc<Discovered>> {
        self.tell.borrow().found.clone()
    }

    /// When [`Follower::write`] is due.
    pub(super) fn write_at(&self) -> Option<Instant> {
        self.write_at
    }

    /// Writes the state file.
    pub(super) fn write(&mut self) {
        self.write_at = None;
        let trouble = self.file.keep(&self.facts).err();
        if trouble.is_some() && self.file_trouble != trouble {
            let why = trouble.as_deref().unwrap_or_default();
            tracing::warn!("a start without the API server will know nothing of the cluster: {why}");
        }
        self.file_trouble = trouble.map(|why| {
            format!("the state is not kept, so a start needs the API server: {why}; correct `state_file`")
        });
        self.say_problems();
    }
}
