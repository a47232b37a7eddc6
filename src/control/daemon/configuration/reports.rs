//! What readers are told of where this node's address and those of its peers come from.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::Refusals;
use super::own_addresses::{OwnAddresses, has_rules};
use crate::api::{SourceRefusal, SourceStatus};
use crate::config::{Config, Peer};
use crate::control::daemon::runner::Inbox;
use crate::control::engine::Event;
use crate::control::source::discovered::Refused;
use crate::control::source::names::Answers;
use crate::net::HostName;

/// Most refusals that are shown.
const SHOWN: usize = 32;
/// The rule that gives this node its address.
const NODE_ADDRESS: &str = "node-address";
/// The names of peers.
const PEER_NAMES: &str = "peer-names";

/// What was told last.
#[derive(Debug, Default)]
pub(super) struct Reports(BTreeMap<&'static str, SourceStatus>);

impl Reports {
    /// Tells of what is new. `trouble` is why what is known is not followed.
    pub(super) fn tell(
        &mut self,
        inbox: &Inbox,
        file: &Config,
        (own, answers): (&OwnAddresses, &Answers),
        (refusals, trouble): (&Refusals, Option<&String>),
    ) {
        let mut address = has_rules(file).then(|| node_address(file, own, &refusals.unreachable));
        let mut names =
            (!file.named_peers.is_empty()).then(|| peer_names(file, answers, &refusals.unresolved));
        if let (Some(trouble), Some(status)) = (trouble, names.as_mut().or(address.as_mut())) {
            status.state = SourceStatus::DEGRADED.to_owned();
            status.reason.clone_from(trouble);
        }
        self.set(inbox, NODE_ADDRESS, address);
        self.set(inbox, PEER_NAMES, names);
    }

    fn set(&mut self, inbox: &Inbox, name: &'static str, status: Option<SourceStatus>) {
        if self.0.get(name) == status.as_ref() {
            return;
        }
        match status {
            Some(status) => {
                inbox.send(Event::Reported(Arc::new(status.clone())));
                self.0.insert(name, status);
            }
            None => {
                inbox.send(Event::Unreported(name));
                self.0.remove(name);
            }
        }
    }
}

fn node_address(file: &Config, own: &OwnAddresses, refused: &[Refused]) -> SourceStatus {
    let rules = [true, false].into_iter().filter_map(|is_ipv4| file.node.rule(is_ipv4));
    let chosen = own.chosen().map(ToString::to_string);
    SourceStatus {
        style: listed(rules.map(ToString::to_string), ", "),
        detail: listed(chosen, "; "),
        ..status(NODE_ADDRESS, listed(own.problems(), "; "), refused)
    }
}

fn peer_names(file: &Config, answers: &Answers, refused: &[Refused]) -> SourceStatus {
    let troubles = file.named_peers.iter().filter_map(|peer| {
        let trouble = answers.get(&peer.address)?.trouble.as_ref()?;
        Some(format!("{} is not resolved: {trouble}", peer.address))
    });
    let troubles: Vec<String> = troubles.collect();
    let reason = match &troubles[..] {
        [] => String::new(),
        [only] => only.clone(),
        [first, more @ ..] => format!("{first}; and {} more", more.len()),
    };
    SourceStatus { nodes: file.named_peers.len(), ..status(PEER_NAMES, reason, refused) }
}

/// How a source does; degraded where there is a reason.
pub(super) fn status(name: &str, reason: String, refused: &[Refused]) -> SourceStatus {
    let refusal =
        |refused: &Refused| SourceRefusal { object: refused.object.clone(), reason: refused.reason.clone() };
    let state = if reason.is_empty() { SourceStatus::FOLLOWING } else { SourceStatus::DEGRADED };
    SourceStatus {
        name: name.to_owned(),
        state: state.to_owned(),
        reason,
        refused: refused.len(),
        refusals: refused.iter().take(SHOWN).map(refusal).collect(),
        ..SourceStatus::default()
    }
}

fn listed(items: impl Iterator<Item = String>, between: &str) -> String {
    items.collect::<Vec<_>>().join(between)
}

/// Logs those of `now` that were not there before.
pub(super) fn tell_new(source: &str, before: &[Refused], now: &[Refused]) {
    let before: HashSet<&Refused> = before.iter().collect();
    for new in now.iter().filter(|refused| !before.contains(refused)).take(SHOWN) {
        tracing::warn!("{source}{} is left out: {}", new.object, new.reason);
    }
}

/// What is new about the peers, for the log.
pub(super) fn changes(before: &Config, now: &Config) -> Vec<String> {
    let known: HashMap<&str, &Peer> = before.peers.iter().map(|peer| (peer.name.as_str(), peer)).collect();
    let mut lines = Vec::new();
    let (was, is) = (before.peers.len(), now.peers.len());
    if was != is {
        lines.push(format!("{is} peers, {was} before"));
    }
    let of_names: HashMap<&str, &HostName> =
        now.named_peers.iter().map(|peer| (peer.name.as_str(), &peer.address)).collect();
    for peer in &now.peers {
        let (Some(host), before) = (of_names.get(peer.name.as_str()), known.get(peer.name.as_str())) else {
            continue;
        };
        match before {
            Some(before) if before.address == peer.address => {}
            Some(before) => lines.push(format!(
                "peer {}: {host} is {} now, it was {}",
                peer.name, peer.address, before.address
            )),
            None => lines.push(format!("peer {}: {host} is {}", peer.name, peer.address)),
        }
        if lines.len() > SHOWN {
            break;
        }
    }
    lines
}
