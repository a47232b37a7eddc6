//! The daemon's log: lines on stderr that nobody ever waits for.
//!
//! ```text
//! tracing, panics ──line──▶ queue ──▶ thread "log" ──write(2)──▶ stderr
//!                             │full                    │refused
//!                             └────────▶ lost ◀────────┘
//! ```
//!
//! Stderr may be a pipe that nobody reads, a pipe whose reader is gone, or a file on a full disk.
//! Whoever logs only puts a line into a bounded queue; a line that does not fit, or that the system
//! does not take, is lost and counted. Once stderr takes lines again, one of them says how many are
//! missing. Only the thread here writes to the descriptor, so only it may hang there.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::panic::PanicHookInfo;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, RecvError, RecvTimeoutError, Sender, bounded};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::format;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Lines that wait for stderr; with [`LINE`] this bounds the memory, to 4 MiB.
const LINES: usize = 1024;
/// Bytes of the longest line; the rest of a longer one is cut off.
const LINE: usize = 4096;
/// Ends a line that was cut.
const CUT: &[u8] = " […]\n".as_bytes();
/// At most one line in this time says that others are lost.
const NOTICE_EVERY: Duration = Duration::from_secs(1);
/// How long the end of the process waits for stderr to take what is queued.
const LAST_LINES: Duration = Duration::from_millis(500);

pub mod style;

static LOG: OnceLock<Log> = OnceLock::new();

/// The queue's near end.
#[derive(Clone)]
struct Log {
    items: Sender<Item>,
    /// Lines that did not reach stderr.
    lost: Arc<AtomicU64>,
    /// Whether the journal reads the lines.
    journal: bool,
}

enum Item {
    Line(Box<[u8]>),
    /// Answered once everything before it is written or lost.
    Flush(Sender<()>),
}

/// Waits for the last lines when it is dropped, half a second at most.
#[must_use = "dropping it ends the log"]
pub struct Guard(Log);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.flush(LAST_LINES);
    }
}

/// Begins to log to stderr: level `info`, or what RUST_LOG says. Panics of any thread go there, too.
///
/// # Errors
/// When the thread cannot be made.
pub fn start() -> io::Result<Guard> {
    let journal = is_journal();
    let log = Log::over(io::stderr(), journal)?;
    let log = LOG.get_or_init(|| log).clone();
    std::panic::set_hook(Box::new(report_panic));
    let wanted = std::env::var_os("RUST_LOG").unwrap_or_default();
    let wanted = wanted.to_string_lossy();
    let (targets, unusable) = filter(&wanted);
    let writer = log.clone();
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(move || writer.clone())
        .with_ansi(style::has_colours(io::stderr().is_terminal(), |name| std::env::var_os(name)))
        .event_format(style::Lines { inner: format().with_target(false), journal })
        // It would print on stderr by itself, and wait for it.
        .log_internal_errors(false);
    // Fails only where there is a subscriber already, as in a test.
    let _ = tracing_subscriber::registry().with(lines).with(targets).try_init();
    if let Some(error) = unusable {
        tracing::warn!(
            "RUST_LOG={wanted:?} is not understood, the level is info: {error}; use LEVEL or TARGET=LEVEL"
        );
    }
    Ok(Guard(log))
}

/// Whether the journal reads what is written to stderr.
pub fn is_journal() -> bool {
    style::is_journal(io::stderr())
}

/// Lines that did not reach stderr since the start.
pub fn lines_lost() -> u64 {
    LOG.get().map_or(0, |log| log.lost.load(Relaxed))
}

/// What RUST_LOG asks for, and why that could not be understood. `EnvFilter` would do more, but it
/// prints on stderr by itself.
fn filter(wanted: &str) -> (Targets, Option<String>) {
    // What fails in there is told by the source or by whoever looks at the host, in their own words.
    let client = ["kube_client", "kube_runtime", "netlink_proto"].map(|target| (target, LevelFilter::OFF));
    let info = || Targets::new().with_default(LevelFilter::INFO).with_targets(client);
    match wanted.trim() {
        "" => (info(), None),
        wanted => Targets::from_str(wanted)
            .map_or_else(|error| (info(), Some(error.to_string())), |targets| (targets, None)),
    }
}

/// Says what std's own hook says, which would wait for stderr.
fn report_panic(info: &PanicHookInfo<'_>) {
    let Some(log) = LOG.get() else { return };
    let thread = thread::current();
    let mut text = format!("thread '{}' {info}", thread.name().unwrap_or("unnamed"));
    let backtrace = Backtrace::capture();
    if backtrace.status() == BacktraceStatus::Captured {
        text += &format!("\n{backtrace}");
    }
    let priority = |line: &str| style::with_priority(line, style::CRITICAL, log.journal);
    text.lines().for_each(|line| log.line(format!("{}\n", priority(line)).as_bytes()));
    log.flush(LAST_LINES);
}

impl Log {
    /// A log on `out`, with its thread.
    fn over(out: impl AsFd + Send + 'static, journal: bool) -> io::Result<Self> {
        let (items, queue) = bounded(LINES);
        let lost = Arc::<AtomicU64>::default();
        let lines = Lines::new(out, Arc::clone(&lost), journal);
        thread::Builder::new().name("log".to_owned()).spawn(move || lines.write(&queue))?;
        Ok(Self { items, lost, journal })
    }

    /// Queues a line with its end, or loses it.
    fn line(&self, line: &[u8]) {
        let item = Item::Line(within_bounds(line));
        if self.items.try_send(item).is_err() {
            self.lost.fetch_add(1, Relaxed);
        }
    }

    /// Waits until what is queued is written or lost, for `patience` at most.
    fn flush(&self, patience: Duration) {
        let end = Instant::now() + patience;
        let (done, flushed) = bounded(1);
        if self.items.send_deadline(Item::Flush(done), end).is_ok() {
            let _ = flushed.recv_deadline(end);
        }
    }
}

/// One event of tracing is one `write_all`.
impl Write for Log {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.line(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A line of at most [`LINE`] bytes.
fn within_bounds(line: &[u8]) -> Box<[u8]> {
    if line.len() <= LINE {
        return line.into();
    }
    let mut end = LINE - CUT.len();
    // Not within a character: the bytes behind the first of one are 10xxxxxx.
    while end > 0 && line[end] & 0xc0 == 0x80 {
        end -= 1;
    }
    [&line[..end], CUT].concat().into()
}

/// The queue's far end: the only one that writes.
struct Lines<F> {
    out: F,
    lost: Arc<AtomicU64>,
    /// How many of the lost ones were told of.
    told: u64,
    /// Before this no other line tells of lost ones.
    next_notice: Instant,
    /// Whether the last write succeeded.
    works: bool,
    /// Whether the last line was written in part.
    torn: bool,
    journal: bool,
}

impl<F: AsFd> Lines<F> {
    fn new(out: F, lost: Arc<AtomicU64>, journal: bool) -> Self {
        Self { out, lost, told: 0, next_notice: Instant::now(), works: true, torn: false, journal }
    }

    /// Writes until nobody can log any more.
    fn write(mut self, queue: &Receiver<Item>) {
        loop {
            let item = if self.works && self.untold() > 0 {
                queue.recv_deadline(self.next_notice)
            } else {
                // Lines lost meanwhile are behind one in the queue, so this does not sleep on them.
                queue.recv().map_err(|RecvError| RecvTimeoutError::Disconnected)
            };
            match item {
                Ok(Item::Line(line)) => self.line(&line),
                Ok(Item::Flush(done)) => {
                    self.notice();
                    let _ = done.send(());
                }
                Err(RecvTimeoutError::Timeout) => self.notice(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn line(&mut self, line: &[u8]) {
        if self.put(line).is_err() {
            self.lost.fetch_add(1, Relaxed);
        } else if Instant::now() >= self.next_notice {
            self.notice();
        }
    }

    fn untold(&self) -> u64 {
        self.lost.load(Relaxed) - self.told
    }

    /// Tells of lost lines, if there are any.
    fn notice(&mut self) {
        let untold = self.untold();
        if untold == 0 {
            return;
        }
        let text = format!("underpass: log lines lost: {untold}; stderr was full or not read in time\n");
        let text = style::with_priority(&text, style::WARNING, self.journal);
        if self.put(text.as_bytes()).is_ok() {
            self.told += untold;
        }
        self.next_notice = Instant::now() + NOTICE_EVERY;
    }

    /// Writes a line, however long stderr takes to take it.
    fn put(&mut self, line: &[u8]) -> Result<(), Errno> {
        let result = if self.torn { self.put_bytes(b"\n") } else { Ok(()) };
        let result = result.and_then(|()| self.put_bytes(line));
        self.works = result.is_ok();
        result
    }

    fn put_bytes(&mut self, bytes: &[u8]) -> Result<(), Errno> {
        let mut rest = bytes;
        while !rest.is_empty() {
            match rustix::io::write(&self.out, rest) {
                Ok(0) => return Err(Errno::IO),
                Ok(written) => {
                    rest = &rest[written..];
                    self.torn = !rest.is_empty();
                }
                Err(Errno::INTR) => {}
                // Somebody who shares the descriptor made it non-blocking.
                Err(Errno::AGAIN) => wait_for(&self.out)?,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Waits until `out` takes something.
fn wait_for(out: &impl AsFd) -> Result<(), Errno> {
    match poll(&mut [PollFd::new(out, PollFlags::OUT)], None) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests;
