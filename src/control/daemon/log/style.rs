//! How the log's lines look: with colours for people at a terminal, with priorities for the journal.

use std::fmt;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::{Format, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Priorities of syslog(3).
pub(super) const CRITICAL: u8 = 2;
/// An error, in syslog(3).
pub const ERROR: u8 = 3;
pub(super) const WARNING: u8 = 4;
const INFO: u8 = 6;
const DEBUG: u8 = 7;

/// Whether lines get colours: where they go to a terminal that has some, and nobody said no
/// (<https://no-color.org>).
pub(super) fn has_colours(is_terminal: bool, variable: impl Fn(&str) -> Option<std::ffi::OsString>) -> bool {
    let refused = variable("NO_COLOR").is_some_and(|value| !value.is_empty());
    is_terminal && !refused && variable("TERM").is_none_or(|term| term != "dumb")
}

/// Whether `stderr` is the journal's, which then reads the priority of a line from its begin
/// (`JOURNAL_STREAM`, systemd.exec(5); sd-daemon(3)).
pub(super) fn is_journal(stderr: impl AsFd) -> bool {
    let Some(stream) = std::env::var_os("JOURNAL_STREAM") else { return false };
    let stderr = stderr.as_fd().try_clone_to_owned().map(File::from);
    let Ok(metadata) = stderr.and_then(|stderr| stderr.metadata()) else { return false };
    stream == *format!("{}:{}", metadata.dev(), metadata.ino())
}

/// `text` for stderr, each of its lines with a priority where `journal` says so.
pub fn with_priority(text: &str, priority: u8, journal: bool) -> String {
    if !journal {
        return text.to_owned();
    }
    text.split_inclusive('\n').map(|line| format!("<{priority}>{line}")).collect()
}

/// Lines as `inner` makes them, behind their priority where the journal reads them.
pub(super) struct Lines {
    pub(super) inner: Format,
    pub(super) journal: bool,
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        if self.journal {
            write!(writer, "<{}>", priority(*event.metadata().level()))?;
        }
        self.inner.format_event(context, writer, event)
    }
}

fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => ERROR,
        Level::WARN => WARNING,
        Level::INFO => INFO,
        Level::DEBUG | Level::TRACE => DEBUG,
    }
}

#[cfg(test)]
mod tests {
    use super::{ERROR, has_colours, with_priority};

    #[test]
    fn colours_are_for_terminals_that_want_them() {
        for (terminal, no_color, term, colours) in [
            (true, None, Some("xterm"), true),
            (true, None, None, true),
            (true, Some(""), Some("xterm"), true),
            (true, Some("1"), Some("xterm"), false),
            (true, None, Some("dumb"), false),
            (false, None, Some("xterm"), false),
        ] {
            let variable = |name: &str| if name == "NO_COLOR" { no_color } else { term }.map(Into::into);
            assert_eq!(has_colours(terminal, variable), colours, "{terminal} {no_color:?} {term:?}");
        }
    }

    #[test]
    fn every_line_has_its_priority_in_the_journal() {
        assert_eq!(with_priority("a\nb", ERROR, true), "<3>a\n<3>b");
        assert_eq!(with_priority("a\n", ERROR, true), "<3>a\n");
        assert_eq!(with_priority("a\nb", ERROR, false), "a\nb");
    }
}
