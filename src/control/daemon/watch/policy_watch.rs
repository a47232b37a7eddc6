//! Which peers IPsec policies are about. Towards those, packets leave by sockets that pass the policies.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::control::engine::port::Requirement;
use crate::control::engine::{Event, Snapshot};
use crate::control::host::{Policies, Policy};
use crate::net::Mode;
use crate::wire::protocol;

/// What is known of the policies.
pub(crate) struct PolicyWatch {
    /// `None` where the kernel has none, or does not tell us.
    policies: Option<Policies>,
    told: (BTreeSet<IpAddr>, Vec<Requirement>),
}

impl PolicyWatch {
    /// Watches those of this network namespace.
    pub(crate) fn new() -> Self {
        Self { policies: Policies::connect().ok(), told: Default::default() }
    }

    /// Looks at them; returns what is new.
    pub(crate) fn look(&mut self, snapshot: &Snapshot) -> Option<Event> {
        let found = match self.policies.as_mut()?.read() {
            Ok(policies) => judge(&policies, snapshot),
            Err(error) => {
                tracing::debug!("IPsec policies are not known: {error}");
                self.policies = None;
                return None;
            }
        };
        if found == self.told {
            return None;
        }
        self.told.clone_from(&found);
        Some(Event::Policies(found.0, found.1))
    }
}

/// The addresses of peers that some policy is about, and what cannot be obeyed.
fn judge(policies: &[Policy], snapshot: &Snapshot) -> (BTreeSet<IpAddr>, Vec<Requirement>) {
    if policies.is_empty() {
        return Default::default();
    }
    let about = |policy: &Policy, peer: IpAddr| policy.applies(snapshot.underlay.facing(peer), peer);
    let peers = snapshot.known().map(|peer| peer.address);
    let policed = peers.filter(|peer| policies.iter().any(|policy| about(policy, *peer))).collect();
    let special = policies.iter().filter(|policy| matches!(policy.protocol, protocol::IPIP | protocol::IPV6));
    let by_ipip = snapshot.peers_by(Mode::Ipip);
    let wrong = special.filter(|policy| by_ipip.iter().any(|peer| about(policy, *peer))).map(|policy| {
        let Policy { source, destination, protocol } = policy;
        Requirement {
            what: format!(
                "the IPsec policy for protocol {protocol} from {source} to {destination} is not applied to IP-in-IP \
                 packets, which leave by raw sockets and so have protocol 255 to policies: make one without `proto`"
            ),
            command: format!("ip xfrm policy delete src {source} dst {destination} proto {protocol} dir out"),
        }
    });
    (policed, wrong.collect())
}
