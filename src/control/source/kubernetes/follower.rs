//! What is known of the cluster between and during sessions with the API server, and to whom it is told.

use std::collections::BTreeSet;

use tokio::sync::watch;

use super::announce::Announcer;
use super::facts::Facts;
use super::policies::Policies;
use super::{discover, style_of};
use crate::config::{Kubernetes, Style};
use crate::control::source::cluster::{Announcement, Ends, PolicyEnds};
use crate::control::source::teller::Teller;
use crate::route::Source;

/// What is known, and to whom it is told.
pub(super) struct Follower {
    pub(super) settings: Kubernetes,
    pub(super) facts: Facts,
    pub(super) announcer: Announcer,
    pub(super) announced: watch::Receiver<Option<Announcement>>,
    /// What the daemon may not read there.
    pub(super) problems: BTreeSet<String>,
    pub(super) teller: Teller<Facts>,
    pub(super) policies: Policies,
}

impl Follower {
    /// Nothing known yet.
    pub(super) fn new(settings: Kubernetes, Ends { tell, announced }: Ends, policies: PolicyEnds) -> Self {
        let node = settings.node_name.as_str();
        Self {
            teller: Teller::new(Source::Kubernetes, &settings.state_file, node, tell),
            announcer: Announcer::new(node, &settings.subnet_file),
            policies: Policies::new(policies, &settings.state_file, node),
            facts: Facts::default(),
            announced,
            problems: BTreeSet::new(),
            settings,
        }
    }

    /// Takes what the state file has, until the API server says it anew.
    pub(super) fn recall(&mut self) {
        let Some(facts) = self.teller.recall() else { return };
        self.facts = facts;
        if self.settings.style.is_some() {
            self.facts.style = self.settings.style;
        }
        let Some(style) = self.facts.style else { return };
        let found = discover(&self.facts, style, self.settings.node_name.as_str());
        self.teller.say_old(found, style, self.facts.nodes.len());
    }

    /// Tells what the cluster says now, which all of `facts` have been read for.
    pub(super) fn say(&mut self) {
        let style = self.decide();
        let own = self.settings.node_name.as_str();
        let mut found = discover(&self.facts, style, own);
        if self.facts.nodes.is_empty() {
            found.refuse("node", own, "the API server knows no node at all");
        }
        let problems = self.problems();
        self.teller.say(found, style, self.facts.nodes.len(), problems);
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
        let all = self.problems.iter().chain(self.teller.file_trouble()).chain(self.announcer.problems());
        all.cloned().chain(self.policies.problems()).collect()
    }

    /// Tells what is wrong now, beside what the cluster says.
    pub(super) fn say_problems(&self) {
        self.teller.say_problems(self.problems());
    }

    /// Writes the state file.
    pub(super) fn write(&mut self) {
        self.teller.write(&self.facts);
        self.say_problems();
    }

    /// Writes the state file of policies.
    pub(super) fn write_policies(&mut self) {
        self.policies.write();
        self.say_problems();
    }
}
