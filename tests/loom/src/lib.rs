//! Every interleaving of a writer and readers of a published value, within loom's bounds.

#![cfg(all(test, crossbeam_loom))]

/// The parts of `crossbeam` that the publication uses, under the names it uses.
extern crate self as crossbeam;
pub use crossbeam_epoch as epoch;
/// See above.
pub mod queue {
    pub use crossbeam_queue::SegQueue;
}

#[path = "../../../src/sync/published.rs"]
mod publish;

use loom::sync::Arc;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;
use publish::Published;

/// A table of two halves that belong together. Freed memory shows as a value that is neither: its
/// end overwrites it, and loom reports the access if that is not ordered before.
struct Table {
    halves: [AtomicUsize; 2],
}

const FREED: usize = 0xdead;

impl Table {
    fn new(version: usize) -> Self {
        Self { halves: [AtomicUsize::new(version), AtomicUsize::new(version)] }
    }

    fn version(&self) -> usize {
        let [first, second] = [0, 1].map(|half: usize| self.halves[half].load(Ordering::Relaxed));
        assert_eq!(first, second, "halves of two tables");
        assert_ne!(first, FREED, "a table that was freed");
        first
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        for half in &self.halves {
            half.store(FREED, Ordering::Relaxed);
        }
    }
}

fn check(model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    // Two involuntary switches find nearly all bugs that any number finds, in seconds.
    builder.preemption_bound = Some(2);
    builder.check(model);
}

#[test]
fn a_reader_sees_the_old_or_the_new_table() {
    check(|| {
        let cell = Arc::new(Published::new(Table::new(1)));
        let reader = {
            let cell = Arc::clone(&cell);
            thread::spawn(move || {
                let first = cell.pin().version();
                let second = cell.pin().version();
                assert!(first <= second, "time went back");
            })
        };
        cell.publish(Table::new(2));
        assert_eq!(cell.pin().version(), 2);
        reader.join().unwrap();
    });
}

#[test]
fn what_is_pinned_is_not_freed() {
    check(|| {
        let cell = Arc::new(Published::new(Table::new(1)));
        let reader = {
            let cell = Arc::clone(&cell);
            thread::spawn(move || {
                let pinned = cell.pin();
                let before = pinned.version();
                thread::yield_now();
                assert_eq!(pinned.version(), before);
            })
        };
        cell.publish(Table::new(2));
        cell.reclaim();
        reader.join().unwrap();
    });
}
