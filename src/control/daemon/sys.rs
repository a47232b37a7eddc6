//! malloc tuning (`mallopt`, `malloc_trim`).

#![expect(unsafe_code, reason = "calls of the C library without a safe form")]

/// From this size on an allocation is a mapping of its own, which goes back to the system at once
/// when it is freed.
#[cfg(target_env = "gnu")]
const MAPPED_FROM: libc::c_int = 1 << 20;

/// Has large allocations mapped, however large those were that were freed before: the default
/// threshold grows with them, and the heap below a long-lived one is never given back. All threads share one
/// heap: what one of them frees another can use, and workers allocate nothing.
pub(super) fn map_large() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt takes two integers and is called before other threads exist.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_FROM);
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Gives free memory back to the system.
pub(super) fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim takes an integer and locks the heap itself.
    unsafe {
        libc::malloc_trim(0);
    }
}
