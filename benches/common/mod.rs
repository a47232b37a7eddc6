//! What the benches share: packets as a pod would send them, and how long to measure.

#![allow(dead_code, reason = "every bench is a crate of its own and uses a part of this")]

use std::time::Duration;

use criterion::Criterion;
use etherparse::PacketBuilder;
use underpass::wire::{VnetHdr, vnet_hdr};

/// Payload bytes of a TCP segment that fills a VXLAN tunnel over an uplink with MTU 1500: 1450 less
/// IPv4 header and TCP header without options.
pub const SEGMENT: usize = 1410;
/// Segments of one super-packet, near 64 KiB.
pub const SEGMENTS: usize = 44;
/// Bytes of IPv4 and TCP header without options.
pub const HEADERS: usize = 40;
/// First sequence number of all TCP packets made here.
const SEQUENCE: u32 = 1_000_000;

/// The pod at this node and the pod at the other.
pub const NEAR: [u8; 4] = [10, 244, 1, 2];
/// See [`NEAR`].
pub const FAR: [u8; 4] = [10, 244, 2, 2];

/// Short measurements: these run beside other work and are compared with each other.
pub fn criterion() -> Criterion {
    Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_millis(1200))
        .sample_size(40)
        .configure_from_args()
}

/// A TCP packet with finished checksums and `payload` bytes, the `index`th of its flow.
pub fn tcp(from: [u8; 4], to: [u8; 4], payload: usize, index: usize) -> Vec<u8> {
    let sequence = SEQUENCE + (index * payload) as u32;
    let mut ip =
        etherparse::Ipv4Header::new(0, 64, etherparse::IpNumber::TCP, from, to).expect("no payload yet");
    ip.identification = index as u16;
    ip.dont_fragment = true;
    let builder = PacketBuilder::ip(etherparse::IpHeaders::Ipv4(ip, Default::default()))
        .tcp(40_000, 5201, sequence, 502)
        .ack(7);
    write(builder.size(payload), |out| builder.write(out, &pattern(payload)).expect("into memory"))
}

/// A UDP packet with finished checksums.
pub fn udp(from: [u8; 4], to: [u8; 4], payload: usize) -> Vec<u8> {
    let builder = PacketBuilder::ipv4(from, to, 64).udp(40_000, 9000);
    write(builder.size(payload), |out| builder.write(out, &pattern(payload)).expect("into memory"))
}

/// A UDP packet over IPv6 with finished checksums.
pub fn udp6(payload: usize) -> Vec<u8> {
    let builder = PacketBuilder::ipv6([0xfd; 16], [0xfe; 16], 64).udp(40_000, 9000);
    write(builder.size(payload), |out| builder.write(out, &pattern(payload)).expect("into memory"))
}

/// A TCP super-packet as the TUN hands it over, with what its vnet header says. Its transport checksum
/// is left to do; what the field holds is not read.
pub fn super_packet(from: [u8; 4], to: [u8; 4]) -> (VnetHdr, Vec<u8>) {
    let vnet = VnetHdr {
        flags: vnet_hdr::NEEDS_CSUM,
        gso_type: vnet_hdr::GSO_TCPV4,
        hdr_len: HEADERS as u16,
        gso_size: SEGMENT as u16,
        csum_start: 20,
        csum_offset: 16,
    };
    (vnet, tcp(from, to, SEGMENT * SEGMENTS, 0))
}

/// Bytes that are not all alike.
pub fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|index| (index * 31 + index / 251) as u8).collect()
}

fn write(size: usize, fill: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut packet = Vec::with_capacity(size);
    fill(&mut packet);
    assert_eq!(packet.len(), size);
    packet
}
