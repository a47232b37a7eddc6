//! What the kernel may repeat for a flow: the decision of the tables, without looking at a packet.
//!
//! The same is asked when a flow is handed over, and after each new table: a record that would be another one now is
//! given up.

use std::net::IpAddr;

use super::scope::is_special;
use super::tables::{Forwarding, OuterIp, OuterSource, PeerHeaders};
use crate::dataplane::encap::{OUTER_TTL, ipip6, outer};
use crate::dataplane::kernel_path::{
    Arrived, Encapsulation, FlowKey, Inbound, KernelPath, Outbound, Pending, Record,
};
use crate::dataplane::packet::{Direction, Family};
use crate::dataplane::segment::flow::{among, hash_of};
use crate::net::Mode;
use crate::route::NextHop;
use crate::wire::vnet_hdr;

impl Forwarding {
    /// Begins to hand a flow out over to `path`; `still` is whether these are still the tables of now. What is not
    /// handed over stays with the pump, and proves itself again.
    pub fn hand_over_outbound(
        &self,
        path: &KernelPath,
        key: &FlowKey,
        still: impl FnOnce() -> bool,
    ) -> Option<Pending> {
        let (record, peer) = self.outbound_record(key, path)?;
        path.install(&record, &peer.counters, still)
    }

    /// Begins to hand a flow in over to `path`; `still` is whether these are still the tables of now.
    pub fn hand_over_inbound(
        &self,
        path: &KernelPath,
        (key, how): (&FlowKey, Arrived),
        still: impl FnOnce() -> bool,
    ) -> Option<Pending> {
        let (record, peer) = self.inbound_record(key, path, how)?;
        path.install(&record, &peer.counters, || path.uplink() == self.underlay.uplink && still())
    }

    /// Gives the flows back to the pump for which these tables say something else than `path` repeats.
    pub fn review(&self, path: &KernelPath) {
        path.review(|record| {
            let now = match record.key.direction {
                Direction::Outbound => self.outbound_record(&record.key, path),
                Direction::Inbound => {
                    let arrived = Arrived { from: record.outer_source(), mode: record.mode };
                    self.inbound_record(&record.key, path, arrived)
                }
            };
            now.is_some_and(|(now, _)| now == *record)
        });
    }

    /// How packets of `key` leave: what `outbound::prepare` decides for each of them.
    fn outbound_record(&self, key: &FlowKey, path: &KernelPath) -> Option<(Record, &PeerHeaders)> {
        if is_special(key.source) || is_special(key.destination) || self.is_exempt(key.destination) {
            return None;
        }
        let owner = self.lookup(key.source);
        if owner != Some(NextHop::Local) && !self.may_go(key.source, owner) {
            return None;
        }
        let hash = hash_of(key.source, key.destination, key.ports, key.protocol);
        let via = self.choose(self.lookup(key.destination)?, hash)?;
        let peer = self.peer(via.peer)?;
        let family = Family::of(key.source);
        let (ipip6, vxlan, vxlan6);
        let (link, outer) = match via.mode {
            Mode::Direct => (peer.bare[family].frame.as_ref()?, &[][..]),
            Mode::Ipip => match &peer.ipip {
                OuterIp::V4(headers) => (peer.frame.as_ref()?, &headers[family][..]),
                OuterIp::V6(headers) => {
                    ipip6 = labelled(headers[family], hash);
                    (peer.frame.as_ref()?, &ipip6[..])
                }
            },
            // Without an outer checksum, which segments made in front of such an uplink would not have, a receiver's
            // socket gets every one by itself (UDP_GRO).
            Mode::Vxlan if !peer.segmented && !path.always() => return None,
            Mode::Vxlan => {
                let source_ports = path.source_ports();
                let port = *source_ports.get(among(hash, source_ports.len()))?;
                let inner = &peer.vxlan[family];
                match peer.address {
                    IpAddr::V4(to) => {
                        let from = (self.underlay.source(), port);
                        vxlan = outer::vxlan(OUTER_TTL, from, (to, peer.port), inner);
                        (peer.frame.as_ref()?, &vxlan[..])
                    }
                    // Only one who agreed to it receives such datagrams at all (RFC 6935).
                    IpAddr::V6(_) if !path.zero_checksum6() => return None,
                    IpAddr::V6(to) => {
                        let from = (self.underlay.source6(), port);
                        vxlan6 = outer::vxlan6(hash, from, (to, peer.port), inner);
                        (peer.frame.as_ref()?, &vxlan6[..])
                    }
                }
            }
        };
        let how = Outbound {
            mode: via.mode,
            interface: self.underlay.uplink,
            mtu: via.mtu,
            marking: self.underlay.marking,
            encapsulation: Encapsulation { link: &link[vnet_hdr::LEN..], outer },
        };
        Some((Record::outbound(*key, self.policy_generation(), &how)?, peer))
    }

    /// How packets of `key` come in: what `inbound::admit` decides for each of them.
    fn inbound_record(
        &self,
        key: &FlowKey,
        path: &KernelPath,
        how: Arrived,
    ) -> Option<(Record, &PeerHeaders)> {
        let uplink = self.underlay.uplink;
        if path.uplink() != uplink {
            return None;
        }
        let sender = self.outer_source(how.from)?;
        // Of others nobody keeps count.
        let OuterSource::Peer(peer) = sender else { return None };
        let is_ours = self.lookup(key.destination) == Some(NextHop::Local) && !is_special(key.destination);
        if !is_ours || !self.may_come(sender, key.source) || is_special(key.source) {
            return None;
        }
        let how = Inbound { mode: how.mode, outer_source: how.from, uplink };
        Some((Record::inbound(*key, self.policy_generation(), path.device(), &how)?, self.peer(peer)?))
    }

    /// The number of the rules that are enforced; 0 for none.
    fn policy_generation(&self) -> u32 {
        self.policy().map_or(0, |policy| policy.generation)
    }
}

/// A header of IP-in-IPv6 with the flow label of a flow.
fn labelled(mut header: [u8; ipip6::OVERHEAD], flow: u32) -> [u8; ipip6::OVERHEAD] {
    ipip6::patch(&mut header, 0, flow, 0);
    header
}
