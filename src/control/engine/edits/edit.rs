//! Editing routes while packets flow.
//!
//! An edit changes the routes at once, where `route get` sees it, and the table of the workers a
//! moment later, when [`State::publish`] takes everything that is pending.

use crate::config;
use crate::control::engine::edits::batch::{Batch, Change};
use crate::control::engine::edits::lines::Culprits;
use crate::control::engine::edits::pending::Pending;
use crate::control::engine::refusal::{Kind, Refusal};
use crate::control::engine::state::State;
use crate::dataplane::forward::MIN_MTU;
use crate::dataplane::packet::Family;
use crate::net::Prefix;
use crate::route::{PeerId, Rib, Route, Source, Target};
use crate::wire::ipv6;

/// What an edit did.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Changed {
    /// Routes added, or replaced by others.
    pub added: usize,
    /// Routes deleted.
    pub deleted: usize,
}

impl State {
    /// Applies all of `batch` to the routes of `source`, or none. `now` is the second of the
    /// daemon's life that new routes are dated with.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub(crate) fn edit(&mut self, source: Source, batch: &mut Batch, now: u32) -> Result<Changed, Refusal> {
        batch.sort();
        let nodes = self.judge(source, batch)?;
        self.apply(source, batch, &nodes, now)
    }

    /// Applies a judged batch, whose sets of nodes are `nodes`.
    ///
    /// # Errors
    /// When there are no ids for them.
    pub(in crate::control::engine) fn apply(
        &mut self,
        source: Source,
        batch: &Batch,
        nodes: &[Vec<PeerId>],
        now: u32,
    ) -> Result<Changed, Refusal> {
        let targets = self.targets(nodes, |rib| {
            for change in batch.changes() {
                rib.remove(change.prefix, source);
            }
        })?;
        let (mut changed, routes) = (Changed::default(), self.rib.len());
        for change in batch.changes() {
            match route(change, &targets, source, now) {
                Some(route) => {
                    self.rib.set(route);
                    changed.added += 1;
                }
                None => {
                    self.rib.remove(change.prefix, source);
                    changed.deleted += 1;
                }
            }
        }
        self.pending.add_all(batch.changes().map(|change| change.prefix).collect(), routes);
        Ok(changed)
    }

    /// Replaces all routes of `source` by those of `batch`.
    ///
    /// # Errors
    /// Everything that is wrong with it; the routes are then as before.
    pub(crate) fn replace(
        &mut self,
        source: Source,
        batch: &mut Batch,
        now: u32,
    ) -> Result<Changed, Refusal> {
        batch.sort();
        let nodes = self.judge(source, batch)?;
        let mut before = None;
        let targets = self.targets(&nodes, |rib| {
            let old = rib.clone();
            before = Some((old, rib.replace(source, []).1));
        })?;
        let mut routes: Vec<Route> =
            batch.changes().filter_map(|change| route(change, &targets, source, now)).collect();
        let (mut same, mut gone_before) = (0, 0);
        if let Some((old, gone)) = before {
            // They are gone already, and what had their ids may be others.
            gone_before = gone;
            for route in &mut routes {
                let Some(was) = old.get(route.prefix, source) else { continue };
                gone_before -= 1;
                if was.mtu == route.mtu && old.peers(&was.target) == self.rib.peers(&route.target) {
                    same += 1;
                    route.since = was.since;
                }
            }
        }
        let (new, gone) = self.rib.replace(source, routes);
        let (added, deleted) = (new - same, gone + gone_before);
        self.pending = Pending::Everything;
        Ok(Changed { added, deleted })
    }

    /// The targets of routes to these sets of nodes. Where ids are short, those of the routes that are about
    /// to go are free first: `make_room` removes them.
    fn targets(
        &mut self,
        nodes: &[Vec<PeerId>],
        make_room: impl FnOnce(&mut Rib),
    ) -> Result<Vec<Target>, Refusal> {
        if let Ok(targets) = self.rib.targets(nodes) {
            return Ok(targets);
        }
        let before = self.rib.clone();
        make_room(&mut self.rib);
        self.rib.targets(nodes).map_err(|full| {
            self.rib = before;
            Refusal::new(Kind::Full, format!("{full}; nothing has changed"))
        })
    }

    /// The nodes that each set of a sorted batch names, if nothing is wrong with it.
    fn judge(&self, source: Source, batch: &Batch) -> Result<Vec<Vec<PeerId>>, Refusal> {
        let mut culprits = Culprits::default();
        let nodes = self.resolve(batch, &mut culprits);
        let mut kind = (!culprits.is_empty()).then_some(Kind::UnknownPeer);
        let mut before: Option<Change> = None;
        for change in batch.changes() {
            let twice = before.filter(|before| before.prefix == change.prefix);
            let verdict = match twice {
                Some(first) => Err((Kind::Malformed, twice_given(batch, first, change.prefix))),
                None => self.judge_one(source, &change, &nodes),
            };
            if let Err((why, reason)) = verdict {
                kind = Some(if kind.is_none_or(|kind| kind == why) { why } else { Kind::Conflict });
                culprits.push(|| format!("{}{reason}", batch.lead(change.place, change.to.is_none())));
            }
            before = Some(change);
        }
        if let Some(kind) = kind {
            return Err(Refusal::of(kind, culprits));
        }
        Ok(nodes)
    }

    /// The nodes that the sets of a batch name.
    fn resolve(&self, batch: &Batch, culprits: &mut Culprits) -> Vec<Vec<PeerId>> {
        let mut all = Vec::with_capacity(batch.nodes().len());
        for nodes in batch.nodes() {
            let (ids, unknown) = self.nodes(&nodes.names);
            for name in unknown {
                culprits.push(|| batch.lead(nodes.place, false) + &unknown_peer(name));
            }
            all.push(ids);
        }
        all
    }

    /// The nodes that `names`, separated by commas, name, and those names that nobody has.
    pub(in crate::control::engine) fn nodes<'n>(&self, names: &'n str) -> (Vec<PeerId>, Vec<&'n str>) {
        let (mut ids, mut unknown) = (Vec::new(), Vec::new());
        for name in names.split(',') {
            match self.roster.id(name) {
                Some(id) => ids.push(id),
                None => unknown.push(name),
            }
        }
        (ids, unknown)
    }

    pub(in crate::control::engine) fn judge_one(
        &self,
        source: Source,
        change: &Change,
        nodes: &[Vec<PeerId>],
    ) -> Result<(), (Kind, String)> {
        let prefix = change.prefix;
        match change.to {
            None if self.rib.get(prefix, source).is_some() => Ok(()),
            None => Err((Kind::Missing, self.no_such_route(prefix, source))),
            Some(to) => {
                self.claimable(prefix).map_err(|reason| (Kind::Conflict, reason))?;
                match self.reachable(prefix) {
                    Err(reason) if self.rib.get(prefix, source).is_none() => {
                        return Err((Kind::Conflict, reason));
                    }
                    _ => {}
                }
                let peers = nodes.get(usize::from(to.nodes)).into_iter().flatten();
                let peers = peers.filter_map(|id| self.peers.get(usize::from(id.0)));
                let next_hops = peers.map(|peer| peer.next_hop(Family::of(prefix.address())).0);
                self.sendable(prefix, next_hops).map_err(|reason| (Kind::Conflict, reason))?;
                let least = if prefix.is_ipv4() { MIN_MTU } else { ipv6::MIN_MTU };
                match to.mtu.filter(|mtu| *mtu < least) {
                    Some(mtu) => Err((
                        Kind::Malformed,
                        format!("mtu {mtu} is too small for {prefix}; use {least} to 65535"),
                    )),
                    None => Ok(()),
                }
            }
        }
    }

    /// Whether another node may own `prefix`.
    pub(in crate::control::engine) fn claimable(&self, prefix: Prefix) -> Result<(), String> {
        config::for_pods(prefix)?;
        if self.rib.exact(prefix).is_some_and(|route| route.target == Target::Local) {
            return Err(format!("{prefix} is this node's own subnet; its pods are here"));
        }
        match self.roster.within(prefix) {
            None => Ok(()),
            Some((address, id)) => {
                let whose = match id.and_then(|id| self.peers.get(usize::from(id.0))) {
                    Some(peer) => format!("peer {}", peer.name),
                    None => "this node".to_owned(),
                };
                Err(format!(
                    "{prefix} contains {address}, the address of {whose}, and packets to that node would be \
                     routed into the tunnel; use prefixes without node addresses"
                ))
            }
        }
    }

    fn no_such_route(&self, prefix: Prefix, source: Source) -> String {
        let others: Vec<_> = self.rib.candidates(prefix).iter().map(|route| route.source.name()).collect();
        let name = source.name();
        if others.is_empty() {
            format!("there is no {name} route {prefix}; `underpass route list --source {name}` shows all")
        } else {
            format!(
                "{prefix} has a {} route, but no {name} route; only those can be deleted",
                others.join(" and a ")
            )
        }
    }
}

/// The route that a change makes.
fn route(change: Change, targets: &[Target], source: Source, now: u32) -> Option<Route> {
    let to = change.to?;
    let target = *targets.get(usize::from(to.nodes))?;
    Some(Route { prefix: change.prefix, target, source, mtu: to.mtu, since: now })
}

fn twice_given(batch: &Batch, first: Change, prefix: Prefix) -> String {
    format!("{prefix} is given twice, first in {}; remove one", batch.place(first.place, first.to.is_none()))
}

/// What to say about a name that nobody has.
pub(in crate::control::engine) fn unknown_peer(name: &str) -> String {
    let name: String = name.chars().take(64).collect();
    format!("no peer is called \"{name}\"; `underpass peer list` shows all")
}

#[cfg(test)]
mod tests;
