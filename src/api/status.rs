//! The daemon at a glance, and what was carried and dropped.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{PeerStatus, PolicyStatus};

/// `GET /v1/status`: the whole daemon at a glance.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize, ToSchema)]
pub struct Status {
    /// Always `underpass`.
    #[serde(default)]
    pub name: String,
    /// Version of the running daemon.
    #[serde(default)]
    pub version: String,
    /// Seconds since the daemon started.
    #[serde(default)]
    pub uptime_seconds: u64,
    /// This node's name.
    pub node: String,
    /// Number of packet threads.
    pub workers: usize,
    /// Device backend in use: `offload` or `plain`.
    pub backend: String,
    /// Each offload by name: `active`, or `off: ` and why.
    #[serde(default)]
    pub offloads: BTreeMap<String, String>,
    /// The TUN device.
    pub tunnel: TunnelStatus,
    /// Traffic since the start, all workers together.
    pub counters: EdgeCounters,
    /// Packets not delivered since the start, every reason present.
    pub drops: Drops,
    /// ICMP errors to the senders of dropped packets, which no other counter has.
    #[serde(default)]
    pub icmp_errors: IcmpErrors,
    /// Received packets that are the tunnel's own and no traffic, which no other counter has.
    #[serde(default)]
    pub tunnel_control: TunnelControl,
    /// Packets that went back to the TUN they came from, because they are for a pod of this node or the outside: both
    /// counts of the device have them, no other counter has.
    #[serde(default)]
    pub hairpinned_packets: u64,
    /// Received TCP super-packets whose segment size nobody knew, cut to what every path carries.
    #[serde(default)]
    pub recut_super_packets: u64,
    /// Reads of the TUN that the kernel refused since the start, which cost no packet by themselves.
    #[serde(default)]
    pub device_read_errors: u64,
    /// Numbers of the workers that make no progress; after 10 s the daemon ends.
    #[serde(default)]
    pub stuck_workers: Vec<usize>,
    /// What is left to an administrator, strangers at the devices first.
    #[serde(default)]
    pub missing: Vec<Missing>,
    /// Log lines that did not reach stderr: it was full, or nobody read it in time.
    #[serde(default)]
    pub log_lines_lost: u64,
    /// Packets that the kernel did not hand to the receiving sockets: of strangers while it refuses them, or
    /// because a buffer was full.
    #[serde(default)]
    pub socket_drops: u64,
    /// Whether the kernel refuses packets of strangers, because there are many.
    #[serde(default)]
    pub strangers_refused: bool,
    /// Sources that know more than routes, such as a cluster, and how they do.
    #[serde(default)]
    pub sources: Vec<SourceStatus>,
    /// Number of routes in the forwarding table.
    pub routes: usize,
    /// Who sends packets in the mode `direct`.
    #[serde(default)]
    pub direct: DirectStatus,
    /// Flows that the kernel carries.
    #[serde(default)]
    pub kernel_path: KernelPathStatus,
    /// How network policy does; absent while it is off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<PolicyStatus>,
    /// The other nodes, those of the configuration first.
    pub peers: Vec<PeerStatus>,
}

/// Who sends packets in the mode `direct`.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(default)]
pub struct DirectStatus {
    /// What the configuration says: `pump`, the daemon, or `kernel`.
    pub via: String,
    /// Destinations that the kernel sends to their nodes by routes of the daemon.
    pub kernel_routes: usize,
    /// Destinations that the daemon sends because the kernel cannot.
    pub pump_routes: usize,
}

/// Received packets that are the tunnel's own.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(default)]
pub struct TunnelControl {
    /// Probes by which other nodes test their way to this one.
    pub probes: u64,
    /// Questions of kernel tunnels for the Ethernet address of this end (ARP, neighbour discovery) that were answered.
    pub questions: u64,
}

/// How a source does that is followed, such as a cluster or the kernel's routes.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(default)]
pub struct SourceStatus {
    /// Such as `kubernetes`; `node-address` is a rule for this node's address, `peer-names` the host names of peers.
    pub name: String,
    /// `following`, or `degraded` when it cannot be reached or understood: what was known before stays.
    pub state: String,
    /// Why it is degraded.
    pub reason: String,
    /// How it is read: `flannel`, `calico` or `native`; the rule, of `node-address`.
    pub style: String,
    /// What it says now, where that is neither nodes nor routes: of `node-address` the address and why it is that one.
    pub detail: String,
    /// Nodes that it has, this one among them.
    pub nodes: usize,
    /// Routes that it has, where it has no nodes.
    pub routes: usize,
    /// How often more came from it than could be taken, so that everything was read again.
    pub overruns: u64,
    /// Number of objects or parts of them that cannot be used.
    pub refused: usize,
    /// The first of these.
    pub refusals: Vec<SourceRefusal>,
    /// What the daemon may not read or write there.
    pub problems: Vec<String>,
}

impl SourceStatus {
    /// The `state` of one that is followed.
    pub const FOLLOWING: &str = "following";
    /// The `state` of one that cannot be reached or understood.
    pub const DEGRADED: &str = "degraded";
}

/// Something that a source says and that cannot be used.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(default)]
pub struct SourceRefusal {
    /// The object, such as `node n7`.
    pub object: String,
    /// What is wrong with it.
    pub reason: String,
}

/// Something that the daemon may not do itself.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
pub struct Missing {
    /// What does not work for as long as it is not done.
    pub what: String,
    /// The command that does it.
    pub command: String,
}

/// The TUN device.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize, ToSchema)]
pub struct TunnelStatus {
    /// Interface name.
    pub device: String,
    /// Bytes of the largest inner packet.
    pub mtu: u16,
    /// The address on the interface, if it has one.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub address: Option<IpAddr>,
    /// This node's Ethernet address inside VXLAN packets.
    #[serde(default)]
    pub vtep_mac: String,
}

/// ICMP errors since the start.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize, ToSchema)]
pub struct IcmpErrors {
    /// Written to the TUN.
    pub sent: u64,
    /// Kept back by the rate limit.
    pub suppressed: u64,
}

/// Traffic at both edges of the daemon.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize, ToSchema)]
pub struct EdgeCounters {
    /// Inner packets at the TUN.
    pub device: Traffic,
    /// Outer packets at the underlay.
    pub underlay: Traffic,
}

/// Packets and bytes each way over one edge, IP headers included, after segmentation. `rx` is
/// what the daemon received from that edge, `tx` what it handed over to it.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize, ToSchema)]
pub struct Traffic {
    /// Packets received.
    pub rx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
}

/// `GET /v1/drops`: packets not delivered, by reason.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize, ToSchema)]
#[serde(transparent)]
pub struct Drops(pub BTreeMap<String, u64>);

/// What there is after a reload.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize, ToSchema)]
pub struct Reloaded {
    /// Known peers.
    pub peers: usize,
    /// Routes in the forwarding table.
    pub routes: usize,
}

impl Drops {
    /// Packets dropped for any reason.
    pub fn total(&self) -> u64 {
        self.0.values().fold(0, |sum, count| sum.saturating_add(*count))
    }
}

/// Flows that programs in the kernel carry, each direction by itself. All counters of packets have what they carry.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
pub struct KernelPathStatus {
    /// `active`, or `off: ` and why.
    pub state: String,
    /// How programs are attached, `tcx` or `clsact`; empty where there are none.
    #[serde(default)]
    pub hooks: String,
    /// Directions of flows that are carried now.
    pub flows: u64,
    /// Those that were handed over since the start.
    pub handed_over: u64,
    /// How often programs took up a flow whose packets kept coming, so that a few may have overtaken others.
    #[serde(default)]
    pub without_pause: u64,
    /// Those of them that are the pump's again.
    pub returned: u64,
    /// Packets that were carried since the start.
    pub packets: u64,
    /// Datagrams of the underlay that came joined with others, and so to the pump, since the start.
    #[serde(default)]
    pub joined: u64,
    /// Packets that the kernel had no room for where they were to be joined, since the start. What came in counts them.
    #[serde(default)]
    pub lost: u64,
    /// How packets that programs carry come in, by what was measured at the uplink; empty where there are none.
    #[serde(default)]
    pub receive: String,
    /// What the kernel does not do, such as `ipip in, IPv6`, so that the pump carries it.
    #[serde(default)]
    pub refused: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::Status;

    #[test]
    fn a_newer_daemon_is_understood() {
        let json = r#"{"node":"a","workers":1,"backend":"plain","tunnel":{"device":"up0","mtu":1450,"new":1},
            "counters":{"device":{"rx_packets":1,"rx_bytes":2,"tx_packets":3,"tx_bytes":4},
            "underlay":{"rx_packets":0,"rx_bytes":0,"tx_packets":0,"tx_bytes":0}},
            "drops":{"brand_new":7},"routes":0,"peers":[],"later":{}}"#;
        let status: Status = serde_json::from_str(json).unwrap();
        assert_eq!(status.drops.total(), 7);
        assert_eq!(status.counters.device.tx_bytes, 4);
    }
}
