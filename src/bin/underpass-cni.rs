//! The `underpass-cni` binary, which container runtimes run.

use std::process::ExitCode;

fn main() -> ExitCode {
    underpass::cni::main()
}
