//! Sending a batch: consecutive messages of one socket go in one `sendmmsg`, super-packets for the
//! TAP in one `writev` each.
//!
//! Whatever way the kernel refuses is given up for the rest of the run, and the packets it refused
//! leave another way: a TAP frame or a packet-socket super-packet is cut and sent through the
//! ordinary sockets, a segmented UDP send is repeated unsegmented.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;

use socket2::Socket;

use super::seen::Framing;
use super::{Setup, sys};
use crate::capture::Point;
use crate::device::Tap;
use crate::encap::{frame, ipip, ipip_gso, tunnel_gso, vxlan};
use crate::forward::{Channel, Datagram, Message, Outbox, Paths};
use crate::metrics::{Fallback, WorkerCounters};
use crate::net::DropReason;
use crate::offload::{Piece, Split};
use crate::wire::{VnetHdr, be16, ethernet, protocol, vnet_hdr};

/// The sending sockets of one worker.
pub struct Sender {
    udp: Vec<Socket>,
    ports: Vec<u16>,
    raw: Option<Socket>,
    packet: Option<Socket>,
    tap: Option<Tap>,
    address: Ipv4Addr,
    vxlan_port: u16,
    gso: bool,
    paths: Paths,
    batch: sys::SendBatch,
    /// Where refused super-packets are cut.
    spare: Outbox,
}

/// What a sender is made of.
pub struct Ways {
    /// UDP sockets with the ports they are bound to.
    pub udp: Vec<(Socket, u16)>,
    /// Takes whole IPv4 packets.
    pub raw: Option<Socket>,
    /// Takes frames on the uplink.
    pub packet: Option<Socket>,
    /// Takes super-packets whole.
    pub tap: Option<Tap>,
}

impl Sender {
    /// A sender over `ways`.
    pub fn new(setup: &Setup, ways: Ways) -> Self {
        let paths = Paths { tap: ways.tap.is_some(), packet: ways.packet.is_some() };
        let (udp, ports) = ways.udp.into_iter().unzip();
        Self {
            udp,
            ports,
            raw: ways.raw,
            packet: ways.packet,
            tap: ways.tap,
            address: setup.address,
            vxlan_port: setup.vxlan_port,
            gso: setup.udp_gso,
            paths,
            batch: sys::SendBatch::default(),
            spare: Outbox::default(),
        }
    }

    /// The source ports of the UDP sockets, in order.
    pub fn ports(&self) -> &[u16] {
        &self.ports
    }

    /// What the kernel puts around this sender's datagrams.
    pub fn framing(&self) -> Framing<'_> {
        Framing { address: self.address, vxlan_port: self.vxlan_port, ports: &self.ports }
    }

    /// The optional ways still open.
    pub fn paths(&self) -> Paths {
        self.paths
    }

    /// Sends everything, in order within each channel.
    pub fn send(&mut self, outbox: &Outbox, arena: &[u8], counters: &WorkerCounters) {
        let mut rest = outbox.messages();
        while let Some(first) = rest.first() {
            let same = rest.iter().take_while(|message| message.channel == first.channel).count();
            let (group, later) = rest.split_at(same);
            match first.channel {
                Channel::Tap => self.send_tap(outbox, group, arena, counters),
                _ => self.send_group(outbox, group, arena, counters),
            }
            rest = later;
        }
    }

    fn send_tap(&mut self, outbox: &Outbox, group: &[Message], arena: &[u8], counters: &WorkerCounters) {
        let writes = group
            .iter()
            .flat_map(|message| outbox.datagrams(message).iter().map(move |datagram| (message.to, datagram)));
        for (to, datagram) in writes {
            let head = datagram.head.resolve(outbox.slab(), arena);
            let body = datagram.body.resolve(outbox.slab(), arena);
            let written = match &self.tap {
                Some(tap) if self.paths.tap => tap.write(head, body),
                _ => Err(io::ErrorKind::NotConnected.into()),
            };
            match written {
                Ok(()) => {
                    counters.tap_frames.add(1);
                    counters.underlay.tx_packets.add(u64::from(datagram.packets));
                    counters.underlay.tx_bytes.add(u64::from(datagram.wire_bytes));
                }
                Err(error) => {
                    // Short of memory it may be back with the next packet.
                    if !full(&error) && std::mem::take(&mut self.paths.tap) {
                        counters.fell_back(Fallback::Tap);
                        tracing::warn!(%error, "the TAP refused a super-packet; sending through sockets from now on");
                    }
                    let cut = Cut::tap(head, &self.ports, &self.ipip_template(to));
                    self.send_cut(cut, to, datagram, arena, counters);
                }
            }
        }
    }

    /// Sends messages of one socket.
    fn send_group(&mut self, outbox: &Outbox, group: &[Message], arena: &[u8], counters: &WorkerCounters) {
        let mut rest = group;
        while let Some(first) = rest.first() {
            let segmented = self.gso && matches!(first.channel, Channel::Udp(_));
            let port = self.port_of(first.channel);
            let taken = if segmented || first.count == 1 {
                self.batch.fill(outbox, rest, arena, port)
            } else {
                self.batch.fill_unsegmented(outbox, first, arena, port);
                1
            };
            self.flush(outbox, &rest[..taken], arena, counters);
            rest = &rest[taken..];
        }
    }

    /// Hands the filled batch to the kernel. An error belongs to the first message not sent: that
    /// one is settled and the next tried. Where the batch holds the datagrams of a single message,
    /// `messages` has just that one.
    fn flush(&mut self, outbox: &Outbox, messages: &[Message], arena: &[u8], counters: &WorkerCounters) {
        let channel = messages[0].channel;
        let Some(fd) = self.socket(channel).map(AsRawFd::as_raw_fd) else {
            for index in 0..self.batch.len() {
                self.drop(index, DropReason::Unsupported, outbox, messages, arena, counters);
            }
            return;
        };
        let mut done = 0;
        while done < self.batch.len() {
            match self.batch.send(fd, done, outbox, arena) {
                Ok(sent) => {
                    self.batch.count_sent(done..done + sent, counters);
                    done += sent;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if refused(&error) && self.batch.is_segmented(done) => {
                    // From here on nothing is segmented by the kernel; this batch is redone.
                    self.gso = false;
                    counters.fell_back(Fallback::UdpGso);
                    tracing::warn!(%error, "the kernel refused UDP_SEGMENT; sending unsegmented from now on");
                    return self.send_group(outbox, &messages[done..], arena, counters);
                }
                Err(error) if channel == Channel::Packet && (refused(&error) || gone(&error)) => {
                    // The rest of the batch may come here again.
                    if std::mem::take(&mut self.paths.packet) {
                        counters.fell_back(Fallback::PacketSocket);
                        tracing::warn!(%error, "the packet socket failed; sending through the raw socket from now on");
                    }
                    return self.send_raw_instead(outbox, &messages[done..], arena, counters);
                }
                Err(error) => {
                    self.drop(done, reason_of(&error), outbox, messages, arena, counters);
                    done += 1;
                }
            }
        }
    }

    /// Counts kernel message `index` of the batch, filled from `messages`, as dropped.
    fn drop(
        &self,
        index: usize,
        reason: DropReason,
        outbox: &Outbox,
        messages: &[Message],
        arena: &[u8],
        counters: &WorkerCounters,
    ) {
        self.batch.count_dropped(index, counters, reason);
        if counters.capture.wants(Point::Drop) {
            let (message, datagrams) = self.batch.what(index, outbox, messages);
            self.framing().show_dropped(&counters.capture, reason, message, datagrams, outbox, arena);
        }
    }

    /// Sends frames of the packet socket as packets of the raw socket.
    fn send_raw_instead(
        &mut self,
        outbox: &Outbox,
        messages: &[Message],
        arena: &[u8],
        counters: &WorkerCounters,
    ) {
        for message in messages {
            for datagram in outbox.datagrams(message) {
                let head = datagram.head.resolve(outbox.slab(), arena);
                if datagram.packets > 1 || head[0] != 0 {
                    self.send_cut(Cut::packet(head), message.to, datagram, arena, counters);
                } else {
                    self.send_bare(head, message.to, datagram, arena, counters);
                }
            }
        }
    }

    /// Sends one plain frame without its link header through the raw socket.
    fn send_bare(
        &mut self,
        head: &[u8],
        to: Ipv4Addr,
        datagram: &Datagram,
        arena: &[u8],
        counters: &WorkerCounters,
    ) {
        let mut spare = std::mem::replace(&mut self.spare, Outbox::hollow());
        let (piece, bytes) = spare.head(head.len() - frame::TEMPLATE);
        bytes.copy_from_slice(&head[frame::TEMPLATE..]);
        spare.push(Channel::Raw, to, 0, Datagram { head: piece, ..*datagram });
        self.send(&spare, arena, counters);
        spare.clear();
        self.spare = spare;
    }

    /// Cuts a super-packet and sends its segments through an ordinary socket.
    fn send_cut(
        &mut self,
        cut: Option<Cut>,
        to: Ipv4Addr,
        datagram: &Datagram,
        arena: &[u8],
        counters: &WorkerCounters,
    ) {
        let body = datagram.body.resolve(&[], arena);
        let split = cut.and_then(|cut| Some((cut, Split::new(body, &cut.vnet).ok()?)));
        let Some((cut, mut split)) = split else {
            return counters.dropped(DropReason::Malformed, u64::from(datagram.packets));
        };
        let mut spare = std::mem::replace(&mut self.spare, Outbox::hollow());
        let header = split.header_len();
        let overhead = (datagram.wire_bytes as usize)
            .saturating_sub(body.len() + (usize::from(datagram.packets) - 1) * header)
            / usize::from(datagram.packets.max(1));
        while let Some(len) = split.next_len() {
            let (piece, bytes) = spare.head(cut.template().len() + header);
            let (outer, inner) = bytes.split_at_mut(cut.template().len());
            outer.copy_from_slice(cut.template());
            if cut.channel == Channel::Raw && !outer.is_empty() {
                ipip::patch(outer, cut.tos, len);
            }
            let Some(payload) = split.next_segment(inner) else { break };
            let piece_at = datagram.body.at as usize + payload.start;
            let body = Piece::arena(piece_at, payload.len());
            let wire_bytes = (len + overhead) as u32;
            spare.push(cut.channel, to, cut.tos, Datagram { head: piece, body, packets: 1, wire_bytes });
        }
        self.send(&spare, arena, counters);
        spare.clear();
        self.spare = spare;
    }

    fn ipip_template(&self, to: Ipv4Addr) -> [u8; ipip::OVERHEAD] {
        ipip::template(self.address, to, protocol::IPIP)
    }

    fn socket(&self, channel: Channel) -> Option<&Socket> {
        match channel {
            Channel::Udp(port) => self.udp.get(usize::from(port)),
            Channel::Raw => self.raw.as_ref(),
            Channel::Packet => self.packet.as_ref(),
            Channel::Tap => None,
        }
    }

    fn port_of(&self, channel: Channel) -> u16 {
        if matches!(channel, Channel::Udp(_)) { self.vxlan_port } else { 0 }
    }
}

/// How to cut a super-packet whose whole form was refused.
#[derive(Clone, Copy)]
struct Cut {
    channel: Channel,
    /// Outer headers of each segment: `outer[..outer_len]`.
    outer: [u8; vxlan::TEMPLATE],
    outer_len: usize,
    /// The inner packet's own vnet header.
    vnet: VnetHdr,
    tos: u8,
}

impl Cut {
    fn new(channel: Channel, template: &[u8], vnet: VnetHdr, tos: u8) -> Self {
        let mut outer = [0; vxlan::TEMPLATE];
        outer[..template.len()].copy_from_slice(template);
        Self { channel, outer, outer_len: template.len(), vnet, tos }
    }

    fn template(&self) -> &[u8] {
        &self.outer[..self.outer_len]
    }

    /// Of a frame for the TAP: VXLAN datagrams from the UDP socket with the same source port, or
    /// raw IP-in-IP packets.
    fn tap(head: &[u8], ports: &[u16], ipip: &[u8; ipip::OVERHEAD]) -> Option<Self> {
        if head.len() == ipip_gso::TEMPLATE {
            let (vnet, tos) = ipip_gso::unpatch(head)?;
            return Some(Self::new(Channel::Raw, ipip, vnet, tos));
        }
        let port = be16(head, tunnel_gso::OUTER_UDP);
        let socket = ports.iter().position(|candidate| *candidate == port)?;
        let vnet = VnetHdr::parse(head.first_chunk()?);
        let inner = (tunnel_gso::TEMPLATE - vnet_hdr::TUNNEL_LEN) as u16;
        let vnet = VnetHdr {
            gso_type: vnet.gso_type & !vnet_hdr::GSO_UDP_TUNNEL_IPV4,
            csum_start: vnet.csum_start.checked_sub(inner)?,
            ..vnet
        };
        let template = &head[tunnel_gso::OUTER_UDP + crate::wire::udp::LEN..];
        Some(Self::new(Channel::Udp(socket as u16), template, vnet, head[tunnel_gso::OUTER_IP + 1]))
    }

    /// Of a frame for the packet socket: bare packets.
    fn packet(head: &[u8]) -> Option<Self> {
        let vnet = VnetHdr::parse(head.first_chunk()?);
        let csum_start = vnet.csum_start.checked_sub(ethernet::LEN as u16)?;
        Some(Self::new(Channel::Raw, &[], VnetHdr { csum_start, ..vnet }, 0))
    }
}

/// Whether an error is about the form of a send and not about the path: EIO where the device has
/// no checksum offload, EINVAL where a kernel or driver has it wrong.
fn refused(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EIO | libc::EINVAL | libc::EMSGSIZE))
}

/// Whether the interface a packet socket is bound to no longer exists.
fn gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENXIO | libc::ENODEV))
}

/// Whether a queue or the memory behind it is full just now.
fn full(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM))
}

fn reason_of(error: &io::Error) -> DropReason {
    match error.raw_os_error() {
        Some(libc::EMSGSIZE) => DropReason::TooBig,
        _ if full(error) => DropReason::UnderlayFull,
        _ => DropReason::UnderlayDown,
    }
}

#[cfg(test)]
mod tests;
