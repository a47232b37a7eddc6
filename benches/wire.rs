//! Headers: one look at an inner packet, and an outer header from its template.

mod common;

use std::hint::black_box;

use criterion::Criterion;
use underpass::dataplane::encap::{ipip, vxlan};
use underpass::dataplane::segment::Flow;
use underpass::net::{Mac, Vni};
use underpass::wire::{checksum, ethernet, protocol};

fn main() {
    let mut criterion = common::criterion();
    parse(&mut criterion);
    template(&mut criterion);
    criterion.final_summary();
}

fn parse(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("wire/parse");
    let packets = [
        ("tcp-v4", common::tcp(common::NEAR, common::FAR, 1410, 0)),
        ("udp-v4", common::udp(common::NEAR, common::FAR, 64)),
        ("udp-v6", common::udp6(64)),
    ];
    for (name, packet) in &packets {
        assert_eq!(Flow::of(packet).expect("well formed").total_len, packet.len());
        group.bench_function(format!("flow/{name}"), |bencher| bencher.iter(|| Flow::of(black_box(packet))));
        group.bench_function(format!("etherparse/{name}"), |bencher| {
            bencher.iter(|| etherparse::SlicedPacket::from_ip(black_box(packet)).is_ok());
        });
    }
    group.finish();
}

fn template(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("wire/template");
    let outer = ipip::template([192, 0, 2, 1].into(), [192, 0, 2, 2].into(), protocol::IPIP);
    group.bench_function("ipip", |bencher| {
        bencher.iter(|| {
            let mut header = black_box(outer);
            ipip::patch(&mut header, black_box(0x02), black_box(1400));
            header
        });
    });
    let headers = vxlan::template(Vni::CALICO, Mac::of_vtep("b"), Mac::of_vtep("a"), ethernet::IPV4);
    let mut slab = [0; vxlan::TEMPLATE];
    group.bench_function("vxlan", |bencher| {
        bencher.iter(|| black_box(&mut slab).copy_from_slice(black_box(&headers)));
    });
    group.bench_function("checksum-update", |bencher| {
        bencher.iter(|| checksum::update(black_box(0x1234), black_box(0x4001), black_box(0x3f01)));
    });
    group.finish();
}
