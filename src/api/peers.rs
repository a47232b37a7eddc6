//! The other nodes.

use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU16;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Another node.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
pub struct PeerStatus {
    /// The node's name.
    pub name: String,
    /// Its underlay address.
    #[schema(value_type = String)]
    pub address: IpAddr,
    /// Its second one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub address6: Option<Ipv6Addr>,
    /// Further underlay addresses that it sends from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub also_from: Vec<IpAddr>,
    /// UDP port of VXLAN there.
    #[serde(default)]
    pub port: u16,
    /// Its pod subnets.
    #[serde(default)]
    pub subnets: Vec<String>,
    /// Prefixes that it may send from beside its subnets and addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sends_for: Vec<String>,
    /// The inner destination address of VXLAN frames to it.
    #[serde(default)]
    pub vtep_mac: String,
    /// How TCP super-packets leave towards it, where there is a TAP for them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uplink: Option<PeerUplink>,
    /// The direct paths to it that are to be verified, one for each family of pods.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub direct_paths: Vec<DirectPathStatus>,
    /// What was exchanged with it since it is known.
    #[serde(default)]
    pub counters: PeerTraffic,
}

/// How a direct path to a peer does that is to be verified.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
pub struct DirectPathStatus {
    /// Of the packets: `ipv4` or `ipv6`.
    pub family: String,
    /// The peer's underlay address that they are sent to.
    #[schema(value_type = String)]
    pub next_hop: IpAddr,
    /// Whether packets of pods take it; if not, the tunnel.
    pub verified: bool,
    /// Why, in words.
    pub reason: String,
    /// How often it was given up since it is known.
    pub failures: u64,
}

/// How TCP super-packets leave towards a peer, in the modes by which routes lead there.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(default)]
pub struct PeerUplink {
    /// The interface of the route to its underlay address.
    pub interface: String,
    /// In VXLAN.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vxlan: Option<PeerWay>,
    /// In IP-in-IP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipip: Option<PeerWay>,
}

/// A way to the uplink.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(default)]
pub struct PeerWay {
    /// `tap`, whole, or `socket`, cut.
    pub way: String,
    /// Why, in words.
    pub reason: String,
}

/// Inner packets exchanged with a peer, after segmentation; *tx* is towards it.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(default)]
pub struct PeerTraffic {
    /// Packets accepted from it.
    pub rx_packets: u64,
    /// Their bytes, IP headers included.
    pub rx_bytes: u64,
    /// Packets from it that were dropped.
    pub rx_dropped: u64,
    /// Packets sent to it.
    pub tx_packets: u64,
    /// Their bytes, IP headers included.
    pub tx_bytes: u64,
    /// Packets for it that were dropped before they were sent.
    pub tx_dropped: u64,
}

/// `POST /v1/peers`: a node to make known.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewPeer {
    /// The node's name.
    pub name: String,
    /// Its underlay address.
    #[schema(value_type = String)]
    pub address: IpAddr,
    /// Its IPv6 underlay address, where the other one is IPv4.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub address6: Option<Ipv6Addr>,
    /// Further underlay addresses that it sends from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub also_from: Vec<IpAddr>,
    /// Its pod subnets, which become control routes.
    #[serde(default)]
    pub subnets: Vec<String>,
    /// Prefixes that it may send from beside its subnets and addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sends_for: Vec<String>,
    /// UDP port of VXLAN there; by default this node's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u16>, minimum = 1)]
    pub port: Option<NonZeroU16>,
    /// The inner destination address of VXLAN frames to it; by default made of the name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vtep_mac: Option<String>,
}

/// The answer to `DELETE /v1/peers/NAME`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
pub struct PeerDeleted {
    /// The name of the node that is not known any more.
    pub deleted: String,
}
