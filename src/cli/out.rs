//! What the command line prints: the only place that writes to stdout and stderr.
//!
//! A reader of stdout who has seen enough (`| head`) is no failure: nobody wants the rest. Any other
//! failure to write there is one, because somebody believes in what arrived. On stderr we say what
//! we can; where that fails there is no better place to say so, and the exit code says the rest.

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// Standard output, for bytes that come one after the other.
pub(crate) fn bytes() -> impl Write {
    io::stdout()
}

/// Writes to stdout. A reader that has seen enough is not an error.
pub(crate) fn write(text: &str) -> anyhow::Result<()> {
    write_piece(text.as_bytes()).map(drop)
}

/// Writes a piece to stdout; false when nobody reads on.
pub(crate) fn write_piece(piece: &[u8]) -> anyhow::Result<bool> {
    let mut stdout = io::stdout().lock();
    judge(stdout.write_all(piece).and_then(|()| stdout.flush()))
}

fn judge(written: io::Result<()>) -> anyhow::Result<bool> {
    match written {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(anyhow::anyhow!("cannot write to stdout: {error}")),
    }
}

/// Says something on stderr, if it takes it.
pub(crate) fn complain(text: &str) {
    // In one write, so that lines of several processes do not mix; what fails is nobody's to know.
    let _ = io::stderr().write_all(format!("{text}\n").as_bytes());
}

/// Says something on stderr, and does not wait longer than `patience` for it to be taken.
pub(crate) fn complain_within(text: String, patience: Duration) {
    let (done, said) = mpsc::channel();
    let saying = thread::Builder::new().spawn(move || {
        complain(&text);
        let _ = done.send(());
    });
    if saying.is_ok() {
        let _ = said.recv_timeout(patience);
    }
}

/// Prints the help or version that somebody asked for, or what is wrong with the arguments; returns
/// the exit code.
pub(crate) fn parsed(message: &clap::Error) -> ExitCode {
    let printed = message.print().and_then(|()| io::stdout().flush());
    match judge(printed) {
        Err(error) if !message.use_stderr() => {
            complain(&format!("underpass: {error}"));
            ExitCode::FAILURE
        }
        _ => ExitCode::from(u8::try_from(message.exit_code()).unwrap_or(1)),
    }
}
