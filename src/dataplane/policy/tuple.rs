//! What rules are about: the addresses, protocol and ports of a packet, whatever it lies in.

use std::net::IpAddr;

/// What a rule can ask of a packet.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Tuple {
    /// Who sent it.
    pub source: IpAddr,
    /// Whom it is for.
    pub destination: IpAddr,
    /// Upper-layer protocol, behind all extension headers.
    pub protocol: u8,
    /// Source and destination port of TCP, UDP and SCTP; `None` where the packet has none to show, such as a later
    /// fragment, and of every other protocol.
    pub ports: Option<(u16, u16)>,
    /// Type and code of ICMP and ICMPv6; `None` like `ports`.
    pub icmp: Option<(u8, u8)>,
}

impl Tuple {
    /// The same, as an answer has it.
    #[must_use]
    pub fn reversed(self) -> Self {
        let Self { source, destination, protocol, ports, icmp } = self;
        let ports = ports.map(|(from, to)| (to, from));
        Self { source: destination, destination: source, protocol, ports, icmp }
    }
}
