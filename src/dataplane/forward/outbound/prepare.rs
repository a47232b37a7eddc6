//! Steps 1 to 3: what a packet is, whether it may go, and how it gets to its peer.

use std::net::IpAddr;

use crate::dataplane::forward::scope::is_special;
use crate::dataplane::forward::tables::{Forwarding, PeerHeaders};
use crate::dataplane::packet::{Family, Paths};
use crate::dataplane::segment::{Flow, fragment};
use crate::net::{DropReason, Mode};
use crate::route::{NextHop, PeerId, Via};
use crate::wire::icmp::Problem;
use crate::wire::{Malformed, ipv6};

/// A packet ready to be encapsulated.
pub(super) struct Ready<'a> {
    /// What it is.
    pub flow: Flow,
    /// How it travels.
    pub via: Via,
    /// Where to.
    pub peer: &'a PeerHeaders,
    /// Its own family, that of the inner headers.
    pub family: Family,
    /// Outer TOS byte.
    pub tos: u8,
    /// Whether its outer packet leaves in fragments.
    pub in_fragments: bool,
}

/// Why a packet is not sent, and what its sender is told.
#[derive(Clone, Copy)]
pub(super) struct Refused {
    /// The drop reason.
    pub reason: DropReason,
    /// Who sent it, and what the ICMP error says.
    pub problem: Option<(IpAddr, Problem)>,
    /// The peer that the packet was for, once that is known.
    pub peer: Option<PeerId>,
}

impl From<DropReason> for Refused {
    fn from(reason: DropReason) -> Self {
        Self { reason, problem: None, peer: None }
    }
}

/// Steps 1 to 3. `largest` is the longest segment where the packet is a super-packet. What is longer than its
/// path carries comes out only where it may be fragmented.
#[inline]
pub(super) fn prepare<'a>(
    tables: &'a Forwarding,
    paths: Paths,
    packet: &[u8],
    largest: Option<usize>,
) -> Result<Ready<'a>, Refused> {
    let flow = Flow::of(packet).map_err(|Malformed| DropReason::Malformed)?;
    let via = admit(tables, &flow, packet)?;
    let peer = tables.peer(via.peer).ok_or(DropReason::NoRoute)?;
    let family = Family::of(flow.source);
    let refused = |reason| Refused { reason, problem: None, peer: Some(via.peer) };
    // Also the address of the peer itself, whose outer packets would come back here.
    if tables.is_exempt(flow.destination) {
        return Err(refused(DropReason::Loop));
    }
    if via.mode == Mode::Direct {
        peer.bare[family].usable(paths.packet).map_err(refused)?;
    }
    let largest = largest.unwrap_or(flow.total_len);
    let too_big = largest > usize::from(via.mtu);
    let in_fragments = too_big && family == Family::V6 && demanded(via.mode, largest);
    if too_big && !in_fragments && !fragment::allowed(packet) {
        let problem = Problem::TooBig { mtu: via.mtu };
        return Err(Refused { problem: Some((flow.source, problem)), ..refused(DropReason::TooBig) });
    }
    let tos = tables.underlay().marking.outer(flow.tos);
    Ok(Ready { flow, via, peer, family, tos, in_fragments })
}

/// Whether IPv6 demands of every link that it carries `len` bytes (RFC 8200 §5), and a tunnel can: in fragments of
/// the outer packet (RFC 2473 §7.1 and, over IPv4, `ipip6_tunnel_xmit` in net/ipv6/sit.c). No node on the way may
/// fragment the inner one, and no ICMP error makes a host send less (RFC 8201 §4).
#[cold]
fn demanded(mode: Mode, len: usize) -> bool {
    mode != Mode::Direct && len <= usize::from(ipv6::MIN_MTU)
}

/// Only our own pods, the TUN's own address among them, this node itself and whom it may send for may send
/// into the tunnel, only to unicast destinations, and no tunnel packets of their own unless they are allowed
/// to; returns the way there.
fn admit(tables: &Forwarding, flow: &Flow, packet: &[u8]) -> Result<Via, Refused> {
    if flow.ttl == 0 {
        return Err(DropReason::Ttl.into());
    }
    if is_special(flow.destination) {
        return Err(DropReason::Unsupported.into());
    }
    let nowhere =
        |problem| Refused { problem: Some((flow.source, problem)), ..Refused::from(DropReason::NoRoute) };
    // A special address has no owner, even where a subnet covers it.
    if is_special(flow.source) {
        return Err(DropReason::SpoofedSource.into());
    }
    let (owner, target) = (tables.lookup(flow.source), tables.lookup(flow.destination));
    let is_ours = owner == Some(NextHop::Local) || tables.may_go(flow.source, owner);
    // What is for here and has an owner may have just come through the tunnel.
    if !is_ours && (owner.is_none() || target != Some(NextHop::Local)) {
        return Err(DropReason::SpoofedSource.into());
    }
    tables.judge_content(flow, packet)?;
    match target {
        // Our own subnets are the kernel's to route; it has no such pod if it gave us the packet.
        Some(NextHop::Local) => Err(nowhere(Problem::NoHost)),
        Some(hop) => tables.choose(hop, flow.hash).ok_or_else(|| nowhere(Problem::NoRoute)),
        None => Err(nowhere(Problem::NoRoute)),
    }
}
