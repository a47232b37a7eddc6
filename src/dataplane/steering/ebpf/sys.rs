//! The bpf(2) calls (include/uapi/linux/bpf.h).
#![expect(unsafe_code, reason = "system calls")]

use std::ffi::c_long;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use super::instruction::Instruction;
use super::verifier_log;

const BPF_PROG_LOAD: c_long = 5;
const BPF_LINK_CREATE: c_long = 28;
const BPF_PROG_TYPE_SOCKET_FILTER: u32 = 1;
const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;
const BPF_TCX_INGRESS: u32 = 46;

/// Bytes of the verifier's log: more than it says of a short program.
const VERIFIER_LOG: usize = 64 << 10;

/// What a program is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    /// It looks at packets (BPF_PROG_TYPE_SOCKET_FILTER).
    SocketFilter,
    /// It changes packets on the ingress of an interface (BPF_PROG_TYPE_SCHED_CLS by TCX).
    TcxIngress,
}

/// `union bpf_attr` for BPF_PROG_LOAD, up to `expected_attach_type`.
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
    prog_ifindex: u32,
    expected_attach_type: u32,
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
    let (prog_type, expected_attach_type) = match kind {
        Kind::SocketFilter => (BPF_PROG_TYPE_SOCKET_FILTER, 0),
        Kind::TcxIngress => (BPF_PROG_TYPE_SCHED_CLS, BPF_TCX_INGRESS),
    };
    let mut attr = ProgLoad {
        prog_type,
        insn_cnt: code.len() as u32,
        insns: code.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        expected_attach_type,
        ..ProgLoad::default()
    };
    for (to, from) in attr.prog_name[..15].iter_mut().zip(name.bytes()) {
        *to = from;
    }
    bpf(BPF_PROG_LOAD, &mut attr).or_else(|error| {
        // Once more, to hear what the verifier has against it.
        let mut log = vec![0; VERIFIER_LOG];
        attr.log_level = 1;
        attr.log_size = log.len() as u32;
        attr.log_buf = log.as_mut_ptr() as u64;
        bpf(BPF_PROG_LOAD, &mut attr).map_err(|_| verifier_log::explain(error, &log))
    })
}

/// Attaches `program` to the ingress of interface `index`; closing the result detaches it.
pub(crate) fn attach_tcx_ingress(program: &OwnedFd, index: u32) -> io::Result<OwnedFd> {
    let mut attr = LinkCreate {
        prog_fd: program.as_raw_fd() as u32,
        target_ifindex: index,
        attach_type: BPF_TCX_INGRESS,
        ..LinkCreate::default()
    };
    bpf(BPF_LINK_CREATE, &mut attr)
}

fn bpf<A>(command: c_long, attr: &mut A) -> io::Result<OwnedFd> {
    // SAFETY: `attr` is one of the two structures above, laid out as the kernel's, and every
    // pointer in it leads to memory that the caller keeps alive over the call.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<A>()) };
    let fd = RawFd::try_from(fd).ok().filter(|fd| *fd >= 0).ok_or_else(io::Error::last_os_error)?;
    // SAFETY: both commands return a new descriptor (close-on-exec) that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::{Kind, load};
    use crate::dataplane::steering::ebpf::{EXIT, R0, R3, copy};

    #[test]
    #[ignore = "needs root"]
    fn a_refused_program_is_explained() {
        let error = load(Kind::SocketFilter, "underpass_wrong", &[copy(R0, R3), EXIT]).unwrap_err();
        assert!(error.to_string().contains("R3 !read_ok"), "{error}");
    }
}
