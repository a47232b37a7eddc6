//! From a file, or its text, to a checked configuration or all that is wrong with it.

use std::fs::File;
use std::io;
use std::path::Path;

use toml::de::DeTable;

use super::diagnostic::{ConfigErrors, Log};
use super::input::{open_regular, read};
use super::manifests::{self, Manifests};
use super::raw::Raw;
use super::unquoted::unquoted;
use super::{Config, check};
use crate::policy::Known;

/// Reads and checks the configuration file at `path`, which may be a pipe.
///
/// # Errors
/// Everything that is wrong with the file, or the reason why it cannot be read.
pub fn load(path: &Path) -> Result<Config, ConfigErrors> {
    understand(path, File::open(path).and_then(read))
}

/// The same, of a file that is read now and then: what cannot be read twice, or makes its reader wait, is
/// refused.
///
/// # Errors
/// See [`load`].
pub fn load_again(path: &Path) -> Result<Config, ConfigErrors> {
    understand(path, open_regular(path).and_then(read))
}

fn understand(path: &Path, bytes: io::Result<Vec<u8>>) -> Result<Config, ConfigErrors> {
    let file = path.display().to_string();
    let bytes = bytes.map_err(|error| {
        ConfigErrors::of_file(&file, &format!("cannot read the configuration file: {error}"))
    })?;
    match std::str::from_utf8(&bytes) {
        Ok(text) => parse_with(text, &file, manifests::read),
        Err(error) => {
            let valid = std::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default();
            let mut log = Log::new(valid);
            log.push(valid.len(), "not UTF-8, which TOML must be; save the file as UTF-8");
            Err(log.finish(&file))
        }
    }
}

/// Checks the configuration `text`; `file` is what errors call it. Manifests that it leads to are not read.
///
/// # Errors
/// Everything that is wrong with the text. Where TOML's own syntax is broken, only that: what such
/// a text was meant to say is a guess.
pub fn parse(text: &str, file: &str) -> Result<Config, ConfigErrors> {
    parse_with(text, file, |_, _| Manifests::default())
}

/// The same, with what `read_manifests` finds in the directory of policies.
fn parse_with(
    text: &str,
    file: &str,
    read_manifests: impl FnOnce(&Path, Known) -> Manifests,
) -> Result<Config, ConfigErrors> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut log = Log::new(text);
    let (document, faults) = DeTable::parse_recoverable(text);
    let mut broken = false;
    let mut understood = None;
    for fault in faults {
        // A second value for a key leaves the first in place, so the rest can still be judged.
        broken |= fault.message() != DUPLICATE_KEY;
        let at = fault.span().map_or(0, |span| span.start);
        // The parser finds several faults in one line without quotes.
        if understood == Some(log.line(at)) {
            continue;
        }
        match unquoted(text, at).filter(|_| fault.message() != DUPLICATE_KEY) {
            Some((begin, message)) => {
                understood = Some(log.line(begin));
                log.push(begin, message);
            }
            None => log.push(at, fault.message()),
        }
    }
    if broken {
        return Err(log.finish(file));
    }
    let mut raw = Raw::read(document.get_ref(), &mut log);
    check::across(&raw, &mut log);
    let manifests = match raw.manifests() {
        Some((directory, known)) => read_manifests(directory, known),
        None => Manifests::default(),
    };
    let wrong = raw.take_manifests(manifests, &mut log);
    match raw.build() {
        Some(config) if log.is_empty() && wrong.is_empty() => Ok(config),
        _ => {
            let mut errors = log.finish(file);
            errors.errors.extend(wrong);
            Err(errors)
        }
    }
}

/// What the parser calls a key or section that is given twice.
const DUPLICATE_KEY: &str = "duplicate key";
