//! What is known of etcd between and during sessions with it, and to whom it is told.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use tokio::sync::watch;
use tokio::time::Instant;

use super::acquire::{self, Plan, Wish};
use super::discover::discover;
use super::facts::Facts;
use super::layout::Layout;
use super::previous;
use super::record::{self, OwnNode};
use super::store::Moment;
use crate::config::{self, Etcd, Style};
use crate::control::source::cluster::{Announcement, Ends};
use crate::control::source::flannel::node::second_peer;
use crate::control::source::flannel::subnet_file;
use crate::control::source::teller::Teller;
use crate::net::{Mac, Prefix};
use crate::route::Source;

/// What is known, and to whom it is told.
pub(super) struct Follower {
    pub(super) settings: Etcd,
    pub(super) facts: Facts,
    /// The last configuration that can be used.
    pub(super) layout: Option<Layout>,
    pub(super) own: OwnNode,
    /// The record that this node had at another address: its key and value.
    former: Option<(String, String)>,
    /// When records are to be forgotten of an etcd that was there before this one.
    pub(super) forget_at: Option<Instant>,
    /// The lease of this node's record, as far as this process has one.
    pub(super) lease: Option<i64>,
    /// Up to where changes are known.
    pub(super) moment: Option<Moment>,
    pub(super) announced: watch::Receiver<Option<Announcement>>,
    pub(super) teller: Teller<Facts>,
    /// What is wrong with the configuration there.
    layout_problem: Option<String>,
    /// What is wrong with this node's subnet.
    claim_problem: Option<String>,
    file_problem: Option<String>,
}

impl Follower {
    /// Nothing known yet; `node` is this one.
    ///
    /// # Errors
    /// When it has no IPv4 address, by which flannel's nodes know each other.
    pub(super) fn new(
        settings: Etcd,
        node: &config::Node,
        Ends { tell, announced }: Ends,
    ) -> Result<Self, &'static str> {
        let Some(address) = node.address else {
            return Err("flannel's nodes are known by an IPv4 address in etcd; give `address` under [node]");
        };
        Ok(Self {
            teller: Teller::new(Source::Etcd, &settings.state_file, node.name.as_str(), tell),
            facts: Facts::default(),
            layout: None,
            own: OwnNode {
                address: address.addr(),
                address6: node.address6.map(|net| net.addr()),
                mac: Mac::of_vtep(node.name.as_str()),
                mac6: Mac::of_vtep(&second_peer(node.name.as_str())),
            },
            former: None,
            forget_at: None,
            lease: None,
            moment: None,
            announced,
            layout_problem: None,
            claim_problem: None,
            file_problem: None,
            settings,
        })
    }

    /// The address by which etcd knows this node.
    pub(super) fn address(&self) -> Ipv4Addr {
        self.own.address
    }

    /// Whether the daemon runs, with a subnet that its pods have addresses of.
    fn serves(&self) -> bool {
        self.announced.borrow().is_some() && self.facts.own.is_some()
    }

    /// Takes what the state file has, until etcd says it anew.
    pub(super) fn recall(&mut self) {
        let Some(facts) = self.teller.recall() else { return };
        self.facts = facts;
        let had = self.facts.own.as_deref().and_then(|key| record::subnets(key).ok()).unwrap_or_default();
        let given = [self.settings.subnet, self.settings.subnet6].into_iter().flatten();
        if given.into_iter().any(|given| !had.contains(&given)) {
            self.facts.own = None;
        }
        self.read_layout();
        let key = self.facts.own.clone();
        let record = key.and_then(|key| Some((self.facts.records.get(&key)?.value.clone(), key)));
        self.former = record.filter(|(value, _)| !self.is_own(value)).map(|(value, key)| (key, value));
        if let (Some(layout), Some(_)) = (&self.layout, &self.facts.own) {
            let found = discover(&self.facts, layout, self.own);
            self.teller.say_old(found, Style::Flannel, self.nodes());
        }
    }

    /// Reads the configuration; one that cannot be used leaves the last one in place.
    pub(super) fn read_layout(&mut self) {
        let key = format!("{}/config", self.settings.prefix);
        let read = match &self.facts.config {
            None => Err(format!(
                "{key} is not there; put flannel's configuration there, such as \
                 etcdctl put {key} '{{\"Network\":\"10.244.0.0/16\",\"Backend\":{{\"Type\":\"vxlan\"}}}}'"
            )),
            Some(text) => Layout::read(text).map_err(|reason| format!("{key}: {reason}; correct it")),
        };
        let problem = match read {
            Ok(layout) => {
                self.layout = Some(layout);
                None
            }
            Err(reason) if self.layout.is_some() => Some(format!("{reason}; what it was before is followed")),
            Err(reason) => Some(reason),
        };
        note(&mut self.layout_problem, problem);
    }

    /// Whether a record says that this node is where it is now.
    fn is_own(&self, value: &str) -> bool {
        record::Said::read(value).is_ok_and(|said| said.is_of(self.address()))
    }

    /// The record that this node had at another address, where nobody else has touched it since.
    fn moved(&self) -> Option<Plan> {
        let (key, value) = self.former.as_ref()?;
        let record = self.facts.records.get(key).filter(|record| record.value == *value)?;
        Some(Plan::Take { key: key.clone(), record: record.clone() })
    }

    /// What is to be done for this node to have a subnet.
    ///
    /// # Errors
    /// Why there is none to be had now, or why its own is another's.
    pub(super) fn plan(&self, layout: &Layout, random: u64) -> Result<Plan, String> {
        if let Some(plan) = self.moved() {
            return Ok(plan);
        }
        if let Some(key) = self.facts.own.as_deref().filter(|_| self.serves()) {
            return acquire::keep(&self.facts, key, self.address());
        }
        let had = self.facts.own.as_deref().and_then(|key| record::subnets(key).ok());
        let mut had_before: Vec<Vec<Prefix>> = had.into_iter().collect();
        had_before.push(previous::subnets(&self.settings.subnet_file));
        let given = (self.settings.subnet, self.settings.subnet6);
        let wish = Wish { own: self.address(), given, previous: &had_before, random };
        acquire::acquire(&self.facts, layout, &wish)
    }

    /// This node's other records, which end by themselves.
    pub(super) fn left_behind(&self) -> Vec<(String, i64)> {
        let Some(own) = self.facts.own.as_deref().filter(|_| !self.serves()) else { return Vec::new() };
        let left = acquire::left_behind(&self.facts, own, self.address());
        left.into_iter().map(|(key, modified)| (key.to_owned(), modified)).collect()
    }

    /// Notes how it stands with this node's subnet. What it had once is not its own while that is a problem, unless its
    /// pods have addresses there.
    pub(super) fn note_claim(&mut self, problem: Option<String>) {
        if problem.is_some() && !self.serves() {
            self.facts.own = None;
            self.teller.tell.send_if_modified(|said| said.found.take().is_some());
        }
        note(&mut self.claim_problem, problem);
    }

    /// Whether something is not as it should be, so that it is to be tried again.
    pub(super) fn has_claim_problem(&self) -> bool {
        self.claim_problem.is_some()
    }

    /// What this node's record is to hold.
    pub(super) fn value(&self, layout: &Layout, key: &str) -> String {
        record::value(&layout.network, self.own, key.contains('&'))
    }

    /// Tells what etcd says now, or what is missing before it can say enough.
    pub(super) fn say(&mut self) {
        match (&self.layout, &self.facts.own) {
            (Some(layout), Some(_)) => {
                let found = discover(&self.facts, layout, self.own);
                let (nodes, problems) = (self.nodes(), self.problems());
                self.teller.say(found, Style::Flannel, nodes, problems);
                self.teller.find();
            }
            _ => {
                let missing = self.problems().into_iter().next();
                self.teller.lose(missing.unwrap_or_else(|| "this node has no subnet yet".to_owned()));
            }
        }
    }

    /// Writes flannel's file for others on the host, once the daemon runs.
    pub(super) fn write_subnets(&mut self) {
        let Some(announcement) = self.announced.borrow().clone() else { return };
        let (Some(layout), Some(own)) = (&self.layout, &self.facts.own) else { return };
        let subnets = record::subnets(own).unwrap_or_default();
        let (path, networks) = (&self.settings.subnet_file, &layout.network.networks);
        let written = subnet_file::write(path, "[source.etcd]", networks, &subnets, &announcement);
        note(&mut self.file_problem, written.err());
        self.say_problems();
    }

    /// Writes the state file.
    pub(super) fn write(&mut self) {
        self.teller.write(&self.facts);
        self.say_problems();
    }

    fn say_problems(&self) {
        self.teller.say_problems(self.problems());
    }

    fn problems(&self) -> Vec<String> {
        let passed_over = self.facts.passed_over;
        let too_much = (passed_over > 0)
            .then(|| format!("{passed_over} records are too many, or their keys too long, to be followed"));
        let own =
            [&self.layout_problem, &self.claim_problem, &self.file_problem, &too_much].into_iter().flatten();
        own.chain(self.teller.file_trouble()).cloned().collect()
    }

    /// Nodes that etcd knows, this one among them.
    fn nodes(&self) -> usize {
        let said = self.facts.records.values().filter_map(|record| record::Said::read(&record.value).ok());
        said.filter_map(|said| said.address).collect::<BTreeSet<_>>().len()
    }
}

/// Has `now` in the place of `before`; a problem that is another one is logged.
fn note(before: &mut Option<String>, now: Option<String>) {
    if let Some(problem) = now.as_ref().filter(|_| *before != now) {
        tracing::error!("source etcd: {problem}");
    }
    *before = now;
}
