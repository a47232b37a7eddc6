//! The policy that is enforced: rules, and how connections are followed.

use std::sync::Arc;

use super::rules::Ruleset;
use super::timeouts::Timeouts;

/// What the workers enforce. A part of the forwarding table, published with it.
#[derive(Clone, Debug)]
pub struct ActivePolicy {
    /// The rules.
    pub rules: Arc<Ruleset>,
    /// Another one for each ruleset: connections that were judged by another are judged again.
    pub generation: u32,
    /// How connections are followed.
    pub settings: Settings,
}

/// How connections are followed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Settings {
    /// Connections that each worker has room for.
    pub connections: usize,
    /// Whether what finds no room passes without being remembered.
    pub fail_open: bool,
    /// Whether addresses of this node's subnets that are no endpoints may nothing.
    pub deny_unknown: bool,
    /// What becomes of fragments whose ports are not known.
    pub fragments: Fragments,
    /// When connections are forgotten.
    pub timeouts: Timeouts,
    /// Seconds from the first packet in which a connection may be known by its answers first, because it existed
    /// before the daemon.
    pub pick_up: u32,
}

/// What becomes of a fragment that shows no ports, whose first fragment was not seen.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Fragments {
    /// It passes where rules ask for no ports.
    #[default]
    Judge,
    /// It passes.
    Pass,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            connections: 262_144,
            fail_open: false,
            deny_unknown: false,
            fragments: Fragments::default(),
            timeouts: Timeouts::default(),
            pick_up: 600,
        }
    }
}
