//! The JSON of the control API, shared by the server and the command line.
//!
//! Fields are only ever added. The reader ignores what it does not know and most fields have a
//! default, so that a command line works with a daemon one version older or newer.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU16;

use serde::{Deserialize, Serialize};

use crate::control::engine::port::Requirement;
use crate::dataplane::observe::{EdgeTotals, PeerTotals, Totals};
use crate::net::{DropReason, Mode};

/// Path of [`Status`].
pub const STATUS: &str = "/v1/status";
/// Path of the list of all [`RouteEntry`]s.
pub const ROUTES: &str = "/v1/routes";
/// Path of the one [`RouteEntry`] for `?address=`.
pub const ROUTE_GET: &str = "/v1/routes/get";
/// Path that a reload of the configuration file is asked for at.
pub const RELOAD: &str = "/v1/reload";
/// Path of the list of all peers; a name behind it is one of them.
pub const PEERS: &str = "/v1/peers";
/// Path of [`Drops`].
pub const DROPS: &str = "/v1/drops";
/// Path of a capture: a pcapng stream.
pub const CAPTURE: &str = "/v1/capture";

/// `GET /v1/status`: the whole daemon at a glance.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
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
    /// Received TCP super-packets whose segment size nobody knew, cut to what every path carries.
    #[serde(default)]
    pub recut_super_packets: u64,
    /// What is left to an administrator, strangers at the devices first.
    #[serde(default)]
    pub missing: Vec<Missing>,
    /// Log lines that did not reach stderr: it was full, or nobody read it in time.
    #[serde(default)]
    pub log_lines_lost: u64,
    /// Number of routes in the forwarding table.
    pub routes: usize,
    /// The other nodes, those of the configuration first.
    pub peers: Vec<PeerStatus>,
}

/// Something that the daemon may not do itself.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Missing {
    /// What does not work for as long as it is not done.
    pub what: String,
    /// The command that does it.
    pub command: String,
}

impl From<Requirement> for Missing {
    fn from(Requirement { what, command }: Requirement) -> Self {
        Self { what, command }
    }
}

/// The TUN device.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct TunnelStatus {
    /// Interface name.
    pub device: String,
    /// Bytes of the largest inner packet.
    pub mtu: u16,
    /// The address on the interface, if it has one.
    #[serde(default)]
    pub address: Option<IpAddr>,
    /// This node's Ethernet address inside VXLAN packets.
    #[serde(default)]
    pub vtep_mac: String,
}

/// ICMP errors since the start.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct IcmpErrors {
    /// Written to the TUN.
    pub sent: u64,
    /// Kept back by the rate limit.
    pub suppressed: u64,
}

impl From<(u64, u64)> for IcmpErrors {
    fn from((sent, suppressed): (u64, u64)) -> Self {
        Self { sent, suppressed }
    }
}

/// Traffic at both edges of the daemon.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct EdgeCounters {
    /// Inner packets at the TUN.
    pub device: Traffic,
    /// Outer packets at the underlay.
    pub underlay: Traffic,
}

/// Packets and bytes each way over one edge, IP headers included, after segmentation. `rx` is
/// what the daemon received from that edge, `tx` what it handed over to it.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
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
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Drops(pub BTreeMap<String, u64>);

/// Another node.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct PeerStatus {
    /// The node's name.
    pub name: String,
    /// Its underlay address.
    pub address: IpAddr,
    /// Its second one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address6: Option<Ipv6Addr>,
    /// UDP port of VXLAN there.
    #[serde(default)]
    pub port: u16,
    /// Its pod subnets.
    #[serde(default)]
    pub subnets: Vec<String>,
    /// The inner destination address of VXLAN frames to it.
    #[serde(default)]
    pub vtep_mac: String,
    /// How TCP super-packets leave towards it, where there is a TAP for them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uplink: Option<PeerUplink>,
    /// What was exchanged with it since it is known.
    #[serde(default)]
    pub counters: PeerTraffic,
}

/// How TCP super-packets leave towards a peer, in the modes by which routes lead there.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
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
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub struct PeerWay {
    /// `tap`, whole, or `socket`, cut.
    pub way: String,
    /// Why, in words.
    pub reason: String,
}

/// Inner packets exchanged with a peer, after segmentation; *tx* is towards it.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
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

impl From<PeerTotals> for PeerTraffic {
    fn from(totals: PeerTotals) -> Self {
        let PeerTotals { rx_packets, rx_bytes, rx_dropped, tx_packets, tx_bytes, tx_dropped } = totals;
        Self { rx_packets, rx_bytes, rx_dropped, tx_packets, tx_bytes, tx_dropped }
    }
}

/// `POST /v1/peers`: a node to make known.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct NewPeer {
    /// The node's name.
    pub name: String,
    /// Its underlay address.
    pub address: IpAddr,
    /// Its IPv6 underlay address, where the other one is IPv4.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address6: Option<Ipv6Addr>,
    /// Its pod subnets, which become control routes.
    #[serde(default)]
    pub subnets: Vec<String>,
    /// UDP port of VXLAN there; by default this node's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<NonZeroU16>,
    /// The inner destination address of VXLAN frames to it; by default made of the name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vtep_mac: Option<String>,
}

/// What there is after a reload.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Reloaded {
    /// Known peers.
    pub peers: usize,
    /// Routes in the forwarding table.
    pub routes: usize,
}

/// `POST /v1/routes` in JSON: changes that are made together or not at all.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RouteChanges {
    /// Routes to add, or to replace where there is a control route of the same prefix.
    #[serde(default)]
    pub add: Vec<NewRoute>,
    /// Prefixes whose control routes are deleted.
    #[serde(default)]
    pub del: Vec<String>,
}

/// A route to add.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct NewRoute {
    /// The destination prefix.
    pub prefix: String,
    /// The names of the nodes that own it, at equal cost.
    pub via: Vec<String>,
    /// Bytes of the largest inner packet the route may carry, when less than its path does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
}

/// The answer to a change of routes.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct RoutesChanged {
    /// Routes added or replaced.
    pub added: usize,
    /// Routes deleted.
    pub deleted: usize,
    /// Prefixes in the table now, of all sources.
    pub routes: usize,
}

/// One route, and the answer to "where does this packet go".
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct RouteEntry {
    /// The destination prefix.
    pub prefix: String,
    /// The node that owns it, the first of several; `null` for this node's own subnets.
    pub peer: Option<String>,
    /// How packets travel there.
    pub mode: RouteMode,
    /// The underlay address packets are sent to; `null` for this node's own subnets.
    pub next_hop: Option<IpAddr>,
    /// Bytes of the largest inner packet this route carries.
    pub mtu: u16,
    /// Where the route comes from: `local` (an own subnet), `static` (a configured peer),
    /// `control` (this API).
    pub source: String,
    /// One sentence: why this mode.
    pub reason: String,
    /// Seconds since the route is as it is.
    #[serde(default)]
    pub age_seconds: u64,
    /// The route's own limit of the MTU in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu_limit: Option<u16>,
    /// All nodes that own it, at equal cost; empty for this node's own subnets.
    #[serde(default)]
    pub next_hops: Vec<NextHop>,
    /// What all sources say about the prefix, best first; only where one route was asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub candidates: Vec<CandidateRoute>,
}

/// One of the nodes that own a prefix.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct NextHop {
    /// The node.
    pub peer: String,
    /// Its underlay address.
    pub address: IpAddr,
    /// How packets travel there.
    pub mode: RouteMode,
    /// Bytes of the largest inner packet that is sent there.
    pub mtu: u16,
}

/// What one source says about a prefix.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct CandidateRoute {
    /// The source.
    pub source: String,
    /// The node that owns it, the first of several; `null` for this node.
    pub peer: Option<String>,
    /// All of them.
    #[serde(default)]
    pub peers: Vec<String>,
    /// Seconds since it says so.
    pub age_seconds: u64,
}

/// How packets of a route travel.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RouteMode {
    /// IP-in-IP.
    Ipip,
    /// VXLAN in UDP.
    Vxlan,
    /// Bare to the next hop.
    Direct,
    /// Not at all: the prefix is this node's own.
    #[default]
    Local,
}

impl RouteMode {
    /// The word used in JSON and tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ipip => Mode::Ipip.name(),
            Self::Vxlan => Mode::Vxlan.name(),
            Self::Direct => Mode::Direct.name(),
            Self::Local => "local",
        }
    }
}

/// The body of every response that is not 200.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct ErrorBody {
    /// What was wrong, for a human.
    pub error: String,
    /// Each culprit, where there are several; of many only the first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<String>,
}

impl From<Mode> for RouteMode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Ipip => Self::Ipip,
            Mode::Vxlan => Self::Vxlan,
            Mode::Direct => Self::Direct,
        }
    }
}

impl From<&Totals> for EdgeCounters {
    fn from(totals: &Totals) -> Self {
        Self { device: totals.device.into(), underlay: totals.underlay.into() }
    }
}

impl From<EdgeTotals> for Traffic {
    fn from(edge: EdgeTotals) -> Self {
        Self {
            rx_packets: edge.rx_packets,
            rx_bytes: edge.rx_bytes,
            tx_packets: edge.tx_packets,
            tx_bytes: edge.tx_bytes,
        }
    }
}

impl From<&Totals> for Drops {
    fn from(totals: &Totals) -> Self {
        Self(DropReason::ALL.iter().map(|&reason| (reason.name().to_owned(), totals.drops(reason))).collect())
    }
}

impl Drops {
    /// Packets dropped for any reason.
    pub fn total(&self) -> u64 {
        self.0.values().fold(0, |sum, count| sum.saturating_add(*count))
    }
}

#[cfg(test)]
mod tests {
    use super::{Drops, RouteEntry, RouteMode, Status};
    use crate::dataplane::observe::Counters;
    use crate::net::{DropReason, Mode};

    #[test]
    fn every_reason_is_in_the_drops() {
        let counters = Counters::new(2);
        counters.worker(0).dropped(DropReason::Ttl, 2);
        counters.worker(1).dropped(DropReason::Ttl, 3);
        let drops = Drops::from(&counters.totals());
        assert_eq!(drops.0.len(), DropReason::ALL.len());
        assert_eq!(drops.0["ttl"], 5);
        assert_eq!(drops.0["loop"], 0);
        assert_eq!(drops.total(), 5);
    }

    #[test]
    fn route_json_is_as_documented() {
        let entry = RouteEntry {
            prefix: "10.244.1.0/24".into(),
            peer: None,
            mode: RouteMode::Local,
            next_hop: None,
            mtu: 1450,
            source: "local".into(),
            reason: "own subnet".into(),
            ..RouteEntry::default()
        };
        assert_eq!(
            serde_json::to_string(&entry).unwrap(),
            r#"{"prefix":"10.244.1.0/24","peer":null,"mode":"local","next_hop":null,"mtu":1450,"source":"local","reason":"own subnet","age_seconds":0,"next_hops":[]}"#
        );
        for mode in [Mode::Ipip, Mode::Vxlan, Mode::Direct] {
            let json = serde_json::to_string(&RouteMode::from(mode)).unwrap();
            assert_eq!(json, format!("\"{}\"", mode.name()));
            assert_eq!(RouteMode::from(mode).name(), mode.name());
        }
    }

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
