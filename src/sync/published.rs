//! Publication of immutable values to lock-free readers.
//!
//! A writer swaps one pointer; a reader pins the current epoch, loads the pointer and may use the
//! value until it unpins. A replaced value is retired once no reader that could have seen it is
//! pinned (crossbeam-epoch), and dropped by the writer: freeing a table may take milliseconds, which
//! no worker has. A worker pins once per batch of packets.

use std::marker::PhantomData;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crossbeam::epoch::{self, Atomic, Guard, Owned};
use crossbeam::queue::SegQueue;

/// A value that is read without locks and replaced as a whole.
#[derive(Debug)]
pub struct Published<T> {
    current: Atomic<T>,
    /// Values that nobody can see any more.
    retired: Arc<SegQueue<Owned<T>>>,
}

impl<T: Send + Sync + 'static> Published<T> {
    /// Publishes the first value.
    pub fn new(value: T) -> Self {
        Self { current: Atomic::new(value), retired: Arc::default() }
    }

    /// Replaces the value. Readers see the old or the new one, never anything else.
    pub fn publish(&self, value: T) {
        let guard = epoch::pin();
        let old = self.current.swap(Owned::new(value), Ordering::AcqRel, &guard);
        let retired = Arc::clone(&self.retired);
        // SAFETY: `old` came out of the only shared place it was reachable from and this swap can
        // hand it out only once, so nobody else turns it into an `Owned`; readers still holding it
        // are pinned, which is what `defer_unchecked` waits for. Whoever runs the closure, it touches
        // nothing but the value, which is `Send`, and the queue, which it keeps alive itself.
        #[expect(unsafe_code, reason = "the publication point of the table")]
        unsafe {
            guard.defer_unchecked(move || retired.push(old.into_owned()));
        }
        guard.flush();
        drop(guard);
        self.reclaim();
    }

    /// Drops replaced values that no reader can see any more; returns how many. Every publication
    /// does so, too, but the last ones become invisible only after it.
    pub fn reclaim(&self) -> usize {
        // Two epochs must pass; without readers in the way each flush is one.
        for _ in 0..EPOCHS {
            epoch::pin().flush();
        }
        std::iter::from_fn(|| self.retired.pop()).count()
    }

    /// The current value, for as long as the result lives. Keep it for one batch, not longer:
    /// memory of replaced values waits for it.
    pub fn pin(&self) -> Pinned<'_, T> {
        let guard = epoch::pin();
        let value = self.current.load(Ordering::Acquire, &guard).as_raw();
        Pinned { value, _guard: guard, _published: PhantomData }
    }
}

/// Epochs from the last use of a value to its end.
const EPOCHS: usize = 3;

impl<T> Drop for Published<T> {
    fn drop(&mut self) {
        let last = std::mem::replace(&mut self.current, Atomic::null());
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
