//! An eBPF instruction.

/// One instruction.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

/// The instruction of these fields.
pub(super) const fn instruction(code: u8, dst: u8, src: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction { code, registers: dst | src << 4, offset, immediate }
}

impl Instruction {
    /// The same jump over so many instructions.
    pub(super) const fn over(self, count: i16) -> Self {
        Self { offset: count, ..self }
    }

    /// `struct bpf_insn`.
    pub fn bytes(&self) -> [u8; 8] {
        let mut bytes = [self.code, self.registers, 0, 0, 0, 0, 0, 0];
        bytes[2..4].copy_from_slice(&self.offset.to_ne_bytes());
        bytes[4..].copy_from_slice(&self.immediate.to_ne_bytes());
        bytes
    }
}
