//! What the API shows of network policy: how it does, and why a packet passes or does not, with who enforces that.

use std::net::IpAddr;

use super::Snapshot;
use crate::api::{PolicyStatus, PolicyTrace, RouteMode, TraceDecision, TraceSide};
use crate::config::{DirectVia, PolicyScope};
use crate::dataplane::policy::Tuple;

/// Sentences about what is left out, at most.
const MOST_LEFT_OUT: usize = 100;

/// Where an address is, by the routes.
enum Place {
    /// At a pod of this node.
    Here,
    /// At another node.
    Node {
        name: String,
        /// Whether packets to it leave through the tunnel, bare ones by the pump among them.
        by_pump: bool,
        /// Whether they are in the tunnel, as those from there are then.
        is_tunnelled: bool,
    },
    /// This node itself.
    Host,
    /// No route leads there.
    Outside,
}

/// Who enforces one end.
struct Enforced {
    here: bool,
    by: Option<String>,
    why: String,
}

impl Snapshot {
    /// How network policy does, as far as the engine knows: connections are the workers' to count. `None` while it is
    /// off.
    pub fn policy_status(&self, workers: usize) -> Option<PolicyStatus> {
        let policy = self.network_policy.as_ref()?;
        let scope = self.policy_scope();
        let (compiled, world) = (&policy.compiled, &policy.compiled.world);
        let mut left_out: Vec<String> = compiled.left_out.iter().take(MOST_LEFT_OUT).cloned().collect();
        if let Some(more) = compiled.left_out.len().checked_sub(MOST_LEFT_OUT).filter(|more| *more > 0) {
            left_out.push(format!("and {more} more"));
        }
        Some(PolicyStatus {
            scope: scope.name().to_owned(),
            policies: compiled.list().len(),
            endpoints: world.endpoints().len(),
            namespaces: world.namespaces().len(),
            connections_capacity: (policy.settings.connections as u64).saturating_mul(workers as u64),
            generation: self.policy_generation,
            left_out,
            ..PolicyStatus::default()
        })
    }

    /// What policies say of the first packet of a connection, and who enforces it; `None` while they are off.
    pub fn trace(&self, tuple: &Tuple) -> Option<PolicyTrace> {
        let policy = self.network_policy.as_ref()?;
        let mut trace = policy.compiled.explain(tuple);
        let (source, destination) = (self.place(tuple.source), self.place(tuple.destination));
        for (side, own, other, is_egress) in [
            (&mut trace.egress, &source, &destination, true),
            (&mut trace.ingress, &destination, &source, false),
        ] {
            if matches!(own, Place::Here) && policy.settings.deny_unknown {
                deny_unknown(side);
            }
            let Enforced { here, by, why } = self.enforced(is_egress, own, other);
            (side.enforced_here, side.enforced_by, side.enforcement) = (here, by, why);
        }
        trace.allowed = trace.egress.allowed && trace.ingress.allowed;
        Some(trace)
    }

    fn policy_scope(&self) -> PolicyScope {
        self.config.policy.as_ref().map(|policy| policy.scope).unwrap_or_default()
    }

    fn place(&self, address: IpAddr) -> Place {
        if matches!(self.peer_at(address), Some(None)) {
            return Place::Host;
        }
        // Ages are of no interest here.
        let Some(route) = self.route_get(address, self.started) else { return Place::Outside };
        if route.next_hops.is_empty() {
            return Place::Here;
        }
        let names: Vec<&str> = route.next_hops.iter().map(|hop| hop.peer.as_str()).collect();
        Place::Node {
            name: names.join(" or "),
            by_pump: route.via.as_deref() != Some(DirectVia::Kernel.name()),
            is_tunnelled: route.next_hops.iter().all(|hop| hop.mode != RouteMode::Direct),
        }
    }

    /// Who enforces the rules of an end that is at `own`, towards `other`.
    fn enforced(&self, is_egress: bool, own: &Place, other: &Place) -> Enforced {
        let here = |why: &str| Enforced {
            here: true,
            by: Some(self.config.node.name.to_string()),
            why: format!("this node enforces it: {why}"),
        };
        let nobody = |why: String| Enforced { here: false, by: None, why: format!("not enforced: {why}") };
        match (own, other) {
            (Place::Here, Place::Host) => {
                nobody("a node and its own pods always reach each other".to_owned())
            }
            (Place::Here, _) if self.policy_scope() == PolicyScope::All => {
                here("what its pods send and are sent passes the pump, as the scope is \"all\"")
            }
            (Place::Here, Place::Node { name, by_pump: true, .. }) if is_egress => {
                here(&format!("packets to {name} pass the pump"))
            }
            (Place::Here, Place::Node { name, is_tunnelled: true, .. }) if !is_egress => {
                here(&format!("packets from {name} come through the tunnel"))
            }
            (Place::Here, Place::Node { name, .. }) if is_egress => {
                nobody(format!("the kernel sends packets to {name} by itself, in the mode direct"))
            }
            (Place::Here, Place::Node { name, .. }) => nobody(format!(
                "packets from {name} come in the mode direct, and the kernel forwards them by itself"
            )),
            (Place::Here, Place::Here) => {
                nobody("both ends are on this node, and the scope is \"overlay\"".to_owned())
            }
            (Place::Here, Place::Outside) => {
                nobody("the other end is outside of the tunnel, and the scope is \"overlay\"".to_owned())
            }
            (Place::Host, _) => nobody("this end is this node itself, which is no endpoint".to_owned()),
            (Place::Node { name, .. }, Place::Here) => Enforced {
                here: false,
                by: Some(name.clone()),
                why: format!(
                    "{name} enforces it, where policies are on there; what is said here is what this node knows"
                ),
            },
            (Place::Node { name, .. }, _) => Enforced {
                here: false,
                by: Some(name.clone()),
                why: format!(
                    "this end is at {name}, and neither is here; what is said here is what this node knows"
                ),
            },
            (Place::Outside, _) => nobody("no node that is known has this address".to_owned()),
        }
    }
}

/// What an address in a subnet of this node may where it is no endpoint that is known.
fn deny_unknown(side: &mut TraceSide) {
    if side.endpoint.is_none() && side.decided.by == "no_endpoint" {
        side.allowed = false;
        side.decided = TraceDecision { by: "unknown_endpoint".to_owned(), ..TraceDecision::default() };
        side.reason =
            "no endpoint that is known has this address of this node, and default_deny_unknown is true"
                .to_owned();
    }
}
