//! The programs that choose the socket of an inbound packet, in the kernel, which needs no capability for
//! that. They judge bytes, whatever the socket's family.

use std::os::unix::net::UnixDatagram;

use socket2::{Domain, SockFilter, Socket, Type};

use super::{back, packets};
use crate::dataplane::steering::hash::reference;
use crate::dataplane::steering::socket_cbpf::{pick, share};
use crate::wire::testing::Spec;
use crate::wire::{ethernet, protocol, vxlan};

const SHARES: u16 = 3;

/// What a socket with `program` receives of `packets`, each by its number: a program's result is the number
/// of bytes to keep.
fn received(program: &[SockFilter], packets: &[Vec<u8>]) -> Vec<(usize, Vec<u8>)> {
    let (to, from) = Socket::pair(Domain::UNIX, Type::DGRAM, None).unwrap();
    from.attach_filter(program).unwrap();
    let (to, from) = (UnixDatagram::from(to), UnixDatagram::from(from));
    from.set_nonblocking(true).unwrap();
    let (mut buffer, mut all) = ([0; 300], Vec::new());
    for (number, packet) in packets.iter().enumerate() {
        // The kernel tells the sender that the filter refused.
        let _ = to.send(packet);
        if let Ok(len) = from.recv(&mut buffer) {
            all.push((number, buffer[..len].to_vec()));
        }
    }
    all
}

/// The share of each of `packets`, of which exactly one socket must get each whole.
fn shares(outer: bool, packets: &[Vec<u8>]) -> Vec<u16> {
    let mut shares = vec![None; packets.len()];
    for index in 0..SHARES {
        for (number, bytes) in received(&share(outer, index, SHARES), packets) {
            assert_eq!(bytes, packets[number]);
            assert_eq!(shares[number].replace(index), None, "{:02x?}", packets[number]);
        }
    }
    shares.into_iter().map(Option::unwrap).collect()
}

/// The share that the hash gives; the first for what has no inner header.
fn expected(inner: &[u8]) -> u16 {
    (reference(inner).unwrap_or_default() % u32::from(SHARES)) as u16
}

fn behind(outer: &[u8], packets: &[Vec<u8>]) -> Vec<Vec<u8>> {
    packets.iter().map(|packet| [outer, packet].concat()).collect()
}

#[test]
fn raw_sockets_share_by_the_hash() {
    let mut packets = packets(5_000);
    // No socket of this family can be sent nothing.
    packets.retain(|packet| !packet.is_empty());
    let wanted: Vec<u16> = packets.iter().map(|packet| expected(packet)).collect();
    assert!((0..SHARES).all(|share| wanted.iter().filter(|wanted| **wanted == share).count() > 500));
    assert_eq!(shares(false, &packets), wanted);
    for header in [[0x45; 20].to_vec(), [0x4f; 60].to_vec()] {
        assert_eq!(shares(true, &behind(&header, &packets)), wanted);
    }
}

#[test]
fn vxlan_sockets_are_picked_by_the_hash() {
    let packets = packets(5_000);
    let datagrams = behind(&[0xa5; vxlan::LEN + ethernet::LEN], &packets);
    let mut picked = vec![0; packets.len()];
    for (number, bytes) in received(&pick(SHARES), &datagrams) {
        picked[number] = bytes.len() as u16;
    }
    let wanted: Vec<u16> = packets.iter().map(|packet| expected(packet)).collect();
    assert_eq!(picked, wanted);
}

#[test]
fn both_ways_of_a_flow_have_the_share_of_its_hash() {
    for port in 0..40 {
        for spec in [Spec::tcp4(&[port; 9]), Spec::udp4(&[port; 9]), Spec::tcp6(&[port; 9])] {
            let (mut there, l4) = (spec.build(), spec.l4());
            there[l4..l4 + 2].copy_from_slice(&[0x12, port]);
            let both = [there.clone(), back(&there)];
            assert_eq!(shares(false, &both), [expected(&there); 2]);
        }
    }
}

#[test]
fn all_fragments_have_one_share() {
    let mut first = Spec::udp4(&[1; 40]).build();
    first[6] = 0x20;
    let mut second = Spec::udp4(&[1; 40]).build();
    (second[6], second[7]) = (0, 0x55);
    second[20..24].fill(0x77);
    assert_eq!(second[9], protocol::UDP);
    let [a, b] = shares(false, &[first.clone(), second])[..] else { panic!("two packets") };
    assert_eq!((a, b), (expected(&first), expected(&first)));
}
