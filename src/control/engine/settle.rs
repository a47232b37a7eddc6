//! What follows from what has happened: a table for the workers, requests to the host, a look.

use std::sync::Arc;
use std::time::Instant;

use super::edits::pending::Pending;
use super::event::Effect;
use super::from_config::{judges_all, needs_of};
use super::port::Requirement;
use super::reconcile::host_side::Wish;
use super::reconcile::kernel_cover::Steps;
use super::{Engine, judge};
use crate::config::DirectVia;
use crate::dataplane::forward::Underlay;
use crate::net::Mode;
use crate::wire::ipv6;

impl Engine {
    /// Everything that follows from what has just happened, in the order in which it has to be done:
    /// packets first, then the kernel.
    pub(super) fn settle(&mut self, now: Instant) {
        let probes = self.paths.expire(&mut self.state, now);
        self.effects.extend(probes);
        if self.publisher.is_due(self.state.has_pending(), self.state.urgent, now) {
            self.publish(now);
        } else if self.publisher.is_behind() && !self.state.has_pending() {
            // An edit that changed nothing.
            self.effects.extend(self.publisher.published(None, now));
        }
        if self.state.retry(now) {
            // What came of it is seen by looking.
            self.host.look_at_once(now);
        }
        if std::mem::take(&mut self.state.stale_leads) && self.state.leads().are_mixed() {
            let steps = self.renew_cover();
            self.take_cover(&steps);
            let kernel = self.host.change_routes(steps);
            self.effects.extend(kernel.map(|(_, effect)| effect));
        }
        if std::mem::take(&mut self.unsettled) || self.host.deadline() <= now {
            self.mend(now);
        }
        if self.state.urgent {
            // The MTU of the TUN turned out to be another one.
            self.publish(now);
        }
        self.effects.extend(self.host.look(
            now,
            &self.covered,
            &self.uplink.name,
            judges_all(&self.state.config),
        ));
    }

    /// Publishes everything that is pending, and has the kernel's routes follow.
    fn publish(&mut self, now: Instant) {
        let published = match self.state.publish() {
            Ok(published) => published,
            // What might not fit was compiled when it was asked for.
            Err(full) => {
                tracing::error!("the packet path keeps its old routes: {full}");
                return self.publisher.postpone(now);
            }
        };
        let steps = published.as_ref().map(|table| self.next_cover(&table.changed)).unwrap_or_default();
        self.take_cover(&steps);
        self.effects.extend(published.map(|table| Effect::Publish(Box::new(table.forwarding))));
        for id in self.leaving.drain(..) {
            Arc::make_mut(&mut self.state.roster).release(id);
        }
        let kernel = self.host.change_routes(steps);
        let id = kernel.as_ref().map(|(id, _)| *id);
        self.effects.extend(kernel.map(|(_, effect)| effect));
        self.effects.extend(self.publisher.published(id, now));
    }

    /// Brings the cover up to date with what changed.
    fn next_cover(&mut self, changed: &Pending) -> Steps {
        let new_pools = self.state.new_pools.take();
        let (rib, leads) = (&self.state.rib, self.state.leads());
        let own = |prefix| leads.own(prefix);
        let steps = match (changed, new_pools) {
            (Pending::Nothing, _) => return Steps::default(),
            (_, Some(pools)) => self.cover.follow_pools(pools, rib, leads.pools(), own),
            (Pending::Everything, None) => return self.renew_cover(),
            (Pending::Some(_), None) if self.state.stale_leads && leads.are_mixed() => {
                return self.renew_cover();
            }
            (Pending::Some(changed), None) => return self.cover.update(rib, &leads.concerned(changed), own),
        };
        self.state.stale_leads = false;
        steps
    }

    /// Works the cover out anew, where packets may be led elsewhere than into the TUN.
    fn renew_cover(&mut self) -> Steps {
        self.state.stale_leads = false;
        let leads = self.state.leads();
        self.cover.renew(&self.state.rib, leads.pools(), |prefix| leads.own(prefix))
    }

    /// Takes what `steps` lead to as what must point at the TUN.
    fn take_cover(&mut self, steps: &Steps) {
        self.covered.extend(steps.add.iter().cloned());
        for (prefix, _) in &steps.remove {
            self.covered.remove(prefix);
        }
        if !self.host.may_change() && *steps != Steps::default() {
            self.routes_seen = true;
            self.unsettled = true;
        }
    }

    /// Compares the host with what it should be: has mended what may be, and the rest shown.
    fn mend(&mut self, now: Instant) {
        let wish = Wish { state: &self.state, cover: &self.covered, outside: self.cover.direct_outside() };
        let (effects, held) = self.host.mend_devices(wish, now);
        self.effects.extend(effects);
        if std::mem::take(&mut self.routes_seen) {
            // Behind the devices: a route has an address as its source, and there is none while they are down.
            let kernel = self.host.mend_routes(wish, now);
            self.effects.extend(kernel.map(|(_, effect)| effect));
        }
        let shown = self.host.show(self.settings());
        self.effects.extend(shown);
        self.state.hold_mtu(held.mtu);
        self.state.hold_error_source(held.accept_local);
        self.state.lead_pods(self.host.leads_pods());
    }

    /// What an administrator has to change beside our devices and routes.
    fn settings(&self) -> Vec<Requirement> {
        let reached = |mode| !self.state.peers_by(mode).is_empty();
        // A path that is to be verified needs what one in use needs: without, it never will be.
        let policy = &self.state.policy;
        let verifies = policy.verifies(true) || policy.verifies(false);
        let direct = reached(Mode::Direct) || verifies;
        let by_pump = match self.state.config.direct_via {
            DirectVia::Pump => direct,
            DirectVia::Kernel => verifies || self.cover.cannot().iter().any(|prefix| prefix.is_ipv4()),
        };
        let modes = (reached(Mode::Ipip), direct, by_pump);
        let needs = needs_of(&self.state.config, &self.uplink.name, modes);
        let is_peer = |address| self.state.roster.at(address).flatten().is_some();
        let verdict = judge::judge_settings(&needs, &self.host.view().settings, is_peer);
        let gone = self.host.gone(&self.state.config.tunnel.device);
        let seen = gone.iter().chain(&self.policies).chain(&self.strays).chain(&self.cni).cloned();
        verdict.requirements().chain(seen).chain(self.narrow_path()).collect()
    }

    /// The way to the peer whose first link carries least, where pods use IPv6 and it carries less than that demands
    /// of every link (RFC 8200 §5): no ICMP error makes a host send less. What limits a path behind its first link
    /// cannot be set here.
    fn narrow_path(&self) -> Option<Requirement> {
        let state = &self.state;
        if state.config.local_subnets.iter().all(|subnet| subnet.is_ipv4()) {
            return None;
        }
        let modes = [Mode::Ipip, Mode::Vxlan];
        let known = state.peers.iter().filter(|peer| !peer.is_gone());
        let paths = known.flat_map(|peer| {
            let link = Underlay { mtu: state.underlay.link_mtu(peer), ..state.underlay };
            modes.map(|mode| (link.path_mtu(mode, peer.address), mode, peer))
        });
        let narrow = paths.filter(|(mtu, mode, peer)| {
            *mtu < ipv6::MIN_MTU && state.peers_by(*mode).contains(&peer.address)
        });
        let (mtu, mode, peer) = narrow.min_by_key(|(mtu, ..)| *mtu)?;
        let needed = ipv6::MIN_MTU + mode.overhead(peer.address);
        Some(Requirement {
            what: format!(
                "the way to peer {} carries IPv6 packets of {mtu} bytes by {mode}, and IPv6 demands {}: \
                 larger ones leave in two fragments, at the cost of speed",
                peer.name,
                ipv6::MIN_MTU
            ),
            command: format!("ip link set {} mtu {needed}", self.uplink.name),
        })
    }
}
