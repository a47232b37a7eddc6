//! What the own node says of itself in the cluster, and what flannel writes for others on the host.
//!
//! It is compared with what is there and written where that is different, by the daemon alone: in Calico's style the
//! cluster is only read.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use kube::api::{DynamicObject, Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;
use tokio::time::Instant;

use super::facts::{Facts, NodeFacts};
use super::{flannel, objects, plain};
use crate::config::Style;
use crate::control::source::cluster::Announcement;
use crate::control::source::discovered::Discovered;
use crate::control::source::flannel::node::{backend_data, second_peer};
use crate::control::source::flannel::{Network, subnet_file};
use crate::net::Mac;

/// Where the path of flannel's file is from.
const SECTION: &str = "[source.kubernetes]";
/// From a refused write to the next try, growing.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Writes what is different from what it should be.
pub(super) struct Announcer {
    node: String,
    subnet_file: PathBuf,
    problems: BTreeSet<String>,
    pause: Duration,
    /// When what was refused is tried again.
    retry: Option<Instant>,
}

impl Announcer {
    /// For the node called `node`.
    pub(super) fn new(node: &str, subnet_file: &Path) -> Self {
        let node = node.to_owned();
        Self {
            node,
            subnet_file: subnet_file.into(),
            problems: BTreeSet::new(),
            pause: PAUSES.0,
            retry: None,
        }
    }

    /// What could not be written.
    pub(super) fn problems(&self) -> impl Iterator<Item = &String> {
        self.problems.iter()
    }

    /// When what could not be written is tried again.
    pub(super) fn due(&self) -> Option<Instant> {
        self.retry
    }

    /// Has the cluster and the host told what `announcement` says, where `facts` say otherwise.
    pub(super) async fn announce(
        &mut self,
        client: &Client,
        facts: &Facts,
        found: &Discovered,
        announcement: &Announcement,
    ) {
        if self.retry.is_some_and(|retry| retry > Instant::now()) {
            return;
        }
        let Some(node) = facts.nodes.get(&self.node) else { return };
        let mut problems = BTreeSet::new();
        let nodes = Api::<DynamicObject>::all_with(client.clone(), &objects::nodes());
        let unavailable = match facts.style {
            Some(Style::Flannel) => {
                problems.extend(self.annotate(&nodes, facts, node, announcement).await.err());
                problems.extend(self.write_subnets(facts, found, announcement).err());
                node.network_unavailable != Some(false)
            }
            // Clouds set it until something brings the network up.
            Some(Style::Native) => node.network_unavailable == Some(true),
            Some(Style::Calico) | None => false,
        };
        if unavailable {
            problems.extend(self.be_available(&nodes).await.err());
        }
        if problems.is_empty() {
            (self.pause, self.retry) = (PAUSES.0, None);
        } else {
            self.retry = Some(Instant::now() + self.pause);
            self.pause = (self.pause * 2).min(PAUSES.1);
        }
        for problem in problems.difference(&self.problems) {
            tracing::warn!("source kubernetes: {problem}");
        }
        self.problems = problems;
    }

    /// flannel's annotations at the own node.
    async fn annotate(
        &self,
        nodes: &Api<DynamicObject>,
        facts: &Facts,
        node: &NodeFacts,
        announcement: &Announcement,
    ) -> Result<(), String> {
        let network = flannel::network(facts, &self.node)?;
        let wanted = annotations((self.node.as_str(), node), &network, announcement);
        let different = wanted.iter().any(|(key, value)| node.annotations.get(key) != Some(value));
        if !different {
            return Ok(());
        }
        let patch = json!({ "metadata": { "annotations": wanted } });
        let done = nodes.patch(&self.node, &PatchParams::default(), &Patch::Merge(patch)).await;
        done.map(drop).map_err(|error| {
            let why = plain(&error);
            format!("node {} cannot be annotated, so flannel's nodes do not know of it: {why}; allow to patch nodes", self.node)
        })
    }

    /// The condition that keeps pods away from a node without network is not there.
    async fn be_available(&self, nodes: &Api<DynamicObject>) -> Result<(), String> {
        let now = Timestamp::now().to_string();
        let condition = json!({
            "type": "NetworkUnavailable",
            "status": "False",
            "reason": "UnderpassIsUp",
            "message": "underpass is running on this node",
            "lastTransitionTime": now,
            "lastHeartbeatTime": now,
        });
        let patch = json!({ "status": { "conditions": [condition] } });
        let done = nodes.patch_status(&self.node, &PatchParams::default(), &Patch::Strategic(patch)).await;
        done.map(drop).map_err(|error| {
            let why = plain(&error);
            format!(
                "node {} keeps the condition NetworkUnavailable: {why}; allow to patch nodes/status",
                self.node
            )
        })
    }

    /// flannel's file for CNI plugins on this host.
    fn write_subnets(
        &self,
        facts: &Facts,
        found: &Discovered,
        announcement: &Announcement,
    ) -> Result<(), String> {
        let networks = flannel::network(facts, &self.node)?.networks;
        let networks = if networks.is_empty() { &announcement.networks } else { &networks };
        subnet_file::write(&self.subnet_file, SECTION, networks, &found.own.subnets, announcement)
    }
}

/// What flannel would have at a node that is as `announcement` says.
fn annotations(
    (name, node): (&str, &NodeFacts),
    network: &Network,
    announcement: &Announcement,
) -> BTreeMap<String, String> {
    let mut wanted = BTreeMap::new();
    let mut say = |key: &str, value: String| drop(wanted.insert(format!("{}{key}", flannel::PREFIX), value));
    say("kube-subnet-manager", "true".to_owned());
    say("backend-type", network.backend.name().to_owned());
    let data = |mac| backend_data(network, mac).unwrap_or_else(|| "null".to_owned());
    let has = |is_ipv4| announcement.subnets.iter().any(|subnet| subnet.is_ipv4() == is_ipv4);
    let public = |key: &str, own: String| flannel::annotation(node, key).map_or(own, str::to_owned);
    if let Some(address) = announcement.address.filter(|_| has(true)) {
        say("public-ip", public("public-ip-overwrite", address.to_string()));
        say("backend-data", data(announcement.vtep_mac));
    }
    if let Some(address) = announcement.address6.filter(|_| has(false)) {
        say("public-ipv6", public("public-ipv6-overwrite", address.to_string()));
        // Its peers make two of a node of both families, and no two have one address.
        say("backend-v6-data", data(Mac::of_vtep(&second_peer(name))));
    }
    wanted
}

#[cfg(test)]
mod tests {
    use super::{Announcement, annotations, flannel};
    use crate::control::source::kubernetes::facts::{Facts, NodeFacts};

    #[test]
    fn the_annotations_are_those_of_a_flannel_node() {
        let facts = Facts::default();
        let network = flannel::network(&facts, "n3").unwrap();
        let mut node = NodeFacts::default();
        let key = |key: &str| format!("flannel.alpha.coreos.com/{key}");
        node.annotations.insert(key("public-ip-overwrite"), "203.0.113.3".to_owned());
        let said = annotations(("n3", &node), &network, &Announcement::sample());
        let lines: Vec<String> = said.iter().map(|(key, value)| format!("{key}={value}")).collect();
        assert_eq!(
            lines,
            [
                r#"flannel.alpha.coreos.com/backend-data={"VNI":1,"VtepMAC":"66:01:02:03:04:05"}"#,
                "flannel.alpha.coreos.com/backend-type=vxlan",
                r#"flannel.alpha.coreos.com/backend-v6-data={"VNI":1,"VtepMAC":"66:90:c0:29:2a:8a"}"#,
                "flannel.alpha.coreos.com/kube-subnet-manager=true",
                "flannel.alpha.coreos.com/public-ip=203.0.113.3",
                "flannel.alpha.coreos.com/public-ipv6=2001:db8::3",
            ]
        );
    }
}
