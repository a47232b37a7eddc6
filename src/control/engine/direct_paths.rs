//! Direct paths that are to be verified: routes along them change their mode with what is known of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::bfd::Verdict;
use super::state::State;
use crate::dataplane::packet::Family;
use crate::net::Prefix;
use crate::route::{DirectPath, EncapPolicy, PeerId};

impl State {
    /// Follows which direct paths carry packets of pods: the routes along those that do so now, or no longer, change
    /// their mode.
    pub(super) fn set_direct_paths(&mut self, paths: BTreeMap<DirectPath, Verdict>) {
        let used = paths.iter().filter(|(_, verdict)| verdict.used);
        let verified: BTreeSet<DirectPath> = used.map(|(path, _)| *path).collect();
        let before = self.policy.verified();
        let failed = before.iter().filter(|path| paths.get(path).is_some_and(|verdict| !verdict.used));
        self.path_failures += failed.count() as u64;
        self.paths = Arc::new(paths);
        let changed: BTreeSet<DirectPath> = before.symmetric_difference(&verified).copied().collect();
        if changed.is_empty() {
            return;
        }
        let takes = |prefix: Prefix, id: &PeerId| {
            let family = Family::of(prefix.address());
            self.peers.get(usize::from(id.0)).is_some_and(|peer| {
                let next_hop = peer.next_hop(family).0;
                changed.contains(&DirectPath { ipv4: prefix.is_ipv4(), next_hop })
            })
        };
        let routes = self
            .rib
            .best()
            .filter(|route| self.rib.peers(&route.target).iter().any(|id| takes(route.prefix, id)));
        let prefixes = routes.map(|route| route.prefix).collect();
        let policy = EncapPolicy::clone(&self.policy);
        self.policy = Arc::new(policy.with_verified(verified));
        self.pending.add_all(prefixes, self.rib.len());
        self.urgent = true;
    }
}
