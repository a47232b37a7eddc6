//! Standard input within bounds: the crate that speaks CNI reads it to its end, however far that is.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::stdio::dup2_stdin;

/// Bytes of a network configuration, at most.
const LONGEST: u64 = 1 << 20;

/// Reads standard input and puts what was read in its place, so that it can be read once more.
///
/// # Errors
/// When it is too long or cannot be read.
pub(super) fn bound() -> io::Result<()> {
    let mut text = Vec::new();
    io::stdin().lock().take(LONGEST + 1).read_to_end(&mut text)?;
    if text.len() as u64 > LONGEST {
        let reason = format!("the network configuration on standard input is longer than {LONGEST} bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
    }
    let mut again = memory()?;
    again.write_all(&text)?;
    again.seek(SeekFrom::Start(0))?;
    dup2_stdin(&again)?;
    Ok(())
}

/// An empty file in memory.
///
/// # Errors
/// The kernel's.
pub(super) fn memory() -> io::Result<File> {
    Ok(memfd_create("underpass-cni", MemfdFlags::CLOEXEC)?.into())
}
