//! Sending a batch: consecutive messages of one socket go in one `sendmmsg`, super-packets for the
//! TAP in one `writev` each.
//!
//! The packets of a way that the kernel refuses leave another way: a TAP frame or a packet-socket
//! super-packet is cut and sent through the ordinary sockets, a segmented UDP send is repeated
//! unsegmented. The way is then given up until the control plane offers it again, but for a segmented send
//! or a frame only if that other way did better: what is too large for the uplink is refused by all.

mod errors;
mod fallback;
mod sockets;
mod take_up;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;
use std::slice::from_ref;

use socket2::Socket;

use super::capture_tap::Framing;
use super::setup::Setup;
use super::sys;
use super::tap::Tap;
use crate::dataplane::encap::ipip;
use crate::dataplane::observe::capture::Point;
use crate::dataplane::observe::{Fallback, Worker};
use crate::dataplane::packet::{Batch, Channel, Datagram, Message, Outbox, Paths, PerFamily};
use crate::net::DropReason;
use crate::wire::protocol;
pub(super) use sockets::{Fragmenting, SendSockets};

use errors::{full, gone, reason_of, refused};
use fallback::{Bare, Uncut, raw_takes};

/// The sending sockets of one worker.
pub(super) struct Sender {
    udp: Vec<Socket>,
    udp6: Vec<Socket>,
    ports: Vec<u16>,
    ports6: Vec<u16>,
    raw: Option<Socket>,
    raw6: Option<Socket>,
    packet: Option<Socket>,
    fragmenting: PerFamily<Fragmenting>,
    /// Index of the interface that the packet socket is bound to.
    uplink: Option<u32>,
    tap: Option<Tap>,
    address: Ipv4Addr,
    address6: Ipv6Addr,
    gso: bool,
    paths: Paths,
    /// Whether a way was given up, so that offers are looked for.
    lacks: bool,
    batch: sys::SendBatch,
    /// Where refused super-packets are cut.
    spare: Outbox,
}

impl Sender {
    /// Uses `tap` for what is to leave through it.
    pub(super) fn set_tap(&mut self, tap: Option<Tap>) {
        self.paths.tap = tap.is_some();
        self.tap = tap;
    }

    /// A sender over `sockets`.
    pub(super) fn new(setup: &Setup, sockets: SendSockets) -> Self {
        let paths = Paths { tap: false, packet: sockets.packet.is_some() };
        let (udp, ports): (Vec<_>, Vec<_>) = sockets.udp.into_iter().unzip();
        let (udp6, ports6): (Vec<_>, Vec<_>) = sockets.udp6.into_iter().unzip();
        Self {
            ports,
            ports6,
            udp,
            udp6,
            raw: sockets.raw,
            raw6: sockets.raw6,
            packet: sockets.packet,
            fragmenting: sockets.fragmenting,
            uplink: setup.packet,
            tap: None,
            address: setup.address.unwrap_or(Ipv4Addr::UNSPECIFIED),
            address6: setup.address6.unwrap_or(Ipv6Addr::UNSPECIFIED),
            gso: setup.udp_gso,
            paths,
            lacks: false,
            batch: sys::SendBatch::default(),
            spare: Outbox::default(),
        }
    }

    /// The source ports of the UDP sockets, in order: as many of either family, and the numbers
    /// themselves matter to the TAP, which is IPv4 only.
    pub(super) fn ports(&self) -> &[u16] {
        if self.ports.is_empty() { &self.ports6 } else { &self.ports }
    }

    /// What the kernel puts around this sender's datagrams.
    pub(super) fn framing(&self) -> Framing<'_> {
        let port = |family| self.fragmenting[family].udp.as_ref().map(|(_, port)| *port);
        Framing {
            address: self.address,
            address6: self.address6,
            ports: &self.ports,
            ports6: &self.ports6,
            fragmenting: PerFamily::from_fn(port),
        }
    }

    /// The optional ways still open.
    pub(super) fn paths(&self) -> Paths {
        self.paths
    }

    /// Sends everything, in order within each channel.
    pub(super) fn send(&mut self, batch: Batch<'_>, worker: &Worker) {
        let mut rest = batch.outbox.messages();
        while let Some(first) = rest.first() {
            let same = rest.iter().take_while(|message| message.channel == first.channel).count();
            let (group, later) = rest.split_at(same);
            match first.channel {
                Channel::Tap => self.send_tap(batch, group, worker),
                _ => self.send_group(batch, group, worker),
            }
            rest = later;
        }
    }

    fn send_tap(&mut self, batch: Batch<'_>, group: &[Message], worker: &Worker) {
        let writes = group
            .iter()
            .flat_map(|message| batch.datagrams(message).iter().map(move |datagram| (message, datagram)));
        for (message, datagram) in writes {
            let (head, body) = (batch.bytes(datagram.head), batch.bytes(datagram.body));
            let written = match &self.tap {
                Some(tap) if self.paths.tap => tap.write(head, body),
                _ => Err(io::ErrorKind::NotConnected.into()),
            };
            match written {
                Ok(()) => {
                    worker.counters.tap_frames.add(1);
                    worker.counters.underlay.tx_packets.add(u64::from(datagram.packets));
                    worker.counters.underlay.tx_bytes.add(u64::from(datagram.wire_bytes));
                }
                Err(error) => {
                    // Short of memory it may be back with the next packet.
                    if !full(&error) && std::mem::take(&mut self.paths.tap) {
                        self.give_up(Fallback::Tap, &error, worker);
                    }
                    let whole = match message.to.ip() {
                        IpAddr::V4(to) => Uncut::of_tap(head, &self.ports, &self.ipip_template(to)),
                        IpAddr::V6(_) => None,
                    };
                    self.send_cut(whole, message, datagram, batch.arena, worker);
                }
            }
        }
    }

    /// Sends messages of one socket.
    fn send_group(&mut self, batch: Batch<'_>, group: &[Message], worker: &Worker) {
        let mut rest = group;
        while let Some(first) = rest.first() {
            let segmented = self.gso && first.channel.is_udp();
            let taken = if segmented || first.count == 1 {
                self.batch.fill(batch, rest)
            } else {
                self.batch.fill_unsegmented(batch, first);
                1
            };
            self.flush(batch, &rest[..taken], worker);
            rest = &rest[taken..];
        }
    }

    /// Hands the filled batch to the kernel. An error belongs to the first message not sent: that
    /// one is settled and the next tried. Where the batch holds the datagrams of a single message,
    /// `messages` has just that one.
    fn flush(&mut self, batch: Batch<'_>, messages: &[Message], worker: &Worker) {
        let channel = messages[0].channel;
        let Some(fd) = self.socket(channel).map(AsRawFd::as_raw_fd) else {
            for index in 0..self.batch.len() {
                self.drop(index, DropReason::Unsupported, batch, messages, worker);
            }
            return;
        };
        let mut done = 0;
        while done < self.batch.len() {
            match self.batch.send(fd, done, batch) {
                Ok(sent) => {
                    for load in self.batch.loads(done..done + sent) {
                        worker.counters.underlay.tx_packets.add(u64::from(load.packets));
                        worker.counters.underlay.tx_bytes.add(u64::from(load.bytes));
                    }
                    done += sent;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if refused(&error) && self.batch.is_segmented(done) => {
                    return self.send_one_by_one(batch, &messages[done..], &error, worker);
                }
                Err(error) if channel == Channel::Packet && (refused(&error) || gone(&error)) => {
                    return self.send_other_way(batch, &messages[done..], &error, worker);
                }
                Err(error) => {
                    self.drop(done, reason_of(&error), batch, messages, worker);
                    done += 1;
                }
            }
        }
    }

    /// Counts kernel message `index`, filled from `messages`, as dropped.
    fn drop(
        &self,
        index: usize,
        reason: DropReason,
        batch: Batch<'_>,
        messages: &[Message],
        worker: &Worker,
    ) {
        for load in self.batch.loads(index..index + 1) {
            worker.counters.dropped(reason, u64::from(load.packets));
        }
        if reason == DropReason::TooBig {
            worker.counters.too_large_sends.add(1);
        }
        let (message, datagrams) = self.batch.what(index, batch, messages);
        self.show_dropped(reason, message, datagrams, batch, worker);
    }

    /// Shows datagrams of a message that were dropped to a capture of drops.
    fn show_dropped(
        &self,
        reason: DropReason,
        message: &Message,
        datagrams: &[Datagram],
        batch: Batch<'_>,
        worker: &Worker,
    ) {
        if worker.capture.wants(Point::Drop) {
            self.framing().show_dropped(&worker.capture, reason, message, datagrams, batch);
        }
    }

    /// Sends `messages`, the first of which the kernel refused to segment. If all its datagrams leave
    /// on their own, segmentation was at fault and nothing is segmented by the kernel from here on.
    fn send_one_by_one(
        &mut self,
        batch: Batch<'_>,
        messages: &[Message],
        error: &io::Error,
        worker: &Worker,
    ) {
        let (first, rest) = messages.split_at(1);
        let left = self.leaving(worker, |sender| {
            sender.batch.fill_unsegmented(batch, &first[0]);
            sender.flush(batch, first, worker);
        });
        if left == u64::from(first[0].count) && std::mem::take(&mut self.gso) {
            self.give_up(Fallback::UdpGso, error, worker);
        }
        self.send_group(batch, rest, worker);
    }

    /// Sends `messages`, the first of which the packet socket refused. If that one leaves through the
    /// raw socket, or the interface is gone, the packet socket is given up.
    fn send_other_way(&mut self, batch: Batch<'_>, messages: &[Message], error: &io::Error, worker: &Worker) {
        let (first, rest) = messages.split_at(1);
        let left = self.leaving(worker, |sender| sender.send_raw_instead(batch, first, worker));
        if left == 0 && !gone(error) {
            return self.send_group(batch, rest, worker);
        }
        // The rest of the batch may come here again.
        if std::mem::take(&mut self.paths.packet) {
            self.give_up(Fallback::PacketSocket, error, worker);
        }
        self.send_raw_instead(batch, rest, worker);
    }

    /// Packets that leave by `send`.
    fn leaving(&mut self, worker: &Worker, send: impl FnOnce(&mut Self)) -> u64 {
        let before = worker.counters.underlay.tx_packets.get();
        send(self);
        worker.counters.underlay.tx_packets.get() - before
    }

    /// Sends frames of the packet socket as packets of the raw socket.
    fn send_raw_instead(&mut self, batch: Batch<'_>, messages: &[Message], worker: &Worker) {
        for message in messages {
            for datagram in batch.datagrams(message) {
                let head = batch.bytes(datagram.head);
                if !raw_takes(head, message.to.ip()) {
                    worker.counters.dropped(DropReason::Unsupported, u64::from(datagram.packets));
                    self.show_dropped(DropReason::Unsupported, message, from_ref(datagram), batch, worker);
                } else if datagram.packets > 1 || head[0] != 0 {
                    self.send_cut(Uncut::of_frame(head), message, datagram, batch.arena, worker);
                } else {
                    let bare = Bare { frame: head, to: message.to };
                    self.send_spare(batch.arena, worker, |spare| bare.queue(datagram, spare));
                }
            }
        }
    }

    /// Cuts the super-packet in `datagram` of `message` and sends its segments through an ordinary socket.
    fn send_cut(
        &mut self,
        whole: Option<Uncut>,
        message: &Message,
        datagram: &Datagram,
        arena: &[u8],
        worker: &Worker,
    ) {
        let split = whole.as_ref().and_then(|whole| whole.split(datagram, arena));
        let (Some(whole), Some(split)) = (&whole, split) else {
            return worker.counters.dropped(DropReason::Malformed, u64::from(datagram.packets));
        };
        self.send_spare(arena, worker, |spare| whole.queue(split, message.to, datagram, spare));
    }

    /// Sends what `fill` queues in the spare outbox.
    fn send_spare(&mut self, arena: &[u8], worker: &Worker, fill: impl FnOnce(&mut Outbox)) {
        let mut spare = std::mem::replace(&mut self.spare, Outbox::hollow());
        fill(&mut spare);
        self.send(Batch { outbox: &spare, arena }, worker);
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
            Channel::FragmentingUdp(family) => {
                self.fragmenting[family].udp.as_ref().map(|(socket, _)| socket)
            }
            Channel::FragmentingRaw(family) => self.fragmenting[family].raw.as_ref(),
            Channel::Tap => None,
        }
    }
}

#[cfg(test)]
mod tests;
