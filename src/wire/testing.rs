//! Packets for tests, built by etherparse and so independent of the code under test.

use std::net::IpAddr;

use etherparse::{IpHeaders, IpNumber, Ipv4Header, Ipv6Header, PacketBuilder, TcpHeader};
use proptest::prelude::*;

use super::{VnetHdr, be16, checksum, put16, vnet_hdr};

/// Everything that a packet says.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Both addresses are of one family, which is the packet's.
    pub source: IpAddr,
    pub destination: IpAddr,
    pub tos: u8,
    pub ttl: u8,
    /// IPv4 only, like `df` and `options`.
    pub id: u16,
    pub df: bool,
    /// Whole 32-bit words, at most 10.
    pub options: Vec<u8>,
    /// IPv6 only.
    pub flow_label: u32,
    pub transport: Transport,
    pub payload: Vec<u8>,
}

/// What is inside a packet.
#[derive(Clone, Debug)]
pub enum Transport {
    /// With this header; its checksum is computed.
    Tcp(TcpHeader),
    /// Between these ports.
    Udp(u16, u16),
    /// An echo request with identifier and sequence number.
    Echo(u16, u16),
}

impl Spec {
    /// A TCP segment of an established connection, IPv4 with DF.
    pub fn tcp4(payload: &[u8]) -> Self {
        let mut header = TcpHeader::new(40000, 80, 1000, 0x2000);
        (header.ack, header.acknowledgment_number) = (true, 77);
        Self {
            source: [10, 244, 1, 10].into(),
            destination: [10, 244, 2, 20].into(),
            tos: 0,
            ttl: 63,
            id: 0x0100,
            df: true,
            options: Vec::new(),
            flow_label: 0,
            transport: Transport::Tcp(header),
            payload: payload.to_vec(),
        }
    }

    /// The same over IPv6.
    pub fn tcp6(payload: &[u8]) -> Self {
        Self::tcp4(payload).v6()
    }

    /// A UDP datagram, IPv4 with DF.
    pub fn udp4(payload: &[u8]) -> Self {
        Self { transport: Transport::Udp(5000, 6000), ..Self::tcp4(payload) }
    }

    /// The same packet between IPv6 addresses.
    pub fn v6(self) -> Self {
        let (source, destination) = ("fd00:10:244:1::10".parse(), "fd00:10:244:2::20".parse());
        Self { source: source.unwrap(), destination: destination.unwrap(), options: Vec::new(), ..self }
    }

    pub fn is_v6(&self) -> bool {
        self.source.is_ipv6()
    }

    /// The TCP header; of a TCP packet only.
    pub fn tcp(&mut self) -> &mut TcpHeader {
        match &mut self.transport {
            Transport::Tcp(header) => header,
            other => panic!("not TCP: {other:?}"),
        }
    }

    pub fn is_tcp(&self) -> bool {
        matches!(self.transport, Transport::Tcp(_))
    }

    /// Bytes of the IP header.
    pub fn l4(&self) -> usize {
        if self.is_v6() { 40 } else { 20 + self.options.len() }
    }

    /// Bytes of IP and transport headers.
    pub fn header_len(&self) -> usize {
        self.l4()
            + match &self.transport {
                Transport::Tcp(header) => header.header_len(),
                Transport::Udp(..) | Transport::Echo(..) => 8,
            }
    }

    /// Bytes of the packet.
    pub fn len(&self) -> usize {
        self.header_len() + self.payload.len()
    }

    /// The packet, checksums included.
    pub fn build(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.len());
        let builder = PacketBuilder::ip(self.ip());
        match &self.transport {
            Transport::Tcp(header) => {
                builder.tcp_header(header.clone()).write_to_vec(&mut bytes, &self.payload)
            }
            Transport::Udp(from, to) => builder.udp(*from, *to).write_to_vec(&mut bytes, &self.payload),
            Transport::Echo(id, sequence) if self.is_v6() => {
                builder.icmpv6_echo_request(*id, *sequence).write_to_vec(&mut bytes, &self.payload)
            }
            Transport::Echo(id, sequence) => {
                builder.icmpv4_echo_request(*id, *sequence).write_to_vec(&mut bytes, &self.payload)
            }
        }
        .unwrap();
        bytes
    }

    fn ip(&self) -> IpHeaders {
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let mut ip =
                    Ipv4Header::new(0, self.ttl, IpNumber::TCP, source.octets(), destination.octets())
                        .unwrap();
                (ip.dscp, ip.ecn) = ((self.tos >> 2).try_into().unwrap(), (self.tos & 3).try_into().unwrap());
                (ip.identification, ip.dont_fragment) = (self.id, self.df);
                ip.options = self.options.as_slice().try_into().unwrap();
                IpHeaders::Ipv4(ip, Default::default())
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let ip = Ipv6Header {
                    traffic_class: self.tos,
                    flow_label: self.flow_label.try_into().unwrap(),
                    hop_limit: self.ttl,
                    source: source.octets(),
                    destination: destination.octets(),
                    ..Default::default()
                };
                IpHeaders::Ipv6(ip, Default::default())
            }
            _ => panic!("mixed families"),
        }
    }

    /// The packet as a kernel hands it over with its transport checksum left to do, and the header
    /// that says so.
    pub fn build_partial(&self) -> (VnetHdr, Vec<u8>) {
        let mut packet = self.build();
        let (l4, csum_offset) = (self.l4(), if self.is_tcp() { 16 } else { 6 });
        let len = (packet.len() - l4) as u32;
        let number = if self.is_tcp() { 6 } else { 17 };
        let pseudo = match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                checksum::pseudo_v4(source, destination, number, len)
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                checksum::pseudo_v6(source, destination, number, len)
            }
            _ => panic!("mixed families"),
        };
        put16(&mut packet, l4 + csum_offset, checksum::fold(pseudo));
        let vnet = VnetHdr {
            flags: vnet_hdr::NEEDS_CSUM,
            hdr_len: self.header_len() as u16,
            csum_start: l4 as u16,
            csum_offset: csum_offset as u16,
            ..VnetHdr::default()
        };
        (vnet, packet)
    }

    /// The packet as a super-packet of segments with `size` bytes of payload.
    pub fn build_gso(&self, size: u16) -> (VnetHdr, Vec<u8>) {
        let (vnet, packet) = self.build_partial();
        let gso_type = match (&self.transport, self.is_v6()) {
            (Transport::Tcp(header), v6) => {
                let family = if v6 { vnet_hdr::GSO_TCPV6 } else { vnet_hdr::GSO_TCPV4 };
                if header.cwr { family | vnet_hdr::GSO_ECN } else { family }
            }
            _ => vnet_hdr::GSO_UDP_L4,
        };
        (VnetHdr { gso_type, gso_size: size, ..vnet }, packet)
    }

    /// What a super-packet of this content stands for, worked out the slow way.
    pub fn segments(&self, size: u16) -> Vec<Self> {
        let chunks: Vec<&[u8]> = self.payload.chunks(size.into()).collect();
        if chunks.is_empty() {
            return vec![self.clone()];
        }
        let last = chunks.len() - 1;
        chunks
            .iter()
            .enumerate()
            .map(|(index, chunk)| self.segment(index, index == last, size, chunk))
            .collect()
    }

    fn segment(&self, index: usize, last: bool, size: u16, payload: &[u8]) -> Self {
        let mut segment =
            Self { id: self.id.wrapping_add(index as u16), payload: payload.to_vec(), ..self.clone() };
        if let Transport::Tcp(header) = &mut segment.transport {
            let passed = index as u32 * u32::from(size);
            header.sequence_number = header.sequence_number.wrapping_add(passed);
            (header.fin, header.psh) = (header.fin && last, header.psh && last);
            header.cwr &= index == 0;
        }
        segment
    }
}

/// Pseudo-random numbers (xorshift64*): the same for the same seed, on every machine.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        (self.next() >> 16) % limit
    }

    /// `len` bytes: much faster than a proptest vector, whose every byte can shrink.
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| (self.next() >> 32) as u8).collect()
    }
}

/// `len` pseudo-random bytes.
pub fn bytes(len: impl Strategy<Value = usize>) -> impl Strategy<Value = Vec<u8>> {
    (len, any::<u64>()).prop_map(|(len, seed)| Random::new(seed).bytes(len))
}

/// Any TCP header: all flags, all option lengths.
pub fn tcp_header() -> impl Strategy<Value = TcpHeader> {
    let numbers = (any::<u16>(), any::<u16>(), any::<u32>(), any::<u32>(), any::<u16>(), any::<u16>());
    (numbers, any::<u8>(), any::<bool>(), bytes((0usize..=10).prop_map(|words| words * 4))).prop_map(
        |((from, to, sequence, acknowledgment, window, urgent), flags, ns, options)| {
            let mut header = TcpHeader::new(from, to, sequence, window);
            (header.acknowledgment_number, header.urgent_pointer) = (acknowledgment, urgent);
            set_flags(&mut header, flags);
            header.ns = ns;
            header.set_options_raw(&options).unwrap();
            header
        },
    )
}

/// Sets the flags byte.
pub fn set_flags(header: &mut TcpHeader, flags: u8) {
    (header.fin, header.syn) = (flags & 1 != 0, flags & 2 != 0);
    (header.rst, header.psh) = (flags & 4 != 0, flags & 8 != 0);
    (header.ack, header.urg) = (flags & 16 != 0, flags & 32 != 0);
    (header.ece, header.cwr) = (flags & 64 != 0, flags & 128 != 0);
}

/// Any packet of either family with `payload`, between fixed addresses.
pub fn any_packet(payload: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Spec> {
    let transport = prop_oneof![
        3 => tcp_header().prop_map(Transport::Tcp),
        2 => any::<(u16, u16)>().prop_map(|(from, to)| Transport::Udp(from, to)),
        1 => any::<(u16, u16)>().prop_map(|(id, sequence)| Transport::Echo(id, sequence)),
    ];
    with_ip(transport, payload)
}

/// Any packet that may be a super-packet.
pub fn tcp_or_udp(payload: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Spec> {
    let transport = prop_oneof![
        3 => tcp_header().prop_map(Transport::Tcp),
        2 => any::<(u16, u16)>().prop_map(|(from, to)| Transport::Udp(from, to)),
    ];
    with_ip(transport, payload)
}

fn with_ip(
    transport: impl Strategy<Value = Transport>,
    payload: impl Strategy<Value = Vec<u8>>,
) -> impl Strategy<Value = Spec> {
    let ip = (any::<u8>(), 1u8.., any::<u16>(), any::<bool>(), 0u32..1 << 20, any::<bool>());
    let options = prop_oneof![4 => Just(0usize), 1 => (1usize..=10).prop_map(|words| words * 4)];
    (ip, bytes(options), transport, payload).prop_map(
        |((tos, ttl, id, df, flow_label, v6), options, transport, payload)| {
            let spec = Spec { tos, ttl, id, df, flow_label, options, transport, payload, ..Spec::tcp4(&[]) };
            if v6 { spec.v6() } else { spec }
        },
    )
}

/// Clears identification and header checksum of an IPv4 packet with DF, where neither is preserved
/// (RFC 6864 §4.1: such an identification means nothing).
pub fn without_id(packet: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    if packet[0] >> 4 == 4 && be16(&packet, 6) & super::ipv4::DF != 0 {
        put16(&mut packet, 4, 0);
        put16(&mut packet, 10, 0);
    }
    packet
}
