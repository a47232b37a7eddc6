//! How a packet travels, and the pool settings that decide it.

use std::fmt;
use std::net::IpAddr;

/// How one packet leaves this node.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[repr(u8)]
pub enum Mode {
    /// IP-in-IP (RFC 2003, RFC 2473), protocol 4 for IPv4 inside and 41 for IPv6 inside.
    Ipip,
    /// VXLAN in UDP (RFC 7348).
    Vxlan,
    /// No encapsulation: the inner packet goes bare to the peer as next hop.
    Direct,
}

impl Mode {
    /// The word used in configuration, JSON and docs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ipip => "ipip",
            Self::Vxlan => "vxlan",
            Self::Direct => "direct",
        }
    }

    /// Bytes of outer headers in front of the inner IP packet on its way to the node at `outer`.
    pub const fn overhead(self, outer: IpAddr) -> u16 {
        let ip = if outer.is_ipv4() { 20 } else { 40 };
        match self {
            Self::Ipip => ip,
            Self::Vxlan => ip + 30,
            Self::Direct => 0,
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// When a pool encapsulates: Calico's `ipipMode` and `vxlanMode` words.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum EncapMode {
    /// Not by this encapsulation.
    #[default]
    Never,
    /// Only towards peers outside this node's own subnet.
    CrossSubnet,
    /// Towards every peer.
    Always,
}

impl EncapMode {
    /// Calico's spelling.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Never => "Never",
            Self::CrossSubnet => "CrossSubnet",
            Self::Always => "Always",
        }
    }
}

impl fmt::Display for EncapMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
