//! A program that is attached for longer than this process lives, but leads to nothing behind its end.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use super::sys::{self, Kind, MapKind};
use super::{EXIT, Instruction, R0, R2, R3, TAIL_CALL, call, map, mov};

/// TC_ACT_UNSPEC, which is TCX_NEXT: the packet goes on as if nothing was here.
const NEXT: i32 = -1;

/// A program that goes on with another one by a map of programs. The kernel empties such a map when the last process
/// that holds a descriptor of it has none any more (`prog_array_map_clear`, kernel/bpf/arraymap.c), however it ended.
/// What is attached may stay where it is then: packets pass it unseen.
#[derive(Debug)]
pub struct Gate {
    program: OwnedFd,
    #[expect(dead_code, reason = "held open: closing it closes the gate")]
    programs: OwnedFd,
}

impl Gate {
    /// A way to `program`.
    ///
    /// # Errors
    /// The kernel's: EPERM without CAP_BPF.
    pub(crate) fn to(program: &OwnedFd) -> io::Result<Self> {
        let programs = sys::create_map(MapKind::Programs, "underpass_gate", (4, 4, 1))?;
        let gate = sys::load(Kind::Classifier, "underpass_gate", &gate(programs.as_raw_fd()))?;
        sys::put_program(&programs, 0, program)?;
        Ok(Self { program: gate, programs })
    }
}

impl AsFd for Gate {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.program.as_fd()
    }
}

/// The program; the packet is in register 1.
fn gate(programs: i32) -> Vec<Instruction> {
    let mut program = map(R2, programs).to_vec();
    program.extend([mov(R3, 0), call(TAIL_CALL), mov(R0, NEXT), EXIT]);
    program
}
