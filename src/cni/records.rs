//! What is kept of each attachment while it lasts: one small file, which survives a restart of the daemon and tells it
//! of pods that came and went while it was away.
//!
//! The files lie on a file system that is empty after a reboot, as pods are gone then, too.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::api::Endpoint;
use crate::files::{self, Modes};

/// Bytes of a file, at most.
const LONGEST: u64 = 64 * 1024;
/// Files that are looked at, at most: a node has a few hundred pods.
pub const MOST: usize = 8192;
const ENDING: &str = ".json";
/// Names of pods are not for everybody.
const MODES: Modes = Modes { file: 0o640, directory: 0o750 };

/// The directory with the records of one node.
#[derive(Clone, Debug)]
pub struct Records(PathBuf);

impl Records {
    /// Those in `directory`, which need not be there.
    pub fn new(directory: &Path) -> Self {
        Self(directory.to_owned())
    }

    /// Those that belong to the daemon with this control socket.
    pub fn beside(socket: &Path) -> Self {
        Self(socket.parent().unwrap_or(Path::new("/")).join("cni"))
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.0
    }

    /// Keeps `endpoint`, in place of what was kept of it before. A reader sees the one or the other.
    ///
    /// # Errors
    /// The kernel's.
    pub fn write(&self, endpoint: &Endpoint) -> io::Result<()> {
        let path = self.path(&endpoint.id)?;
        // Two processes never write of one attachment at a time, but one may have been killed.
        files::replace(&path, &serde_json::to_vec(endpoint)?, MODES)
    }

    /// What is kept of `id`; `None` where nothing is, or nothing that can be understood.
    pub fn read(&self, id: &str) -> Option<Endpoint> {
        read(&self.path(id).ok()?).filter(|endpoint| endpoint.id == id)
    }

    /// Forgets `id`, of which nothing need be kept.
    ///
    /// # Errors
    /// The kernel's.
    pub fn remove(&self, id: &str) -> io::Result<()> {
        match fs::remove_file(self.path(id)?) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Everything that is kept, in no order. What cannot be understood is passed over.
    ///
    /// # Errors
    /// When the directory is there and cannot be read.
    pub fn all(&self) -> io::Result<Vec<Endpoint>> {
        let entries = match fs::read_dir(&self.0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let paths = entries.filter_map(Result::ok).map(|entry| entry.path());
        let records = paths.filter_map(|path| {
            let id = path.file_name()?.to_str()?.strip_suffix(ENDING)?.to_owned();
            read(&path).filter(|endpoint| endpoint.id == id)
        });
        Ok(records.take(MOST).collect())
    }

    fn path(&self, id: &str) -> io::Result<PathBuf> {
        if Endpoint::is_id(id) {
            Ok(self.0.join(format!("{id}{ENDING}")))
        } else {
            Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the name of the container cannot be that of a file",
            ))
        }
    }
}

fn read(path: &Path) -> Option<Endpoint> {
    let mut text = Vec::new();
    File::open(path).ok()?.take(LONGEST + 1).read_to_end(&mut text).ok()?;
    let endpoint: Endpoint = serde_json::from_slice(&text).ok()?;
    endpoint.check().is_ok().then_some(endpoint)
}

#[cfg(test)]
mod tests {
    use super::Records;
    use crate::api::Endpoint;

    #[test]
    fn records_come_and_go_and_junk_is_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::beside(&dir.path().join("underpass.sock"));
        assert_eq!(records.all().unwrap(), []);
        records.remove("c1:eth0").unwrap();
        let mut one = Endpoint::sample("c1");
        for addresses in [Vec::new(), one.addresses.clone()] {
            one.addresses = addresses;
            records.write(&one).unwrap();
            assert_eq!(records.read("c1:eth0"), Some(one.clone()));
        }
        let put = |name: &str, text: &[u8]| std::fs::write(records.directory().join(name), text).unwrap();
        put("junk.json", b"{");
        put("other:eth0.json", &serde_json::to_vec(&one).unwrap());
        put(".c2:eth0.7", b"");
        put("huge:eth0.json", &[b' '; 70_000]);
        std::fs::create_dir(records.directory().join("d:e.json")).unwrap();
        assert_eq!(records.all().unwrap(), [one]);
        assert_eq!(records.read("../x"), None);
        assert!(
            records.write(&Endpoint::sample("..")).is_err()
                && records.write(&Endpoint::sample("a/b")).is_err()
        );
        records.remove("c1:eth0").unwrap();
        assert_eq!(records.all().unwrap(), []);
    }
}
