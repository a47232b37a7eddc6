//! Which flows have proved themselves: some packets each way, seen by the worker that owns the flow.
//!
//! A small table in which flows take each other's places, so that no number of flows makes it grow. A flow that shares
//! its place with a busier one is not handed over.

use std::net::IpAddr;

use super::key::FlowKey;
use crate::net::Mode;

/// Places.
const PLACES: usize = 2048;
/// Proofs that wait to be acted upon, in each direction.
const WAITING: usize = 32;
/// Packets from a proof of which nothing came to the next one, and from one look at where answers are to the next.
const AGAIN: u16 = 32;

/// How the packets of a flow come in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Arrived {
    /// Outer source.
    pub from: IpAddr,
    /// Format.
    pub mode: Mode,
}

#[derive(Clone, Copy, Debug, Default)]
struct Place {
    flow: u64,
    /// Packets out and in.
    seen: [u16; 2],
    /// How many there will be at the next proof.
    next: [u16; 2],
}

/// A direction with enough packets.
#[derive(Clone, Copy, Debug)]
struct Proof {
    key: FlowKey,
    /// Whether packets the other way were seen here. They may all be carried by programs.
    answered: bool,
}

/// The candidates of one worker.
#[derive(Debug)]
pub struct Candidates {
    after: u16,
    places: Box<[Place]>,
    outbound: Vec<Proof>,
    inbound: Vec<(Proof, Arrived)>,
}

impl Candidates {
    /// Flows have proved themselves after `after` packets each way.
    pub fn new(after: u16) -> Self {
        Self {
            after: after.max(1),
            places: vec![Place::default(); PLACES].into_boxed_slice(),
            outbound: Vec::with_capacity(WAITING),
            inbound: Vec::with_capacity(WAITING),
        }
    }

    /// Notes a packet that left. `alone` is whether answers come to the pods without us.
    #[inline]
    pub fn sent(&mut self, key: FlowKey, alone: bool) {
        if let Some(proof) = self.count(key, alone)
            && self.outbound.len() < WAITING
        {
            self.outbound.push(proof);
        }
    }

    /// Notes a packet that came in.
    #[inline]
    pub fn received(&mut self, key: FlowKey, arrived: Arrived) {
        if let Some(proof) = self.count(key, false)
            && self.inbound.len() < WAITING
        {
            self.inbound.push((proof, arrived));
        }
    }

    /// A flow is handed over: should a packet of it come here again, it is to be handed over again.
    pub fn handed_over(&mut self, key: &FlowKey) {
        let flow = key.flow();
        let place = self.place(flow);
        if place.flow == flow {
            place.next[key.direction as usize] = 0;
        }
    }

    /// What this packet proves of its direction.
    #[inline]
    fn count(&mut self, key: FlowKey, alone: bool) -> Option<Proof> {
        let (flow, after) = (key.flow(), self.after);
        let (own, other) = (key.direction as usize, 1 - key.direction as usize);
        let place = self.place(flow);
        if place.flow != flow {
            // Whoever is busier stays.
            place.seen = place.seen.map(|seen| seen.saturating_sub(1));
            if place.seen != [0; 2] {
                return None;
            }
            *place = Place { flow, seen: [0; 2], next: [after; 2] };
        }
        place.seen[own] = place.seen[own].saturating_add(1);
        if place.seen[own] < place.next[own] {
            return None;
        }
        if place.seen[own] == u16::MAX {
            place.seen[own] = after;
        }
        let answered = alone || place.seen[other] >= after;
        if answered {
            // Once it is handed over no more of its packets come here; if nothing comes of it, this one is not the last.
            place.next[own] = place.seen[own].saturating_add(AGAIN);
        } else if !place.seen[own].is_multiple_of(AGAIN) {
            return None;
        }
        Some(Proof { key, answered })
    }

    fn place(&mut self, flow: u64) -> &mut Place {
        &mut self.places[(flow >> 32) as usize % PLACES]
    }

    /// The flows out that have proved themselves and are to be handed over; none is left. `is_carried` is whether
    /// programs carry a direction, which is proof of the other one, too.
    pub fn proved_outbound<'a>(
        &'a mut self,
        is_carried: impl Fn(&FlowKey) -> bool + 'a,
    ) -> impl Iterator<Item = FlowKey> + 'a {
        self.outbound.drain(..).filter(move |proof| proof.holds(&is_carried)).map(|proof| proof.key)
    }

    /// The flows in that have.
    pub fn proved_inbound<'a>(
        &'a mut self,
        is_carried: impl Fn(&FlowKey) -> bool + 'a,
    ) -> impl Iterator<Item = (FlowKey, Arrived)> + 'a {
        let proved = self.inbound.drain(..).filter(move |(proof, _)| proof.holds(&is_carried));
        proved.map(|(proof, arrived)| (proof.key, arrived))
    }

    /// Whether there is something to take out.
    #[inline]
    pub fn has_proved(&self) -> bool {
        !(self.outbound.is_empty() && self.inbound.is_empty())
    }
}

impl Proof {
    fn holds(&self, is_carried: impl Fn(&FlowKey) -> bool) -> bool {
        self.answered || is_carried(&self.key.reversed())
    }
}

#[cfg(test)]
mod tests {
    use super::{AGAIN, Arrived, Candidates, IpAddr};
    use crate::dataplane::kernel_path::FlowKey;
    use crate::dataplane::packet::Direction;
    use crate::wire::protocol;

    const ARRIVED: Arrived =
        Arrived { from: IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), mode: crate::net::Mode::Vxlan };

    fn out(port: u16) -> FlowKey {
        FlowKey {
            source: [10, 0, 0, 1].into(),
            destination: [10, 1, 0, 1].into(),
            ports: u32::from(port) << 16 | 80,
            protocol: protocol::TCP,
            direction: Direction::Outbound,
        }
    }

    fn answer(port: u16) -> FlowKey {
        let key = out(port).reversed();
        assert_eq!((key.port_pair(), key.direction), ((80, port), Direction::Inbound));
        assert_eq!(key.reversed(), out(port));
        key
    }

    const fn nowhere(_: &FlowKey) -> bool {
        false
    }

    #[test]
    fn a_flow_proves_itself_by_packets_each_way() {
        let mut candidates = Candidates::new(3);
        for _ in 0..100 {
            candidates.sent(out(1), false);
            assert_eq!(candidates.proved_outbound(nowhere).count(), 0, "nobody answers");
        }
        for _ in 0..3 {
            candidates.received(answer(1), ARRIVED);
        }
        assert_eq!(candidates.proved_inbound(nowhere).collect::<Vec<_>>(), [(answer(1), ARRIVED)]);
        candidates.sent(out(1), false);
        assert_eq!(candidates.proved_outbound(nowhere).collect::<Vec<_>>(), [out(1)]);
        // Nothing came of it.
        for _ in 1..AGAIN {
            candidates.sent(out(1), false);
        }
        assert!(!candidates.has_proved());
        candidates.sent(out(1), false);
        assert_eq!(candidates.proved_outbound(nowhere).count(), 1);
        candidates.handed_over(&out(1));
        candidates.sent(out(1), false);
        assert_eq!(candidates.proved_outbound(nowhere).count(), 1);
    }

    #[test]
    fn answers_that_programs_carry_are_answers() {
        let mut candidates = Candidates::new(3);
        let mut looks = Vec::new();
        for number in 0..4 * AGAIN {
            candidates.sent(out(1), false);
            let asked = std::cell::Cell::new(false);
            let is_carried = |key: &FlowKey| asked.replace(true) || *key == answer(1);
            assert!(candidates.proved_outbound(is_carried).all(|key| key == out(1)));
            looks.extend(asked.get().then_some(number + 1));
        }
        assert_eq!(looks, [1, 2, 3, 4].map(|look| look * AGAIN), "not for each packet");
    }

    #[test]
    fn without_answers_by_us_packets_out_are_enough() {
        let mut candidates = Candidates::new(2);
        candidates.sent(out(1), true);
        candidates.sent(out(1), true);
        assert_eq!(candidates.proved_outbound(nowhere).collect::<Vec<_>>(), [out(1)]);
    }

    #[test]
    fn many_flows_that_nobody_answers_take_no_busy_flows_place() {
        let mut candidates = Candidates::new(100);
        for round in 0..100 {
            candidates.sent(out(1), false);
            candidates.received(answer(1), ARRIVED);
            candidates.sent(out(1000 + round), false);
        }
        assert!(candidates.proved_inbound(nowhere).next().is_some());
    }
}
