//! The log over real pipes and files that take nothing.

use std::fs::File;
use std::io::{PipeReader, Read, Write, pipe};
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use tracing::Level;

use super::{CUT, LINE, LINES, Log, filter, within_bounds};

/// Enough to fill a pipe (64 KiB) and the queue.
const MANY: usize = 8000;
const PATIENCE: Duration = Duration::from_secs(20);

fn numbered(log: &Log, lines: std::ops::Range<usize>) {
    lines.for_each(|number| log.line(format!("line {number:06}\n").as_bytes()));
}

/// All that comes until the log is dropped: the numbers of the lines, and how many are told to be lost.
fn read_all(mut reader: PipeReader) -> (Vec<usize>, u64) {
    let (mut text, mut numbers, mut lost) = (String::new(), Vec::new(), 0);
    reader.read_to_string(&mut text).unwrap();
    for line in text.lines() {
        if let Some(number) = line.strip_prefix("line ") {
            numbers.push(number.parse().unwrap());
        } else {
            let count =
                line.strip_prefix("underpass: log lines lost: ").and_then(|rest| rest.split(';').next());
            lost += count.expect(line).parse::<u64>().unwrap();
        }
    }
    (numbers, lost)
}

#[test]
fn lines_arrive_in_order() {
    let (reader, writer) = pipe().unwrap();
    let log = Log::over(writer, false).unwrap();
    numbered(&log, 0..100);
    log.flush(PATIENCE);
    assert_eq!(log.lost.load(Relaxed), 0);
    drop(log);
    assert_eq!(read_all(reader), ((0..100).collect(), 0));
}

#[test]
fn nobody_waits_for_a_pipe_that_nobody_reads() {
    let (reader, writer) = pipe().unwrap();
    let log = Log::over(writer, false).unwrap();
    let begun = Instant::now();
    numbered(&log, 0..MANY);
    log.flush(Duration::from_millis(100));
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    let lost = log.lost.load(Relaxed);
    assert!(lost > 0 && lost <= (MANY - LINES) as u64, "{lost}");

    // Now somebody reads: what was queued comes, and the number of those that are missing.
    let reading = std::thread::spawn(move || read_all(reader));
    log.flush(PATIENCE);
    numbered(&log, MANY..MANY + 1);
    log.flush(PATIENCE);
    drop(log);
    let (numbers, told) = reading.join().unwrap();
    assert_eq!(told, lost);
    assert_eq!(numbers.len() as u64 + told, MANY as u64 + 1);
    assert!(numbers.is_sorted_by(|one, next| one < next));
    assert_eq!(numbers.last(), Some(&MANY));
}

#[test]
fn what_the_system_does_not_take_is_lost() {
    let (reader, writer) = pipe().unwrap();
    drop(reader);
    let full = File::options().write(true).open("/dev/full").unwrap();
    for log in [Log::over(writer, false).unwrap(), Log::over(full, false).unwrap()] {
        numbered(&log, 0..500);
        log.flush(PATIENCE);
        assert_eq!(log.lost.load(Relaxed), 500);
    }
}

#[test]
fn a_descriptor_that_somebody_made_non_blocking_loses_nothing() {
    let (reader, writer) = pipe().unwrap();
    rustix::io::ioctl_fionbio(&writer, true).unwrap();
    // 13 bytes a line: a pipe and nearly all of a queue.
    let many = 5000;
    let log = Log::over(writer, false).unwrap();
    let reading = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(50));
        read_all(reader)
    });
    for from in (0..many).step_by(500) {
        numbered(&log, from..from + 500);
        log.flush(PATIENCE);
    }
    drop(log);
    assert_eq!(reading.join().unwrap(), ((0..many).collect(), 0));
}

#[test]
fn a_panic_is_told_and_waits_for_nobody() {
    let (mut reader, writer) = pipe().unwrap();
    panic_elsewhere(writer.into());
    let mut said = String::new();
    reader.read_to_string(&mut said).unwrap();
    assert!(said.contains("thread 'doomed' panicked at src/control/daemon/log/tests.rs:"), "{said}");
    assert!(said.contains("\nfor the test\n"), "{said}");

    let (_reader, mut writer) = pipe().unwrap();
    rustix::io::ioctl_fionbio(&writer, true).unwrap();
    while writer.write(b"x").is_ok() {}
    rustix::io::ioctl_fionbio(&writer, false).unwrap();
    let begun = Instant::now();
    panic_elsewhere(writer.into());
    assert!(begun.elapsed() < PATIENCE);
}

/// Runs [`panicking`] in a process of its own, whose are the log, the hook and stderr.
fn panic_elsewhere(stderr: Stdio) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "control::daemon::log::tests::panicking", "--ignored", "--nocapture"]);
    command.env_remove("RUST_LOG").stdout(Stdio::null()).stderr(stderr);
    let mut child = command.spawn().unwrap();
    drop(command);
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        if let Some(status) = child.try_wait().unwrap() {
            return assert!(status.success(), "{status}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    panic!("it did not end");
}

#[test]
#[ignore = "part of a_panic_is_told_and_waits_for_nobody"]
fn panicking() {
    let _guard = super::start().unwrap();
    let doomed = std::thread::Builder::new().name("doomed".to_owned());
    assert!(doomed.spawn(|| panic!("for the test")).unwrap().join().is_err());
}

#[test]
fn long_lines_are_cut_between_characters() {
    assert_eq!(&*within_bounds(b"short\n"), b"short\n");
    for start in ["", "a", "ab", "abc"] {
        let line = within_bounds((start.to_owned() + &"\u{1f980}".repeat(LINE) + "\n").as_bytes());
        let text = std::str::from_utf8(&line).unwrap();
        assert!(line.len() <= LINE && line.len() > LINE - 8 && line.ends_with(CUT), "{}", text.len());
    }
    // What is no text at all is cut somewhere.
    assert_eq!(&*within_bounds(&[0x80; 2 * LINE]), CUT);
}

#[test]
fn the_level_is_info_unless_said_otherwise() {
    let level = |wanted: &str, target: &str| {
        let (targets, unusable) = filter(wanted);
        let levels = [Level::TRACE, Level::DEBUG, Level::INFO, Level::WARN, Level::ERROR];
        let most = levels.into_iter().find(|level| targets.would_enable(target, level));
        (most, unusable.is_some())
    };
    for wanted in ["", "  ", "info", "INFO"] {
        assert_eq!(level(wanted, "underpass::control"), (Some(Level::INFO), false), "{wanted:?}");
    }
    assert_eq!(level("debug", "hyper"), (Some(Level::DEBUG), false));
    assert_eq!(
        level("warn,underpass::control=trace", "underpass::control::http"),
        (Some(Level::TRACE), false)
    );
    assert_eq!(level("warn,underpass::control=trace", "hyper"), (Some(Level::WARN), false));
    assert_eq!(level("off", "underpass"), (None, false));
    for wanted in ["underpass=loud", "[span]=debug=", "a=b=c"] {
        assert_eq!(level(wanted, "underpass"), (Some(Level::INFO), true), "{wanted:?}");
    }
}
