//! What programs and this process share: a table of keys, and memory.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::AtomicU64;

use super::sys::{self, MapKind, Words};

/// A hash table from keys of `K` bytes to numbers, which programs read.
pub(crate) struct HashMap<const K: usize>(OwnedFd);

impl<const K: usize> HashMap<K> {
    /// An empty one for `entries`. All memory is taken now.
    ///
    /// # Errors
    /// The kernel's: EPERM without CAP_BPF, ENOMEM.
    pub(crate) fn new(name: &str, entries: usize) -> io::Result<Self> {
        sys::create_map(MapKind::Hash, name, (K, size_of::<u32>(), entries)).map(Self)
    }

    /// The descriptor, for programs.
    pub(crate) fn fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// Adds a key.
    ///
    /// # Errors
    /// EEXIST where it is there, E2BIG where the table is full.
    pub(crate) fn insert(&self, key: &[u8; K], value: u32) -> io::Result<()> {
        sys::insert(&self.0, key, value)
    }

    /// The number of a key.
    pub(crate) fn get(&self, key: &[u8; K]) -> Option<u32> {
        sys::lookup(&self.0, key).ok()
    }

    /// Removes a key, if it is there.
    pub(crate) fn remove(&self, key: &[u8; K]) {
        // There is no other error.
        let _ = sys::remove(&self.0, key);
    }
}

/// An array of records of `W` words, which programs and this process read and write.
pub(crate) struct SharedArray<const W: usize> {
    map: OwnedFd,
    words: Words,
}

impl<const W: usize> SharedArray<W> {
    /// So many records of zeros.
    ///
    /// # Errors
    /// The kernel's: EPERM without CAP_BPF, EINVAL before Linux 5.5, ENOMEM.
    pub(crate) fn new(name: &str, records: usize) -> io::Result<Self> {
        let size = W * size_of::<u64>();
        let map = sys::create_map(MapKind::SharedArray, name, (size_of::<u32>(), size, records))?;
        let words = Words::of(&map, W * records)?;
        Ok(Self { map, words })
    }

    /// The descriptor, for programs.
    pub(crate) fn fd(&self) -> RawFd {
        self.map.as_raw_fd()
    }

    /// Record `index`.
    pub(crate) fn record(&self, index: usize) -> &[AtomicU64] {
        &self.words.as_slice()[index * W..(index + 1) * W]
    }
}

/// Waits until every program has ended that runs now.
///
/// # Errors
/// The kernel's, where it has no such wait (`nohz_full`).
pub(crate) fn grace_period() -> io::Result<()> {
    sys::synchronize()
}
