//! Classic BPF programs written as instructions (Documentation/networking/filter.rst).

use socket2::SockFilter;

/// Accept the whole packet.
pub(crate) const ALL: u32 = u32::MAX;

/// A = what is at X + `offset`.
pub(crate) fn load(size: u32, offset: u32) -> SockFilter {
    op(libc::BPF_LD | size | libc::BPF_IND, offset)
}

/// Over `yes` or `no` instructions.
pub(crate) fn jump(condition: u32, value: u32, yes: usize, no: usize) -> SockFilter {
    SockFilter::new((libc::BPF_JMP | condition | libc::BPF_K) as u16, yes as u8, no as u8, value)
}

/// The instruction `code` with the constant `k`.
pub(crate) fn op(code: u32, k: u32) -> SockFilter {
    SockFilter::new(code as u16, 0, 0, k)
}
