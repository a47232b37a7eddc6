//! The kernel's routes of ours: compared with what was last looked at, and changed.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use super::devices::Key;
use super::host_side::{HostSide, Open, Wish};
use super::kernel_cover::Steps;
use super::mender::RETRY;
use super::routes::{self, Wanted};
use crate::control::engine::event::{Effect, EffectId};
use crate::control::engine::leads::Lead;
use crate::control::engine::port::{HostRequest, OwnKind, OwnRoute, TunRoute};
use crate::net::Prefix;

impl HostSide {
    /// Compares the kernel's routes, as last looked at, with what should be there. Returns what
    /// mends them, where the daemon may.
    pub(in crate::control::engine) fn mend_routes(
        &mut self,
        wish: Wish<'_>,
        now: Instant,
    ) -> Option<(EffectId, Effect)> {
        let touched = std::mem::take(&mut self.touched);
        let table = self.view.routes.as_ref()?;
        let sources = Arc::clone(&self.addresses);
        let device = self.tun_name(wish).to_owned();
        let wanted = self.wanted(wish, &sources, &device);
        let mut found = routes::differences(wanted, table, |found| {
            wish.state.is_to_peers(found.prefix) && !wish.state.goes_there_bare(found)
        });
        if !self.may_change() {
            let inside = found.foreign.into_iter().filter(|(prefix, _)| !wish.cover.contains_key(prefix));
            let inside = inside.map(|(_, requirement)| requirement);
            self.route_requirements = routes::commands(wanted, table).into_iter().chain(inside).collect();
            return None;
        }
        // What is in the way explains a refusal better than its error does.
        let missing: BTreeSet<Prefix> = found.add.iter().map(|(prefix, _)| *prefix).collect();
        self.refused.retain(|prefix, _| missing.contains(prefix));
        self.route_requirements = found.foreign.into_iter().map(|(_, requirement)| requirement).collect();
        let why = self.refused.iter().map(|(prefix, (error, _))| (prefix, error));
        let directly = wish.state.refused.iter().map(|(prefix, (error, _))| (prefix, error));
        let refused =
            why.map(|(prefix, error)| wanted.missing(*prefix, wish.cover.get(prefix), table, error));
        let refused = refused.chain(directly.map(|(prefix, error)| routes::by_the_pump(*prefix, error)));
        self.route_requirements.extend(refused);
        // Without the up flag there can be no routes into the TUN.
        let up = self.view.tun.as_ref().is_some_and(|tun| tun.link.up);
        found.add.retain(|(prefix, lead)| {
            let source = wanted.source(*prefix).filter(|_| *lead == Lead::Tun);
            if *lead == Lead::Tun && !up || source.is_some_and(|source| !self.has_address(source)) {
                return false;
            }
            let tried = self.refused.get(prefix).is_some_and(|(_, when)| now < *when + RETRY);
            !tried && !touched.contains(prefix)
        });
        found.remove.retain(|(prefix, kind)| (up || *kind == OwnKind::Direct) && !touched.contains(prefix));
        self.route_request(found.add, found.remove)
    }

    /// Whether the TUN has `address`, or will have it before the next request is executed.
    fn has_address(&self, address: IpAddr) -> bool {
        let there = self.view.tun.as_ref().is_some_and(|tun| tun.addresses.contains(&address));
        there || self.mender.is_asked(Key::Address(address))
    }

    /// Changes the kernel's routes by `steps`; `None` when that is nothing.
    pub(in crate::control::engine) fn change_routes(&mut self, steps: Steps) -> Option<(EffectId, Effect)> {
        for (prefix, _) in &steps.remove {
            self.refused.remove(prefix);
        }
        if !self.may_change() {
            return None;
        }
        self.route_request(steps.add, steps.remove)
    }

    fn route_request(
        &mut self,
        add: Vec<(Prefix, Lead)>,
        remove: Vec<(Prefix, OwnKind)>,
    ) -> Option<(EffectId, Effect)> {
        if add.is_empty() && remove.is_empty() {
            return None;
        }
        if self.looks.is_running() {
            self.touched.extend(add.iter().map(|(prefix, _)| prefix));
            self.touched.extend(remove.iter().map(|(prefix, _)| prefix));
        }
        let add = add.into_iter().map(|(prefix, lead)| match lead {
            Lead::Tun => OwnRoute::Tun(self.tun_route(prefix)),
            Lead::Direct(route) => OwnRoute::Direct(route),
        });
        let add: Vec<OwnRoute> = add.collect();
        self.sends_directly |= add.iter().any(|route| matches!(route, OwnRoute::Direct(_)));
        let request = HostRequest::Routes { index: self.tun_index(), add, remove };
        let effect = self.ask(Open::Routes, request);
        Some((EffectId(self.last_id), effect))
    }

    /// The route that points `prefix` at the TUN.
    pub(super) fn tun_route(&self, prefix: Prefix) -> TunRoute {
        let source = self.addresses.iter().copied().find(|source| source.is_ipv4() == prefix.is_ipv4());
        TunRoute { prefix, source }
    }

    /// The name of the TUN, which others may change.
    pub(super) fn tun_name<'a>(&'a self, wish: Wish<'a>) -> &'a str {
        let configured = wish.state.config.tunnel.device.as_str();
        self.view.tun.as_ref().map_or(configured, |tun| tun.link.name.as_str())
    }

    fn wanted<'a>(&self, wish: Wish<'a>, sources: &'a [IpAddr], device: &'a str) -> Wanted<'a> {
        Wanted { device, index: self.tun_index(), cover: wish.cover, sources }
    }
}
