//! Fragmentation of an IPv4 packet that is larger than its path and allows it (RFC 791 §3.2).
//!
//! Each fragment gets a copy of the IP header, patched; the payload is not copied. Identification
//! stays: a sender that leaves DF clear keeps it unique (RFC 6864 §4.3).

use std::ops::Range;

use crate::dataplane::packet::MAX_PACKET;
use crate::wire::{Ipv4, Malformed, ipv4};

/// Most fragments of one packet: 64 KiB on the smallest path the tables know.
pub const MAX_FRAGMENTS: usize = 144;

/// A packet, or a segment of a super-packet, being cut into fragments.
#[derive(Debug)]
pub struct Fragments<'a> {
    /// IPv4 header, and of a segment the transport header, too, which is elsewhere than the payload.
    header: &'a [u8],
    /// Bytes of the IPv4 header.
    ip: usize,
    /// Where the rest lies.
    payload: Range<usize>,
    /// Offset in the datagram of what is cut, in bytes.
    at: usize,
    /// The flag of the last fragment that says whether more follow.
    more: u16,
    /// Bytes behind the IP header of each fragment but the last.
    chunk: usize,
    /// Bytes behind the IP header done.
    done: usize,
}

/// Whether `packet`, an IP packet whose lengths are right, may be cut on its way.
#[inline]
pub fn allowed(packet: &[u8]) -> bool {
    Ipv4::parse(packet).is_ok_and(|ip| ip.flags() & ipv4::DF == 0)
}

/// Bytes behind the IP header of each fragment but the last, on a path of `mtu` bytes.
fn chunk(mtu: usize, ip: usize) -> usize {
    mtu.saturating_sub(ip) & !7
}

/// The fragments that a segment with `header` bytes of headers, `ip` of them IPv4's, and `payload` bytes becomes
/// on a path of `mtu` bytes; `None` where the path does not carry even the headers.
pub fn fragments_of(header: usize, ip: usize, payload: usize, mtu: usize) -> Option<usize> {
    let chunk = chunk(mtu, ip);
    (chunk > 0 && header - ip <= chunk).then(|| (header - ip + payload).div_ceil(chunk))
}

impl<'a> Fragments<'a> {
    /// Prepares to cut `packet` for a path of `mtu` bytes. It may be a fragment already.
    ///
    /// # Errors
    /// `Malformed` when it is no IPv4 packet, sets DF, ends beyond what a fragment offset can say, or
    /// needs more than [`MAX_FRAGMENTS`].
    pub fn new(packet: &'a [u8], mtu: usize) -> Result<Self, Malformed> {
        let ip = Ipv4::parse(packet)?;
        let (header, len) = (ip.header_len(), ip.total_len());
        let (at, more) = (offset(ip), ip.flags() & ipv4::MF);
        let fragments =
            Self { at, more, ..Self::of_segment(&ip.bytes()[..header], header, header..len, mtu) };
        let possible = fragments.chunk > 0 && at + (len - header) <= MAX_PACKET && ip.flags() & ipv4::DF == 0;
        if possible && fragments.count() <= MAX_FRAGMENTS { Ok(fragments) } else { Err(Malformed) }
    }

    /// Prepares to cut a segment that [`fragments_of`] has counted, with finished headers, `ip` bytes of them
    /// IPv4's.
    pub fn of_segment(header: &'a [u8], ip: usize, payload: Range<usize>, mtu: usize) -> Self {
        Self { header, ip, payload, at: 0, more: 0, chunk: chunk(mtu, ip), done: 0 }
    }

    /// Number of fragments.
    pub fn count(&self) -> usize {
        self.len().div_ceil(self.chunk)
    }

    /// Bytes of the IP header in front of each.
    pub fn header_len(&self) -> usize {
        self.ip
    }

    /// Bytes of the headers of the next fragment and of the whole of it; `None` when all are done. The first one
    /// of a segment has its transport header among the headers.
    pub fn next_lens(&self) -> Option<(usize, usize)> {
        let rest = self.len() - self.done;
        let head = if self.done == 0 { self.header.len() } else { self.ip };
        (rest > 0).then(|| (head, self.ip + rest.min(self.chunk)))
    }

    /// Writes the headers of the next fragment to `out`, exactly as many bytes as [`Self::next_lens`] has said,
    /// and returns where its payload lies; `None` when all are done.
    pub fn next_fragment(&mut self, out: &mut [u8]) -> Option<Range<usize>> {
        let (head, len) = self.next_lens()?;
        out.copy_from_slice(&self.header[..head]);
        if self.done > 0 {
            blank_options(&mut out[ipv4::LEN..]);
        }
        let end = self.done + (len - self.ip);
        let more = if end == self.len() { self.more } else { ipv4::MF };
        ipv4::finish_fragment(&mut out[..self.ip], len as u16, ((self.at + self.done) / 8) as u16 | more);
        let transport = self.header.len() - self.ip;
        let from = self.payload.start + self.done.saturating_sub(transport);
        self.done = end;
        Some(from..self.payload.start + (end - transport))
    }

    /// Bytes behind the IP header of what is cut.
    fn len(&self) -> usize {
        self.header.len() - self.ip + self.payload.len()
    }
}

/// Offset of a packet's payload in its datagram, in bytes.
fn offset(ip: Ipv4<'_>) -> usize {
    usize::from(ip.flags() & 0x1fff) * 8
}

/// Turns options that only the first fragment carries (copied flag clear, RFC 791 §3.1) into
/// no-operations, so that all headers have one length.
fn blank_options(options: &mut [u8]) {
    const END: u8 = 0;
    const NO_OPERATION: u8 = 1;
    const COPIED: u8 = 0x80;
    let mut at = 0;
    while at < options.len() && options[at] != END {
        let len = match (options[at], options.get(at + 1)) {
            (NO_OPERATION, _) => 1,
            (_, Some(len @ 2..)) => usize::from(*len),
            // There is no telling where the next one begins.
            _ => options.len(),
        };
        let end = (at + len).min(options.len());
        if options[at] & COPIED == 0 {
            options[at..end].fill(NO_OPERATION);
        }
        at = end;
    }
}

#[cfg(test)]
mod tests {
    use etherparse::defrag::IpDefragPool;
    use proptest::prelude::*;

    use super::{Fragments, allowed};
    use crate::wire::testing::{Spec, any_packet, bytes};
    use crate::wire::{Ipv4, ipv4, put16};

    fn cut(packet: &[u8], mtu: usize) -> Vec<Vec<u8>> {
        let mut fragments = Fragments::new(packet, mtu).unwrap();
        let (count, mut all) = (fragments.count(), Vec::new());
        let mut head = vec![0xa5; fragments.header_len()];
        while let Some((head_len, len)) = fragments.next_lens() {
            assert_eq!(head_len, head.len());
            let payload = fragments.next_fragment(&mut head).unwrap();
            all.push([&head[..], &packet[payload]].concat());
            assert_eq!(all.last().unwrap().len(), len);
        }
        assert_eq!(fragments.next_fragment(&mut head), None);
        assert_eq!(all.len(), count);
        all
    }

    fn clear(mut spec: Spec) -> Spec {
        spec.df = false;
        spec
    }

    proptest! {
        #[test]
        fn a_reassembler_gets_the_datagram_back(
            spec in any_packet(bytes(0usize..9000)), mtu in 200usize..1600, turn in 0usize..100,
        ) {
            let spec = clear(spec);
            prop_assume!(!spec.is_v6());
            let packet = spec.build();
            prop_assume!(packet.len() > mtu);
            let mut fragments = cut(&packet, mtu);
            for fragment in &fragments {
                prop_assert!(fragment.len() <= mtu);
                let ip = Ipv4::parse(fragment).unwrap();
                prop_assert!(ip.checksum_ok() && ip.id() == spec.id);
            }
            let turn = turn % fragments.len();
            fragments.rotate_left(turn);
            let (mut pool, mut whole) = (IpDefragPool::<(), ()>::new(), None);
            for fragment in &fragments {
                let sliced = etherparse::SlicedPacket::from_ip(fragment).unwrap();
                whole = pool.process_sliced_packet(&sliced, (), ()).unwrap().or(whole);
            }
            prop_assert_eq!(whole.unwrap().payload, Ipv4::parse(&packet).unwrap().payload());
        }
    }

    #[test]
    fn a_fragment_of_a_fragment() {
        let mut packet = clear(Spec::udp4(&[7; 3000])).build();
        put16(&mut packet, 6, ipv4::MF | 100);
        let flags: Vec<u16> = cut(&packet, 1500).iter().map(|f| Ipv4::parse(f).unwrap().flags()).collect();
        assert_eq!(flags, [ipv4::MF | 100, ipv4::MF | 285, ipv4::MF | 470]);
        put16(&mut packet, 6, 100);
        let last = Ipv4::parse(&cut(&packet, 1500)[2]).unwrap().flags();
        assert_eq!(last, 470);
    }

    #[test]
    fn only_copied_options_go_into_later_fragments() {
        let options = vec![0x83, 7, 4, 1, 2, 3, 4, 0x44, 8, 5, 0, 9, 9, 9, 9, 1, 0x94, 4, 0, 0, 0, 0, 0, 0];
        let spec = clear(Spec { options: options.clone(), ..Spec::udp4(&[1; 2000]) });
        let fragments = cut(&spec.build(), 1000);
        assert_eq!(fragments[0][20..44], options);
        let mut later = options;
        later[7..16].fill(1);
        assert_eq!(fragments[1][20..44], later);
    }

    #[test]
    fn hostile_options_end() {
        for options in [[7, 0, 0, 0], [7, 1, 3, 3], [7, 255, 3, 3], [1, 1, 1, 7], [0x83, 255, 7, 7]] {
            let spec = clear(Spec { options: options.to_vec(), ..Spec::udp4(&[1; 2000]) });
            assert!(cut(&spec.build(), 600).iter().all(|f| Ipv4::parse(f).unwrap().checksum_ok()));
        }
    }

    #[test]
    fn what_cannot_be_cut() {
        let packet = Spec::udp4(&[1; 2000]).build();
        assert!(!allowed(&packet) && Fragments::new(&packet, 1000).is_err());
        assert!(!allowed(&Spec::tcp6(&[1; 2000]).build()));
        let mut packet = clear(Spec::udp4(&[1; 2000])).build();
        assert!(allowed(&packet) && Fragments::new(&packet, 27).is_err());
        // Its end would lie beyond what the offset can say.
        put16(&mut packet, 6, 8000);
        assert!(Fragments::new(&packet, 1000).is_err());
        let options = Spec { options: vec![1; 40], ..Spec::udp4(&vec![1; 65467]) };
        assert_eq!(Fragments::new(&clear(options).build(), 526).unwrap().count(), 142);
        let largest = clear(Spec::udp4(&vec![1; 65507])).build();
        assert_eq!(Fragments::new(&largest, 526).unwrap().count(), 130);
        assert!(Fragments::new(&largest, 400).is_err());
    }
}
