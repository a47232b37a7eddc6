//! The sockets: what arrives bare at the uplink for our pod address, and what leaves bare towards a node.

use std::io;
use std::net::{IpAddr, SocketAddr};

use socket2::Socket;
use tokio::net::UdpSocket;

use super::packet::packet;
use crate::control::engine::bfd::Outgoing;
use crate::dataplane::encap::frame::{self, Hop};
use crate::dataplane::underlay::bfd;
use crate::route::DirectPath;
use crate::wire::ethernet;

/// What the sockets of one family were made for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Place {
    /// Our pod address.
    pub own: IpAddr,
    /// Our underlay IPv4 address, where there is one.
    pub node: Option<IpAddr>,
    /// Name and index of the uplink.
    pub uplink: (String, u32),
}

/// The sockets of one family.
pub(super) struct Door {
    pub place: Place,
    listener: UdpSocket,
    packets: Option<Socket>,
    frames: Socket,
}

impl Door {
    /// Opens them.
    ///
    /// # Errors
    /// The kernel's: EPERM without CAP_NET_RAW; EADDRINUSE where another program has the port.
    pub(super) fn open(place: Place) -> io::Result<Self> {
        let (uplink, index) = &place.uplink;
        Ok(Self {
            listener: UdpSocket::from_std(bfd::listen(place.own, uplink)?.into())?,
            packets: place.node.filter(|_| place.own.is_ipv4()).map(bfd::packets).transpose()?,
            frames: bfd::frames(*index)?,
            place,
        })
    }

    /// The next datagram: its length and where it is from.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) async fn receive(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        self.listener.recv_from(buffer).await
    }

    /// Sends a packet as the packet path would: by way of the kernel's route to the next hop, or in a frame to the
    /// first hop where the families differ or both are IPv6. What cannot be sent is like a packet that is lost.
    pub(super) fn send(&self, what: &Outgoing, hop: impl Fn(DirectPath) -> Option<Hop>) {
        let Some(packet) = packet(self.place.own, what.to, what.port, &what.control) else { return };
        let next_hop = what.path.next_hop;
        let sent = match &self.packets {
            Some(packets) if next_hop.is_ipv4() => {
                packets.send_to(&packet, &SocketAddr::new(next_hop, 0).into())
            }
            _ => {
                let Some(hop) = hop(what.path) else { return };
                let ethertype = if what.path.ipv4 { ethernet::IPV4 } else { ethernet::IPV6 };
                self.frames.send(&[&frame::template(hop, ethertype)[..], &packet].concat())
            }
        };
        if let Err(error) = sent {
            tracing::debug!("BFD towards {next_hop}: {error}");
        }
    }
}
