//! The connections that network policy follows.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A connection, as its first packet had it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
pub struct ConnectionEntry {
    /// Upper-layer protocol: `tcp`, `udp`, `sctp`, `icmp`, `icmpv6`, or a number.
    pub protocol: String,
    /// Who began it.
    #[schema(value_type = String)]
    pub source: IpAddr,
    /// Its port; null of a protocol without ports.
    #[serde(default)]
    pub source_port: Option<u16>,
    /// The other end.
    #[schema(value_type = String)]
    pub destination: IpAddr,
    /// Its port; null of a protocol without ports.
    #[serde(default)]
    pub destination_port: Option<u16>,
    /// The ICMP type of a query and its answers; null of everything else.
    #[serde(default)]
    pub icmp_type: Option<u8>,
    /// `unanswered`, `answered`, `established`, `closing`, `time_wait`, `closed` or `denied`; more may come.
    pub state: String,
    /// Seconds since its first packet.
    #[serde(default)]
    pub age_seconds: u32,
    /// Seconds until it is forgotten, unless there are packets.
    #[serde(default)]
    pub expires_in_seconds: u32,
    /// The number of the worker that has it.
    #[serde(default)]
    pub worker: usize,
    /// Whether programs in the kernel carry packets of it.
    #[serde(default)]
    pub in_kernel: bool,
}

/// The answer to `DELETE /v1/connections`.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
pub struct ConnectionsFlushed {
    /// Connections that are forgotten.
    pub flushed: u64,
}
