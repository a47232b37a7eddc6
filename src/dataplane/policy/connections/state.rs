//! How far a connection is, and what a packet of it changes.

use super::key::{DATAGRAM, Key};
use crate::dataplane::policy::timeouts::Timeouts;
use crate::wire::{protocol, tcp};

/// How far a connection is.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(u8)]
pub enum State {
    /// Only its originator has sent something.
    #[default]
    Unanswered,
    /// Both have. Of TCP: SYN was answered by SYN and ACK.
    Answered,
    /// TCP: data may flow.
    Established,
    /// TCP: one end has sent FIN.
    Closing,
    /// TCP: both have.
    TimeWait,
    /// TCP: one end has reset it.
    Closed,
    /// Other rules than those that it was begun under deny it. It stays known, so that its packets are judged as its
    /// originator's, and nobody begins it anew the other way round.
    Denied,
}

impl State {
    /// Every state.
    pub const ALL: [Self; 7] = [
        Self::Unanswered,
        Self::Answered,
        Self::Established,
        Self::Closing,
        Self::TimeWait,
        Self::Closed,
        Self::Denied,
    ];

    /// The word in JSON and tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unanswered => "unanswered",
            Self::Answered => "answered",
            Self::Established => "established",
            Self::Closing => "closing",
            Self::TimeWait => "time_wait",
            Self::Closed => "closed",
            Self::Denied => "denied",
        }
    }

    pub(super) fn from_bits(bits: u64) -> Self {
        Self::ALL.get((bits & 7) as usize).copied().unwrap_or_default()
    }

    /// Whether the other end has not taken part so far: such connections cost nothing to be made.
    pub(super) fn is_unanswered(self) -> bool {
        self == Self::Unanswered
    }

    /// Whether a new connection may have the same ends.
    pub(in crate::dataplane::policy) fn is_over(self) -> bool {
        matches!(self, Self::TimeWait | Self::Closed | Self::Denied)
    }

    /// The state of a connection that is allowed again.
    pub(in crate::dataplane::policy) fn allowed(self, protocol: u8) -> Self {
        match self {
            Self::Denied if protocol == protocol::TCP => Self::Established,
            Self::Denied => Self::Answered,
            state => state,
        }
    }

    /// The state behind a packet with these TCP flags, which its originator has sent or the other end. `fins` has a
    /// bit for each end that has sent FIN.
    pub(in crate::dataplane::policy) fn after_tcp(
        self,
        flags: u8,
        by_originator: bool,
        fins: &mut u8,
    ) -> Self {
        if flags & tcp::RST != 0 {
            // An answer of the one to an attempt of the other.
            return Self::Closed;
        }
        let was = match self {
            // Whatever the reset was, somebody goes on.
            Self::Closed if flags & tcp::ACK != 0 && *fins == 0 => Self::Established,
            state => state,
        };
        if flags & tcp::FIN != 0 {
            *fins |= if by_originator { 1 } else { 2 };
        }
        match (was, *fins) {
            (_, 3) => Self::TimeWait,
            (Self::Closed, _) => Self::Closed,
            (Self::Unanswered, 0) if by_originator => Self::Unanswered,
            (Self::Unanswered, 0) => Self::Answered,
            // The third packet of the handshake.
            (Self::Answered, 0) if by_originator && flags & tcp::SYN == 0 => Self::Established,
            (Self::Answered, 0) => Self::Answered,
            (_, 0) => Self::Established,
            (Self::Unanswered, _) if by_originator => Self::Unanswered,
            _ => Self::Closing,
        }
    }

    /// The state behind a packet of another protocol.
    pub(in crate::dataplane::policy) fn after(self, by_originator: bool) -> Self {
        match self {
            Self::Unanswered if by_originator => Self::Unanswered,
            _ => Self::Answered,
        }
    }

    /// Seconds that a connection in this state lives without a packet.
    pub(super) fn lifetime(self, key: &Key, timeouts: &Timeouts) -> u32 {
        if key.kind == DATAGRAM {
            return FRAGMENTS;
        }
        match (key.protocol, self) {
            (_, Self::Denied) => DENIED,
            (protocol::TCP, Self::Unanswered | Self::Answered) => timeouts.tcp_syn,
            (protocol::TCP, Self::Established) => timeouts.tcp_established,
            (protocol::TCP, Self::Closing) => timeouts.tcp_fin,
            (protocol::TCP, Self::TimeWait) => timeouts.tcp_time_wait,
            (protocol::TCP, Self::Closed) => timeouts.tcp_close,
            (protocol::UDP | protocol::SCTP, Self::Unanswered) => timeouts.udp,
            (protocol::UDP, _) => timeouts.udp_stream,
            (protocol::SCTP, _) => timeouts.sctp,
            (protocol::ICMP | protocol::ICMPV6, _) => timeouts.icmp,
            _ => timeouts.other,
        }
    }
}

/// Seconds that one which is denied is kept without a packet: longer than TCP waits before it sends again.
const DENIED: u32 = 180;
/// Seconds that the fragments of a datagram may be apart, as for the kernel's reassembly (net.ipv4.ipfrag_time).
const FRAGMENTS: u32 = 30;
