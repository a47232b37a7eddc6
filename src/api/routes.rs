//! Routes, and changes of them.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::net::Mode;

/// `POST /v1/routes` in JSON: changes that are made together or not at all.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize, ToSchema)]
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
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
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
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
pub struct RoutesChanged {
    /// Routes added or replaced.
    pub added: usize,
    /// Routes deleted.
    pub deleted: usize,
    /// Prefixes in the table now, of all sources.
    pub routes: usize,
}

/// One route, and the answer to "where does this packet go".
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize, ToSchema)]
pub struct RouteEntry {
    /// The destination prefix.
    pub prefix: String,
    /// The node that owns it, the first of several; `null` for this node's own subnets.
    pub peer: Option<String>,
    /// How packets travel there.
    pub mode: RouteMode,
    /// The underlay address packets are sent to; `null` for this node's own subnets.
    #[schema(value_type = Option<String>)]
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
    /// Who sends the packets, where they are bare: `kernel`, by a route to the node, or `pump`, the daemon.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<String>,
    /// Why the daemon sends them although the configuration says that the kernel should.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via_reason: Option<String>,
    /// All nodes that own it, at equal cost; empty for this node's own subnets.
    #[serde(default)]
    pub next_hops: Vec<NextHop>,
    /// What all sources say about the prefix, best first; only where one route was asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub candidates: Vec<CandidateRoute>,
}

/// One of the nodes that own a prefix.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
pub struct NextHop {
    /// The node.
    pub peer: String,
    /// Its underlay address.
    #[schema(value_type = String)]
    pub address: IpAddr,
    /// How packets travel there.
    pub mode: RouteMode,
    /// Bytes of the largest inner packet that is sent there.
    pub mtu: u16,
}

/// What one source says about a prefix.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
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
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
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

impl From<Mode> for RouteMode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Ipip => Self::Ipip,
            Mode::Vxlan => Self::Vxlan,
            Mode::Direct => Self::Direct,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{RouteEntry, RouteMode};
    use crate::net::Mode;

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
}
