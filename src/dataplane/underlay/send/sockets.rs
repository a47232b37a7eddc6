//! The sockets that a worker sends by.

use socket2::Socket;

use crate::dataplane::packet::{Family, PerFamily};

/// What a sender is made of.
#[derive(Default)]
pub(crate) struct SendSockets {
    /// IPv4 UDP sockets with the ports they are bound to.
    pub udp: Vec<(Socket, u16)>,
    /// IPv6 UDP sockets, likewise.
    pub udp6: Vec<(Socket, u16)>,
    /// Takes whole IPv4 packets.
    pub raw: Option<Socket>,
    /// Takes whole IPv6 packets.
    pub raw6: Option<Socket>,
    /// Takes frames on the uplink.
    pub packet: Option<Socket>,
    /// For what may leave in fragments.
    pub fragmenting: PerFamily<Fragmenting>,
}

/// The sockets whose outer packets the kernel fragments.
#[derive(Default)]
pub(crate) struct Fragmenting {
    /// For VXLAN, with the port it is bound to.
    pub udp: Option<(Socket, u16)>,
    /// For IPv6 inside; takes inner packets.
    pub raw: Option<Socket>,
}

impl SendSockets {
    /// The UDP sockets of one family.
    pub(crate) fn udp_of(&mut self, family: Family) -> &mut Vec<(Socket, u16)> {
        match family {
            Family::V4 => &mut self.udp,
            Family::V6 => &mut self.udp6,
        }
    }

    /// The raw socket of one family.
    pub(crate) fn raw_of(&mut self, family: Family) -> &mut Option<Socket> {
        match family {
            Family::V4 => &mut self.raw,
            Family::V6 => &mut self.raw6,
        }
    }
}
