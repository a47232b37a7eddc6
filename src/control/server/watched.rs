//! The listener of the control socket, whose file others may remove: tmpfiles, an administrator, another
//! daemon. It is looked at twice a second and made again where nobody else listens.

use std::io;
use std::time::Duration;

use axum::serve::Listener;
use tokio::net::unix::SocketAddr;
use tokio::net::{UnixListener, UnixStream};
use tokio::time::{Interval, MissedTickBehavior, interval, sleep};

use super::socket::{ControlSocket, SocketFile};

/// From one look at the file to the next.
const LOOK: Duration = Duration::from_millis(500);
/// How long a shortage of descriptors is waited for.
const SHORTAGE: Duration = Duration::from_millis(100);

/// The control socket while it is served.
pub(super) struct Watched {
    listener: UnixListener,
    file: SocketFile,
    looks: Interval,
    /// What was logged last of a file that cannot be made again.
    told: Option<String>,
}

impl Watched {
    /// Serves `socket` from now on.
    ///
    /// # Errors
    /// When the listener cannot be handed to tokio.
    pub(super) fn new(socket: ControlSocket) -> io::Result<Self> {
        let (listener, file) = socket.into_parts();
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Self { listener: UnixListener::from_std(listener)?, file, looks, told: None })
    }

    /// Makes the file again if it is gone.
    fn look(&mut self) {
        if self.file.look() {
            self.told = None;
            return;
        }
        match self.renew() {
            Ok(()) => {
                tracing::warn!("control socket {}: it was removed, made again", self.file.path().display());
                self.told = None;
            }
            Err(error) if self.told.as_ref() != Some(&error) => {
                tracing::error!("it was removed and cannot be made again: {error}");
                self.told = Some(error);
            }
            Err(_) => {}
        }
    }

    fn renew(&mut self) -> Result<(), String> {
        let socket = self.file.bind_again().map_err(|error| format!("{:#}", anyhow::Error::from(error)))?;
        let (listener, file) = socket.into_parts();
        self.listener = UnixListener::from_std(listener).map_err(|error| error.to_string())?;
        // Dropping the file of before removes nothing: what is there now is another one.
        self.file = file;
        Ok(())
    }
}

impl Listener for Watched {
    type Io = UnixStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (UnixStream, SocketAddr) {
        loop {
            tokio::select! {
                accepted = self.listener.accept() => match accepted {
                    Ok(accepted) => return accepted,
                    Err(error) => {
                        tracing::debug!("a client of the control socket is not accepted: {error}");
                        sleep(SHORTAGE).await;
                    }
                },
                _ = self.looks.tick() => self.look(),
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::path::Path;
    use std::time::{Duration, Instant};

    use axum::serve::Listener;
    use tokio::task::JoinHandle;
    use tokio::time::sleep;

    use super::{ControlSocket, Watched};

    fn serve(path: &Path) -> JoinHandle<()> {
        let mut watched = Watched::new(ControlSocket::bind(path).unwrap()).unwrap();
        tokio::spawn(async move {
            loop {
                watched.accept().await;
            }
        })
    }

    async fn until(what: impl Fn() -> bool) {
        let begin = Instant::now();
        while !what() {
            assert!(begin.elapsed() < Duration::from_secs(10), "in time");
            sleep(Duration::from_millis(10)).await;
        }
    }

    fn directory() -> tempfile::TempDir {
        tempfile::Builder::new().permissions(Permissions::from_mode(0o755)).tempdir().unwrap()
    }

    #[tokio::test]
    async fn a_removed_file_or_directory_is_made_again() {
        let dir = directory();
        let path = dir.path().join("run/s");
        let _served = serve(&path);
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        until(|| UnixStream::connect(&path).is_ok()).await;
        sleep(2 * super::LOOK).await;
        fs::remove_file(&path).unwrap();
        until(|| UnixStream::connect(&path).is_ok()).await;
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600, "as it was");
        fs::remove_dir_all(dir.path().join("run")).unwrap();
        until(|| UnixStream::connect(&path).is_ok()).await;
        fs::remove_file(&path).unwrap();
        // A stale one is in its place.
        drop(UnixListener::bind(&path));
        until(|| UnixStream::connect(&path).is_ok()).await;
    }

    #[tokio::test]
    async fn what_others_put_there_stays_for_as_long_as_they_use_it() {
        let dir = directory();
        let path = dir.path().join("s");
        let _served = serve(&path);
        fs::remove_file(&path).unwrap();
        fs::write(&path, "precious").unwrap();
        sleep(3 * super::LOOK).await;
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        fs::remove_file(&path).unwrap();
        let other = UnixListener::bind(&path).unwrap();
        let inode = fs::metadata(&path).unwrap().ino();
        sleep(3 * super::LOOK).await;
        assert_eq!(fs::metadata(&path).unwrap().ino(), inode);
        drop(other);
        until(|| UnixStream::connect(&path).is_ok()).await;
    }
}
