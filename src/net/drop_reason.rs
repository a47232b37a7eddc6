//! Why a packet was not delivered. One list, the same words in `status`, metrics and docs.

/// The single reason a packet was dropped. Every packet that is not delivered adds one to
/// exactly one of these counters.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[repr(u8)]
pub enum DropReason {
    /// No prefix in the forwarding table contains the destination, or it is one of our own
    /// subnets and the kernel handed it back to us (no such pod).
    NoRoute,
    /// A header is truncated, contradicts its own lengths, or has a wrong header checksum.
    Malformed,
    /// The outer source is not the address of a configured peer or external node.
    UnknownPeer,
    /// The inner source is none that the sender may use: not that peer's (inbound), somebody else's
    /// (inbound, external node), not ours (outbound); or it is an address of this host (inbound), or special.
    SpoofedSource,
    /// The inner destination of a received packet is not in one of our local subnets.
    NotLocal,
    /// The VXLAN header lacks the I flag or carries another VNI than ours.
    BadVni,
    /// A transport checksum is wrong where one must be right.
    BadChecksum,
    /// RFC 6040: the outer header says Congestion Experienced, the inner one Not-ECT.
    Ecn,
    /// The TTL or hop limit is exhausted.
    Ttl,
    /// The packet is larger than its path carries and may not be fragmented.
    TooBig,
    /// The packet would be routed back into the tunnel that carries it.
    Loop,
    /// A tunnel packet inside a tunnel packet, or on its way to become one.
    Nested,
    /// The TUN device could not take the packet.
    DeviceFull,
    /// The socket or the link to the underlay could not take the packet.
    UnderlayFull,
    /// The underlay is down or has no route to the peer.
    UnderlayDown,
    /// The packet may be several in one, and nobody knows where one ends: the kernel joined them before
    /// any socket of ours saw them.
    UnknownSegmentSize,
    /// No rule lets the packet leave its endpoint.
    PolicyEgress,
    /// No rule lets the packet come to its endpoint.
    PolicyIngress,
    /// The packet begins a connection, and there is no room to remember another one.
    ConnectionsFull,
    /// A kind of packet the dataplane does not carry: multicast, broadcast, link-local, an
    /// unknown ethertype.
    Unsupported,
}

impl DropReason {
    /// Every reason, in the order in which it is listed to users.
    pub const ALL: [Self; 20] = [
        Self::NoRoute,
        Self::Malformed,
        Self::UnknownPeer,
        Self::SpoofedSource,
        Self::NotLocal,
        Self::BadVni,
        Self::BadChecksum,
        Self::Ecn,
        Self::Ttl,
        Self::TooBig,
        Self::Loop,
        Self::Nested,
        Self::DeviceFull,
        Self::UnderlayFull,
        Self::UnderlayDown,
        Self::UnknownSegmentSize,
        Self::PolicyEgress,
        Self::PolicyIngress,
        Self::ConnectionsFull,
        Self::Unsupported,
    ];

    /// The word used in `status`, metrics and docs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NoRoute => "no_route",
            Self::Malformed => "malformed",
            Self::UnknownPeer => "unknown_peer",
            Self::SpoofedSource => "spoofed_source",
            Self::NotLocal => "not_local",
            Self::BadVni => "bad_vni",
            Self::BadChecksum => "bad_checksum",
            Self::Ecn => "ecn",
            Self::Ttl => "ttl",
            Self::TooBig => "too_big",
            Self::Loop => "loop",
            Self::Nested => "nested",
            Self::DeviceFull => "device_full",
            Self::UnderlayFull => "underlay_full",
            Self::UnderlayDown => "underlay_down",
            Self::UnknownSegmentSize => "unknown_segment_size",
            Self::PolicyEgress => "policy_egress",
            Self::PolicyIngress => "policy_ingress",
            Self::ConnectionsFull => "connections_full",
            Self::Unsupported => "unsupported",
        }
    }

    /// One line for an operator who sees the counter move.
    pub const fn help(self) -> &'static str {
        match self {
            Self::NoRoute => "no route to the destination, or no such pod in our own subnets",
            Self::Malformed => "truncated header, contradicting lengths or wrong header checksum",
            Self::UnknownPeer => "outer source is no peer and no external node",
            Self::SpoofedSource => "inner source is none that the sender may use",
            Self::NotLocal => "inner destination is not in one of our local subnets",
            Self::BadVni => "VXLAN I flag clear or another VNI than ours",
            Self::BadChecksum => "transport checksum wrong",
            Self::Ecn => "RFC 6040: outer CE on a Not-ECT inner packet",
            Self::Ttl => "TTL or hop limit exhausted",
            Self::TooBig => "larger than its path carries",
            Self::Loop => "would be routed back into the tunnel",
            Self::Nested => "a tunnel packet of a pod, and allow_nested is false",
            Self::DeviceFull => "the TUN device could not take it",
            Self::UnderlayFull => "the underlay socket or link could not take it",
            Self::UnderlayDown => "the underlay is down or has no route to the peer",
            Self::UnknownSegmentSize => "several packets that the kernel joined, of unknown size",
            Self::PolicyEgress => "no policy lets it leave its endpoint",
            Self::PolicyIngress => "no policy lets it come to its endpoint",
            Self::ConnectionsFull => "no room for another connection, and fail_open is false",
            Self::Unsupported => "a kind of packet that is not carried (multicast, broadcast, …)",
        }
    }
}

impl std::fmt::Display for DropReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::DropReason;

    #[test]
    fn all_is_complete_and_indexable() {
        for (index, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, index);
            assert!(!reason.help().is_empty());
        }
        let mut names: Vec<_> = DropReason::ALL.iter().map(|r| r.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), DropReason::ALL.len());
    }
}
