//! What happens to the engine, and what it wants done.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use super::bfd::Verdict;
use super::edits::batch::Batch;
use super::edits::edit::Changed;
use super::edits::followed::LeftOut;
use super::network_policy::NetworkPolicy;
use super::port::{HostError, HostRequest, HostView, Notice, PeerWay, Requirement, Uplink};
use super::refusal::Refusal;
use crate::api::{NewPeer, SourceStatus};
use crate::config::Config;
use crate::dataplane::encap::frame::Hop;
use crate::dataplane::forward::{Forwarding, TapLink, Way};
use crate::dataplane::packet::Offloaded;
use crate::net::{Mode, Prefix};
use crate::route::{DirectPath, Source};

/// Something that the engine has to follow.
#[derive(Debug)]
pub enum Event {
    /// A source says something new. What is not newer than what it said before is passed over.
    Update {
        /// Who says it.
        source: Source,
        /// Grows with every update of that source.
        generation: u64,
        /// What it says.
        update: Update,
        /// Who waits for an answer.
        request: Option<Asked>,
    },
    /// A client wants something changed.
    Request(Asked, Request),
    /// The interface with our underlay address, or its MTU, is another one.
    Uplink(Uplink),
    /// Link addresses of the first hops towards the peers' addresses.
    Hops(HashMap<IpAddr, Hop>),
    /// The kernel's ways to the peers' addresses.
    Ways(HashMap<IpAddr, PeerWay>),
    /// Which peers may be reached through the TAP.
    Tap(TapUse),
    /// A router is said to report the MTU of a path.
    PathMtu(PathMtu),
    /// Another network policy to enforce, or none.
    NetworkPolicy(Option<NetworkPolicy>),
    /// Which direct paths carry packets of pods.
    DirectPaths(BTreeMap<DirectPath, Verdict>),
    /// The addresses of this host, of all interfaces.
    Addresses(Vec<IpAddr>),
    /// A probe of the path to this address was answered.
    Probed(IpAddr, Probed),
    /// Which peers' addresses IPsec policies are about, and what is wrong with the policies.
    Policies(BTreeSet<IpAddr>, Vec<Requirement>),
    /// Peers send bare packets that the reverse path filter drops.
    Strays(Vec<Requirement>),
    /// What is wrong with the network configuration for container runtimes.
    Cni(Vec<Requirement>),
    /// Others are at our devices.
    Strangers(Vec<Requirement>),
    /// How a source is doing.
    Reported(Arc<SourceStatus>),
    /// The source of this name is not followed any more.
    Unreported(&'static str),
    /// The kernel told of a change.
    Noticed(Notice),
    /// A look has shown this.
    Observed(EffectId, Box<HostView>),
    /// A request has ended, or a look has failed.
    Ended(EffectId, Vec<Failure>),
    /// Time has passed: [`Engine::deadline`](super::Engine::deadline) is over.
    Tick,
}

/// What a source says.
#[derive(Debug)]
pub enum Update {
    /// All of the configuration: pools, peers and their routes. What it does not say any more is withdrawn.
    Configuration {
        /// The checked configuration, or what is wrong with it.
        config: Result<Box<Config>, Refusal>,
        /// The host, with the routes that the new pools overlap with.
        view: Option<Box<HostView>>,
        /// The network policy that goes with it.
        network_policy: Option<NetworkPolicy>,
    },
    /// Changes of its routes. What something speaks against is left out, and the rest followed.
    Changes(Batch),
    /// It cannot be reached: its routes stay as they are until it is back or withdrawn.
    Lost(String),
    /// It is gone for good, and its routes with it.
    Withdrawn,
}

/// What a client wants changed.
#[derive(Debug)]
pub enum Request {
    /// Control routes, together or not at all.
    Edit(Batch),
    /// All control routes.
    Replace(Batch),
    /// A node to make known.
    AddPeer(NewPeer),
    /// Nodes to make known, each if nothing speaks against it.
    AddPeers(Vec<NewPeer>),
    /// A node to make known as it is given, whatever is known of that name.
    ReplacePeer(NewPeer),
    /// A node to forget.
    DeletePeer(String),
    /// Nodes to forget, those that are known.
    DeletePeers(Vec<String>),
}

/// Which peers may be reached through the TAP.
#[derive(Clone, Debug, Default)]
pub struct TapUse {
    /// Index of the TAP, while it is there.
    pub device: Option<u32>,
    /// The TAP, while it is used.
    pub link: Option<TapLink>,
    /// How super-packets leave towards each address of a peer.
    pub ways: HashMap<IpAddr, Arc<Way>>,
    /// What `status` says of it; `None` where it serves no peer.
    pub said: Option<Offloaded>,
}

/// A report of a router that may be true.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PathMtu {
    /// The peer that the quoted packet was for, if there is such a peer.
    pub peer: IpAddr,
    /// How it was encapsulated.
    pub mode: Mode,
    /// The UDP port it was for, by VXLAN.
    pub port: Option<u16>,
    /// Bytes of the largest outer packet that passes.
    pub mtu: u16,
    /// Bytes of the quoted packet.
    pub quoted: u16,
    /// Bytes of the largest outer packet that was sent to the peer in the last seconds; 0 for none.
    pub sent: u16,
}

/// What became of a probe.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Probed {
    /// The peer has answered one of so many bytes.
    Passed(u16),
    /// A router says that it is too large, and what is not.
    TooBig(u16),
}

/// A part of a request that the kernel refused.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Failure {
    /// The route it is about, where the request has several.
    pub route: Option<Prefix>,
    /// Why.
    pub error: HostError,
}

/// Who waits for an answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Asked {
    /// The request.
    pub id: RequestId,
    /// Whether to answer only when packets see the change.
    pub wait: bool,
}

/// A request of a client.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct RequestId(pub u64);

/// A request to the host.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct EffectId(pub u64);

/// Something that the engine wants done, in this order.
#[derive(Debug)]
pub enum Effect {
    /// Give the workers this table.
    Publish(Box<Forwarding>),
    /// Ask the host; it answers by [`Event::Ended`] or [`Event::Observed`].
    Host(EffectId, HostRequest),
    /// Answer a client.
    Answer(RequestId, Result<Reply, Refusal>),
    /// Send a probe along the path to a peer; an answer is an [`Event::Probed`].
    ProbePath {
        /// Its address.
        peer: IpAddr,
        /// Bytes of the probe, IP header included.
        size: u16,
    },
    /// Something is left to an administrator from now on.
    Require(Requirement),
    /// And this not any more.
    Resolved(Requirement),
    /// Much memory became free.
    Shrunk,
}

/// What a change did.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Reply {
    /// Routes were edited; so many prefixes are known now.
    Routes(Changed, usize),
    /// A node is known as it was given.
    PeerAdded(String),
    /// Nodes are known as they were given, but for those at these addresses, and why.
    PeersAdded(Vec<(IpAddr, Refusal)>),
    /// A node was forgotten.
    PeerDeleted,
    /// Nodes are not known any more.
    PeersDeleted,
    /// The configuration is followed: so many peers and routes are known now.
    Reloaded {
        /// Known peers.
        peers: usize,
        /// Prefixes with routes.
        routes: usize,
    },
    /// A source's update was taken.
    Updated,
    /// The routes of a source are followed, but for these.
    Followed(Vec<LeftOut>),
}
