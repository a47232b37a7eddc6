//! A session with the API server: what is watched, and what follows from what it tells.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::select_all;
use kube::api::{ApiResource, DynamicObject, ListParams};
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client};
use serde_json::Value;
use tokio::time::{Instant, sleep_until, timeout};

use super::facts::{AffinityFacts, BlockFacts, NodeFacts, PoolFacts};
use super::follower::Follower;
use super::objects::{self, CALICO_GROUPS, Kind};
use super::table::Table;
use super::watches::{Watched, Watches, watch};
use super::{plain, policies};
use crate::config::Style;
use crate::control::source::at;

/// Changes that come together are told together.
const GATHER: Duration = Duration::from_millis(50);
/// Silence after which the API server is asked whether it is there.
const SILENCE: Duration = Duration::from_secs(30);
/// How often it is asked while something fails.
const ASKED: Duration = Duration::from_secs(2);
/// How long it may take to answer that.
const ANSWER: Duration = Duration::from_secs(5);
/// A watch that has not failed for so long, while the API server answers, is well: longer than the longest pause
/// of a watch and a connection that fails after that.
const WELL: Duration = Duration::from_secs(9);
/// How often the cluster is asked whether it has other kinds of policies by now.
const DISCOVERED: Duration = Duration::from_secs(120);
/// Where flannel's configuration is: its manifests have used both.
const NET_CONF: [(&str, &str); 2] =
    [("kube-flannel", "kube-flannel-cfg"), ("kube-system", "kube-flannel-cfg")];

/// How a session ended.
pub(super) enum Ended {
    /// Nobody wants to know any more.
    Unwanted,
    /// Other kinds are to be watched.
    Anew,
    /// The API server cannot be used, and why.
    Lost(String),
}

/// The watches, and what they have told so far.
pub(super) struct Session<'a> {
    follower: &'a mut Follower,
    client: Client,
    watches: Watches,
    nodes: Table<NodeFacts>,
    pools: Table<PoolFacts>,
    affinities: Table<AffinityFacts>,
    blocks: Table<BlockFacts>,
    clusters: Table<bool>,
    locks: BTreeMap<String, bool>,
    /// What is watched.
    kinds: Vec<Kind>,
    /// When each watch that fails did so last.
    failing: BTreeMap<Watched, Instant>,
    heard: Instant,
    /// When what was told is passed on.
    due: Option<Instant>,
    /// When what was told of policies is passed on.
    policies_due: Option<Instant>,
    /// When the cluster is asked for kinds of policies.
    discover_at: Instant,
}

impl<'a> Session<'a> {
    /// Finds out what there is to watch, and watches it.
    ///
    /// # Errors
    /// Why the API server cannot be used.
    pub(super) async fn begin(follower: &'a mut Follower, client: Client) -> Result<Self, String> {
        let asked = |error: kube::Error| format!("API server: {}", plain(&error));
        client.apiserver_version().await.map_err(asked)?;
        follower.problems.clear();
        let style = follower.settings.style.or(follower.facts.style);
        let mut kinds = vec![(Kind::Node, objects::nodes())];
        if style.is_none_or(|style| style == Style::Calico) {
            kinds.extend(calico_kinds(follower, &client, style.is_some()).await?);
        }
        let of_policies = follower.policies.begin(&client).await?;
        let nodes = kinds
            .iter()
            .map(|(kind, resource)| (Watched::Cluster(*kind), resource, watcher::Config::default()));
        let policies = of_policies
            .iter()
            .map(|(kind, resource)| (Watched::Policies(*kind), resource, kind.watched_by()));
        let all = nodes.chain(policies);
        let watches = select_all(all.map(|(kind, resource, config)| watch(&client, kind, resource, config)));
        if style.is_none_or(|style| style == Style::Flannel) {
            follower.facts.net_conf = net_conf(follower, &client).await;
        }
        Ok(Self {
            follower,
            client,
            watches,
            nodes: Table::new(),
            pools: Table::new(),
            affinities: Table::new(),
            blocks: Table::new(),
            clusters: Table::new(),
            locks: BTreeMap::new(),
            kinds: kinds.into_iter().map(|(kind, _)| kind).collect(),
            failing: BTreeMap::new(),
            heard: Instant::now(),
            due: None,
            policies_due: None,
            discover_at: Instant::now() + DISCOVERED,
        })
    }

    /// Follows what is told. Returns why that ended.
    pub(super) async fn run(mut self) -> Ended {
        let mut announced = self.follower.announced.clone();
        let mut wanted = self.follower.policies.wanted();
        loop {
            let asked = self.ask_at();
            tokio::select! {
                told = self.watches.next() => match told {
                    Some((Watched::Cluster(kind), Ok(event))) => self.take(kind, event),
                    Some((Watched::Policies(kind), Ok(event))) => self.take_policies(kind, event),
                    Some((kind, Err(error))) => self.failed(kind, &error),
                    None => return Ended::Lost("the watches ended".to_owned()),
                },
                changed = announced.changed() => match changed {
                    Ok(()) => self.announce().await,
                    Err(_) => return Ended::Unwanted,
                },
                changed = wanted.changed() => match changed {
                    Ok(()) => return Ended::Anew,
                    Err(_) => return Ended::Unwanted,
                },
                () = at(self.due) => {
                    self.due = None;
                    self.pass_on().await;
                    self.recover();
                }
                () = at(self.policies_due) => {
                    self.policies_due = None;
                    self.pass_on_policies();
                }
                () = at(self.follower.teller.write_at()) => self.follower.write(),
                () = at(self.follower.policies.write_at()) => self.follower.write_policies(),
                () = at(self.follower.announcer.due()) => self.announce().await,
                () = sleep_until(asked) => {
                    if let Some(why) = self.ask().await {
                        return Ended::Lost(why);
                    }
                }
                () = sleep_until(self.discover_at) => {
                    self.discover_at = Instant::now() + DISCOVERED;
                    if self.follower.policies.are_others(&self.client).await {
                        return Ended::Anew;
                    }
                }
            }
        }
    }

    fn take(&mut self, kind: Kind, event: Event<DynamicObject>) {
        self.heard = Instant::now();
        // A part of a list counts at its end.
        if !matches!(event, Event::Init | Event::InitApply(_)) {
            self.failing.remove(&Watched::Cluster(kind));
        }
        let facts = &mut self.follower.facts;
        let changed = match kind {
            Kind::Node => self.nodes.take(&mut facts.nodes, event, |node| Some(objects::node(node))),
            Kind::Pool => self.pools.take(&mut facts.pools, event, objects::pool),
            Kind::Affinity => self.affinities.take(&mut facts.affinities, event, objects::affinity),
            Kind::Block => self.blocks.take(&mut facts.blocks, event, objects::block),
            Kind::Cluster => {
                let read = |object: DynamicObject| Some(objects::is_locked(&object));
                let changed = self.clusters.take(&mut self.locks, event, read);
                facts.locked = self.locks.values().any(|locked| *locked);
                changed
            }
        };
        if changed {
            self.due.get_or_insert_with(|| Instant::now() + GATHER);
        }
        self.recover();
    }

    fn take_policies(&mut self, kind: policies::Kind, event: Event<DynamicObject>) {
        self.heard = Instant::now();
        if !matches!(event, Event::Init | Event::InitApply(_)) {
            self.failing.remove(&Watched::Policies(kind));
        }
        if self.follower.policies.take(kind, event) {
            self.policies_due.get_or_insert_with(|| Instant::now() + GATHER);
        }
    }

    /// The cluster is followed when all that it told has been passed on, and nothing fails.
    fn recover(&self) {
        let fails = self.failing.keys().any(|kind| matches!(kind, Watched::Cluster(_)));
        if !fails && self.due.is_none() && self.is_synced() {
            self.follower.teller.find();
        }
    }

    /// Whether everything that is watched has been listed.
    fn is_synced(&self) -> bool {
        self.kinds.iter().all(|kind| match kind {
            Kind::Node => self.nodes.is_synced,
            Kind::Pool => self.pools.is_synced,
            Kind::Affinity => self.affinities.is_synced,
            Kind::Block => self.blocks.is_synced,
            Kind::Cluster => self.clusters.is_synced,
        })
    }

    /// Tells what the cluster says now.
    async fn pass_on(&mut self) {
        if !self.is_synced() {
            return;
        }
        let too_many =
            self.nodes.too_many + self.pools.too_many + self.affinities.too_many + self.blocks.too_many;
        if too_many > 0 {
            let problem = format!("{too_many} objects of the cluster are too many to be followed");
            self.follower.problems.insert(problem);
        }
        if self.follower.facts.locked {
            // What a datastore holds while it is moved is not what the nodes do.
            let problem =
                "Calico's datastore is locked (datastoreReady is false): what was known before stays";
            self.follower.problems.insert(problem.to_owned());
            self.follower.say_problems();
            return;
        }
        self.follower.problems.retain(|problem| !problem.starts_with("Calico's datastore is locked"));
        self.follower.say();
        self.announce().await;
        // Policies may have waited for this.
        self.pass_on_policies();
    }

    /// Tells what the cluster has of policies now.
    fn pass_on_policies(&mut self) {
        if self.is_synced() && !self.follower.facts.locked {
            self.follower.policies.say();
        }
        self.follower.say_problems();
    }

    /// Has the own node say what it should.
    async fn announce(&mut self) {
        let Some(announcement) = self.follower.announced.borrow().clone() else { return };
        let Some(found) = self.follower.teller.tell.borrow().found.clone() else { return };
        if !self.is_synced() {
            return;
        }
        let Follower { announcer, facts, .. } = &mut *self.follower;
        announcer.announce(&self.client, facts, &found, &announcement).await;
        self.follower.say_problems();
    }

    fn failed(&mut self, kind: Watched, error: &watcher::Error) {
        self.failing.insert(kind, Instant::now());
        let why = format!("API server: {}", plain(error));
        match kind {
            Watched::Cluster(_) => self.follower.teller.lose(why),
            // Nodes are followed without them.
            Watched::Policies(kind) => {
                if self.follower.policies.lose(kind, why) {
                    self.follower.say_problems();
                }
            }
        }
    }

    /// When the API server is asked next whether it is there.
    fn ask_at(&self) -> Instant {
        let last = self.failing.values().max();
        last.map_or(self.heard + SILENCE, |last| *last.max(&self.heard) + ASKED)
    }

    /// Asks the API server whether it is there. Returns why the session is to end.
    async fn ask(&mut self) -> Option<String> {
        let answer = timeout(ANSWER, self.client.apiserver_version()).await;
        self.heard = Instant::now();
        match answer {
            Ok(Ok(_)) => {
                let now = Instant::now();
                self.failing.retain(|_, failed| now.duration_since(*failed) < WELL);
                self.recover();
                None
            }
            Ok(Err(error)) => Some(format!("API server: {}", plain(&error))),
            // What was open is dead, too, though nobody said so.
            Err(_) => Some(format!("API server: no answer within {} s", ANSWER.as_secs())),
        }
    }
}

/// The kinds of Calico's objects that can be read, as the first API group has them that has any. Where Calico is
/// `wanted` there must be some.
async fn calico_kinds(
    follower: &mut Follower,
    client: &Client,
    wanted: bool,
) -> Result<Vec<(Kind, ApiResource)>, String> {
    for group in CALICO_GROUPS {
        let mut kinds = Vec::new();
        for kind in Kind::OF_CALICO {
            let resource = kind.resource(group);
            let objects = Api::<DynamicObject>::all_with(client.clone(), &resource);
            match objects.list(&ListParams::default().limit(1)).await {
                Ok(_) => kinds.push((kind, resource)),
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(kube::Error::Api(status)) if status.code == 403 => {
                    let (group, plural) = (group.0, kind.plural());
                    let problem = format!(
                        "{plural}.{group} may not be listed; allow the service account list and watch"
                    );
                    follower.problems.insert(problem);
                }
                Err(error) => return Err(format!("API server: {}", plain(&error))),
            }
        }
        if kinds.iter().any(|(kind, _)| matches!(kind, Kind::Pool | Kind::Affinity)) {
            return Ok(kinds);
        }
    }
    match wanted {
        true => {
            Err("style is \"calico\", but the API server has no IP pools of Calico that may be read"
                .to_owned())
        }
        false => Ok(Vec::new()),
    }
}

/// flannel's own configuration, where it can be read: elsewhere the annotations of the nodes have to do.
async fn net_conf(follower: &mut Follower, client: &Client) -> Option<String> {
    for (namespace, name) in NET_CONF {
        let maps = Api::<DynamicObject>::namespaced_with(client.clone(), namespace, &objects::config_maps());
        match maps.get_opt(name).await {
            Ok(Some(map)) => {
                if let Some(conf) = map.data.pointer("/data/net-conf.json").and_then(Value::as_str) {
                    return Some(conf.to_owned());
                }
            }
            Ok(None) => {}
            Err(error) => {
                tracing::debug!("ConfigMap {namespace}/{name} cannot be read: {}", plain(&error));
            }
        }
    }
    follower.facts.net_conf.take()
}
