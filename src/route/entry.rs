//! One route, as its source says it.

use super::fib::PeerId;
use crate::net::Prefix;

/// Where a route came from. The order is the precedence, best first: this node's own pods, then
/// what an operator wrote down, then what he typed, then what routing
/// daemons found out, then what a cluster says.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[repr(u8)]
pub enum Source {
    /// `[local] subnets`.
    Local,
    /// `[[peer]] subnets`.
    Static,
    /// The control API.
    Control,
    /// The kernel's routing tables, where a BGP daemon or alike writes.
    Kernel,
    /// Nodes and pools of a Kubernetes cluster.
    Kubernetes,
    /// Nodes and pools of an etcd.
    Etcd,
}

impl Source {
    /// Every one, best first.
    pub const ALL: [Self; 6] =
        [Self::Local, Self::Static, Self::Control, Self::Kernel, Self::Kubernetes, Self::Etcd];

    /// The word used in JSON and tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Static => "static",
            Self::Control => "control",
            Self::Kernel => "kernel",
            Self::Kubernetes => "kubernetes",
            Self::Etcd => "etcd",
        }
    }
}

/// Who owns the addresses of a route.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Target {
    /// This node.
    Local,
    /// Another node.
    Peer(PeerId),
    /// Several nodes at equal cost: see [`Rib::peers`](super::Rib::peers).
    Group(GroupId),
}

/// A set of nodes that some routes share.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct GroupId(pub(super) u16);

/// What one source says about one prefix.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Route {
    /// The addresses.
    pub prefix: Prefix,
    /// Their owner.
    pub target: Target,
    /// Who said so.
    pub source: Source,
    /// Bytes of the largest inner packet this route may carry, when it says so itself.
    pub mtu: Option<u16>,
    /// When it was said, in seconds of the daemon's life.
    pub since: u32,
}

impl Route {
    /// A route of this moment zero without a limit.
    pub fn new(prefix: Prefix, source: Source, target: Target) -> Self {
        Self { prefix, target, source, mtu: None, since: 0 }
    }
}

/// A route that the table refuses.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
pub enum RouteError {
    /// The source has a route for this prefix already.
    #[error("{0} already has a {source_name} route; delete that one first", source_name = .1.name())]
    Exists(Prefix, Source),
    /// More different sets of nodes than ids.
    #[error("more than 65535 different sets of equal-cost nodes; use fewer combinations")]
    GroupsFull,
}
