//! What the kernel has of the sockets' offloads, found out by asking it once at start.

use std::io;

use socket2::{Domain, Protocol, Socket, Type};

use super::{metadata, packet, sys};

/// Offloads of the sockets that this kernel knows and lets us use.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Supported {
    /// UDP_SEGMENT (Linux 4.18).
    pub udp_gso: bool,
    /// UDP_GRO (Linux 5.0).
    pub udp_gro: bool,
    /// Packet sockets with a vnet header that tell segment sizes.
    pub segment_sizes: bool,
    /// Packet sockets with a vnet header on the uplink.
    pub packet: bool,
}

impl Supported {
    /// Tries each on a socket of its own; `uplink` is the interface packet sockets would be for.
    pub fn probe(uplink: Option<u32>) -> Self {
        let udp = |option: fn(&Socket) -> io::Result<()>| {
            Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))
                .and_then(|socket| option(&socket))
                .is_ok()
        };
        Self {
            udp_gso: udp(sys::set_udp_segment),
            udp_gro: udp(sys::set_udp_gro),
            segment_sizes: metadata::is_supported(),
            packet: uplink.is_some_and(|index| packet::send(index).is_ok()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Supported;

    #[test]
    fn every_kernel_we_run_on_has_the_udp_offloads() {
        let supported = Supported::probe(None);
        assert!(supported.udp_gso && supported.udp_gro && !supported.packet);
    }
}
