//! Streams that take nothing: closed ones, a full disk, a reader that is gone. No command dies of a
//! signal, and each has the exit code it has otherwise, unless what it was asked for is not written.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{PipeReader, PipeWriter, Read, Write, pipe};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use assert_cmd::cargo::cargo_bin;

use super::daemon::{CONFIG, Daemon};

/// Far more than any of this takes.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Stream {
    /// Read to its end.
    Read,
    /// `>&-`
    Closed,
    /// `>/dev/full`
    Full,
    /// `| true`
    Broken,
}

use Stream::{Broken, Closed, Full, Read as Kept};

/// The command, and what comes out where the stream is read.
struct Ran {
    code: i32,
    stdout: String,
    stderr: String,
}

fn run(args: &[&OsStr], stdout: Stream, stderr: Stream) -> Ran {
    // Only a shell starts a command with a closed stream.
    let close = [(stdout, " >&-"), (stderr, " 2>&-")];
    let close: String = close.iter().filter(|(stream, _)| *stream == Closed).map(|(_, how)| *how).collect();
    let mut command = Command::new("sh");
    command.args(["-c", &format!("exec \"$@\"{close}"), "sh"]).arg(cargo_bin!("underpass")).args(args);
    command.stdin(Stdio::null()).env_remove("UNDERPASS_SOCKET").env_remove("RUST_LOG");
    let (reader, writer) = ends(stdout);
    let (error_reader, error_writer) = ends(stderr);
    command.stdout(writer).stderr(error_writer);
    let code = end(&mut command);
    // Our own ends of the pipes are in there.
    drop(command);
    Ran { code, stdout: text(reader), stderr: text(error_reader) }
}

/// The reading end, where somebody reads, and what the command gets.
fn ends(stream: Stream) -> (Option<PipeReader>, Stdio) {
    let (reader, writer) = pipe().unwrap();
    match stream {
        Kept => (Some(reader), writer.into()),
        Broken => (None, writer.into()),
        Closed => (None, Stdio::null()),
        Full => (None, File::options().write(true).open("/dev/full").unwrap().into()),
    }
}

/// Its exit code; a signal or too long a life fails the test. What it says fits into a pipe.
fn end(command: &mut Command) -> i32 {
    let mut child = command.spawn().unwrap();
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code().unwrap_or_else(|| panic!("{command:?}: {status}"));
        }
        if begun.elapsed() > PATIENCE {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("{command:?} did not end");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn text(reader: Option<PipeReader>) -> String {
    let mut text = String::new();
    if let Some(mut reader) = reader {
        reader.read_to_string(&mut text).unwrap();
    }
    text
}

/// `--socket` behind the words of a client command.
fn client<'a>(words: &[&'a str], socket: &'a Path) -> Vec<&'a OsStr> {
    words.iter().map(|word| OsStr::new(*word)).chain([OsStr::new("--socket"), socket.as_os_str()]).collect()
}

#[test]
fn streams_that_take_nothing() {
    let daemon = Daemon::start();
    let changing = Daemon::with_state();
    let files = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = files.path().join(name);
        fs::write(&path, text).unwrap();
        path
    };
    let (good, bad) = (file("good.toml", CONFIG), file("bad.toml", &CONFIG.replace("/24", "/99")));
    let absent = files.path().join("absent");
    let words = |words: &[&'static str]| words.iter().map(|word| OsStr::new(*word)).collect::<Vec<_>>();
    let (good, bad) = (good.as_os_str(), bad.as_os_str());

    // Each with its exit code, and whether it prints on stdout.
    let cases: Vec<(Vec<&OsStr>, i32, bool)> = vec![
        (words(&["--help"]), 0, true),
        (words(&["route", "add", "--help"]), 0, true),
        (words(&["--version"]), 0, true),
        (words(&[]), 2, false),
        (words(&["fly"]), 2, false),
        (words(&["status", "-o", "yaml"]), 2, false),
        (vec![OsStr::new("check"), good], 0, true),
        (vec![OsStr::new("check"), bad], 1, false),
        (vec![OsStr::new("run"), OsStr::new("--config"), bad], 1, false),
        (client(&["status"], &daemon.socket), 0, true),
        (client(&["status", "-o", "json"], &daemon.socket), 0, true),
        (client(&["drops"], &daemon.socket), 0, true),
        (client(&["peer", "list"], &daemon.socket), 0, true),
        (client(&["route", "list"], &daemon.socket), 0, true),
        (client(&["route", "list", "-o", "json"], &daemon.socket), 0, true),
        (client(&["route", "list", "-o", "lines"], &daemon.socket), 0, true),
        (client(&["route", "get", "10.244.2.7"], &daemon.socket), 0, true),
        (client(&["reload"], &changing.socket), 0, true),
        (client(&["route", "replace", "--file", "-"], &changing.socket), 0, true),
        (client(&["peer", "del", "nobody"], &changing.socket), 1, false),
        (client(&["status"], &absent), 3, false),
        (client(&["capture", "-w", "-"], &absent), 3, false),
    ];
    for (args, code, prints) in cases {
        let usual = run(&args, Kept, Kept);
        assert_eq!((usual.code, usual.stdout.is_empty()), (code, !prints), "{args:?}: {}", usual.stderr);
        for stdout in [Kept, Closed, Full, Broken] {
            for stderr in [Kept, Closed, Full, Broken] {
                let ran = run(&args, stdout, stderr);
                let unwritten = prints && stdout == Full;
                let case = format!("{args:?}, stdout {stdout:?}, stderr {stderr:?}: {}", ran.stderr);
                assert_eq!(ran.code, if unwritten { 1 } else { code }, "{case}");
                if stdout == Kept {
                    assert_eq!(ran.stdout.is_empty(), !prints, "{case}");
                }
                if stderr == Kept && unwritten {
                    assert_eq!(ran.stderr.lines().count(), 1, "{case}");
                    assert!(
                        ran.stderr.starts_with("underpass: cannot write to stdout: No space left"),
                        "{case}"
                    );
                } else if stderr == Kept {
                    assert_eq!(ran.stderr, usual.stderr, "{case}");
                }
            }
        }
    }
}

#[test]
fn a_capture_that_cannot_be_written() {
    let daemon = Daemon::with_state();
    for stderr in [Kept, Closed, Full, Broken] {
        let to_stdout = client(&["capture", "-w", "-"], &daemon.socket);
        assert_eq!(run(&to_stdout, Full, stderr).code, 1);
        assert_eq!(run(&to_stdout, Broken, stderr).code, 0);
        let ran = run(&client(&["capture", "-w", "/dev/full"], &daemon.socket), Kept, stderr);
        assert_eq!((ran.code, ran.stdout.as_str()), (1, ""));
        if stderr == Kept {
            assert!(
                ran.stderr.starts_with("underpass: cannot write to /dev/full: No space"),
                "{}",
                ran.stderr
            );
        }
    }
}

#[test]
fn a_daemon_that_cannot_start_does_not_wait_for_its_last_words() {
    let dir = tempfile::tempdir().unwrap();
    let bad = dir.path().join("bad.toml");
    fs::write(&bad, "nonsense").unwrap();
    let (_reader, writer) = full_pipe();
    let mut command = Command::new(cargo_bin!("underpass"));
    command.arg("run").arg("--config").arg(&bad).stdin(Stdio::null()).stdout(Stdio::null()).stderr(writer);
    assert_eq!(end(&mut command), 1);
}

/// A pipe that takes nothing more, and blocks whoever tries.
fn full_pipe() -> (PipeReader, PipeWriter) {
    let (reader, mut writer) = pipe().unwrap();
    rustix::io::ioctl_fionbio(&writer, true).unwrap();
    for size in [4096, 1] {
        while writer.write(&[b'x'; 4096][..size]).is_ok() {}
    }
    rustix::io::ioctl_fionbio(&writer, false).unwrap();
    (reader, writer)
}
