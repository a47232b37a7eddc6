//! NeighbourReplies to a kernel tunnel that asks for the Ethernet address of our end of the tunnel.
//!
//! ```text
//! kernel peer: who has 10.244.1.0?  ─VXLAN─▶  us:  10.244.1.0 is at 66:…  ─VXLAN─▶ kernel peer
//! ```
//!
//! We need no such question: a peer's address is configured or follows from its name. A kernel VXLAN
//! device asks unless it has permanent entries, which Calico and flannel give it. Question and answer
//! are the tunnel's own and no traffic, so neither is counted as any; what is not answered is dropped
//! like everything else that is not carried.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use super::icmp_errors::Bucket;
use super::inputs::Underlay;
use super::tables::Forwarding;
use crate::dataplane::encap::vxlan;
use crate::dataplane::packet::{Channel, Datagram, Outbox, Piece};
use crate::net::Mac;
use crate::route::PeerId;
use crate::wire::{arp, ethernet, ndisc, vxlan as header};

/// NeighbourReplies a second by one worker.
const RATE: u32 = 100;
/// Bytes of the longest answer.
const MAX: usize = vxlan::TEMPLATE + ndisc::ADVERTISEMENT;
/// NeighbourReplies that may wait for the end of a batch.
const WAITING: usize = 8;

/// The answers of one worker that wait to be sent.
#[derive(Debug)]
pub struct NeighbourReplies {
    bucket: Bucket,
    frames: [[u8; MAX]; WAITING],
    waiting: Vec<Waiting>,
}

/// One of the frames.
#[derive(Debug)]
struct Waiting {
    /// Its bytes.
    len: usize,
    to: SocketAddr,
}

impl Default for NeighbourReplies {
    fn default() -> Self {
        Self { bucket: Bucket::default(), frames: [[0; MAX]; WAITING], waiting: Vec::with_capacity(WAITING) }
    }
}

impl NeighbourReplies {
    /// Prepares the answer to `datagram`, which `peer` sent from `source`. Returns whether it is a
    /// question that is answered.
    #[cold]
    pub(super) fn answer(
        &mut self,
        forwarding: &Forwarding,
        peer: PeerId,
        source: IpAddr,
        datagram: &[u8],
    ) -> bool {
        let Some(frame) = self.frames.get_mut(self.waiting.len()) else { return false };
        let now = Instant::now();
        if !self.bucket.may(now, RATE) {
            return false;
        }
        let Some(len) = write_answer(frame, forwarding, peer, datagram) else { return false };
        self.bucket.take(now, RATE);
        let port = forwarding.peer(peer).map_or(forwarding.underlay().vxlan_port, |peer| peer.port);
        self.waiting.push(Waiting { len, to: SocketAddr::new(source, port) });
        true
    }

    /// Whether any waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Moves what waits to an empty `out`.
    #[cold]
    pub fn send(&mut self, out: &mut Outbox) {
        for (frame, Waiting { len, to }) in self.frames.iter().zip(self.waiting.drain(..)) {
            let (head, bytes) = out.head(len);
            bytes.copy_from_slice(&frame[..len]);
            let channel = match to {
                SocketAddr::V4(_) => Channel::Udp(0),
                SocketAddr::V6(_) => Channel::Udp6(0),
            };
            let body = Piece::arena(0, 0);
            out.push(channel, to, 0, Datagram { head, body, packets: 0, wire_bytes: 0 });
        }
    }
}

/// Writes the answer to `out`; returns its length, or `None` where there is none to give.
fn write_answer(
    out: &mut [u8; MAX],
    forwarding: &Forwarding,
    peer: PeerId,
    datagram: &[u8],
) -> Option<usize> {
    let underlay = forwarding.underlay();
    let (vni, frame) = header::parse(datagram).ok()?;
    if vni != Some(underlay.vni.get()) {
        return None;
    }
    let (ethertype, packet) = ethernet::parse(frame).ok()?;
    match ethertype {
        ethernet::ARP => {
            let asked = arp::request(packet).ok()??;
            let ours = underlay.tun.address == Some(asked.target);
            // No other address is asked for.
            if !ours || !forwarding.owns(peer, asked.sender.into()) {
                return None;
            }
            Some(wrap(out, underlay, asked.mac, ethertype, &arp::reply(&asked, underlay.vtep_mac)))
        }
        ethernet::IPV6 => {
            let asked = ndisc::solicitation(packet).ok()??;
            let theirs = asked.sender.is_unicast_link_local() || forwarding.owns(peer, asked.sender.into());
            if underlay.tun.address6 != Some(asked.target) || !theirs {
                return None;
            }
            let mut asker = [0; 6];
            asker.copy_from_slice(&frame[6..12]);
            let answer = ndisc::advertisement(&asked, underlay.vtep_mac);
            Some(wrap(out, underlay, Mac(asker), ethertype, &answer))
        }
        _ => None,
    }
}

fn wrap(out: &mut [u8; MAX], underlay: &Underlay, to: Mac, ethertype: u16, content: &[u8]) -> usize {
    let headers = vxlan::template(underlay.vni, to, underlay.vtep_mac, ethertype);
    let len = headers.len() + content.len();
    out[..headers.len()].copy_from_slice(&headers);
    out[headers.len()..len].copy_from_slice(content);
    len
}
