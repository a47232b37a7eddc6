//! A program as blocks with names, so that it reads in the order of its steps and jumps say where they lead.

use super::Instruction;

/// A program that is being written.
#[derive(Debug, Default)]
pub(crate) struct Assembly {
    code: Vec<Instruction>,
    blocks: Vec<(&'static str, usize)>,
    jumps: Vec<(usize, &'static str)>,
}

impl Assembly {
    /// Begins a block: jumps to `name` lead here, and what is before it comes here, too.
    pub(crate) fn block(&mut self, name: &'static str) -> &mut Self {
        debug_assert!(self.place(name).is_none(), "{name} is there twice");
        self.blocks.push((name, self.code.len()));
        self
    }

    /// Adds instructions.
    pub(crate) fn add(&mut self, code: impl IntoIterator<Item = Instruction>) -> &mut Self {
        self.code.extend(code);
        self
    }

    /// To the block `name` where `condition` holds.
    pub(crate) fn jump(&mut self, condition: Instruction, name: &'static str) -> &mut Self {
        self.jumps.push((self.code.len(), name));
        self.code.push(condition);
        self
    }

    /// The program, in which every jump leads to its block. One to a block that there is not ends the program
    /// without looking at the packet again, which the verifier refuses: the tests hold that there is none.
    pub(crate) fn finish(mut self) -> Vec<Instruction> {
        for (at, name) in std::mem::take(&mut self.jumps) {
            let to = self.place(name).unwrap_or(usize::MAX / 2);
            debug_assert!(to > at, "{name} is not behind instruction {at}");
            let count = i16::try_from(to - at - 1).unwrap_or(i16::MAX);
            self.code[at] = self.code[at].over(count);
        }
        self.code
    }

    fn place(&self, name: &str) -> Option<usize> {
        self.blocks.iter().find(|(block, _)| *block == name).map(|(_, place)| *place)
    }
}

#[cfg(test)]
mod tests {
    use super::Assembly;
    use crate::dataplane::ebpf::machine::run;
    use crate::dataplane::ebpf::{EXIT, R0, always, equal, mov, unequal};

    #[test]
    fn jumps_lead_to_their_blocks() {
        let program = |first: i32| {
            let mut assembly = Assembly::default();
            assembly.add([mov(R0, first)]).jump(equal(R0, 1), "one").jump(unequal(R0, 2), "other");
            assembly.add([mov(R0, 20)]).jump(always(), "end");
            assembly.block("one").add([mov(R0, 10)]).jump(always(), "end");
            assembly.block("other").add([mov(R0, 30)]);
            assembly.block("end").add([EXIT]);
            run(&assembly.finish(), &[], true).result
        };
        assert_eq!([1, 2, 3].map(program), [10, 20, 30]);
    }
}
