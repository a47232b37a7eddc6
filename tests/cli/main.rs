//! The binary as an operator meets it: help, exit codes, and client commands against the real
//! control server on a real Unix socket.

mod daemon;
mod document;
mod exit_codes;
mod reading;
mod streams;
mod usage;
mod writing;

use std::process::{Command, Output};

use assert_cmd::cargo::cargo_bin;

/// Exit code, stdout and stderr of the binary.
fn underpass(args: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(cargo_bin!("underpass"));
    finish(command.args(args).env_remove("UNDERPASS_SOCKET").env_remove("RUST_LOG").output().unwrap())
}

/// The help that `words` ask for, on a terminal of so many columns.
fn underpass_at(words: &[String], width: usize) -> String {
    let mut command = Command::new(cargo_bin!("underpass"));
    finish(command.args(words).env("COLUMNS", width.to_string()).output().unwrap()).1
}

fn finish(output: Output) -> (i32, String, String) {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}
