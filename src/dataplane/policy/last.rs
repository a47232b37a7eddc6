//! The connection of the packet before, which most packets are of.

use std::net::IpAddr;

use crate::dataplane::segment::Flow;

/// The connection of the packet before, in one direction.
#[derive(Clone, Copy, Debug)]
pub(super) struct Last {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    ports: u32,
    generation: u32,
}

impl Last {
    /// What tells whether the next packet is of the same connection; `None` where more has to be looked at.
    #[inline]
    pub(super) fn of(flow: &Flow, packet: &[u8], generation: u32) -> Option<Self> {
        Some(Self {
            source: flow.source,
            destination: flow.destination,
            protocol: flow.protocol,
            ports: flow.plain_ports(packet)?,
            generation,
        })
    }

    #[inline]
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.ports == other.ports
            && self.source == other.source
            && self.destination == other.destination
            && self.protocol == other.protocol
            && self.generation == other.generation
    }
}
