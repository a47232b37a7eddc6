//! What the kernel knows of a received packet besides its bytes: whether its checksum is still to be finished, and
//! the segment size of a super-packet (`struct skb_shared_info` of include/linux/skbuff.h).
//!
//! Receive offload (GRO) joins packets before any socket sees them, and a virtual link hands over super-packets whole.
//! A raw or a UDP socket then shows the bytes of all, and not where one ends and the next begins.

use crate::wire::{VnetHdr, vnet_hdr};

/// Of one packet, inner where it came in a tunnel.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Metadata {
    /// Bytes from its IP header to the transport header whose checksum is unfinished; `None` where the checksum is as
    /// the sender made it.
    pub csum_start: Option<u16>,
    /// One of [`vnet_hdr`]'s `GSO_` values.
    pub gso_type: u8,
    /// Bytes of payload in each segment but the last, 0 for a single packet.
    pub gso_size: u16,
}

impl Metadata {
    /// As a vnet header in front of the outer packet says it, of which the inner packet begins at `inner`. What is said
    /// of the outer packet does not concern the inner one.
    pub fn of_inner(vnet: &VnetHdr, inner: usize) -> Self {
        let start = usize::from(vnet.csum_start).checked_sub(inner).filter(|_| vnet.needs_csum());
        if vnet.needs_csum() && start.is_none() {
            return Self::default();
        }
        let gso_size = if vnet.is_gso() { vnet.gso_size } else { 0 };
        let gso_type = if gso_size == 0 { vnet_hdr::GSO_NONE } else { vnet.gso_type };
        Self { csum_start: start.map(|start| start as u16), gso_type, gso_size }
    }
}

/// Where it comes from.
pub trait MetadataSource {
    /// What is known of the packet that begins at the start of `inner`; at most once for each packet received.
    fn of(&mut self, inner: &[u8]) -> Option<Metadata>;

    /// Whether it knows of every TCP and UDP packet in IP-in-IP, and not only of those whose checksum looks unfinished.
    fn knows_all(&self) -> bool;

    /// A packet came that only [`Self::knows_all`] could explain.
    fn want_all(&mut self);

    /// Whether a packet of which nothing is known may have its checksum still to be finished: where there is no
    /// word on any packet, or where such packets came before. `several` is for packets that may be many in one,
    /// which also receive offload makes; others come only over virtual links.
    fn believes_unfinished(&mut self, several: bool) -> bool;
}

/// A source that knows nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoMetadata;

impl MetadataSource for NoMetadata {
    fn of(&mut self, _inner: &[u8]) -> Option<Metadata> {
        None
    }

    fn knows_all(&self) -> bool {
        false
    }

    fn want_all(&mut self) {}

    fn believes_unfinished(&mut self, _several: bool) -> bool {
        true
    }
}
