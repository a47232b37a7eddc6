//! Cutting a super-packet of 64 KiB into segments, and joining segments into one again.

mod common;

use std::hint::black_box;

use common::{FAR, NEAR, SEGMENT, SEGMENTS};
use criterion::{Criterion, Throughput};
use underpass::dataplane::packet::{Delivery, Sink};
use underpass::dataplane::segment::merge::{Candidate, Grouping, Rules};
use underpass::dataplane::segment::metadata::NoMetadata;
use underpass::dataplane::segment::{Flow, Merge, Split};

fn main() {
    let mut criterion = common::criterion();
    split(&mut criterion);
    merge(&mut criterion);
    criterion.final_summary();
}

fn split(criterion: &mut Criterion) {
    let (vnet, packet) = common::super_packet(NEAR, FAR);
    let cut = || {
        let mut split = Split::new(black_box(&packet), &vnet).expect("a well-formed super-packet");
        let mut headers = [0; common::HEADERS];
        let mut segments = 0;
        while split.next_segment(&mut headers).is_some() {
            black_box(&headers);
            segments += 1;
        }
        segments
    };
    assert_eq!(cut(), SEGMENTS);
    let mut group = criterion.benchmark_group("segment");
    group.throughput(Throughput::Bytes(packet.len() as u64));
    group.bench_function("split/tcp-64k", |bencher| bencher.iter(cut));
    group.finish();
}

/// Takes deliveries and remembers only how many there were and of how many packets.
#[derive(Default)]
struct Tally {
    deliveries: usize,
    packets: u32,
}

impl Sink for Tally {
    fn deliver(&mut self, delivery: &Delivery<'_>) {
        self.deliveries += 1;
        self.packets += black_box(delivery).packets;
    }
}

fn merge(criterion: &mut Criterion) {
    let (arena, candidates) = segments();
    let mut merge = Merge::new(Rules { tcp: true, udp: true });
    let mut join = || {
        let mut tally = Tally::default();
        for candidate in &candidates {
            let cut = merge.push(*candidate, black_box(&arena), &mut NoMetadata, &mut tally);
            assert!(cut.is_ok());
        }
        merge.finish(&arena, &mut tally);
        (tally.deliveries, tally.packets)
    };
    assert_eq!(join(), (1, SEGMENTS as u32));
    let mut group = criterion.benchmark_group("segment");
    group.throughput(Throughput::Bytes(arena.len() as u64));
    group.bench_function("merge/tcp-44", |bencher| bencher.iter(&mut join));
    group.finish();
}

/// The segments of one flow behind one another, as received, and where each is.
fn segments() -> (Vec<u8>, Vec<Candidate>) {
    let mut arena = Vec::new();
    let mut candidates = Vec::new();
    for index in 0..SEGMENTS {
        let packet = common::tcp(FAR, NEAR, SEGMENT, index);
        let flow = Flow::of(&packet).expect("well formed");
        candidates.push(Candidate { flow, at: arena.len(), grouping: Grouping::Single });
        arena.extend_from_slice(&packet);
    }
    (arena, candidates)
}
