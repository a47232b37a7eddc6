//! Following sources and clients: each change is judged, made, and answered.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Instant;

use super::edits::transaction::Before;
use super::event::{Asked, Effect, Reply, Request, Update};
use super::from_config::{configured_pools, needs};
use super::port::{HostError, HostView, widest};
use super::refusal::{Kind, Refusal};
use super::{Engine, MANY, judge};
use crate::config::{Config, DirectVia};
use crate::dataplane::forward::Peer;
use crate::net::Prefix;
use crate::route::Source;

impl Engine {
    /// A source says something.
    pub(super) fn update(
        &mut self,
        (source, generation): (Source, u64),
        update: Update,
        asked: Option<Asked>,
        now: Instant,
    ) {
        if !self.sources.advance(source, generation) {
            tracing::debug!("an old update of the source {} is passed over", source.name());
            let done = self.publisher.edited(asked, Reply::Updated);
            self.effects.extend(done);
            return;
        }
        if !matches!(update, Update::Lost(_)) && self.sources.found(source) {
            tracing::info!("source {}: found again", source.name());
        }
        let before = self.state.before();
        let second = self.second(now);
        let mut policy = None;
        let done = match update {
            Update::Configuration { config, view, network_policy } => {
                policy = Some(network_policy);
                self.follow_config(config, view.as_deref(), now)
            }
            Update::Changes(mut batch) => {
                self.state.follow_routes(source, &mut batch, second).map(Reply::Followed)
            }
            Update::Withdrawn => {
                self.state.withdraw(source);
                Ok(Reply::Updated)
            }
            Update::Lost(why) => {
                if self.sources.lose(source, why.clone()) {
                    tracing::warn!("source {}: lost, its routes stay: {why}", source.name());
                }
                Ok(Reply::Updated)
            }
        };
        let followed = self.answer(asked, done, before);
        if let Some(policy) = policy {
            self.reloaded = followed;
            if followed {
                self.state.set_network_policy(policy);
            }
        }
    }

    /// A client wants something changed. Where the daemon cannot change the kernel's routes, that is judged
    /// by what they are from now on.
    pub(super) fn request(&mut self, asked: Asked, request: Request, now: Instant) {
        if self.host.may_change() || matches!(request, Request::DeletePeer(_) | Request::DeletePeers(_)) {
            self.execute(asked, request, now);
        } else {
            let look = self.host.look_at_once(now);
            self.deferred.push((look, asked, request));
        }
    }

    pub(super) fn execute(&mut self, asked: Asked, request: Request, now: Instant) {
        let (before, second) = (self.state.before(), self.second(now));
        let done = match request {
            Request::Edit(mut batch) => self
                .state
                .edit(Source::Control, &mut batch, second)
                .map(|changed| Reply::Routes(changed, self.state.rib.len())),
            Request::Replace(mut batch) => {
                let changed = self.state.replace(Source::Control, &mut batch, second);
                changed.map(|changed| Reply::Routes(changed, self.state.rib.len()))
            }
            Request::AddPeer(peer) => {
                self.state.add_peer(&peer, second).map(|()| Reply::PeerAdded(peer.name.clone()))
            }
            Request::AddPeers(peers) => Ok(Reply::PeersAdded(self.state.add_peers(&peers, second))),
            Request::ReplacePeer(peer) => {
                self.state.replace_peer(&peer, second).map(|()| Reply::PeerAdded(peer.name.clone()))
            }
            Request::DeletePeer(name) => self.state.delete_peer(&name).map(|id| {
                self.leaving.push(id);
                Reply::PeerDeleted
            }),
            Request::DeletePeers(names) => {
                self.leaving.extend(names.iter().filter_map(|name| self.state.delete_peer(name).ok()));
                Ok(Reply::PeersDeleted)
            }
        };
        let done = done.and_then(|reply| match self.state.too_many(&before) {
            Some(refusal) => {
                self.put_back(before.clone());
                Err(refusal)
            }
            None => Ok(reply),
        });
        self.answer(Some(asked), done, before);
    }

    /// Answers now or once the change is published. What the packet path cannot take is put back.
    /// Returns whether the change is made.
    fn answer(&mut self, asked: Option<Asked>, done: Result<Reply, Refusal>, before: Before) -> bool {
        let routes = before.routes();
        let done = done.and_then(|reply| self.fit(before).map(|()| reply));
        let made = done.is_ok();
        match (done, asked) {
            (Ok(reply), asked) => {
                self.unsettled |= self.state.urgent;
                if routes.saturating_sub(self.state.rib.len()) > MANY {
                    self.effects.push(Effect::Shrunk);
                }
                let answer = self.publisher.edited(asked, reply);
                self.effects.extend(answer);
            }
            (Err(refusal), Some(asked)) => self.effects.push(Effect::Answer(asked.id, Err(refusal))),
            (Err(_), None) => {}
        }
        made
    }

    /// Has what was edited since `before` compiled if it might not fit, and puts it back if it does not.
    fn fit(&mut self, before: Before) -> Result<(), Refusal> {
        if self.state.fits() {
            return Ok(());
        }
        self.state.compile().map_err(|full| {
            self.put_back(before);
            Refusal::new(Kind::Full, format!("{full}; nothing has changed"))
        })
    }

    fn put_back(&mut self, before: Before) {
        self.state.put_back(before);
        // Only peers that are gone now were going.
        let known = &self.state.peers;
        self.leaving.retain(|id| known.get(usize::from(id.0)).is_some_and(Peer::is_gone));
    }

    /// Follows another configuration, if nothing speaks against it: what a start would refuse is refused.
    fn follow_config(
        &mut self,
        config: Result<Box<Config>, Refusal>,
        view: Option<&HostView>,
        now: Instant,
    ) -> Result<Reply, Refusal> {
        let second = self.second(now);
        let gone = config.and_then(|config| {
            let mut against: Vec<String> = Vec::new();
            if let Some(view) = view {
                let needs = needs(&config, &self.uplink.name);
                let verdict =
                    judge::judge_settings(&needs, &view.settings, |address| is_peer(&config, address));
                against.extend(verdict.errors.iter().map(ToString::to_string));
                against.extend(conflicts(&config, view).iter().map(ToString::to_string));
            }
            self.state.reload(*config, against.into_iter(), second)
        })?;
        self.leaving.extend(gone);
        self.host.look_at_once(now);
        Ok(Reply::Reloaded { peers: self.state.roster.len(), routes: self.state.rib.len() })
    }
}

/// Whether another node of `config` sends from this underlay address.
pub fn is_peer(config: &Config, address: IpAddr) -> bool {
    config.peers.iter().any(|peer| peer.senders(&config.node).any(|its| its == address))
}

/// The routes of others that keep out what `config` needs.
pub(super) fn conflicts(config: &Config, view: &HostView) -> Vec<HostError> {
    conflicts_by_prefix(config, view).into_iter().map(|(_, error)| error).collect()
}

/// The same, each with what it keeps out of the tunnel: a pool, or subnets outside of all pools.
pub fn conflicts_by_prefix(config: &Config, view: &HostView) -> Vec<(Prefix, HostError)> {
    let Some(table) = &view.routes else { return Vec::new() };
    // No route is ours before there is a TUN.
    let index = view.tun.as_ref().map_or(0, |tun| tun.link.index);
    let pools = configured_pools(config);
    // What the kernel may send to its node by itself needs no route into the TUN.
    let subnets = config.peers.iter().flat_map(|peer| peer.subnets.iter().copied());
    let subnets = subnets.filter(|_| config.direct_via == DirectVia::Pump);
    let outside = widest(subnets.filter(|subnet| !pools.iter().any(|pool| pool.covers(*subnet))));
    let wanted: BTreeSet<Prefix> = pools.into_iter().chain(outside).collect();
    let conflict = |prefix: &Prefix| {
        let in_place = table.of(*prefix).iter().any(|route| route.device == Some(index));
        let found = table.conflict(*prefix, index).filter(|_| !in_place)?;
        Some((*prefix, table.refusal(found, index)))
    };
    wanted.iter().filter_map(conflict).collect()
}
