//! The two flows as a worker runs them, between buffers instead of a TUN and sockets: per packet and per
//! super-packet, in every mode. Each is first shown to do what it should and to allocate nothing.

#[path = "../common/mod.rs"]
mod common;
mod flows;

use common::{FAR, NEAR, SEGMENT, SEGMENTS};
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput};
use flows::{InboundFlow, OutboundFlow};
use underpass::dataplane::packet::{Format, Paths};
use underpass::net::Mode;
use underpass::wire::VnetHdr;

/// Batches before the one in which allocations are counted: buffers have their size by then.
const SETTLE: usize = 3;
/// Batches in which allocations are counted.
const COUNTED: usize = 100;
/// Small packets in one batch.
const BATCH: usize = 32;

const SOCKETS: Paths = Paths { tap: false, packet: false };
/// Every way out of a worker: mode and optional path.
const WAYS_OUT: [(&str, Mode, Paths); 6] = [
    ("vxlan", Mode::Vxlan, SOCKETS),
    ("vxlan-tap", Mode::Vxlan, Paths { tap: true, ..SOCKETS }),
    ("ipip-raw", Mode::Ipip, SOCKETS),
    ("ipip-packet", Mode::Ipip, Paths { packet: true, ..SOCKETS }),
    ("direct-raw", Mode::Direct, SOCKETS),
    ("direct-packet", Mode::Direct, Paths { packet: true, ..SOCKETS }),
];

fn main() {
    let mut criterion = common::criterion();
    outbound(&mut criterion);
    inbound(&mut criterion);
    judged(&mut criterion);
    criterion.final_summary();
}

fn outbound(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pipeline/outbound");
    let small = (VnetHdr::default(), common::udp(NEAR, FAR, 64));
    let big = common::super_packet(NEAR, FAR);
    for (name, mode, paths) in WAYS_OUT {
        let mut flow = OutboundFlow::new(mode, paths, &vec![small.clone(); BATCH]);
        measure(&mut group, &format!("{name}/packet"), BATCH, 64, || flow.batch());
        let mut flow = OutboundFlow::new(mode, paths, std::slice::from_ref(&big));
        measure(&mut group, &format!("{name}/super-packet"), SEGMENTS, SEGMENT, || flow.batch());
    }
    group.finish();
}

fn inbound(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pipeline/inbound");
    let small: Vec<_> = (0..BATCH).map(|_| common::udp(FAR, NEAR, 64)).collect();
    let bulk: Vec<_> = (0..SEGMENTS).map(|index| common::tcp(FAR, NEAR, SEGMENT, index)).collect();
    for (format, name) in [(Format::Vxlan, "vxlan"), (Format::Ipip, "ipip")] {
        let mut flow = InboundFlow::new(format, &small, false);
        measure(&mut group, &format!("{name}/packet"), BATCH, 64, || flow.batch().1);
        // Coalesced by UDP_GRO where the socket does that.
        let mut flow = InboundFlow::new(format, &bulk, format == Format::Vxlan);
        assert_eq!(flow.batch(), (1, SEGMENTS), "one super-packet");
        measure(&mut group, &format!("{name}/super-packet"), SEGMENTS, SEGMENT, || flow.batch().1);
    }
    group.finish();
}

/// Both flows under a policy: off, packets of one connection, and each packet of another connection than the one before.
fn judged(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pipeline/policy");
    let one = |from, to| vec![common::udp(from, to, 64); BATCH];
    let many =
        |from, to| (1..=BATCH as u16).map(|port| with_source_port(common::udp(from, to, 64), port)).collect();
    let there =
        |packets: Vec<Vec<u8>>| packets.into_iter().map(|packet| (VnetHdr::default(), packet)).collect();
    let outbound = |packets: Vec<Vec<u8>>| -> OutboundFlow {
        let packets: Vec<(VnetHdr, Vec<u8>)> = there(packets);
        OutboundFlow::new(Mode::Vxlan, SOCKETS, &packets)
    };
    let inbound = |packets: Vec<Vec<u8>>| InboundFlow::new(Format::Vxlan, &packets, false);
    for (name, connections) in [("one-connection", 1), ("many-connections", BATCH)] {
        let packets = |from, to| if connections == 1 { one(from, to) } else { many(from, to) };
        let mut off = outbound(packets(NEAR, FAR));
        measure(&mut group, &format!("outbound/{name}/off"), BATCH, 64, || off.batch());
        let mut on = outbound(packets(NEAR, FAR)).judged(1000);
        measure(&mut group, &format!("outbound/{name}/1000-rules"), BATCH, 64, || on.batch());
        let mut off = inbound(packets(FAR, NEAR));
        measure(&mut group, &format!("inbound/{name}/off"), BATCH, 64, || off.batch().1);
        let mut on = inbound(packets(FAR, NEAR)).judged(1000);
        measure(&mut group, &format!("inbound/{name}/1000-rules"), BATCH, 64, || on.batch().1);
    }
    let big = common::super_packet(NEAR, FAR);
    for (name, rules) in [("off", None), ("1000-rules", Some(1000))] {
        let flow = OutboundFlow::new(Mode::Vxlan, SOCKETS, std::slice::from_ref(&big));
        let mut flow = match rules {
            Some(rules) => flow.judged(rules),
            None => flow,
        };
        measure(&mut group, &format!("outbound/super-packet/{name}"), SEGMENTS, SEGMENT, || flow.batch());
    }
    group.finish();
}

/// An IPv4 packet with another source port; nobody looks at its checksum.
fn with_source_port(mut packet: Vec<u8>, port: u16) -> Vec<u8> {
    packet[20..22].copy_from_slice(&(40_000 + port).to_be_bytes());
    packet
}

/// Times batches of `packets` packets with `payload` bytes each, after showing that they allocate
/// nothing.
fn measure(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    packets: usize,
    payload: usize,
    mut batch: impl FnMut() -> usize,
) {
    for _ in 0..SETTLE {
        expect(batch(), packets);
    }
    let allocated = allocation_counter::measure(|| (0..COUNTED).for_each(|_| expect(batch(), packets)));
    assert_eq!(allocated.count_total, 0, "{name}: allocations in {COUNTED} batches of {packets} packets");
    group.throughput(Throughput::ElementsAndBytes {
        elements: packets as u64,
        bytes: (packets * payload) as u64,
    });
    group.bench_function(name, |bencher| bencher.iter(&mut batch));
}

fn expect(got: usize, wanted: usize) {
    assert_eq!(got, wanted, "packets that came out");
}
