//! The last step inbound: hand a packet to the device, whatever the device can do.
//!
//! A device without offloads gets plain packets: checksums finished and super-packets cut here. So
//! does one that refuses a super-packet at run time (some kernels return EINVAL for UDP ones).

use std::io;

use crate::dataplane::observe::{Fallback, Worker, WorkerCounters};
use crate::dataplane::packet::{Delivery, Device, Direction, MAX_PACKET, Sink};
use crate::dataplane::segment::Split;
use crate::dataplane::segment::split::{MAX_HEADER, finish_checksum};
use crate::net::DropReason;
use crate::wire::VnetHdr;

/// Delivers to `device` and counts.
pub struct Deliver<'a> {
    /// Where packets go.
    pub device: &'a mut dyn Device,
    /// Where they are counted.
    pub worker: &'a Worker,
    /// At least 64 KiB for the slow path.
    pub scratch: &'a mut [u8],
}

impl Sink for Deliver<'_> {
    fn deliver(&mut self, delivery: &Delivery<'_>) {
        let plain = delivery.vnet == VnetHdr::default();
        if plain || self.device.takes_offloads() {
            match self.device.write(delivery) {
                Ok(()) => return self.delivered(delivery.packets, delivery.bytes),
                Err(error) if plain || !refused(&error) => {
                    return drop_full(self.worker, delivery.packets, delivery);
                }
                Err(error) => self.worker.counters.fell_back(Fallback::DeviceGso, &error),
            }
        }
        self.deliver_plainly(delivery);
    }
}

/// Whether the device says that it does not take this kind of packet. EIO says nothing of the kind:
/// it is down.
fn refused(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EMSGSIZE | libc::EOPNOTSUPP))
}

impl Deliver<'_> {
    fn deliver_plainly(&mut self, delivery: &Delivery<'_>) {
        let Some(len) = delivery.gather(self.scratch) else {
            return drop_full(self.worker, delivery.packets, delivery);
        };
        if delivery.vnet.is_gso() {
            return self.deliver_segments(&delivery.vnet, len, delivery.packets);
        }
        match finish_checksum(&mut self.scratch[..len], &delivery.vnet) {
            Ok(()) => self.write_scratch(0..len),
            Err(_) => self.worker.counters.dropped(DropReason::Malformed, u64::from(delivery.packets)),
        }
    }

    /// Cuts the super-packet in `scratch[..len]`; each segment is put together behind it.
    fn deliver_segments(&mut self, vnet: &VnetHdr, len: usize, packets: u32) {
        let (whole, rest) = self.scratch.split_at_mut(len);
        let Ok(mut split) = Split::new(whole, vnet) else {
            return self.worker.counters.dropped(DropReason::Malformed, u64::from(packets));
        };
        let header = split.header_len();
        let mut head = [0; MAX_HEADER];
        while let Some(payload) = split.next_segment(&mut head[..header]) {
            let total = header + payload.len();
            let Some(out) = rest.get_mut(..total) else {
                self.worker.counters.dropped(DropReason::TooBig, 1);
                continue;
            };
            out[..header].copy_from_slice(&head[..header]);
            out[header..].copy_from_slice(&whole[payload]);
            let delivery = Delivery::plain(out);
            match self.device.write(&delivery) {
                Ok(()) => delivered(&self.worker.counters, 1, total as u64),
                Err(_) => drop_full(self.worker, 1, &delivery),
            }
        }
    }

    fn write_scratch(&mut self, range: std::ops::Range<usize>) {
        let delivery = Delivery::plain(&self.scratch[range]);
        match self.device.write(&delivery) {
            Ok(()) => delivered(&self.worker.counters, 1, delivery.bytes),
            Err(_) => drop_full(self.worker, 1, &delivery),
        }
    }

    fn delivered(&self, packets: u32, bytes: u64) {
        delivered(&self.worker.counters, packets, bytes);
    }

    /// A scratch buffer of the size the slow path needs: a super-packet and one segment of it.
    pub fn scratch() -> Box<[u8]> {
        vec![0; 2 * MAX_PACKET + MAX_HEADER].into_boxed_slice()
    }
}

fn delivered(counters: &WorkerCounters, packets: u32, bytes: u64) {
    counters.device.tx_packets.add(u64::from(packets));
    counters.device.tx_bytes.add(bytes);
}

/// Counts what the device did not take.
fn drop_full(worker: &Worker, packets: u32, delivery: &Delivery<'_>) {
    let (reason, direction) = (DropReason::DeviceFull, Direction::Inbound);
    worker.dropped_packet((reason, None), u64::from(packets), direction, delivery.parts());
}

/// Writes ICMP errors of our own to `device`. They are no traffic of others, so no edge counts them.
pub fn write_icmp_errors<'a>(
    errors: impl Iterator<Item = Delivery<'a>>,
    device: &mut dyn Device,
    counters: &WorkerCounters,
) {
    for error in errors {
        match device.write(&error) {
            Ok(()) => counters.icmp_sent.add(1),
            Err(_) => counters.icmp_suppressed.add(1),
        }
    }
}
