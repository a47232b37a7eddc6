//! Sending a batch: consecutive messages of one socket go in one `sendmmsg`, super-packets for the
//! TAP in one `writev` each.
//!
//! The packets of a way that the kernel refuses leave another way: a TAP frame or a packet-socket
//! super-packet is cut and sent through the ordinary sockets, a segmented UDP send is repeated
//! unsegmented. The way is then given up for the rest of the run, but for a segmented send or a frame
//! only if that other way did better: what is too large for the uplink is refused by all.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;

use socket2::Socket;

use super::capture_tap::Framing;
use super::{Setup, sys};
use crate::dataplane::encap::{frame, ipip, ipip_gso, tunnel_gso, vxlan};
use crate::dataplane::observe::capture::Point;
use crate::dataplane::observe::{Fallback, WorkerCounters};
use crate::dataplane::packet::{Channel, Datagram, Message, Outbox, Paths, Piece};
use crate::dataplane::segment::Split;
use crate::dataplane::underlay::tap::Tap;
use crate::net::DropReason;
use crate::wire::{VnetHdr, be16, ethernet, ipv6, protocol, vnet_hdr};

/// The sending sockets of one worker.
pub struct Sender {
    udp: Vec<Socket>,
    udp6: Vec<Socket>,
    ports: Vec<u16>,
    ports6: Vec<u16>,
    raw: Option<Socket>,
    raw6: Option<Socket>,
    packet: Option<Socket>,
    /// Index of the interface that the packet socket is bound to.
    uplink: Option<u32>,
    tap: Option<Tap>,
    address: Ipv4Addr,
    address6: Ipv6Addr,
    gso: bool,
    paths: Paths,
    batch: sys::SendBatch,
    /// Where refused super-packets are cut.
    spare: Outbox,
}

/// What a sender is made of.
#[derive(Default)]
pub struct Ways {
    /// IPv4 UDP sockets with the ports they are bound to.
    pub udp: Vec<(Socket, u16)>,
    /// IPv6 UDP sockets, likewise.
    pub udp6: Vec<(Socket, u16)>,
    /// Takes whole IPv4 packets.
    pub raw: Option<Socket>,
    /// Takes whole IPv6 packets.
    pub raw6: Option<Socket>,
    /// Takes frames on the uplink.
    pub packet: Option<Socket>,
    /// Takes super-packets whole.
    pub tap: Option<Tap>,
}

impl Ways {
    /// The UDP sockets of the family of `address`.
    pub fn udp_of(&mut self, address: IpAddr) -> &mut Vec<(Socket, u16)> {
        if address.is_ipv4() { &mut self.udp } else { &mut self.udp6 }
    }

    /// The raw socket of the family of `address`.
    pub fn raw_of(&mut self, address: IpAddr) -> &mut Option<Socket> {
        if address.is_ipv4() { &mut self.raw } else { &mut self.raw6 }
    }
}

impl Sender {
    /// A sender over `ways`.
    pub fn new(setup: &Setup, ways: Ways) -> Self {
        let paths = Paths { tap: ways.tap.is_some(), packet: ways.packet.is_some() };
        let (udp, ports): (Vec<_>, Vec<_>) = ways.udp.into_iter().unzip();
        let (udp6, ports6): (Vec<_>, Vec<_>) = ways.udp6.into_iter().unzip();
        Self {
            ports,
            ports6,
            udp,
            udp6,
            raw: ways.raw,
            raw6: ways.raw6,
            packet: ways.packet,
            uplink: setup.packet,
            tap: ways.tap,
            address: setup.address.unwrap_or(Ipv4Addr::UNSPECIFIED),
            address6: setup.address6.unwrap_or(Ipv6Addr::UNSPECIFIED),
            gso: setup.udp_gso,
            paths,
            batch: sys::SendBatch::default(),
            spare: Outbox::default(),
        }
    }

    /// The source ports of the UDP sockets, in order: as many of either family, and the numbers
    /// themselves matter to the TAP, which is IPv4 only.
    pub fn ports(&self) -> &[u16] {
        if self.ports.is_empty() { &self.ports6 } else { &self.ports }
    }

    /// What the kernel puts around this sender's datagrams.
    pub fn framing(&self) -> Framing<'_> {
        Framing { address: self.address, address6: self.address6, ports: &self.ports, ports6: &self.ports6 }
    }

    /// The optional ways still open.
    pub fn paths(&self) -> Paths {
        self.paths
    }

    /// Has the packet socket follow the uplink to the interface with index `uplink`.
    #[inline]
    pub fn follow(&mut self, uplink: u32) {
        if self.uplink.is_some_and(|bound| bound != uplink) {
            self.rebind(uplink);
        }
    }

    #[cold]
    fn rebind(&mut self, uplink: u32) {
        self.uplink = Some(uplink);
        self.paths.packet =
            self.packet.as_ref().is_some_and(|socket| sys::bind_to_interface(socket, uplink).is_ok());
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
            .flat_map(|message| outbox.datagrams(message).iter().map(move |datagram| (message, datagram)));
        for (&Message { to, port, .. }, datagram) in writes {
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
                        counters.fell_back(Fallback::Tap, &error);
                    }
                    let cut = match to {
                        IpAddr::V4(to) => Cut::tap(head, &self.ports, &self.ipip_template(to)),
                        IpAddr::V6(_) => None,
                    };
                    self.send_cut(cut, (to, port), datagram, arena, counters);
                }
            }
        }
    }

    /// Sends messages of one socket.
    fn send_group(&mut self, outbox: &Outbox, group: &[Message], arena: &[u8], counters: &WorkerCounters) {
        let mut rest = group;
        while let Some(first) = rest.first() {
            let segmented = self.gso && first.channel.is_udp();
            let taken = if segmented || first.count == 1 {
                self.batch.fill(outbox, rest, arena)
            } else {
                self.batch.fill_unsegmented(outbox, first, arena);
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
                    return self.send_one_by_one(outbox, &messages[done..], &error, arena, counters);
                }
                Err(error) if channel == Channel::Packet && (refused(&error) || gone(&error)) => {
                    return self.send_other_way(outbox, &messages[done..], &error, arena, counters);
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
        self.show_dropped(reason, self.batch.what(index, outbox, messages), outbox, arena, counters);
    }

    /// Shows datagrams of a message that were dropped to a capture of drops.
    fn show_dropped(
        &self,
        reason: DropReason,
        (message, datagrams): (&Message, &[Datagram]),
        outbox: &Outbox,
        arena: &[u8],
        counters: &WorkerCounters,
    ) {
        if counters.capture.wants(Point::Drop) {
            self.framing().show_dropped(&counters.capture, reason, message, datagrams, outbox, arena);
        }
    }

    /// Sends `messages`, the first of which the kernel refused to segment. If all its datagrams leave
    /// on their own, segmentation was at fault and nothing is segmented by the kernel from here on.
    fn send_one_by_one(
        &mut self,
        outbox: &Outbox,
        messages: &[Message],
        error: &io::Error,
        arena: &[u8],
        counters: &WorkerCounters,
    ) {
        let (first, rest) = messages.split_at(1);
        self.batch.fill_unsegmented(outbox, &first[0], arena);
        let before = counters.underlay.tx_packets.get();
        self.flush(outbox, first, arena, counters);
        let left = counters.underlay.tx_packets.get() - before;
        if left == u64::from(first[0].count) && std::mem::take(&mut self.gso) {
            counters.fell_back(Fallback::UdpGso, error);
        }
        self.send_group(outbox, rest, arena, counters);
    }

    /// Sends `messages`, the first of which the packet socket refused. If that one leaves through the
    /// raw socket, or the interface is gone, the packet socket is given up.
    fn send_other_way(
        &mut self,
        outbox: &Outbox,
        messages: &[Message],
        error: &io::Error,
        arena: &[u8],
        counters: &WorkerCounters,
    ) {
        let (first, rest) = messages.split_at(1);
        let before = counters.underlay.tx_packets.get();
        self.send_raw_instead(outbox, first, arena, counters);
        let left = counters.underlay.tx_packets.get() > before;
        if !left && !gone(error) {
            return self.send_group(outbox, rest, arena, counters);
        }
        // The rest of the batch may come here again.
        if std::mem::take(&mut self.paths.packet) {
            counters.fell_back(Fallback::PacketSocket, error);
        }
        self.send_raw_instead(outbox, rest, arena, counters);
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
                if !raw_takes(head, message.to) {
                    counters.dropped(DropReason::Unsupported, u64::from(datagram.packets));
                    let shown = (message, std::slice::from_ref(datagram));
                    self.show_dropped(DropReason::Unsupported, shown, outbox, arena, counters);
                } else if datagram.packets > 1 || head[0] != 0 {
                    self.send_cut(Cut::packet(head), (message.to, 0), datagram, arena, counters);
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
        to: IpAddr,
        datagram: &Datagram,
        arena: &[u8],
        counters: &WorkerCounters,
    ) {
        self.send_anew(arena, counters, |spare| {
            let (piece, bytes) = spare.head(head.len() - frame::TEMPLATE);
            bytes.copy_from_slice(&head[frame::TEMPLATE..]);
            let channel = if to.is_ipv4() { Channel::Raw } else { Channel::Raw6 };
            spare.push(channel, (to, 0), 0, Datagram { head: piece, ..*datagram });
        });
    }

    /// Cuts a super-packet and sends its segments through an ordinary socket.
    fn send_cut(
        &mut self,
        cut: Option<Cut>,
        to: (IpAddr, u16),
        datagram: &Datagram,
        arena: &[u8],
        counters: &WorkerCounters,
    ) {
        let body = datagram.body.resolve(&[], arena);
        let split = cut.and_then(|cut| Some((cut, Split::new(body, &cut.vnet).ok()?)));
        let Some((cut, mut split)) = split else {
            return counters.dropped(DropReason::Malformed, u64::from(datagram.packets));
        };
        let header = split.header_len();
        let overhead = (datagram.wire_bytes as usize)
            .saturating_sub(body.len() + (usize::from(datagram.packets) - 1) * header)
            / usize::from(datagram.packets.max(1));
        self.send_anew(arena, counters, |spare| {
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
        });
    }

    /// Sends what `fill` queues in the spare outbox.
    fn send_anew(&mut self, arena: &[u8], counters: &WorkerCounters, fill: impl FnOnce(&mut Outbox)) {
        let mut spare = std::mem::replace(&mut self.spare, Outbox::hollow());
        fill(&mut spare);
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
            Channel::Udp6(port) => self.udp6.get(usize::from(port)),
            Channel::Raw => self.raw.as_ref(),
            Channel::Raw6 => self.raw6.as_ref(),
            Channel::Packet => self.packet.as_ref(),
            Channel::Tap => None,
        }
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

/// Whether the raw socket can send what a frame for the packet socket towards `to` holds. The ethertype
/// tells the family; of IPv6, only tunnel packets have an outer header in `head` that is addressed
/// to the next hop itself.
fn raw_takes(head: &[u8], to: IpAddr) -> bool {
    let ethertype = be16(head, frame::TEMPLATE - 2);
    match to {
        IpAddr::V4(_) => ethertype == ethernet::IPV4,
        IpAddr::V6(to) => {
            let outer = head.get(frame::TEMPLATE + 24..frame::TEMPLATE + ipv6::LEN);
            ethertype == ethernet::IPV6 && outer == Some(&to.octets()[..])
        }
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
