//! What the daemon counts and knows, in the types of the API, which know nothing of the daemon.

use crate::api::{
    CapturePoint, Drops, EdgeCounters, ErrorCode, IcmpErrors, Missing, PeerTraffic, Traffic, TunnelControl,
};
use crate::control::engine::port::Requirement;
use crate::control::engine::refusal::Kind;

use crate::dataplane::observe::capture::Point;
use crate::dataplane::observe::{EdgeTotals, PeerTotals, Totals};
use crate::net::DropReason;

impl From<Requirement> for Missing {
    fn from(Requirement { what, command }: Requirement) -> Self {
        Self { what, command }
    }
}

impl From<(u64, u64)> for TunnelControl {
    fn from((probes, questions): (u64, u64)) -> Self {
        Self { probes, questions }
    }
}

impl From<(u64, u64)> for IcmpErrors {
    fn from((sent, suppressed): (u64, u64)) -> Self {
        Self { sent, suppressed }
    }
}

impl From<PeerTotals> for PeerTraffic {
    fn from(totals: PeerTotals) -> Self {
        let PeerTotals { rx_packets, rx_bytes, rx_dropped, tx_packets, tx_bytes, tx_dropped } = totals;
        Self { rx_packets, rx_bytes, rx_dropped, tx_packets, tx_bytes, tx_dropped }
    }
}

impl From<&Totals> for EdgeCounters {
    fn from(totals: &Totals) -> Self {
        Self { device: totals.device.into(), underlay: totals.underlay.into() }
    }
}

impl From<EdgeTotals> for Traffic {
    fn from(edge: EdgeTotals) -> Self {
        Self {
            rx_packets: edge.rx_packets,
            rx_bytes: edge.rx_bytes,
            tx_packets: edge.tx_packets,
            tx_bytes: edge.tx_bytes,
        }
    }
}

impl From<&Totals> for Drops {
    fn from(totals: &Totals) -> Self {
        Self(DropReason::ALL.iter().map(|&reason| (reason.name().to_owned(), totals.drops(reason))).collect())
    }
}

impl From<Kind> for ErrorCode {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Malformed => Self::Malformed,
            Kind::TooLarge => Self::TooLarge,
            Kind::UnknownPeer => Self::UnknownPeer,
            Kind::Conflict => Self::Conflict,
            Kind::NoRoute => Self::NoRoute,
            Kind::Missing => Self::NotFound,
            Kind::Full => Self::Full,
            Kind::Busy => Self::Busy,
        }
    }
}

impl From<CapturePoint> for Point {
    fn from(point: CapturePoint) -> Self {
        match point {
            CapturePoint::Device => Self::Device,
            CapturePoint::Underlay => Self::Underlay,
            CapturePoint::Drop => Self::Drop,
            CapturePoint::Log => Self::Log,
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::api::Drops;
    use crate::dataplane::observe::Counters;
    use crate::net::DropReason;

    #[test]
    fn every_reason_is_in_the_drops() {
        let counters = Counters::new(2);
        counters.worker(0).dropped(DropReason::Ttl, 2);
        counters.worker(1).dropped(DropReason::Ttl, 3);
        let drops = Drops::from(&counters.totals());
        assert_eq!(drops.0.len(), DropReason::ALL.len());
        assert_eq!(drops.0["ttl"], 5);
        assert_eq!(drops.0["loop"], 0);
        assert_eq!(drops.total(), 5);
    }
}
