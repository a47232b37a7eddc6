//! A worker's packets as captures show them: what it reads from the device, what it receives, and
//! what it delivers.

use crate::dataplane::forward::{Deliver, Forwarding, is_uncut, outer};
use crate::dataplane::observe::WorkerCounters;
use crate::dataplane::observe::capture::{Point, Seen};
use crate::dataplane::packet::{Delivery, Format, Received, Sink};

/// Shows a packet or super-packet read from the device.
#[cold]
pub fn read(counters: &WorkerCounters, packet: &[u8]) {
    let seen = Seen { point: Point::Device, inbound: false, reason: None };
    counters.capture.record(seen, [packet].into_iter());
}

/// Shows the outer packets of one receive; `port` is the UDP source port where there is one.
#[cold]
pub fn received(
    counters: &WorkerCounters,
    forwarding: &Forwarding,
    format: Format,
    packet: &Received,
    port: u16,
    bytes: &[u8],
) {
    let seen = Seen { point: Point::Underlay, inbound: true, reason: None };
    let whole = packet.segment == 0 || is_uncut(bytes, packet.segment);
    let step = if whole { bytes.len().max(1) } else { packet.segment };
    for datagram in bytes.chunks(step) {
        let outer = outer(forwarding, format, packet, port, datagram.len());
        counters.capture.record(seen, [outer.bytes(), datagram].into_iter());
    }
}

/// Shows what it delivers.
pub struct Shown<'a>(pub Deliver<'a>);

impl Sink for Shown<'_> {
    fn deliver(&mut self, delivery: &Delivery<'_>) {
        let seen = Seen { point: Point::Device, inbound: true, reason: None };
        self.0.counters.capture.record(seen, delivery.parts());
        self.0.deliver(delivery);
    }
}
