//! The control socket's file: who may connect, and never anybody else's file.
//!
//! The socket is bound, given mode 0660 and only then told to listen. Until `listen` the kernel refuses
//! every connection, so there is no moment at which the umask of the process decides who gets in, and the
//! umask itself, which all threads share, stays untouched. It is bound under the name it keeps, because
//! what cleans directories by age asks the kernel for the names of live sockets.

use std::fs::{self, DirBuilder, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use socket2::{Domain, SockAddr, Socket, Type};

/// A listening control socket and its file.
#[derive(Debug)]
pub struct ControlSocket {
    listener: UnixListener,
    file: SocketFile,
}

/// The file of a control socket. Dropping it removes the file, unless another has taken its place.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
    /// When it was made, where the file system knows: numbers of files are used again.
    born: Option<SystemTime>,
    access: Access,
}

/// Who may connect.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Access {
    mode: u32,
    /// `None` leaves it to the system.
    group: Option<u32>,
}

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The path is taken by something that is not a socket.
    #[error("control socket {}: the path is {what}; remove it or set another control.socket", path.display())]
    Occupied {
        /// The configured path.
        path: PathBuf,
        /// What is there.
        what: &'static str,
    },
    /// Somebody answers on the socket.
    #[error("another daemon listens on {}; stop it or set another control.socket", path.display())]
    InUse {
        /// The configured path.
        path: PathBuf,
    },
    /// Anybody could exchange the socket for another.
    #[error("control socket {}: everybody may write to its directory; choose another", path.display())]
    OpenDirectory {
        /// The configured path.
        path: PathBuf,
    },
    /// The system refused a step.
    #[error("control socket {}: cannot {step}", path.display())]
    System {
        /// The configured path.
        path: PathBuf,
        /// What was tried.
        step: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

/// Mode of the socket file: owner and group may connect.
const FILE_MODE: u32 = 0o660;
/// Mode of the directory if it has to be made.
const DIRECTORY_MODE: u32 = 0o750;
/// Clients that may wait to be accepted; the kernel lowers it to `net.core.somaxconn`.
const BACKLOG: i32 = 1024;

impl ControlSocket {
    /// Listens on `path`, replacing the file of a daemon that is gone.
    ///
    /// Two daemons that start in the same instant on the same path can both succeed; the later
    /// one has the path.
    ///
    /// # Errors
    /// See [`SocketError`].
    pub fn bind(path: &Path) -> Result<Self, SocketError> {
        Self::bind_with(path, Access { mode: FILE_MODE, group: None })
    }

    fn bind_with(path: &Path, access: Access) -> Result<Self, SocketError> {
        let failed = |step| move |source| SocketError::System { path: path.to_owned(), step, source };
        prepare_directory(path)?;
        remove_stale(path)?;
        let socket = listen(path, access).map_err(failed("bind"))?;
        let metadata = fs::symlink_metadata(path).map_err(failed("look at the path"))?;
        let (device, inode) = (metadata.dev(), metadata.ino());
        Ok(Self {
            listener: socket.into(),
            file: SocketFile { path: path.to_owned(), device, inode, born: metadata.created().ok(), access },
        })
    }

    /// The listener (non-blocking) and the guard of its file.
    pub fn into_parts(self) -> (UnixListener, SocketFile) {
        (self.listener, self.file)
    }
}

impl SocketFile {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the file is there still; remembers who may connect.
    pub fn look(&mut self) -> bool {
        let Ok(metadata) = fs::symlink_metadata(&self.path) else { return false };
        let ours = self.is_ours(&metadata);
        if ours {
            self.access = Access { mode: metadata.mode() & 0o7777, group: Some(metadata.gid()) };
        }
        ours
    }

    /// Another socket at the same path, for those who could connect to this one.
    ///
    /// # Errors
    /// See [`SocketError`].
    pub fn bind_again(&self) -> Result<ControlSocket, SocketError> {
        ControlSocket::bind_with(&self.path, self.access)
    }

    fn is_ours(&self, metadata: &Metadata) -> bool {
        (metadata.dev(), metadata.ino()) == (self.device, self.inode) && metadata.created().ok() == self.born
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if !fs::symlink_metadata(&self.path).is_ok_and(|metadata| self.is_ours(&metadata)) {
            return;
        }
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!("cannot remove control socket {}: {error}", self.path.display());
        }
    }
}

/// Makes the directory of `path` if it is missing.
fn prepare_directory(path: &Path) -> Result<(), SocketError> {
    let directory = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let made = DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(directory);
    let metadata = made.and_then(|()| fs::metadata(directory)).map_err(|source| SocketError::System {
        path: path.to_owned(),
        step: "make its directory",
        source,
    })?;
    let (others_write, sticky) = (0o002, 0o1000);
    if metadata.mode() & others_write != 0 && metadata.mode() & sticky == 0 {
        return Err(SocketError::OpenDirectory { path: path.to_owned() });
    }
    Ok(())
}

/// Makes room: succeeds when nothing is at `path`, or was a socket on which nobody listens.
fn remove_stale(path: &Path) -> Result<(), SocketError> {
    let system = |step, source| SocketError::System { path: path.to_owned(), step, source };
    let metadata = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        result => result.map_err(|source| system("look at the path", source))?,
    };
    if let Some(what) = not_a_socket(&metadata) {
        return Err(SocketError::Occupied { path: path.to_owned(), what });
    }
    match probe(path) {
        Ok(()) => Err(SocketError::InUse { path: path.to_owned() }),
        // A full backlog: somebody listens, but is slow to accept.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            Err(SocketError::InUse { path: path.to_owned() })
        }
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(|source| system("remove the stale socket", source))
        }
        Err(source) => Err(system("tell whether somebody listens on it", source)),
    }
}

fn not_a_socket(metadata: &Metadata) -> Option<&'static str> {
    let kind = metadata.file_type();
    if kind.is_socket() {
        None
    } else if kind.is_symlink() {
        Some("a symbolic link")
    } else if kind.is_dir() {
        Some("a directory")
    } else {
        Some("a file, not a socket")
    }
}

/// Connects without waiting.
fn probe(path: &Path) -> io::Result<()> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.connect(&SockAddr::unix(path)?)
}

fn listen(path: &Path, access: Access) -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::unix(path)?)?;
    if access.group.is_some_and(|group| fs::symlink_metadata(path).is_ok_and(|made| made.gid() != group))
        && let Err(error) = chown(path, None, access.group)
    {
        tracing::warn!("control socket {}: it cannot be given to its group again: {error}", path.display());
    }
    fs::set_permissions(path, Permissions::from_mode(access.mode))?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::path::Path;

    use super::{ControlSocket, SocketError};

    /// Closed to others whatever the umask.
    fn directory() -> tempfile::TempDir {
        tempfile::Builder::new().permissions(Permissions::from_mode(0o755)).tempdir().unwrap()
    }

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn directory_and_file_have_their_modes() {
        let dir = directory();
        let path = dir.path().join("run/underpass.sock");
        let socket = ControlSocket::bind(&path).unwrap();
        assert_eq!(mode(&path), 0o660);
        // The umask of whoever runs the tests may take away more.
        assert_eq!(mode(path.parent().unwrap()) & !0o750, 0);
        UnixStream::connect(&path).unwrap();
        let names: Vec<_> =
            fs::read_dir(path.parent().unwrap()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["underpass.sock"]);
        drop(socket);
        assert!(!path.exists());
    }

    #[test]
    fn other_kinds_of_files_are_left_alone() {
        let dir = directory();
        let file = dir.path().join("file");
        fs::write(&file, "precious").unwrap();
        let link = dir.path().join("link");
        symlink(&file, &link).unwrap();
        let dangling = dir.path().join("dangling");
        symlink("nowhere", &dangling).unwrap();
        for (path, expected) in [
            (file.as_path(), "a file, not a socket"),
            (&link, "a symbolic link"),
            (&dangling, "a symbolic link"),
            (dir.path(), "a directory"),
        ] {
            let error = ControlSocket::bind(path).unwrap_err();
            assert!(matches!(error, SocketError::Occupied { what, .. } if what == expected), "{error}");
            assert!(error.to_string().contains(path.to_str().unwrap()));
        }
        assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
    }

    #[test]
    fn a_link_to_a_stale_socket_is_refused() {
        let dir = directory();
        let stale = dir.path().join("stale");
        drop(UnixListener::bind(&stale).unwrap());
        let link = dir.path().join("link");
        symlink(&stale, &link).unwrap();
        assert!(matches!(ControlSocket::bind(&link), Err(SocketError::Occupied { .. })));
    }

    #[test]
    fn a_stale_socket_is_replaced() {
        let dir = directory();
        let path = dir.path().join("s");
        drop(UnixListener::bind(&path).unwrap());
        let _socket = ControlSocket::bind(&path).unwrap();
        assert_eq!(mode(&path), 0o660);
        UnixStream::connect(&path).unwrap();
    }

    #[test]
    fn a_live_socket_is_refused_and_survives() {
        let dir = directory();
        let path = dir.path().join("s");
        let _first = ControlSocket::bind(&path).unwrap();
        let error = ControlSocket::bind(&path).unwrap_err();
        let expected = format!("another daemon listens on {}", path.display());
        assert!(error.to_string().starts_with(&expected), "{error}");
        UnixStream::connect(&path).unwrap();
    }

    #[test]
    fn a_successors_file_is_not_removed() {
        let dir = directory();
        let path = dir.path().join("s");
        let first = ControlSocket::bind(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let _second = ControlSocket::bind(&path).unwrap();
        drop(first);
        UnixStream::connect(&path).unwrap();
    }

    #[test]
    fn a_directory_open_to_all_is_refused() {
        let dir = directory();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o777)).unwrap();
        let error = ControlSocket::bind(&dir.path().join("s")).unwrap_err();
        assert!(matches!(error, SocketError::OpenDirectory { .. }), "{error}");
        fs::set_permissions(dir.path(), Permissions::from_mode(0o1777)).unwrap();
        ControlSocket::bind(&dir.path().join("s")).unwrap();
    }

    #[test]
    fn a_path_too_long_is_an_error() {
        let dir = directory();
        let path = dir.path().join("d".repeat(120)).join("s");
        let error = ControlSocket::bind(&path).unwrap_err();
        assert!(matches!(error, SocketError::System { step: "bind", .. }), "{error}");
    }
}
