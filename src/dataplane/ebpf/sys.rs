//! The bpf(2) calls (include/uapi/linux/bpf.h).
#![expect(unsafe_code, reason = "system calls")]

use std::ffi::c_long;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

use super::instruction::Instruction;
use super::verifier_log;

const BPF_MAP_CREATE: c_long = 0;
const BPF_MAP_LOOKUP_ELEM: c_long = 1;
const BPF_MAP_UPDATE_ELEM: c_long = 2;
const BPF_MAP_DELETE_ELEM: c_long = 3;
const BPF_PROG_LOAD: c_long = 5;
const BPF_LINK_CREATE: c_long = 28;
const BPF_PROG_TYPE_SOCKET_FILTER: u32 = 1;
const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;
const BPF_TCX_INGRESS: u32 = 46;
const BPF_TCX_EGRESS: u32 = 47;
/// Whether or not the key is there.
const BPF_ANY: u64 = 0;
/// Only a key that is not there yet.
const BPF_NOEXIST: u64 = 1;

/// Bytes of the verifier's log: more than it says of a short program.
const VERIFIER_LOG: usize = 64 << 10;

/// What a program is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    /// It looks at packets (BPF_PROG_TYPE_SOCKET_FILTER).
    SocketFilter,
    /// It changes packets at an interface (BPF_PROG_TYPE_SCHED_CLS).
    Classifier,
}

/// Where at an interface.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Hook {
    /// What it has received.
    Ingress,
    /// What it is to send.
    Egress,
}

impl Hook {
    const fn attach_type(self) -> u32 {
        match self {
            Self::Ingress => BPF_TCX_INGRESS,
            Self::Egress => BPF_TCX_EGRESS,
        }
    }
}

/// What a map is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum MapKind {
    /// BPF_MAP_TYPE_HASH
    Hash,
    /// BPF_MAP_TYPE_ARRAY that can be mapped (BPF_F_MMAPABLE, Linux 5.5).
    SharedArray,
    /// BPF_MAP_TYPE_PROG_ARRAY
    Programs,
}

impl MapKind {
    /// Type and flags.
    const fn numbers(self) -> (u32, u32) {
        match self {
            Self::Hash => (1, 0),
            Self::SharedArray => (2, 1 << 10),
            Self::Programs => (3, 0),
        }
    }
}

/// `union bpf_attr` for BPF_MAP_CREATE, up to `map_name`.
#[repr(C)]
#[derive(Default)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
    inner_map_fd: u32,
    numa_node: u32,
    map_name: [u8; 16],
}

/// `union bpf_attr` for the commands about one entry.
#[repr(C)]
struct MapEntry {
    map_fd: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// `union bpf_attr` for BPF_PROG_LOAD, up to `prog_name`.
#[repr(C)]
#[derive(Default)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
}

/// `union bpf_attr` for BPF_LINK_CREATE with its `tcx` part.
#[repr(C)]
#[derive(Default)]
struct LinkCreate {
    prog_fd: u32,
    target_ifindex: u32,
    attach_type: u32,
    flags: u32,
    relative_fd: u32,
    padding: u32,
    expected_revision: u64,
}

/// Loads `program` under `name`, of which the kernel keeps 15 bytes. Where the verifier refuses it, the
/// error ends with the last lines of its log.
pub(crate) fn load(kind: Kind, name: &str, program: &[Instruction]) -> io::Result<OwnedFd> {
    let code: Vec<[u8; 8]> = program.iter().map(Instruction::bytes).collect();
    let prog_type = match kind {
        Kind::SocketFilter => BPF_PROG_TYPE_SOCKET_FILTER,
        Kind::Classifier => BPF_PROG_TYPE_SCHED_CLS,
    };
    let mut attr = ProgLoad {
        prog_type,
        insn_cnt: code.len() as u32,
        insns: code.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        ..ProgLoad::default()
    };
    write_name(&mut attr.prog_name, name);
    bpf(BPF_PROG_LOAD, &mut attr).or_else(|error| {
        // Once more, to hear what the verifier has against it.
        let mut log = vec![0; VERIFIER_LOG];
        attr.log_level = 1;
        attr.log_size = log.len() as u32;
        attr.log_buf = log.as_mut_ptr() as u64;
        bpf(BPF_PROG_LOAD, &mut attr).map_err(|_| verifier_log::explain(error, &log))
    })
}

/// Attaches `program` to interface `index`; closing the result detaches it.
pub(crate) fn attach_tcx(program: &OwnedFd, hook: Hook, index: u32) -> io::Result<OwnedFd> {
    let mut attr = LinkCreate {
        prog_fd: program.as_raw_fd() as u32,
        target_ifindex: index,
        attach_type: hook.attach_type(),
        ..LinkCreate::default()
    };
    bpf(BPF_LINK_CREATE, &mut attr)
}

/// Makes a map of `entries`.
pub(super) fn create_map(
    kind: MapKind,
    name: &str,
    (key, value, entries): (usize, usize, usize),
) -> io::Result<OwnedFd> {
    let (map_type, map_flags) = kind.numbers();
    let mut attr = MapCreate {
        map_type,
        key_size: key as u32,
        value_size: value as u32,
        max_entries: entries as u32,
        map_flags,
        ..MapCreate::default()
    };
    write_name(&mut attr.map_name, name);
    bpf(BPF_MAP_CREATE, &mut attr)
}

/// Adds an entry to the map `fd`, whose keys and values have these sizes; EEXIST where the key is there.
pub(super) fn insert<const K: usize>(fd: &OwnedFd, key: &[u8; K], value: u32) -> io::Result<()> {
    entry(BPF_MAP_UPDATE_ELEM, fd, key, std::ptr::from_ref(&value) as u64, BPF_NOEXIST)
}

/// Puts `program` in place `index` of the map `fd`, which is one of programs.
pub(super) fn put_program(fd: &OwnedFd, index: u32, program: &OwnedFd) -> io::Result<()> {
    let program = program.as_raw_fd();
    entry(BPF_MAP_UPDATE_ELEM, fd, &index.to_ne_bytes(), std::ptr::from_ref(&program) as u64, BPF_ANY)
}

/// The value of a key in the map `fd`, whose keys have this size and whose values have four bytes.
pub(super) fn lookup<const K: usize>(fd: &OwnedFd, key: &[u8; K]) -> io::Result<u32> {
    let mut value = 0_u32;
    entry(BPF_MAP_LOOKUP_ELEM, fd, key, std::ptr::from_mut(&mut value) as u64, 0)?;
    Ok(value)
}

/// Removes a key from the map `fd`, whose keys have this size.
pub(super) fn remove<const K: usize>(fd: &OwnedFd, key: &[u8; K]) -> io::Result<()> {
    entry(BPF_MAP_DELETE_ELEM, fd, key, 0, 0)
}

fn entry<const K: usize>(
    command: c_long,
    fd: &OwnedFd,
    key: &[u8; K],
    value: u64,
    flags: u64,
) -> io::Result<()> {
    let mut attr =
        MapEntry { map_fd: fd.as_raw_fd() as u32, padding: 0, key: key.as_ptr() as u64, value, flags };
    // SAFETY: `attr` is laid out as the kernel's, its pointers lead to a key and a value of the map's sizes, which
    // the callers keep alive over the call, and nothing is left behind.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(&mut attr), size_of::<MapEntry>())
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Maps `words` words of the map `fd` for reading and writing.
fn map_words(fd: &OwnedFd, words: usize) -> io::Result<NonNull<AtomicU64>> {
    let (length, rights) = (words * size_of::<u64>(), libc::PROT_READ | libc::PROT_WRITE);
    // SAFETY: a new mapping at an address of the kernel's choice touches no memory that there is.
    let address =
        unsafe { libc::mmap(std::ptr::null_mut(), length, rights, libc::MAP_SHARED, fd.as_raw_fd(), 0) };
    if address == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(address.cast()).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// The words of a mapping.
pub(super) struct Words {
    first: NonNull<AtomicU64>,
    count: usize,
}

// SAFETY: atomic words may be used by any thread; the pointer is only changed by dropping.
unsafe impl Send for Words {}
// SAFETY: as above.
unsafe impl Sync for Words {}

impl Words {
    /// The mapped words of the map `fd`, whose memory has that many.
    pub(super) fn of(fd: &OwnedFd, count: usize) -> io::Result<Self> {
        Ok(Self { first: map_words(fd, count)?, count })
    }

    pub(super) fn as_slice(&self) -> &[AtomicU64] {
        // SAFETY: the mapping has `count` words, aligned to a page, lives as long as `self`, and is only used
        // atomically, here as by the programs.
        unsafe { std::slice::from_raw_parts(self.first.as_ptr(), self.count) }
    }
}

impl Drop for Words {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and no slice of it outlives `self`.
        let _ = unsafe { libc::munmap(self.first.as_ptr().cast(), self.count * size_of::<u64>()) };
    }
}

/// Waits until every program that was running when this was called has ended: programs run in RCU read-side
/// sections, and this command is `synchronize_rcu` (kernel/sched/membarrier.c).
pub(super) fn synchronize() -> io::Result<()> {
    const MEMBARRIER_CMD_GLOBAL: c_long = 1;
    // SAFETY: no pointers.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn write_name(to: &mut [u8; 16], name: &str) {
    for (to, from) in to[..15].iter_mut().zip(name.bytes()) {
        *to = from;
    }
}

fn bpf<A>(command: c_long, attr: &mut A) -> io::Result<OwnedFd> {
    // SAFETY: `attr` is one of the structures above, laid out as the kernel's, and every
    // pointer in it leads to memory that the caller keeps alive over the call.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<A>()) };
    let fd = RawFd::try_from(fd).ok().filter(|fd| *fd >= 0).ok_or_else(io::Error::last_os_error)?;
    // SAFETY: these commands return a new descriptor (close-on-exec) that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::{Kind, load};
    use crate::dataplane::ebpf::{EXIT, R0, R3, copy};

    #[test]
    #[ignore = "needs root"]
    fn a_refused_program_is_explained() {
        let error = load(Kind::SocketFilter, "underpass_wrong", &[copy(R0, R3), EXIT]).unwrap_err();
        assert!(error.to_string().contains("R3 !read_ok"), "{error}");
    }
}
