//! The link addresses of first hops.
//!
//! Packet sockets bypass the kernel's neighbour code, so the daemon reads the table itself and
//! tells the kernel that it uses an entry (NTF_USE), which makes the kernel verify it as if it sent
//! there itself.

use std::collections::HashMap;
use std::net::IpAddr;

use futures_util::TryStreamExt;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};

use super::Host;
use super::netlink::failed;
use crate::control::engine::port::HostError;
use crate::net::Mac;

impl Host {
    /// The usable neighbours of both families, by interface and address.
    ///
    /// # Errors
    /// [`HostError::Netlink`].
    pub async fn neighbours(&self) -> Result<HashMap<(u32, IpAddr), Neighbour>, HostError> {
        let request = self.handle.neighbours().get().set_address_family(AddressFamily::Unspec);
        let messages: Vec<NeighbourMessage> =
            request.execute().try_collect().await.map_err(|e| failed("list the neighbours", &e))?;
        let entries = messages.iter().filter_map(|message| Some((key(message)?, entry(message)?)));
        Ok(entries.collect())
    }

    /// Tells the kernel that `via` on interface `index` is in use, so that it resolves it and
    /// keeps it fresh. Needs CAP_NET_ADMIN; without, traffic of other sockets must do.
    pub(super) async fn use_neighbour(&self, index: u32, via: IpAddr) {
        let request = self.handle.neighbours().add(index, via).replace();
        let request = request.flags(NeighbourFlags::Use).state(NeighbourState::None);
        // Not being allowed to only means that the entry ages as ever.
        let _ = request.execute().await;
    }
}

/// An entry of the neighbour table that can be sent to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Neighbour {
    /// Its link address.
    pub mac: Mac,
    /// Whether it stays as it is: an administrator made it, or the link knows no resolution. Such
    /// an entry must not be touched, NTF_USE would turn it into a learned one.
    pub fixed: bool,
}

/// Interface and address that an entry is about.
pub(super) fn key(message: &NeighbourMessage) -> Option<(u32, IpAddr)> {
    let address = message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(a)) => Some(IpAddr::V4(*a)),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(a)) => Some(IpAddr::V6(*a)),
        _ => None,
    });
    Some((message.header.ifindex, address?))
}

/// An entry that can be sent to.
pub(super) fn entry(message: &NeighbourMessage) -> Option<Neighbour> {
    use NeighbourState::{Delay, Noarp, Permanent, Probe, Reachable, Stale};
    let fixed = match message.header.state {
        Reachable | Stale | Delay | Probe => false,
        Permanent | Noarp => true,
        _ => return None,
    };
    let mac = message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(bytes) => bytes.as_slice().try_into().ok().map(Mac),
        _ => None,
    });
    Some(Neighbour { mac: mac.filter(|mac| mac.is_unicast())?, fixed })
}
