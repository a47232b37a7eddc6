//! Files that others read while they are written.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// Who may do what with a file and with the directories that are made for it, whatever the umask of the process is
/// for the former.
#[derive(Clone, Copy, Debug)]
pub struct Modes {
    /// Of the file.
    pub file: u32,
    /// Of directories.
    pub directory: u32,
}

impl Modes {
    /// All may read it.
    pub const PUBLIC: Self = Self { file: 0o644, directory: 0o755 };
}

/// Has `bytes` in the file at `path`, in place of what was there or not at all: whoever reads it sees the one or the
/// other. Directories that are missing are made.
///
/// # Errors
/// Of the file system; what was there is there still.
pub fn replace(path: &Path, bytes: &[u8], modes: Modes) -> io::Result<()> {
    let nowhere = || io::Error::from(io::ErrorKind::InvalidInput);
    let (directory, name) = (path.parent().ok_or_else(nowhere)?, path.file_name().ok_or_else(nowhere)?);
    fs::DirBuilder::new().recursive(true).mode(modes.directory).create(directory)?;
    // Hidden, and with another ending: whoever looks at a directory of such files does not take it for one.
    let new = directory.join(format!(".{}.{}", name.to_string_lossy(), std::process::id()));
    let written = OpenOptions::new().write(true).create(true).truncate(true).mode(modes.file).open(&new);
    let written = written.and_then(|mut file| {
        file.set_permissions(Permissions::from_mode(modes.file))?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&new, path)
    });
    if written.is_err() {
        // There may be nothing to remove.
        let _ = fs::remove_file(&new);
    }
    written
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    use super::{Modes, replace};

    #[test]
    fn a_file_is_replaced_as_a_whole_or_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b/file.json");
        for text in ["one", "two"] {
            replace(&path, text.as_bytes(), Modes { file: 0o604, directory: 0o750 }).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o604, 0o750));
        // What cannot be replaced leaves nothing behind.
        let taken = dir.path().join("a/taken");
        fs::create_dir_all(taken.join("full")).unwrap();
        assert!(replace(&taken, b"x", Modes::PUBLIC).is_err());
        assert!(replace(Path::new("/"), b"x", Modes::PUBLIC).is_err());
        let names: Vec<_> =
            fs::read_dir(dir.path().join("a")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names.len(), 2, "{names:?}");
    }
}
