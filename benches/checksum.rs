//! The Internet checksum over packets of all sizes, beside etherparse's.

mod common;

use std::hint::black_box;

use criterion::{BenchmarkId, Throughput};
use etherparse::checksum::Sum16BitWords;
use underpass::wire::checksum;

const SIZES: [usize; 6] = [64, 256, 1460, 4096, 16 << 10, 64 << 10];

fn main() {
    let mut criterion = common::criterion();
    let mut group = criterion.benchmark_group("checksum");
    for size in SIZES {
        let data = common::pattern(size);
        assert_eq!(checksum::finish(checksum::sum(&data)), etherparse_checksum(&data));
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_with_input(BenchmarkId::new("underpass", size), &data, |bencher, data| {
            bencher.iter(|| checksum::finish(checksum::sum(black_box(data))));
        });
        group.bench_with_input(BenchmarkId::new("etherparse", size), &data, |bencher, data| {
            bencher.iter(|| etherparse_checksum(black_box(data)));
        });
    }
    group.finish();
    criterion.final_summary();
}

fn etherparse_checksum(data: &[u8]) -> u16 {
    Sum16BitWords::new().add_slice(data).ones_complement().to_be()
}
