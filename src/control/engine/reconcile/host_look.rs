//! When the host is looked at, and what is kept of a look.

use std::collections::BTreeMap;
use std::time::Instant;

use super::host_side::{HostSide, Open, is_up};
use crate::control::engine::event::{Effect, EffectId};
use crate::control::engine::leads::Lead;
use crate::control::engine::port::{
    Device, HostRequest, HostView, Interest, Look, Notice, PodLook, PodRouting,
};
use crate::net::Prefix;

/// Routes of ours that the kernel is asked for where others have rules: most clusters have fewer pools.
const LED: usize = 64;

impl HostSide {
    /// The kernel told of a change.
    pub(in crate::control::engine) fn notice(
        &mut self,
        notice: Notice,
        cover: &BTreeMap<Prefix, Lead>,
        now: Instant,
    ) {
        let tun = self.tun_index();
        let ours =
            |index: u32| index == tun || self.view.tap.as_ref().is_some_and(|tap| tap.link.index == index);
        let matters = match notice {
            // Also one that we do not know yet, as tunl0.
            Notice::Link(_) | Notice::Overrun => true,
            // With the address of this node go the routes that have it as their source.
            Notice::Address(index) => ours(index) || self.sends_directly,
            // A rule may lead packets past the TUN.
            Notice::Policy => true,
            // That concerns the ways to peers, which are watched elsewhere.
            Notice::Elsewhere(_) => false,
            Notice::Route { prefix, device } => {
                device == Some(tun) || overlaps(cover, prefix) || !self.may_change()
            }
        };
        if matters {
            self.looks.news(now);
        }
    }

    /// Has the host looked at from now on. Returns the number of that look.
    pub(in crate::control::engine) fn look_at_once(&mut self, now: Instant) -> u64 {
        self.looks.at_once(now)
    }

    /// The number of the last look at everything that has begun.
    pub(in crate::control::engine) fn looks_begun(&self) -> u64 {
        self.looks.begun
    }

    /// Begins a look if one is due, at everything or only at what is cheap. The kernel should have the
    /// routes `cover`.
    pub(in crate::control::engine) fn look(
        &mut self,
        now: Instant,
        cover: &BTreeMap<Prefix, Lead>,
        uplink: &str,
        judges_all: bool,
    ) -> Option<Effect> {
        let full = self.looks.begin(now)?;
        let (tun, uplink) = (Device::Index(self.tun), uplink.to_owned());
        let nat = Some(self.nat.clone());
        // What a former configuration left is looked at until it is gone.
        let left = self.view.pods.as_ref().is_some_and(|seen| *seen != PodRouting::default());
        let pods = match full {
            _ if judges_all || left => PodLook::All,
            true => PodLook::Left,
            false => PodLook::Away,
        };
        let mut look = Look { tun, tap: self.tap, uplink, routes: None, led: Vec::new(), nat, pods };
        if full {
            self.touched.clear();
            look.routes = Some(match self.may_change() {
                true => Interest::overlapping(cover.keys().copied()),
                false => Interest::All,
            });
            let led = cover.iter().filter(|(_, lead)| **lead == Lead::Tun);
            look.led = led.take(LED).map(|(prefix, _)| self.tun_route(*prefix)).collect();
        }
        Some(self.ask(Open::Look, HostRequest::Observe(look)))
    }

    /// A look has shown `view`. Returns how many routes fewer it shows than the one before.
    pub(in crate::control::engine) fn observed(
        &mut self,
        id: EffectId,
        mut view: Box<HostView>,
        now: Instant,
    ) -> usize {
        self.asked.remove(&id);
        self.looks.end(view.took, now);
        let len = |view: &HostView| view.routes.as_ref().map_or(0, |table| table.routes().len());
        let before = len(&self.view);
        if view.settings.tunnels.is_none() {
            view.settings.tunnels = self.view.settings.tunnels.take();
        }
        if view.settings.ruled.is_none() {
            view.settings.ruled = self.view.settings.ruled.take();
        }
        if view.nat.is_none() {
            view.nat = self.view.nat.take();
        }
        if view.pods.is_none() {
            view.pods = self.view.pods.take();
        }
        if view.routes.is_none() {
            view.routes = self.view.routes.take();
        }
        if is_up(&view) && !is_up(&self.view) {
            // Routes could not be there before.
            self.refused.clear();
        }
        self.view = *view;
        before.saturating_sub(len(&self.view))
    }
}

/// Whether something in `cover` has addresses in common with `prefix`.
fn overlaps(cover: &BTreeMap<Prefix, Lead>, prefix: Prefix) -> bool {
    prefix.and_wider().any(|wider| cover.contains_key(&wider))
        || cover.range(prefix..).next().is_some_and(|(next, _)| prefix.covers(*next))
}
