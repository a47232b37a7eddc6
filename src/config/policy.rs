//! `[policy]`: network policy, and how it is enforced.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::policy::World;

/// `[policy]`, with what `[[endpoint]]` and the manifests say.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// `directory`: where the manifests are.
    pub directory: Option<PathBuf>,
    /// `scope`: which packets are judged.
    pub scope: PolicyScope,
    /// `connections`: how many connections are remembered, by all workers together.
    pub connections: usize,
    /// `fail_open`: whether packets that no connection can be remembered for pass, where rules allow them.
    pub fail_open: bool,
    /// `default_deny_unknown`: whether an address in the local subnets that is of no endpoint may nothing.
    pub default_deny_unknown: bool,
    /// `fragments`: what becomes of those that do not show their ports.
    pub fragments: Fragments,
    /// `[policy.timeouts]`
    pub timeouts: PolicyTimeouts,
    /// All objects of the manifests and of `[[endpoint]]`.
    pub world: Arc<World>,
}

impl Policy {
    /// The default of `connections`.
    pub const CONNECTIONS: usize = 262_144;
}

/// `[policy] scope`
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum PolicyScope {
    /// What crosses the tunnel.
    #[default]
    Overlay,
    /// What the pods of this node send and receive, wherever it comes from and goes to.
    All,
}

impl PolicyScope {
    /// The word in the file and in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Overlay => "overlay",
            Self::All => "all",
        }
    }
}

/// `[policy] fragments`
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Fragments {
    /// A later fragment passes where rules would let it pass whatever its ports are.
    #[default]
    Judge,
    /// A later fragment passes: the first one is judged, and without it nobody can put the others together.
    Pass,
}

/// `[policy.timeouts]`: how long a connection without packets is remembered.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PolicyTimeouts {
    /// TCP, both sides of which have sent.
    pub tcp_established: Duration,
    /// TCP, the opening of which is not answered.
    pub tcp_syn: Duration,
    /// TCP that one side has closed.
    pub tcp_fin: Duration,
    /// TCP that both sides have closed.
    pub tcp_time_wait: Duration,
    /// TCP that was reset.
    pub tcp_close: Duration,
    /// UDP that is not answered.
    pub udp: Duration,
    /// UDP that is answered.
    pub udp_stream: Duration,
    /// ICMP.
    pub icmp: Duration,
    /// All other protocols.
    pub other: Duration,
    /// How long after the start answers of TCP connections are accepted that were there before it.
    pub pick_up: Duration,
}

impl Default for PolicyTimeouts {
    /// Those of nf_conntrack, but for `pick_up`, which it does not have.
    fn default() -> Self {
        Self {
            tcp_established: Duration::from_secs(432_000),
            tcp_syn: Duration::from_secs(120),
            tcp_fin: Duration::from_secs(120),
            tcp_time_wait: Duration::from_secs(120),
            tcp_close: Duration::from_secs(10),
            udp: Duration::from_secs(30),
            udp_stream: Duration::from_secs(120),
            icmp: Duration::from_secs(30),
            other: Duration::from_secs(600),
            pick_up: Duration::from_secs(600),
        }
    }
}
