//! From a file, or its text, to a checked configuration or all that is wrong with it.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use toml::de::DeTable;

use super::diagnostic::{ConfigErrors, Log};
use super::raw::Raw;
use super::unquoted::unquoted;
use super::{Config, check};

/// More than any honest configuration has; keeps a wrong path (a disk, `/dev/zero`) from filling
/// memory.
const LARGEST_FILE: u64 = 16 << 20;

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
        Ok(text) => parse(text, &file),
        Err(error) => {
            let valid = std::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default();
            let mut log = Log::new(valid);
            log.push(valid.len(), "not UTF-8, which TOML must be; save the file as UTF-8");
            Err(log.finish(&file))
        }
    }
}

/// Opens a regular file, without waiting for the other end of anything else.
fn open_regular(path: &Path) -> io::Result<File> {
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)?;
    let kind = file.metadata()?.file_type();
    let what = match () {
        () if kind.is_file() => return Ok(file),
        () if kind.is_dir() => return Err(io::ErrorKind::IsADirectory.into()),
        () if kind.is_fifo() => "a pipe",
        () if kind.is_char_device() || kind.is_block_device() => "a device",
        () => "no file",
    };
    Err(io::Error::other(format!("it is {what}, which cannot be read again; give a file")))
}

fn read(file: File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(LARGEST_FILE + 1).read_to_end(&mut bytes)?;
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
    let raw = Raw::read(document.get_ref(), &mut log);
    check::across(&raw, &mut log);
    match raw.build() {
        Some(config) if log.is_empty() => Ok(config),
        _ => Err(log.finish(file)),
    }
}

/// What the parser calls a key or section that is given twice.
const DUPLICATE_KEY: &str = "duplicate key";
