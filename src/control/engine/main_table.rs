//! Routes that a routing daemon has written to the kernel's main table, where the longest one takes packets whatever this
//! daemon does.

use super::port::Found;
use super::reached::decide;
use super::state::State;
use crate::config::KernelRoutes;
use crate::net::{Mode, Prefix};
use crate::route::{Route, Source, Target};

impl State {
    /// Whether a routing daemon has written `prefix` to the main table, and its packets are for the tunnel all the same.
    pub(super) fn must_outdo(&self, prefix: Prefix) -> bool {
        let in_main = self.config.kernel_routes.as_ref().is_some_and(KernelRoutes::has_main);
        let for_tunnel = |route: Route| route.target != Target::Local && !self.goes_bare(&route);
        in_main && self.learnt(prefix).is_some_and(for_tunnel)
    }

    /// Whether `found` in the main table takes packets that would leave bare anyway: a routing daemon has said of the
    /// same prefix where it is, and the kernel sends there as this daemon would.
    pub(super) fn goes_there_bare(&self, found: &Found) -> bool {
        let ours = self.config.kernel_routes.as_ref();
        ours.is_some_and(|followed| followed.protocols.contains(&found.protocol))
            && self.learnt(found.prefix).is_some_and(|route| self.goes_bare(&route))
    }

    /// The route in use to exactly `prefix`, where a routing daemon has said something of it.
    fn learnt(&self, prefix: Prefix) -> Option<Route> {
        self.rib.get(prefix, Source::Kernel)?;
        self.rib.exact(prefix)
    }

    /// Whether all nodes of a route are reached without encapsulation.
    fn goes_bare(&self, route: &Route) -> bool {
        let mut decisions =
            decide(&self.rib, &self.peers, &self.policy, route.prefix, &route.target).peekable();
        decisions.peek().is_some() && decisions.all(|(_, decision)| decision.mode == Mode::Direct)
    }
}
