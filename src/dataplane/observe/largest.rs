//! The largest packet of the last seconds: evidence about reports that something was too large.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The time of the workers, in steps of a few seconds. The control plane moves it on, because a worker does not
/// ask for the time.
#[derive(Debug, Default)]
pub struct Clock(AtomicU64);

impl Clock {
    /// The step now.
    #[inline]
    pub fn now(&self) -> u64 {
        self.0.load(Relaxed)
    }

    /// Moves on to a later step.
    pub fn set(&self, step: u64) {
        self.0.store(step, Relaxed);
    }
}

/// Bits of a mark that hold the size; those above hold the step.
const SIZE: u32 = 16;

/// The largest size in this step and in the one before. One worker writes, anybody may read.
#[derive(Debug, Default)]
pub struct Largest {
    now: AtomicU64,
    before: AtomicU64,
}

impl Largest {
    /// Takes note of a packet of `bytes` in step `step`. Only the owning worker may call this.
    #[inline]
    pub fn note(&self, step: u64, bytes: usize) {
        let mark = step << SIZE | bytes.min(usize::from(u16::MAX)) as u64;
        // A later step is larger, whatever the sizes.
        if mark > self.now.load(Relaxed) {
            self.raise(mark);
        }
    }

    #[cold]
    fn raise(&self, mark: u64) {
        let last = self.now.load(Relaxed);
        if last >> SIZE != mark >> SIZE {
            self.before.store(last, Relaxed);
        }
        self.now.store(mark, Relaxed);
    }

    /// The largest size in `step` or the one before it; 0 for none.
    pub fn lately(&self, step: u64) -> u16 {
        let marks = [&self.now, &self.before].map(|mark| mark.load(Relaxed));
        let recent = marks.into_iter().filter(|mark| (mark >> SIZE) + 1 >= step);
        recent.filter_map(|mark| u16::try_from(mark & u64::from(u16::MAX)).ok()).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::Largest;

    #[test]
    fn sizes_are_remembered_for_two_steps() {
        let largest = Largest::default();
        assert_eq!(largest.lately(0), 0);
        for bytes in [100, 1500, 60] {
            largest.note(7, bytes);
        }
        assert_eq!([7, 8, 9].map(|step| largest.lately(step)), [1500, 1500, 0]);
        // Small ones later do not hide it too early.
        largest.note(8, 60);
        assert_eq!([8, 9, 10].map(|step| largest.lately(step)), [1500, 60, 0]);
        largest.note(9, 70_000);
        assert_eq!(largest.lately(9), u16::MAX);
    }
}
