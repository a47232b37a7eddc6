//! Publication of immutable values to lock-free readers.
//!
//! A writer swaps one pointer; a reader pins the current epoch, loads the pointer and may use the
//! value until it unpins. A replaced value is freed once no reader that could have seen it is
//! pinned (crossbeam-epoch). A worker pins once per batch of packets.

use std::marker::PhantomData;
use std::ops::Deref;
use std::sync::atomic::Ordering;

use crossbeam::epoch::{self, Atomic, Guard, Owned};

/// A value that is read without locks and replaced as a whole.
#[derive(Debug)]
pub struct Published<T>(Atomic<T>);

impl<T: Send + Sync + 'static> Published<T> {
    /// Publishes the first value.
    pub fn new(value: T) -> Self {
        Self(Atomic::new(value))
    }

    /// Replaces the value. Readers see the old or the new one, never anything else.
    pub fn publish(&self, value: T) {
        let guard = epoch::pin();
        let old = self.0.swap(Owned::new(value), Ordering::AcqRel, &guard);
        // SAFETY: `old` came out of the only shared place it was reachable from and this swap can
        // hand it out only once, so no other call retires it; readers still holding it are pinned,
        // which is what `defer_destroy` waits for.
        #[expect(unsafe_code, reason = "the publication point of the table")]
        unsafe {
            guard.defer_destroy(old);
        }
        guard.flush();
    }

    /// The current value, for as long as the result lives. Keep it for one batch, not longer:
    /// memory of replaced values waits for it.
    pub fn pin(&self) -> Pinned<'_, T> {
        let guard = epoch::pin();
        let value = self.0.load(Ordering::Acquire, &guard).as_raw();
        Pinned { value, _guard: guard, _published: PhantomData }
    }
}

impl<T> Drop for Published<T> {
    fn drop(&mut self) {
        let last = std::mem::replace(&mut self.0, Atomic::null());
        // SAFETY: every `Pinned` borrows `self`, so `&mut self` says that there is none any more, and
        // the pointer is never null before this line.
        #[expect(unsafe_code, reason = "the publication point of the table")]
        unsafe {
            drop(last.into_owned());
        }
    }
}

/// A published value that cannot be freed while this lives.
pub struct Pinned<'a, T> {
    value: *const T,
    /// Keeps a value that is replaced.
    _guard: Guard,
    /// Keeps the last value, which goes with its `Published` at once.
    _published: PhantomData<&'a Published<T>>,
}

impl<T> Deref for Pinned<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the pointer was loaded under `_guard` from a `Published` that is never null; the
        // guard keeps the value from being freed once replaced, and the borrow keeps the `Published`
        // itself from being dropped.
        #[expect(unsafe_code, reason = "the publication point of the table")]
        unsafe {
            &*self.value
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use super::Published;

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
        drop(cell);
    }
}
