//! Sending a batch: consecutive messages of one socket go in one `sendmmsg`.

use std::io;
use std::os::fd::AsRawFd;

use socket2::Socket;

use super::{Setup, sys};
use crate::encap::UDP_OVERHEAD;
use crate::forward::{Channel, Message, Outbox};
use crate::metrics::WorkerCounters;
use crate::net::DropReason;

/// The sending sockets of one worker.
pub struct Sender {
    udp: Vec<Socket>,
    raw: Option<Socket>,
    vxlan_port: u16,
    gso: bool,
    batch: sys::SendBatch,
}

impl Sender {
    pub fn new(setup: &Setup, udp: Vec<Socket>, raw: Option<Socket>) -> Self {
        let batch = sys::SendBatch::default();
        Self { udp, raw, vxlan_port: setup.vxlan_port, gso: setup.udp_gso, batch }
    }

    pub fn udp_gso_active(&self) -> bool {
        self.gso
    }

    /// Sends everything, in order within each channel.
    pub fn send(&mut self, outbox: &Outbox, arena: &[u8], counters: &WorkerCounters) {
        let mut rest = outbox.messages();
        while let Some(first) = rest.first() {
            let same = rest.iter().take_while(|message| message.channel == first.channel).count();
            let (group, later) = rest.split_at(same);
            self.send_group(outbox, group, arena, counters);
            rest = later;
        }
    }

    /// Sends messages of one channel.
    fn send_group(&mut self, outbox: &Outbox, group: &[Message], arena: &[u8], counters: &WorkerCounters) {
        let mut rest = group;
        while let Some(first) = rest.first() {
            let segmented = self.gso && matches!(first.channel, Channel::Udp(_));
            let taken = if segmented || first.count == 1 {
                let port = self.port_of(first.channel);
                self.batch.fill(outbox, rest, arena, port)
            } else {
                self.batch.fill_unsegmented(outbox, first, arena, self.port_of(first.channel));
                1
            };
            self.flush(first.channel, counters, outbox, &rest[..taken], arena);
            rest = &rest[taken..];
        }
    }

    /// Hands the filled batch to the kernel. An error belongs to the first message not sent: that
    /// one is settled and the next tried.
    fn flush(
        &mut self,
        channel: Channel,
        counters: &WorkerCounters,
        outbox: &Outbox,
        messages: &[Message],
        arena: &[u8],
    ) {
        let Some(fd) = self.socket(channel).map(AsRawFd::as_raw_fd) else {
            return self.batch.drop_all(counters, DropReason::Unsupported);
        };
        let overhead = overhead_of(channel);
        let mut done = 0;
        while done < self.batch.len() {
            match self.batch.send(fd, done) {
                Ok(sent) => {
                    self.batch.count_sent(done..done + sent, overhead, counters);
                    done += sent;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if self.batch.is_segmented(done) && gso_refused(&error) => {
                    // From here on nothing is segmented by the kernel; this batch is redone.
                    self.gso = false;
                    tracing::warn!(%error, "the kernel refused UDP_SEGMENT; sending unsegmented from now on");
                    return self.resend(outbox, &messages[done..], arena, counters);
                }
                Err(error) => {
                    self.batch.count_dropped(done, counters, reason_of(&error));
                    done += 1;
                }
            }
        }
    }

    fn resend(&mut self, outbox: &Outbox, messages: &[Message], arena: &[u8], counters: &WorkerCounters) {
        for message in messages {
            self.batch.fill_unsegmented(outbox, message, arena, self.port_of(message.channel));
            self.flush(message.channel, counters, outbox, &[], arena);
        }
    }

    fn socket(&self, channel: Channel) -> Option<&Socket> {
        match channel {
            Channel::Udp(port) => self.udp.get(usize::from(port)),
            Channel::Raw => self.raw.as_ref(),
        }
    }

    fn port_of(&self, channel: Channel) -> u16 {
        match channel {
            Channel::Udp(_) => self.vxlan_port,
            Channel::Raw => 0,
        }
    }
}

/// Bytes the kernel puts in front of each datagram of a channel.
fn overhead_of(channel: Channel) -> usize {
    match channel {
        Channel::Udp(_) => UDP_OVERHEAD,
        Channel::Raw => 0,
    }
}

/// Whether an error on a segmented send is about segmentation and not about the path: EIO where
/// the device has no checksum offload, EINVAL where a kernel or driver has it wrong.
fn gso_refused(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EIO | libc::EINVAL | libc::EMSGSIZE))
}

fn reason_of(error: &io::Error) -> DropReason {
    match error.raw_os_error() {
        Some(libc::EMSGSIZE) => DropReason::TooBig,
        Some(libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM) => DropReason::UnderlayFull,
        _ => DropReason::UnderlayDown,
    }
}
