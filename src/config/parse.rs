//! From a file, or its text, to a checked configuration or all that is wrong with it.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use toml::de::DeTable;

use super::diagnostic::{ConfigErrors, Log};
use super::raw::Raw;
use super::{Config, check};

/// More than any honest configuration has; keeps a wrong path (a disk, `/dev/zero`) from filling
/// memory.
const LARGEST_FILE: u64 = 16 << 20;

/// Reads and checks the configuration file at `path`.
///
/// # Errors
/// Everything that is wrong with the file, or the reason why it cannot be read.
pub fn load(path: &Path) -> Result<Config, ConfigErrors> {
    let file = path.display().to_string();
    let bytes = read(path).map_err(|error| {
        ConfigErrors::of_file(&file, &format!("cannot read the configuration file: {error}"))
    })?;
    match std::str::from_utf8(&bytes) {
        Ok(text) => parse(text, &file),
        Err(error) => {
            let valid = std::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default();
            let mut log = Log::new(valid);
            log.push(valid.len(), "not UTF-8, which TOML must be; save the file as UTF-8");
            Err(log.finish(&file))
        }
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(LARGEST_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LARGEST_FILE {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "larger than 16 MiB"));
    }
    Ok(bytes)
}

/// Checks the configuration `text`; `file` is what errors call it.
///
/// # Errors
/// Everything that is wrong with the text. Where TOML's own syntax is broken, only that: what such
/// a text was meant to say is a guess.
pub fn parse(text: &str, file: &str) -> Result<Config, ConfigErrors> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut log = Log::new(text);
    let (document, faults) = DeTable::parse_recoverable(text);
    let mut broken = false;
    for fault in faults {
        // A second value for a key leaves the first in place, so the rest can still be judged.
        broken |= fault.message() != DUPLICATE_KEY;
        log.push(fault.span().map_or(0, |span| span.start), fault.message());
    }
    if broken {
        return Err(log.finish(file));
    }
    let raw = Raw::read(document.get_ref(), &mut log);
    check::across(&raw, &mut log);
    match raw.build() {
        Some(config) if log.is_empty() => Ok(config),
        _ => Err(log.finish(file)),
    }
}

/// What the parser calls a key or section that is given twice.
const DUPLICATE_KEY: &str = "duplicate key";
