//! The `underpass` binary: parse, run, map the error to an exit code.

use std::process::ExitCode;

use clap::Parser;
use underpass::cli::{self, Cli};

fn main() -> ExitCode {
    match Cli::parse().execute() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => ExitCode::from(cli::report(&error)),
    }
}
