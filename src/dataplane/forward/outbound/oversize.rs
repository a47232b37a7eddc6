//! Packets and segments that are too large for their path and may be fragmented.

use std::ops::Range;

use super::encapsulate::{MAX_TEMPLATE, encapsulate};
use super::prepare::Ready;
use super::{OutboundCx, Weight, count, dropped, finish_checksum, push, sent};
use crate::dataplane::observe::Worker;
use crate::dataplane::packet::{Channel, Full, Outbox, Piece};
use crate::dataplane::segment::Split;
use crate::dataplane::segment::fragment::{Fragments, fragments_of};
use crate::dataplane::segment::split::MAX_HEADER;
use crate::net::DropReason;
use crate::wire::VnetHdr;

/// Cuts a packet that is too large for its path and queues the fragments. Like a super-packet it
/// counts as what it is cut into.
#[cold]
pub(super) fn packet(
    ready: &Ready<'_>,
    channel: Channel,
    cx: &mut OutboundCx<'_>,
    vnet: &VnetHdr,
    at: Range<usize>,
) -> Result<(), Full> {
    let offset = at.start;
    let packet = &mut cx.arena[at][..ready.flow.total_len];
    let mtu = usize::from(ready.via.mtu);
    let cut = Fragments::new(packet, mtu).map(|cut| (cut.count(), cut.header_len()));
    let Ok((fragments, header)) = cut else {
        count(cx.worker, Weight { packets: 1, bytes: packet.len() });
        dropped(cx.worker, Some(ready.peer), (DropReason::TooBig, None), 1, packet);
        return Ok(());
    };
    cx.out.reserve(fragments, MAX_TEMPLATE + header)?;
    let weight = Weight { packets: fragments, bytes: packet.len() + (fragments - 1) * header };
    count(cx.worker, weight);
    if finish_checksum(ready, vnet, packet).is_err() {
        dropped(cx.worker, Some(ready.peer), (DropReason::Malformed, None), fragments, packet);
        return Ok(());
    }
    sent(ready, cx.worker, weight, mtu);
    let Ok(cut) = Fragments::new(packet, mtu) else { return Ok(()) };
    push_fragments(ready, channel, cut, offset, cx.out);
    Ok(())
}

/// Cuts a super-packet in `at` whose segments are too large for their path, and the segments into fragments,
/// as the kernel does where it forwards one (`ip_finish_output_gso`).
#[cold]
pub(super) fn segments(
    ready: &Ready<'_>,
    channel: Channel,
    mut split: Split<'_>,
    at: Range<usize>,
    (out, worker): (&mut Outbox, &Worker),
) -> Result<(), Full> {
    let mtu = usize::from(ready.via.mtu);
    let (header, ip) = (split.header_len(), split.ip_header_len());
    let Some(weight) = weight(&split, mtu) else {
        let weight = Weight { packets: split.segments(), bytes: at.len() + (split.segments() - 1) * header };
        count(worker, weight);
        dropped(worker, Some(ready.peer), (DropReason::TooBig, None), weight.packets, split.packet());
        return Ok(());
    };
    out.reserve(weight.packets, MAX_TEMPLATE + header)?;
    count(worker, weight);
    sent(ready, worker, weight, mtu);
    let mut headers = [0; MAX_HEADER];
    while let Some(payload) = split.next_segment(&mut headers[..header]) {
        let cut = Fragments::of_segment(&headers[..header], ip, payload, mtu);
        push_fragments(ready, channel, cut, at.start, out);
    }
    Ok(())
}

/// Queues the fragments of what begins at `offset`.
fn push_fragments(
    ready: &Ready<'_>,
    channel: Channel,
    mut cut: Fragments<'_>,
    offset: usize,
    out: &mut Outbox,
) {
    while let Some((head_len, len)) = cut.next_lens() {
        let (head, inner) = encapsulate(ready, channel, len, head_len, out);
        let Some(payload) = cut.next_fragment(inner) else { break };
        let body = Piece::arena(offset + payload.start, payload.len());
        push(ready, channel, head, body, len, out);
    }
}

/// What the super-packet stands for in fragments; `None` where its path carries none.
fn weight(split: &Split<'_>, mtu: usize) -> Option<Weight> {
    let (header, ip) = (split.header_len(), split.ip_header_len());
    let (segments, last) = (split.segments(), split.payload() - (split.segments() - 1) * split.segment());
    let each = fragments_of(header, ip, split.segment(), mtu)?;
    let packets = (segments - 1) * each + fragments_of(header, ip, last, mtu)?;
    Some(Weight { packets, bytes: segments * (header - ip) + split.payload() + packets * ip })
}
