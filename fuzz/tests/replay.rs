//! Every target over its seeds, its regressions, and mutations of both: the same mutations in
//! every run, so that a failure repeats. Finding new ones is libFuzzer's work.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use underpass_fuzz::TARGETS;

/// Mutations of all inputs of one target together.
const MUTATIONS: usize = 10_000;

#[test]
fn seeds_and_regressions() {
    for (name, run) in TARGETS {
        let seeds = inputs("seeds", name);
        assert!(!seeds.is_empty(), "no seeds for {name}");
        for (file, bytes) in seeds.into_iter().chain(inputs("regressions", name)) {
            attempt(name, run, &file, &bytes);
        }
    }
}

#[test]
fn mutations() {
    for (name, run) in TARGETS {
        let mut inputs: Vec<_> = inputs("seeds", name);
        inputs.extend(self::inputs("regressions", name));
        let mut random = Random(0x2545_f491_4f6c_dd1d);
        for round in 0..MUTATIONS {
            let (file, bytes) = &inputs[random.below(inputs.len())];
            let other = &inputs[random.below(inputs.len())].1;
            let mutated = mutate(bytes, other, &mut random);
            attempt(name, run, &format!("mutation {round} of {file}"), &mutated);
        }
    }
}

/// The files of a target, sorted by name.
fn inputs(kind: &str, target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(kind).join(target);
    let mut files: Vec<_> = fs::read_dir(folder).into_iter().flatten().flatten().collect();
    files.sort_by_key(fs::DirEntry::file_name);
    let read = |file: &fs::DirEntry| fs::read(file.path()).expect("a readable input");
    files.iter().map(|file| (file.file_name().to_string_lossy().into_owned(), read(file))).collect()
}

fn attempt(target: &str, run: fn(&[u8]), what: &str, bytes: &[u8]) {
    let result = catch_unwind(AssertUnwindSafe(|| run(bytes)));
    assert!(result.is_ok(), "{target}: {what} failed; its bytes: {}", hex(bytes));
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Up to eight of: a bit flipped, a byte set, a run removed, doubled, or taken from `other`.
fn mutate(bytes: &[u8], other: &[u8], random: &mut Random) -> Vec<u8> {
    const EDGES: [u8; 6] = [0, 1, 0x7f, 0x80, 0xfe, 0xff];
    let mut bytes = bytes.to_vec();
    for _ in 0..=random.below(8) {
        let (from, to) = random.range(bytes.len());
        match random.below(6) {
            0 if from < to => bytes[from] ^= 1 << random.below(8),
            1 if from < to => bytes[from] = EDGES[random.below(EDGES.len())],
            2 if from < to => bytes[from] = random.next() as u8,
            3 => drop(bytes.drain(from..to)),
            4 if bytes.len() < 1 << 16 => {
                let run = bytes[from..to].to_vec();
                bytes.splice(from..from, run);
            }
            5 => {
                let (start, end) = random.range(other.len());
                bytes.splice(from..to, other[start..end].iter().copied());
            }
            _ => {}
        }
    }
    bytes
}

/// xorshift64*.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }

    /// A run inside `len` bytes, mostly a short one.
    fn range(&mut self, len: usize) -> (usize, usize) {
        let from = self.below(len + 1);
        let most = if self.below(4) == 0 { len } else { 16 };
        (from, (from + self.below(most + 1)).min(len))
    }
}
