//! Steps 1 to 3: what a packet is, whether it may go, and how it gets to its peer.

use std::net::IpAddr;

use super::hairpin::Local;
use crate::dataplane::forward::scope::is_special;
use crate::dataplane::forward::tables::{Forwarding, PeerHeaders};
use crate::dataplane::observe::Worker;
use crate::dataplane::packet::{Direction, Family, Paths};
use crate::dataplane::policy::{Denied, Ends, Judge, Origin};
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
    /// The rule that denied it, if one did.
    pub by: Option<Origin>,
}

/// Why a packet does not leave for another node.
pub(super) enum NotSent {
    /// It goes nowhere.
    Refused(Refused),
    /// It goes back to the device.
    Hairpin(Local),
}

impl From<Refused> for NotSent {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused)
    }
}

impl From<DropReason> for NotSent {
    fn from(reason: DropReason) -> Self {
        Self::Refused(reason.into())
    }
}

impl From<DropReason> for Refused {
    fn from(reason: DropReason) -> Self {
        Self { reason, problem: None, peer: None, by: None }
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
    (judge, packets, worker): (&mut Judge, u64, &Worker),
) -> Result<Ready<'a>, NotSent> {
    let flow = Flow::of(packet).map_err(|Malformed| DropReason::Malformed)?;
    let (via, is_pod) = admit(tables, &flow, packet)?;
    if let Some(policy) = tables.policy() {
        let source_is_pod = is_pod && policy.settings.deny_unknown && !tables.is_of_host(flow.source);
        let ends = Ends { egress: true, source_is_pod, ..Ends::default() };
        judge
            .judge(policy, (Direction::Outbound, ends), &flow, packet, (packets, worker))
            .map_err(|Denied { reason, by }| Refused { peer: Some(via.peer), by, ..Refused::from(reason) })?;
    }
    let peer = tables.peer(via.peer).ok_or(DropReason::NoRoute)?;
    let family = Family::of(flow.source);
    let refused = |reason| Refused { peer: Some(via.peer), ..Refused::from(reason) };
    // Also the address of the peer itself, whose outer packets would come back here.
    if tables.is_exempt(flow.destination) {
        return Err(refused(DropReason::Loop).into());
    }
    if via.mode == Mode::Direct {
        peer.bare[family].usable(paths.packet).map_err(refused)?;
    }
    let largest = largest.unwrap_or(flow.total_len);
    let too_big = largest > usize::from(via.mtu);
    let in_fragments = too_big && family == Family::V6 && demanded(via.mode, largest);
    if too_big && !in_fragments && !fragment::allowed(packet) {
        let problem = Problem::TooBig { mtu: via.mtu };
        return Err(Refused { problem: Some((flow.source, problem)), ..refused(DropReason::TooBig) }.into());
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
/// to; returns the way there, and whether the source is in one of our subnets.
fn admit(tables: &Forwarding, flow: &Flow, packet: &[u8]) -> Result<(Via, bool), NotSent> {
    if flow.ttl == 0 {
        return Err(DropReason::Ttl.into());
    }
    if is_special(flow.destination) {
        return Err(special(tables, flow, DropReason::Unsupported));
    }
    // A special address has no owner, even where a subnet covers it.
    if is_special(flow.source) {
        return Err(special(tables, flow, DropReason::SpoofedSource));
    }
    let (owner, target) = (tables.lookup(flow.source), tables.lookup(flow.destination));
    let is_ours = owner == Some(NextHop::Local) || tables.may_go(flow.source, owner);
    // What is for here and has an owner may have just come through the tunnel.
    if !is_ours && (owner.is_none() || target != Some(NextHop::Local)) {
        return Err(local(tables, flow, owner, target).unwrap_or(DropReason::SpoofedSource.into()));
    }
    let nowhere =
        |problem| Refused { problem: Some((flow.source, problem)), ..Refused::from(DropReason::NoRoute) };
    if let Some(hop @ (NextHop::Peer(_) | NextHop::Group(_))) = target {
        tables.judge_content(flow, packet)?;
        let via = tables.choose(hop, flow.hash).ok_or_else(|| nowhere(Problem::NoRoute))?;
        return Ok((via, owner == Some(NextHop::Local)));
    }
    if let Some(local) = local(tables, flow, owner, target) {
        return Err(local);
    }
    tables.judge_content(flow, packet)?;
    // Our own subnets are the kernel's to route; it has no such pod if it gave us the packet.
    let problem = if target.is_some() { Problem::NoHost } else { Problem::NoRoute };
    Err(nowhere(problem).into())
}

/// What becomes of a packet between addresses with these owners where the kernel is to deliver it.
fn local(
    tables: &Forwarding,
    flow: &Flow,
    owner: Option<NextHop>,
    target: Option<NextHop>,
) -> Option<NotSent> {
    tables.hairpins(flow, owner, target).map(|ends| NotSent::Hairpin(Local { flow: *flow, ends }))
}

/// What becomes of a packet with a special address.
#[cold]
fn special(tables: &Forwarding, flow: &Flow, reason: DropReason) -> NotSent {
    let [owner, target] = tables.special_owners(flow);
    local(tables, flow, owner, target).unwrap_or(reason.into())
}
