//! TCP over IPv6 on a path that carries less than IPv6 demands of every link.
//!
//! No node on the way may fragment IPv6, and a host does not go below 1280 bytes whatever an ICMP error says
//! (RFC 8201 §4). The kernel's tunnels fragment the outer packet there (RFC 2473 §7.1), but ours have DF set, over
//! UDP always. So at the beginning of a connection its other end is told to send segments that fit.

use crate::wire::{Tcp, be16, checksum, ipv6, put16, tcp};

/// Bytes of both headers without options.
const HEADERS: u16 = 60;
const _: () = assert!(HEADERS as usize == ipv6::LEN + tcp::LEN);

/// Lowers the maximum segment size in `packet`, IPv6 with its TCP header at `l4`, to what a path of `mtu` bytes
/// carries. `unfinished`: its checksum is still to be made.
#[cold]
pub(super) fn limit_segment_size(packet: &mut [u8], l4: usize, mtu: u16, unfinished: bool) {
    let Ok(view) = Tcp::parse(&packet[l4..]) else { return };
    let (is_syn, header) = (view.flags() & tcp::SYN != 0, l4..l4 + view.header_len());
    let Some(at) = tcp::segment_size_at(&packet[header]).filter(|_| is_syn) else { return };
    let limit = mtu.saturating_sub(HEADERS);
    let old = be16(packet, l4 + at);
    if old <= limit {
        return;
    }
    put16(packet, l4 + at, limit);
    if !unfinished {
        // At an odd place the two bytes are in different words of the sum.
        let (old, new) = if at % 2 == 0 { (old, limit) } else { (old.swap_bytes(), limit.swap_bytes()) };
        let field = l4 + tcp::FIELD_CHECKSUM;
        let sum = checksum::update(be16(packet, field), old, new);
        put16(packet, field, sum);
    }
}

#[cfg(test)]
mod tests {
    use super::limit_segment_size;
    use crate::dataplane::segment::split::finish_checksum;
    use crate::wire::testing::Spec;
    use crate::wire::{be16, checksum};

    fn syn(options: &[u8], is_syn: bool) -> Spec {
        let mut spec = Spec::tcp6(&[]);
        (spec.tcp().syn, spec.tcp().ack) = (is_syn, false);
        spec.tcp().set_options_raw(options).unwrap();
        spec
    }

    fn is_right(packet: &[u8]) -> bool {
        let len = (packet.len() - 40) as u32;
        checksum::fold(checksum::sum(&packet[8..]) + 6 + len) == 0xffff
    }

    #[test]
    fn a_connection_is_told_at_its_beginning() {
        for (options, at) in [
            (&[2, 4, 0x05, 0xa0][..], 62),
            (&[1, 2, 4, 0x05, 0xa0, 1, 1, 0], 63),
            (&[4, 2, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8, 2, 4, 0x05, 0xa0], 74),
        ] {
            let spec = syn(options, true);
            let mut packet = spec.build();
            assert_eq!(be16(&packet, at), 1440);
            limit_segment_size(&mut packet, 40, 1230, false);
            assert_eq!((be16(&packet, at), is_right(&packet)), (1170, true));
            let (vnet, mut partial) = spec.build_partial();
            limit_segment_size(&mut partial, 40, 1230, true);
            finish_checksum(&mut partial, &vnet).unwrap();
            assert_eq!(partial, packet);
        }
    }

    #[test]
    fn what_fits_or_says_nothing_stays() {
        let small = syn(&[2, 4, 0x04, 0x00], true);
        let lying = syn(&[2, 3, 0x05, 0xa0], true);
        let endless = syn(&[7, 0, 2, 4, 0x05, 0xa0, 0, 0], true);
        let ended = syn(&[0, 0, 0, 0, 2, 4, 0x05, 0xa0], true);
        for spec in [small, lying, endless, ended, syn(&[2, 4, 0x05, 0xa0], false), Spec::tcp6(&[1; 60])] {
            let packet = spec.build();
            let mut after = packet.clone();
            limit_segment_size(&mut after, 40, 1230, false);
            assert_eq!(after, packet);
        }
    }
}
