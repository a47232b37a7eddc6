//! Merging: golden bytes, and each rule of the kernel's GRO self-test as a row of a table.

use super::{Delivered, Kept, cut};
use crate::dataplane::segment::merge::{Candidate, Cut, Grouping, Rules, UnknownSize};
use crate::dataplane::segment::metadata::NoMetadata;
use crate::dataplane::segment::{Flow, Merge, Metadata, MetadataSource};
use crate::wire::testing::{Spec, set_flags};
use crate::wire::{VnetHdr, be16, put16, vnet_hdr};

pub const ALL: Rules = Rules { tcp: true, udp: true };

/// One batch: all packets, then the end.
pub fn merge(rules: Rules, packets: &[Vec<u8>]) -> Vec<Delivered> {
    merge_with(rules, packets, |flow| flow)
}

/// The same after `change` had its way with every packet's classification.
pub fn merge_with(rules: Rules, packets: &[Vec<u8>], change: impl Fn(Flow) -> Flow) -> Vec<Delivered> {
    let arena = packets.concat();
    let (mut merge, mut kept, mut at) = (Merge::new(rules), Kept::default(), 0);
    for packet in packets {
        if let Ok(flow) = Flow::of(&arena[at..at + packet.len()]) {
            let candidate = Candidate { flow: change(flow), at, grouping: Grouping::Single };
            merge.push(candidate, &arena, &mut NoMetadata, &mut kept).unwrap();
        }
        at += packet.len();
    }
    merge.finish(&arena, &mut kept);
    let before = kept.0.len();
    merge.finish(&arena, &mut kept);
    assert_eq!(kept.0.len(), before, "a batch ends once");
    kept.0
}

/// How many packets each delivery stands for.
fn counts(packets: &[Vec<u8>]) -> Vec<u32> {
    merge(ALL, packets).iter().map(|delivered| delivered.packets).collect()
}

/// Packet `index` of a stream of 100-byte segments.
fn nth(base: &Spec, index: u16) -> Spec {
    let mut spec = Spec { id: base.id.wrapping_add(index), ..base.clone() };
    if spec.is_tcp() {
        spec.tcp().sequence_number += 100 * u32::from(index);
    }
    spec
}

/// `count` packets of a stream, each after `change`.
fn stream(base: &Spec, count: u16, change: impl Fn(u16, &mut Spec)) -> Vec<Vec<u8>> {
    let packet = |index| {
        let mut spec = nth(base, index);
        change(index, &mut spec);
        spec.build()
    };
    (0..count).map(packet).collect()
}

/// Three packets of which `change` alters the second.
fn second(base: &Spec, change: impl Fn(&mut Spec)) -> Vec<u32> {
    counts(&stream(base, 3, |index, spec| {
        if index == 1 {
            change(spec);
        }
    }))
}

fn data() -> Spec {
    Spec::tcp4(&[0x5a; 100])
}

fn both(spec: Spec) -> [Spec; 2] {
    [spec.clone(), spec.v6()]
}

#[test]
fn golden() {
    let first = Spec::tcp4(&[1, 2, 3]);
    let mut last = Spec::tcp4(&[4, 5]);
    last.tcp().sequence_number += 3;
    set_flags(last.tcp(), 0x18);
    let delivered = merge(ALL, &[first.build(), last.build()]);
    #[rustfmt::skip]
    let packet = vec![
        0x45, 0x00, 0x00, 0x2d, 0x01, 0x00, 0x40, 0x00, 0x3f, 0x06, 0x21, 0xc6, 10, 244, 1, 10, 10, 244, 2, 20,
        0x9c, 0x40, 0x00, 0x50, 0, 0, 0x03, 0xe8, 0, 0, 0, 0x4d, 0x50, 0x18, 0x20, 0, 0x19, 0x25, 0, 0, 1, 2, 3, 4, 5,
    ];
    let vnet = VnetHdr::parse(&[1, 1, 40, 0, 3, 0, 20, 0, 16, 0]);
    assert_eq!(delivered, [Delivered { vnet, packet, packets: 2, bytes: 43 + 42 }]);
}

#[test]
fn data_of_one_size_coalesces_and_a_smaller_one_ends_it() {
    for base in [both(data()), both(Spec::udp4(&[7; 100]))].concat() {
        assert_eq!(counts(&stream(&base, 3, |_, _| {})), [3]);
        let short_second = |index, spec: &mut Spec| spec.payload.truncate(if index == 1 { 99 } else { 100 });
        assert_eq!(counts(&stream(&base, 3, short_second)), [2, 1]);
        let short_first = |index, spec: &mut Spec| spec.payload.truncate(if index == 0 { 99 } else { 100 });
        assert_eq!(counts(&stream(&base, 3, short_first)), [1, 2]);
        let one = |index, spec: &mut Spec| spec.payload.truncate(if index == 2 { 1 } else { 100 });
        assert_eq!(counts(&stream(&base, 3, one)), [3]);
    }
}

#[test]
fn flags_decide() {
    for base in both(data()) {
        // Pure ACKs and anything but ACK and PSH travel alone.
        assert_eq!(second(&base, |spec| spec.payload.clear()), [1, 1, 1]);
        assert_eq!(counts(&stream(&base, 3, |_, spec| spec.payload.clear())), [1, 1, 1]);
        for flags in [0x00, 0x08, 0x11, 0x12, 0x14, 0x30, 0x50, 0x90, 0x19, 0x38] {
            assert_eq!(second(&base, |spec| set_flags(spec.tcp(), flags)), [1, 1, 1], "{flags:#x}");
        }
        // PSH joins and closes; the flag arrives on the whole.
        assert_eq!(second(&base, |spec| spec.tcp().psh = true), [2, 1]);
        assert_eq!(counts(&stream(&base, 3, |_, spec| spec.tcp().psh = true)), [1, 1, 1]);
        // Accurate ECN's bit lies outside the flags byte.
        assert_eq!(second(&base, |spec| spec.tcp().ns = true), [1, 1, 1]);
    }
}

#[test]
fn a_segment_must_follow_in_sequence() {
    for base in both(data()) {
        for (offset, counts) in [(1, [1, 1, 1]), (0u32.wrapping_sub(1), [1, 1, 1]), (100, [1, 1, 1])] {
            let late = |spec: &mut Spec| spec.tcp().sequence_number = 1100u32.wrapping_add(offset);
            assert_eq!(second(&base, late), counts, "{offset}");
        }
        // Retransmission of the first.
        assert_eq!(second(&base, |spec| spec.tcp().sequence_number = 1000), [1, 1, 1]);
        let mut wrapping = base.clone();
        wrapping.tcp().sequence_number = u32::MAX - 99;
        let packets = stream(&base, 3, |index, spec| {
            spec.tcp().sequence_number =
                wrapping.clone().tcp().sequence_number.wrapping_add(u32::from(index) * 100);
        });
        assert_eq!(counts(&packets), [3]);
    }
}

#[test]
fn tcp_headers_must_agree() {
    let timestamps = |value: u8| [1, 1, 8, 10, 0, 0, 0, value, 0, 0, 0, 1];
    for base in both(data()) {
        let mut with = base.clone();
        with.tcp().set_options_raw(&timestamps(1)).unwrap();
        assert_eq!(second(&with, |_| {}), [3]);
        assert_eq!(second(&with, |spec| spec.tcp().set_options_raw(&timestamps(2)).unwrap()), [1, 1, 1]);
        assert_eq!(second(&with, |spec| spec.tcp().set_options_raw(&[]).unwrap()), [1, 1, 1]);
        assert_eq!(second(&base, |spec| spec.tcp().set_options_raw(&timestamps(1)).unwrap()), [1, 1, 1]);
        assert_eq!(second(&base, |spec| spec.tcp().acknowledgment_number += 1), [1, 1, 1]);
        assert_eq!(second(&base, |spec| spec.tcp().window_size += 1), [1, 1, 1]);
        assert_eq!(second(&base, |spec| spec.tcp().urgent_pointer = 1), [1, 1, 1]);
        assert_eq!(second(&base, |spec| spec.tcp().source_port += 1), [1, 1, 1]);
        assert_eq!(second(&base, |spec| spec.tcp().destination_port += 1), [1, 1, 1]);
    }
}

#[test]
fn ip_headers_must_agree() {
    for base in [both(data()), both(Spec::udp4(&[7; 100]))].concat() {
        assert_eq!(second(&base, |spec| spec.ttl -= 1), [1, 1, 1]);
        assert_eq!(second(&base, |spec| spec.tos = 0x20), [1, 1, 1]);
        assert_eq!(second(&base, |spec| spec.tos = 0x02), [1, 1, 1]);
        assert_eq!(second(&base, |spec| spec.tos = 0x03), [1, 1, 1]);
    }
    for base in [data(), Spec::udp4(&[7; 100])] {
        assert_eq!(second(&base, |spec| spec.df = false), [1, 1, 1]);
        assert_eq!(second(&base, |spec| spec.source = [10, 244, 1, 11].into()).iter().sum::<u32>(), 3);
        let options = Spec { options: vec![1, 1, 1, 0], ..base.clone() };
        assert_eq!(counts(&stream(&options, 3, |_, _| {})), [1, 1, 1]);
        assert_eq!(second(&base, |spec| spec.options = vec![1, 1, 1, 0]), [1, 1, 1]);
        assert_eq!(second(&base.clone().v6(), |spec| spec.flow_label = 1), [1, 1, 1]);
    }
}

#[test]
fn identification_counts_unless_df_makes_it_meaningless() {
    for base in [data(), Spec::udp4(&[7; 100])] {
        let ids = |df: bool, ids: [u16; 3]| {
            counts(&stream(&base, 3, |index, spec| (spec.df, spec.id) = (df, ids[usize::from(index)])))
        };
        assert_eq!(ids(true, [0, 0, 0]), [3]);
        assert_eq!(ids(true, [7, 8, 9]), [3]);
        assert_eq!(ids(true, [7, 8, 8]), [3]);
        assert_eq!(ids(false, [7, 8, 9]), [3]);
        assert_eq!(ids(false, [0xfffe, 0xffff, 0]), [3]);
        assert_eq!(ids(false, [7, 7, 7]), [1, 1, 1]);
        assert_eq!(ids(false, [7, 9, 10]), [1, 2]);
        assert_eq!(ids(false, [7, 8, 100]), [2, 1]);
    }
}

#[test]
fn checksums_must_be_right_and_there() {
    for base in [both(data()), both(Spec::udp4(&[7; 100]))].concat() {
        let mut packets = stream(&base, 3, |_, _| {});
        *packets[1].last_mut().unwrap() ^= 1;
        let delivered = merge(ALL, &packets);
        assert_eq!(delivered.iter().map(|d| d.packet.clone()).collect::<Vec<_>>(), packets);
        assert!(delivered.iter().all(|d| d.vnet == VnetHdr::default() && d.packets == 1));
    }
    let mut packets = stream(&Spec::udp4(&[7; 100]), 3, |_, _| {});
    packets.iter_mut().for_each(|packet| put16(packet, 26, 0));
    assert_eq!(counts(&packets), [1, 1, 1]);
    // Data whose checksum is all ones: written as 0 it would add up, and still means "none".
    let mut base = Spec::udp4(&[0; 100]);
    base.payload[98..].copy_from_slice(&Spec::udp4(&[0; 100]).build()[26..28]);
    let mut packets = stream(&base, 3, |_, _| {});
    assert!(packets.iter().all(|packet| packet[26..28] == [0xff, 0xff]));
    assert_eq!(counts(&packets), [3]);
    packets.iter_mut().for_each(|packet| put16(packet, 26, 0));
    assert_eq!(counts(&packets), [1, 1, 1]);
}

#[test]
fn fragments_pass_alone_and_overtake_nothing() {
    let other = Spec { source: [10, 244, 1, 99].into(), ..data() };
    for word in [0x2000, 0x2001, 0x0001] {
        let mut packets = stream(&data(), 4, |_, _| {});
        // Behind a fragment header checksum nobody looks at here.
        put16(&mut packets[2], 6, word);
        packets.insert(2, other.build());
        let delivered = merge(ALL, &packets);
        assert_eq!(delivered.iter().map(|d| d.packets).collect::<Vec<_>>(), [2, 1, 1, 1], "{word:#x}");
        assert_eq!(delivered[2].packet, packets[3]);
    }
    let mut packets = stream(&data().v6(), 3, |_, _| {});
    packets[1][6] = 44;
    assert_eq!(counts(&packets), [1, 1, 1]);
}

#[test]
fn ipv6_extension_headers_hide_ports_so_nothing_is_overtaken() {
    // Hop-by-hop options, routing, ESP, destination options, and what nobody knows yet.
    for next_header in [0, 43, 50, 60, 253] {
        let mut packets = stream(&data().v6(), 4, |_, _| {});
        // As if the transport header came later: an options header of 8 bytes that names TCP.
        let mut hidden = packets[2].clone();
        hidden.splice(40..40, [6, 0, 1, 4, 0, 0, 0, 0]);
        hidden[6] = next_header;
        let len = be16(&hidden, 4) + 8;
        put16(&mut hidden, 4, len);
        packets[2] = hidden;
        let delivered = merge(ALL, &packets);
        assert_eq!(delivered.iter().map(|d| d.packets).collect::<Vec<_>>(), [2, 1, 1], "{next_header}");
        assert_eq!(delivered[1].packet, packets[2], "{next_header}");
    }
    // ICMPv6 is a flow of its own and holds up nobody.
    let echo = Spec { transport: crate::wire::testing::Transport::Echo(1, 2), ..data().v6() };
    let mut packets = stream(&data().v6(), 3, |_, _| {});
    packets.insert(1, echo.build());
    assert_eq!(counts(&packets), [1, 3]);
}

#[test]
fn super_packets_have_limits() {
    let tcp = Spec::tcp4(&[1; 1400]);
    let long = |base: &Spec, count| {
        counts(&stream(base, count, |index, spec| {
            if spec.is_tcp() {
                spec.tcp().sequence_number = 5 + u32::from(index) * spec.payload.len() as u32;
            }
        }))
    };
    assert_eq!(long(&tcp, 50), [46, 4]);
    assert_eq!(long(&tcp.v6(), 50), [46, 4]);
    assert_eq!(long(&Spec::udp4(&[1; 1400]), 50), [46, 4]);
    assert_eq!(long(&data(), 130), [64, 64, 2]);
    // 65535 exactly: 40 + 5 × 13099.
    assert_eq!(long(&Spec::tcp4(&[1; 13099]), 6), [5, 1]);
    assert_eq!(long(&Spec::tcp4(&[1; 13100]), 6), [4, 2]);
}

#[test]
fn udp_that_carries_tunnels_or_nothing_passes_alone() {
    for port in [4789, 8472, 6081, 2152, 500, 4500] {
        for ports in [(port, 9999), (9999, port)] {
            let base = Spec { transport: crate::wire::testing::Transport::Udp(ports.0, ports.1), ..data() };
            for base in both(base) {
                assert_eq!(counts(&stream(&base, 3, |_, _| {})), [1, 1, 1], "{ports:?}");
            }
        }
    }
    assert_eq!(counts(&stream(&Spec::udp4(&[]), 3, |_, _| {})), [1, 1, 1]);
    let echo = Spec { transport: crate::wire::testing::Transport::Echo(1, 2), ..data() };
    assert_eq!(counts(&stream(&echo, 3, |_, _| {})), [1, 1, 1]);
}

#[test]
fn the_switches_work() {
    let packets = [stream(&data(), 2, |_, _| {}), stream(&Spec::udp4(&[1; 9]), 2, |_, _| {})].concat();
    let counts = |tcp, udp| merge(Rules { tcp, udp }, &packets).iter().map(|d| d.packets).collect::<Vec<_>>();
    assert_eq!(counts(true, true), [2, 2]);
    // What is not held back goes first: there is no order between flows.
    assert_eq!(counts(true, false), [1, 1, 2]);
    assert_eq!(counts(false, true), [1, 1, 2]);
    assert_eq!(counts(false, false), [1, 1, 1, 1]);
}

#[test]
fn eight_flows_interleave_and_the_ninth_sends_off_the_oldest() {
    let flow = |number: u8| Spec { source: [10, 244, 1, number].into(), ..data() };
    let rounds = |flows: u8| {
        let round = |index| (0..flows).map(move |number| nth(&flow(number), index).build());
        (0..3).flat_map(round).collect::<Vec<_>>()
    };
    assert_eq!(counts(&rounds(8)), [3; 8]);
    // The ninth flow of each round takes the place of the run that comes next.
    assert_eq!(counts(&rounds(9)), [1; 27]);
    let mut late = rounds(8);
    late.push(flow(8).build());
    late.push(nth(&flow(0), 3).build());
    let delivered = merge(ALL, &late);
    let summary: Vec<_> = delivered.iter().map(|d| (d.packet[15], d.packets)).collect();
    assert_eq!(summary, [(0, 3), (1, 3), (2, 3), (3, 3), (4, 3), (5, 3), (6, 3), (7, 3), (8, 1), (0, 1)]);
}

#[test]
fn bytes_behind_a_packet_do_not_count() {
    let mut packets = stream(&data(), 3, |_, _| {});
    packets[0].extend([9; 6]);
    packets[2].extend([9; 2]);
    let delivered = merge(ALL, &packets);
    assert_eq!(delivered.len(), 1);
    assert_eq!(delivered[0].bytes, 3 * 140);
    assert_eq!(delivered[0].packet[40..], [0x5a; 300]);
}

/// One packet alone, which the kernel says `known` of, or nothing, received as `grouping` says.
fn alone(
    packet: &[u8],
    grouping: Grouping,
    known: Option<Metadata>,
    all: bool,
) -> (Result<Cut, UnknownSize>, Vec<Delivered>, bool) {
    alone_on(packet, grouping, known, (all, true))
}

/// The same where the kernel knows of `all` packets, and where unfinished checksums come at all or not.
fn alone_on(
    packet: &[u8],
    grouping: Grouping,
    known: Option<Metadata>,
    (all, unfinished): (bool, bool),
) -> (Result<Cut, UnknownSize>, Vec<Delivered>, bool) {
    struct Source(Option<Metadata>, bool, bool);
    impl MetadataSource for Source {
        fn of(&mut self, _inner: &[u8]) -> Option<Metadata> {
            self.0.take()
        }

        fn knows_all(&self) -> bool {
            self.1
        }

        fn want_all(&mut self) {
            self.1 = true;
        }

        fn believes_unfinished(&mut self, _several: bool) -> bool {
            self.2
        }
    }
    let (mut merge, mut kept) = (Merge::new(ALL), Kept::default());
    let mut source = Source(known, all, unfinished);
    let candidate = Candidate { flow: Flow::of(packet).unwrap(), at: 0, grouping };
    let cut = merge.push(candidate, packet, &mut source, &mut kept);
    merge.finish(packet, &mut kept);
    (cut, kept.0, source.1)
}

fn known(spec: &Spec, size: u16) -> Metadata {
    let vnet = spec.build_gso(size).0;
    Metadata { csum_start: Some(vnet.csum_start), gso_type: vnet.gso_type, gso_size: size }
}

#[test]
fn a_super_packet_is_cut_to_the_size_that_the_kernel_knows() {
    let options = Spec { options: vec![1, 1, 1, 0], ..Spec::tcp4(&[3; 4000]) };
    let mut cwr = Spec::tcp4(&[3; 4000]);
    cwr.tcp().cwr = true;
    for base in [both(Spec::tcp4(&[3; 4000])), both(Spec::udp4(&[7; 4000])), [options, cwr]].concat() {
        for (size, grouping) in [(1399, Grouping::Any), (100, Grouping::Tcp), (3999, Grouping::Any)] {
            let (_, partial) = base.build_partial();
            let (cut_to, delivered, _) = alone(&partial, grouping, Some(known(&base, size)), false);
            assert_eq!(delivered.len(), 1);
            assert_eq!((delivered[0].vnet, &delivered[0].packet), (base.build_gso(size).0, &partial));
            let packets = cut(&partial, &delivered[0].vnet);
            assert_eq!(packets, base.segments(size).iter().map(Spec::build).collect::<Vec<_>>());
            let repeated = (packets.len() - 1) * base.header_len();
            assert_eq!(cut_to, Ok(Cut { packets: packets.len() as u32, repeated, recut: false }));
            assert_eq!(delivered[0].packets as usize, packets.len());
            assert_eq!(delivered[0].bytes as usize, packets.concat().len());
        }
    }
}

#[test]
fn a_single_packet_stays_one_however_long() {
    for base in [both(Spec::tcp4(&[3; 4000])), both(Spec::udp4(&[7; 4000]))].concat() {
        let (vnet, partial) = base.build_partial();
        let single = Metadata { csum_start: Some(vnet.csum_start), ..Metadata::default() };
        for (grouping, known) in
            [(Grouping::Any, Some(single)), (Grouping::Tcp, Some(single)), (Grouping::Single, None)]
        {
            let (cut, delivered, _) = alone(&partial, grouping, known, false);
            assert_eq!(cut.map(|cut| cut.packets), Ok(1));
            assert_eq!((delivered[0].vnet, &delivered[0].packet), (vnet, &partial));
        }
    }
}

/// The field may hold that value by chance, or because somebody wrote it there.
#[test]
fn a_checksum_that_only_looks_unfinished_is_left_alone() {
    for base in [both(data()), both(Spec::udp4(&[7; 100]))].concat() {
        let (_, partial) = base.build_partial();
        let (cut, delivered, _) = alone(&partial, Grouping::Any, Some(Metadata::default()), false);
        assert_eq!(cut.map(|cut| cut.packets), Ok(1));
        assert_eq!((delivered[0].vnet, &delivered[0].packet), (VnetHdr::default(), &partial));
    }
}

/// Where no link leaves checksums unfinished, one that looks so is a wrong one, whatever the socket said.
#[test]
fn a_wrong_checksum_is_not_blessed() {
    for base in [both(data()), both(Spec::udp4(&[7; 100])), both(Spec::udp4(&[7; 2000]))].concat() {
        let (_, partial) = base.build_partial();
        for grouping in [Grouping::Any, Grouping::Tcp, Grouping::Single] {
            let (cut, delivered, _) = alone_on(&partial, grouping, None, (false, false));
            assert_eq!(cut.map(|cut| (cut.packets, cut.recut)), Ok((1, false)));
            assert_eq!((delivered[0].vnet, &delivered[0].packet), (VnetHdr::default(), &partial));
        }
    }
}

/// A right checksum may be equal to the pseudo-header sum: the rest adds up to nothing.
#[test]
fn a_right_checksum_that_looks_unfinished_is_right() {
    for base in both(Spec::udp4(&[0; 2000])) {
        let (vnet, mut packet) = base.build_partial();
        // Two bytes of data make the sum of all that is not the pseudo-header vanish.
        let rest = crate::wire::checksum::sum(&packet[base.l4()..]);
        let field = base.l4() + usize::from(vnet.csum_offset);
        let unfinished = be16(&packet, field);
        put16(&mut packet, base.header_len(), !crate::wire::checksum::fold(rest + u32::from(unfinished)));
        let grouping = [Grouping::Any, Grouping::Tcp, Grouping::Single, Grouping::Datagrams(1000)];
        for (grouping, unfinished) in grouping.into_iter().flat_map(|one| [(one, true), (one, false)]) {
            let (cut, delivered, _) = alone_on(&packet, grouping, None, (false, unfinished));
            assert_eq!(cut.map(|cut| cut.packets), Ok(1), "{grouping:?}");
            assert_eq!((delivered[0].vnet, &delivered[0].packet), (VnetHdr::default(), &packet));
        }
    }
}

/// Lists keep the headers of the first packet, its checksum too.
#[test]
fn a_list_of_packets_is_cut_like_a_super_packet() {
    for base in [both(Spec::tcp4(&[3; 300])), both(Spec::udp4(&[7; 300]))].concat() {
        let (vnet, partial) = base.build_gso(100);
        let mut list = partial.clone();
        let field = base.l4() + usize::from(vnet.csum_offset);
        let first = base.segments(100)[0].build();
        list[field..field + 2].copy_from_slice(&first[field..field + 2]);
        let told = Metadata { csum_start: None, ..known(&base, 100) };
        let (cut_to, delivered, _) = alone(&list, Grouping::Any, Some(told), true);
        assert_eq!(cut_to.map(|cut| cut.packets), Ok(3));
        assert_eq!((delivered[0].vnet, &delivered[0].packet), (vnet, &partial));
        let packets = cut(&partial, &delivered[0].vnet);
        assert_eq!(packets, base.segments(100).iter().map(Spec::build).collect::<Vec<_>>());
        // Until that is known it looks like a damaged packet, which the receiver refuses; from then on all are asked about.
        let (_, delivered, all) = alone(&list, Grouping::Any, None, false);
        assert_eq!((delivered[0].vnet, &delivered[0].packet, all), (VnetHdr::default(), &list, true));
        let (_, _, all) = alone(&list, Grouping::Tcp, None, false);
        assert!(!all);
    }
}

#[test]
fn what_nobody_knows_is_dropped_or_cut_to_what_every_path_carries() {
    for base in both(Spec::udp4(&[7; 300])) {
        let (cut, delivered, _) = alone(&base.build_partial().1, Grouping::Any, None, false);
        assert_eq!((cut, delivered), (Err(UnknownSize), vec![]));
    }
    for (base, smallest) in [(Spec::tcp4(&[3; 4000]), 576), (Spec::tcp6(&[3; 4000]), 1280)] {
        let size = smallest - base.header_len();
        for grouping in [Grouping::Any, Grouping::Tcp] {
            let (cut_to, delivered, _) = alone(&base.build_partial().1, grouping, None, false);
            assert!(cut_to.unwrap().recut);
            assert_eq!(delivered[0].vnet, base.build_gso(size as u16).0);
            let packets = cut(&delivered[0].packet, &delivered[0].vnet);
            assert_eq!(packets.iter().map(Vec::len).max(), Some(smallest));
            // One that every path carries may be one or many: it is the same there.
            let short = Spec { payload: vec![3; size], ..base.clone() };
            let (vnet, partial) = short.build_partial();
            let (cut_to, delivered, _) = alone(&partial, grouping, None, false);
            assert_eq!((cut_to.unwrap().recut, delivered[0].vnet), (false, vnet));
        }
    }
}

/// What contradicts the packet is about another one.
#[test]
fn metadata_that_does_not_fit_is_not_believed() {
    let tcp = Spec::tcp4(&[3; 4000]);
    let right = known(&tcp, 1000);
    let wrong = [
        Metadata { csum_start: Some(40), ..right },
        Metadata { gso_type: vnet_hdr::GSO_TCPV6, ..right },
        Metadata { gso_type: vnet_hdr::GSO_UDP_L4, ..right },
        Metadata { gso_type: 0x7f, ..right },
    ];
    for wrong in wrong {
        let (cut, delivered, _) = alone(&tcp.build_partial().1, Grouping::Any, Some(wrong), false);
        assert_eq!((cut, delivered), (Err(UnknownSize), vec![]));
    }
}

/// Behind extension headers only the kernel knows the transport header.
#[test]
fn super_packets_with_extension_headers_keep_their_size() {
    for base in [Spec::tcp6(&[3; 4000]), Spec::udp4(&[7; 4000]).v6()] {
        let (vnet, plain) = base.build_gso(1000);
        let options = [plain[6], 0, 1, 4, 0, 0, 0, 0];
        let mut packet = [&plain[..40], &options, &plain[40..]].concat();
        packet[6] = 60;
        let len = be16(&plain, 4) + 8;
        put16(&mut packet, 4, len);
        let told = Metadata { csum_start: Some(48), ..known(&base, 1000) };
        let (cut_to, delivered, _) = alone(&packet, Grouping::Any, Some(told), false);
        assert_eq!(cut_to.map(|cut| cut.packets), Ok(4));
        let wanted = VnetHdr { hdr_len: vnet.hdr_len + 8, csum_start: 48, ..vnet };
        assert_eq!((delivered[0].vnet, &delivered[0].packet), (wanted, &packet));
        assert_eq!(cut(&packet, &wanted).len(), 4);
        let (_, delivered, _) = alone(&packet, Grouping::Any, None, false);
        assert_eq!(delivered[0].vnet, VnetHdr::default());
    }
}

/// What a kernel cuts on a virtual link comes as segments whose checksums are all left to do.
#[test]
fn unfinished_segments_join() {
    for base in [both(data()), both(Spec::udp4(&[7; 100]))].concat() {
        let packets: Vec<_> = (0..3).map(|index| nth(&base, index).build_partial().1).collect();
        let delivered = merge(ALL, &packets);
        assert_eq!(delivered.iter().map(|d| d.packets).collect::<Vec<_>>(), [3]);
        let finished: Vec<_> = (0..3).map(|index| nth(&base, index).build()).collect();
        assert_eq!(delivered, merge(ALL, &finished));
    }
}
