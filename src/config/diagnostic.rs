//! What is wrong with a configuration, and where.
//!
//! A check never stops at the first fault: it writes into a [`Log`] by byte offset and goes on.
//! Lines and columns are computed once, at the end. Quoted input is escaped here, in one place, so
//! that a hostile file can neither break the one-line form nor reach the terminal.

use std::fmt::{self, Write as _};
use std::sync::Arc;

/// One fault of a configuration.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ConfigError {
    /// The file, as the caller named it, or a manifest that it leads to.
    pub file: Arc<str>,
    /// Line, counted from 1; 0 when the fault is the file's as a whole (it cannot be read).
    pub line: usize,
    /// Column in characters, counted from 1; 0 when the fault is the file's as a whole.
    pub column: usize,
    /// The culprit, the reason and what to write instead, on one line.
    pub message: String,
}

/// Every fault of a configuration: those of the file in the order of their positions, then those of manifests; never
/// empty.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ConfigErrors {
    /// The faults.
    pub errors: Vec<ConfigError>,
}

impl ConfigError {
    /// A fault at a place of a file.
    pub(super) fn new(file: &Arc<str>, (line, column): (usize, usize), message: &str) -> Self {
        Self { file: file.clone(), line, column, message: escape(message) }
    }
}

impl ConfigErrors {
    /// A fault of the file as a whole.
    pub(super) fn of_file(file: &str, message: &str) -> Self {
        Self { errors: vec![ConfigError::new(&file.into(), (0, 0), message)] }
    }
}

/// One line for each fault, `FILE:LINE:COLUMN: message`, without a newline at the end.
impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.errors.iter().enumerate() {
            if index > 0 {
                f.write_char('\n')?;
            }
            let file = escape(&error.file);
            match error {
                ConfigError { line: 0, message, .. } => write!(f, "{file}: {message}")?,
                ConfigError { line, column, message, .. } => write!(f, "{file}:{line}:{column}: {message}")?,
            }
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// The faults found so far in one text.
pub(super) struct Log<'t> {
    text: &'t str,
    line_starts: Vec<usize>,
    found: Vec<(usize, String)>,
}

impl<'t> Log<'t> {
    /// An empty log for `text`.
    pub(super) fn new(text: &'t str) -> Self {
        let after_newline = text.match_indices('\n').map(|(at, _)| at + 1);
        Self { text, line_starts: std::iter::once(0).chain(after_newline).collect(), found: Vec::new() }
    }

    /// Notes a fault at the byte offset `at`.
    pub(super) fn push(&mut self, at: usize, message: impl AsRef<str>) {
        self.found.push((at, escape(message.as_ref())));
    }

    /// Whether nothing is wrong so far.
    pub(super) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// The line of the byte offset `at`, counted from 1.
    pub(super) fn line(&self, at: usize) -> usize {
        self.line_starts.partition_point(|&start| start <= at)
    }

    /// Everything noted, sorted by position; faults at the same place stay in the order found.
    pub(super) fn finish(mut self, file: &str) -> ConfigErrors {
        self.found.sort_by_key(|(at, _)| *at);
        let mut cursor = Cursor { line: 1, at: 0, column: 1 };
        let mut errors = Vec::with_capacity(self.found.len());
        let file: Arc<str> = file.into();
        for (at, message) in std::mem::take(&mut self.found) {
            cursor = self.advance(&cursor, at);
            errors.push(ConfigError {
                file: file.clone(),
                line: cursor.line,
                column: cursor.column,
                message,
            });
        }
        ConfigErrors { errors }
    }

    /// The position of `at`, which is not before `from`. Going on from the last fault keeps a long
    /// line with many faults from being counted again for each.
    fn advance(&self, from: &Cursor, at: usize) -> Cursor {
        let line = self.line(at);
        let (start, column) = match line == from.line {
            true => (from.at, from.column),
            false => (self.line_starts[line - 1], 1),
        };
        let passed = self.text.get(start..at).map_or(0, |text| text.chars().count());
        Cursor { line, at, column: column + passed }
    }
}

/// A position in the text.
struct Cursor {
    line: usize,
    at: usize,
    column: usize,
}

/// `text` on one line of bounded length, characters a terminal would not print as such escaped.
fn escape(text: &str) -> String {
    const LIMIT: usize = 500;
    let mut line = String::with_capacity(text.len().min(LIMIT));
    for (index, c) in text.chars().enumerate() {
        match c {
            _ if index == LIMIT => {
                line.push('…');
                break;
            }
            '"' | '\'' | '\\' => line.push(c),
            _ => line.extend(c.escape_debug()),
        }
    }
    line
}
