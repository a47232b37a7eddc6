//! A control packet of BFD as an IP packet between addresses of pods.

use std::net::IpAddr;

use crate::wire::bfd::{self, Control, PORT, TTL};
use crate::wire::{checksum, ipv4, ipv6, protocol, put16, udp};

/// Bytes of the UDP datagram.
const DATAGRAM: usize = udp::LEN + bfd::LEN;
/// Class selector 6, for what keeps the network together (RFC 4594 §3.1).
const TOS: u8 = 0xc0;

/// The packet from `source` to `to`, which are of one family; `None` where they are not.
pub(super) fn packet(source: IpAddr, to: IpAddr, port: u16, control: &Control) -> Option<Vec<u8>> {
    let mut datagram = [0; DATAGRAM];
    let len = u16::try_from(DATAGRAM).ok()?;
    put16(&mut datagram, 0, port);
    put16(&mut datagram, 2, PORT);
    put16(&mut datagram, udp::FIELD_LENGTH, len);
    datagram[udp::LEN..].copy_from_slice(&control.emit());
    let (mut packet, pseudo) = match (source, to) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let header = ipv4::Repr {
                tos: TOS,
                total_len: u16::try_from(ipv4::LEN).ok()? + len,
                id: 0,
                flags: ipv4::DF,
                ttl: TTL,
                protocol: protocol::UDP,
                source,
                destination,
            };
            let pseudo = checksum::pseudo_v4(source, destination, protocol::UDP, len.into());
            (header.emit().to_vec(), pseudo)
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let mut header = ipv6::emit(protocol::UDP, TTL, source, destination);
            ipv6::patch_payload_len(&mut header, len);
            ipv6::patch_traffic_class(&mut header, TOS);
            (header.to_vec(), checksum::pseudo_v6(source, destination, protocol::UDP, len.into()))
        }
        _ => return None,
    };
    let sum = checksum::finish_udp(checksum::sum(&datagram) + pseudo);
    put16(&mut datagram, udp::FIELD_CHECKSUM, sum);
    packet.extend(datagram);
    Some(packet)
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use etherparse::{NetHeaders, PacketHeaders, TransportHeader};

    use super::packet;
    use crate::wire::bfd::{Control, Diagnostic, State};

    const CONTROL: Control = Control {
        diagnostic: Diagnostic::None,
        state: State::Down,
        poll: false,
        is_final: false,
        detect_mult: 3,
        mine: 7,
        yours: 0,
        min_tx: 1_000_000,
        min_rx: 250_000,
    };

    #[test]
    fn others_read_it() {
        for (source, to) in [("10.244.1.0", "10.244.2.0"), ("fd00:1::", "fd00:2::")] {
            let (source, to): (IpAddr, IpAddr) = (source.parse().unwrap(), to.parse().unwrap());
            let bytes = packet(source, to, 50000, &CONTROL).unwrap();
            let read = PacketHeaders::from_ip_slice(&bytes).unwrap();
            let Some(TransportHeader::Udp(udp)) = &read.transport else { panic!("{:?}", read.transport) };
            assert_eq!((udp.source_port, udp.destination_port), (50000, 3784));
            let payload = read.payload.slice();
            let (ttl, sum) = match read.net.unwrap() {
                NetHeaders::Ipv4(ip, _) => {
                    assert_eq!(ip.header_checksum, ip.calc_header_checksum());
                    (ip.time_to_live, udp.calc_checksum_ipv4(&ip, payload))
                }
                NetHeaders::Ipv6(ip, _) => (ip.hop_limit, udp.calc_checksum_ipv6(&ip, payload)),
                other => panic!("{other:?}"),
            };
            assert_eq!((ttl, sum), (255, Ok(udp.checksum)));
            assert_eq!(Control::parse(payload), Ok(CONTROL));
        }
        let mixed = packet("10.244.1.0".parse().unwrap(), "fd00::".parse().unwrap(), 50000, &CONTROL);
        assert_eq!(mixed, None);
    }
}
