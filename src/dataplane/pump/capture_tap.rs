//! A worker's packets as captures show them: what it reads from the device, what it receives, and
//! what it delivers.

use crate::dataplane::device::Deliver;
use crate::dataplane::forward::{Forwarding, is_uncut, outer};
use crate::dataplane::observe::Worker;
use crate::dataplane::observe::capture::{Point, Seen};
use crate::dataplane::packet::{Delivery, Direction, Sink};
use crate::dataplane::underlay::Receiver;

/// Shows a packet or super-packet read from the device.
#[cold]
pub(super) fn read(worker: &Worker, packet: &[u8]) {
    let seen = Seen::at(Point::Device, Direction::Outbound);
    worker.capture.record(seen, [packet].into_iter());
}

/// Shows the outer packets of a batch of `count` receives.
#[cold]
pub(super) fn received(worker: &Worker, tables: &Forwarding, receiver: &mut Receiver, count: usize) {
    let seen = Seen::at(Point::Underlay, Direction::Inbound);
    let format = receiver.format();
    for index in 0..count {
        let (packet, port) = (receiver.packet(index), receiver.port(index));
        let Some(packet) = packet else { continue };
        let bytes = &receiver.arena()[packet.at..packet.at + packet.len];
        let whole = packet.segment == 0 || is_uncut(bytes, packet.segment);
        let step = if whole { bytes.len().max(1) } else { packet.segment };
        for datagram in bytes.chunks(step) {
            let outer = outer(tables, format, &packet, port, datagram.len());
            worker.capture.record(seen.clone(), [outer.bytes(), datagram].into_iter());
        }
    }
}

/// Shows what it delivers.
pub(super) struct Shown<'a>(pub Deliver<'a>);

impl Sink for Shown<'_> {
    fn deliver(&mut self, delivery: &Delivery<'_>) {
        let seen = Seen::at(Point::Device, Direction::Inbound);
        self.0.worker.capture.record(seen, delivery.parts());
        self.0.deliver(delivery);
    }
}
