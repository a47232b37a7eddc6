//! The publication with real threads; tests/loom has every interleaving of few.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::ThreadId;

use crate::sync::Published;

/// Two halves that must agree, and a count of living values.
struct Pair(u64, u64, Arc<AtomicUsize>);

impl Pair {
    fn new(n: u64, living: &Arc<AtomicUsize>) -> Self {
        living.fetch_add(1, Ordering::SeqCst);
        Self(n, !n, Arc::clone(living))
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        self.0 = 0xdead;
        self.1 = 0xdead;
        self.2.fetch_sub(1, Ordering::SeqCst);
    }
}

#[test]
fn readers_see_whole_values_and_time_moves_forward() {
    let living = Arc::new(AtomicUsize::new(0));
    let cell = Arc::new(Published::new(Pair::new(0, &living)));
    let done = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..3)
        .map(|_| {
            let (cell, done) = (Arc::clone(&cell), Arc::clone(&done));
            std::thread::spawn(move || {
                let mut last = 0;
                while !done.load(Ordering::Relaxed) {
                    let pair = cell.pin();
                    assert_eq!(pair.0, !pair.1);
                    assert!(pair.0 >= last);
                    last = pair.0;
                }
            })
        })
        .collect();
    for n in 1..=20_000 {
        cell.publish(Pair::new(n, &living));
    }
    done.store(true, Ordering::Relaxed);
    for reader in readers {
        reader.join().unwrap();
    }
    assert_eq!(cell.pin().0, 20_000);
    // Other tests of this process pin the same epochs, so this may take a few rounds.
    while living.load(Ordering::SeqCst) > 1 {
        cell.reclaim();
        std::thread::yield_now();
    }
    drop(cell);
    assert_eq!(living.load(Ordering::SeqCst), 0);
}

/// Remembers who dropped it.
struct Mortal(Arc<Mutex<Vec<ThreadId>>>);

impl Drop for Mortal {
    fn drop(&mut self) {
        self.0.lock().unwrap().push(std::thread::current().id());
    }
}

#[test]
fn only_the_writer_drops() {
    let drops = Arc::new(Mutex::new(Vec::new()));
    let cell = Arc::new(Published::new(Mortal(Arc::clone(&drops))));
    let done = Arc::new(AtomicBool::new(false));
    let readers = [(); 2].map(|()| {
        let (cell, done) = (Arc::clone(&cell), Arc::clone(&done));
        std::thread::spawn(move || {
            while !done.load(Ordering::Relaxed) {
                drop(cell.pin());
            }
        })
    });
    for _ in 0..5_000 {
        cell.publish(Mortal(Arc::clone(&drops)));
    }
    done.store(true, Ordering::Relaxed);
    for reader in readers {
        reader.join().unwrap();
    }
    while drops.lock().unwrap().len() < 5_000 {
        cell.reclaim();
        std::thread::yield_now();
    }
    let me = std::thread::current().id();
    assert!(drops.lock().unwrap().iter().all(|thread| *thread == me));
}
