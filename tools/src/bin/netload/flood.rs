//! Packets that each begin a connection of their own, which nobody goes on with.

use std::io::IoSlice;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

use anyhow::Context;
use clap::ValueEnum;
use etherparse::PacketBuilder;
use nix::errno::Errno;
use nix::libc::IPPROTO_RAW;
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrIn, sendmmsg};
use serde_json::{Value, json};
use socket2::{Domain, Protocol, Socket, Type};

use crate::pace::{self, BATCH, Pace};

/// The first source port.
const FIRST_PORT: u16 = 1024;
/// A sender that was kept from running makes up for this much of it; seconds.
const LONGEST_BURST: f64 = 0.02;
/// TTL of all packets.
const TTL: u8 = 64;
/// Bytes of the send buffer: the rate shall not depend on how often the receiver gets a processor.
const SEND_BUFFER: usize = 4 << 20;

/// What begins a connection.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Kind {
    /// A TCP segment with SYN.
    Syn,
    /// A UDP datagram without payload.
    Udp,
}

/// Which packets are sent.
pub struct Flood {
    /// What they are.
    pub kind: Kind,
    /// Whom they are for.
    pub address: Ipv4Addr,
    /// The first destination port, and how many there are.
    pub ports: (u16, u16),
    /// Whom they are from; the address that the kernel would choose when empty.
    pub sources: Vec<Ipv4Addr>,
    /// How many source ports there are, from [`FIRST_PORT`] on.
    pub source_ports: u16,
    /// Packets per second.
    pub rate: f64,
    /// How long they are sent.
    pub duration: Duration,
    /// How many are sent at most.
    pub most: u64,
}

/// Both ends of a packet.
type Ends = (SocketAddrV4, SocketAddrV4);

impl Flood {
    /// Sends them.
    ///
    /// # Errors
    /// When a socket fails; a raw one needs CAP_NET_RAW.
    pub fn run(mut self) -> anyhow::Result<Value> {
        if self.sources.is_empty() {
            self.sources.push(own_address(self.address)?);
        }
        // IPPROTO_RAW: packets bring their IP headers; the kernel fills in their checksums.
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(IPPROTO_RAW)))
            .context("a raw socket, which needs CAP_NET_RAW")?;
        socket.set_send_buffer_size(SEND_BUFFER).context("send buffer")?;
        let mut headers = MultiHeaders::<SockaddrIn>::preallocate(BATCH, None);
        let (mut packets, mut refused) = (vec![Vec::new(); BATCH], 0);
        let target = [Some(SockaddrIn::from(SocketAddrV4::new(self.address, 0))); BATCH];
        let pace =
            Pace { rate: self.rate, longest_burst: LONGEST_BURST, duration: self.duration, most: self.most };
        let (numbers, seconds) = pace::send_for(pace, |first, count| {
            for (number, packet) in (first..).zip(&mut packets[..count]) {
                self.write(packet, self.ends(number))?;
            }
            let slices: Vec<_> = packets[..count].iter().map(|packet| [IoSlice::new(packet)]).collect();
            let flags = MsgFlags::empty();
            match sendmmsg(socket.as_raw_fd(), &mut headers, &slices, &target[..count], [], flags) {
                Ok(sent) => Ok(sent.count() as u64),
                // The kernel dropped one of ours.
                Err(Errno::ENOBUFS | Errno::EAGAIN) => {
                    refused += 1;
                    Ok(1)
                }
                Err(error) => Err(error).with_context(|| format!("sending to {}", self.address)),
            }
        })?;
        Ok(json!({
            "sent": numbers - refused,
            "refused": refused,
            "connections": numbers.min(self.connections()),
            "seconds": seconds,
            "packets_per_second": (numbers - refused) as f64 / seconds,
        }))
    }

    /// How many connections there are before the first comes again.
    fn connections(&self) -> u64 {
        self.sources.len() as u64 * u64::from(self.source_ports) * u64::from(self.ports.1)
    }

    /// Those of the packet of this number.
    fn ends(&self, number: u64) -> Ends {
        let (source_ports, sources) = (u64::from(self.source_ports), self.sources.len() as u64);
        let source = self.sources[(number / source_ports % sources) as usize];
        let from = FIRST_PORT + (number % source_ports) as u16;
        let to = self.ports.0 + (number / source_ports / sources % u64::from(self.ports.1)) as u16;
        (SocketAddrV4::new(source, from), SocketAddrV4::new(self.address, to))
    }

    /// Makes `packet` the one between these ends.
    fn write(&self, packet: &mut Vec<u8>, (source, target): Ends) -> anyhow::Result<()> {
        packet.clear();
        let ip = PacketBuilder::ipv4(source.ip().octets(), target.ip().octets(), TTL);
        match self.kind {
            Kind::Syn => ip.tcp(source.port(), target.port(), 0, u16::MAX).syn().write(packet, &[]),
            Kind::Udp => ip.udp(source.port(), target.port()).write(packet, &[]),
        }
        .context("a packet")
    }
}

/// The address that the kernel sends from.
fn own_address(to: Ipv4Addr) -> anyhow::Result<Ipv4Addr> {
    let socket = UdpSocket::bind("0.0.0.0:0").context("UDP socket")?;
    socket.connect((to, 9)).with_context(|| format!("no way to {to}"))?;
    match socket.local_addr()? {
        SocketAddr::V4(own) => Ok(*own.ip()),
        other @ SocketAddr::V6(_) => anyhow::bail!("{other} is no IPv4 address"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::net::Ipv4Addr;
    use std::time::Duration;

    use etherparse::{NetSlice, SlicedPacket, TransportSlice};

    use super::{Flood, Kind};

    fn flood(kind: Kind) -> Flood {
        Flood {
            kind,
            address: Ipv4Addr::new(10, 244, 2, 2),
            ports: (65534, 2),
            sources: vec![Ipv4Addr::new(10, 244, 1, 2), Ipv4Addr::new(10, 244, 1, 3)],
            source_ports: 5,
            rate: 1.0,
            duration: Duration::ZERO,
            most: 0,
        }
    }

    #[test]
    fn no_connection_comes_twice_before_all_have_come() {
        let flood = flood(Kind::Syn);
        assert_eq!(flood.connections(), 20);
        let ends: HashSet<_> = (0..20).map(|number| flood.ends(number)).collect();
        assert_eq!(ends.len(), 20);
        assert_eq!(flood.ends(20), flood.ends(0));
    }

    #[test]
    fn packets_are_whole() {
        let mut packet = vec![1; 99];
        for kind in [Kind::Syn, Kind::Udp] {
            let flood = flood(kind);
            flood.write(&mut packet, flood.ends(9)).unwrap();
            let parsed = SlicedPacket::from_ip(&packet).unwrap();
            let Some(NetSlice::Ipv4(ip)) = parsed.net else { panic!("no IPv4") };
            assert_eq!(ip.header().source_addr(), flood.sources[1]);
            assert_eq!(ip.header().destination_addr(), flood.address);
            match parsed.transport {
                Some(TransportSlice::Tcp(tcp)) => {
                    assert!(tcp.syn() && !tcp.ack());
                    assert_eq!((tcp.source_port(), tcp.destination_port()), (1028, 65534));
                    assert_eq!(
                        tcp.calc_checksum_ipv4(ip.header().source(), ip.header().destination()).unwrap(),
                        tcp.checksum()
                    );
                }
                Some(TransportSlice::Udp(udp)) => assert_eq!((udp.source_port(), udp.length()), (1028, 8)),
                other => panic!("{other:?}"),
            }
        }
    }
}
