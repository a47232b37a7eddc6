//! The `underpass` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    underpass::cli::main()
}
