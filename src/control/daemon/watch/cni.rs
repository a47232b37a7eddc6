//! The network configuration for the container runtime (`[cni]`), and the records of its plugin.
//!
//! The file is written once the daemon is ready, as the runtime takes it for the sign that pods can start, and again
//! when what it says has changed. It stays at the end of the daemon: pods outlive that.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::api::CniFacts;
use crate::cni::conflist::{Conflist, first_before};
use crate::cni::records::Records;
use crate::config::{Cni, Config};
use crate::control::daemon::pods::{Endpoints, facts};
use crate::control::daemon::runner::Inbox;
use crate::control::engine::port::Requirement;
use crate::control::engine::{Event, Snapshot};
use crate::files::{self, Modes};

/// From one look at the files to the next.
const INTERVAL: Duration = Duration::from_secs(5);
/// Bytes of a configuration that is compared: one that is longer is another one.
const LONGEST: u64 = 1 << 20;

/// What is watched.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    cni: Option<Cni>,
    socket: PathBuf,
    records: Records,
    /// What was written last.
    written: Option<String>,
}

impl Files {
    /// The files that `config` names.
    pub(crate) fn new(config: &Config) -> Self {
        let socket = config.control.socket.clone();
        Self { cni: config.cni.clone(), records: Records::beside(&socket), socket, written: None }
    }

    /// Has `endpoints` follow the records.
    pub(crate) fn read(&self, endpoints: &Endpoints) {
        if let Err(error) = endpoints.follow(|| self.records.all()) {
            tracing::warn!(
                "cannot read the records of pods in {}: {error}",
                self.records.directory().display()
            );
        }
    }

    /// Writes the configuration where it is not as `facts` have it. Returns what is wrong.
    fn mend(&mut self, facts: &CniFacts) -> Vec<Requirement> {
        let Some(cni) = &self.cni else { return Vec::new() };
        let path = cni.conflist.as_path();
        let wanted = Conflist {
            plugin: cni.plugins.name(),
            subnets: &facts.subnets,
            mtu: facts.mtu,
            socket: &self.socket,
            state_dir: self.records.directory(),
        };
        let wanted = wanted.render();
        let found = read(path);
        let mut wrong = Vec::new();
        if found.as_ref() != Some(&wanted) {
            if self.written.is_some() && found != self.written {
                wrong.push(changed(path, found.is_none()));
            }
            match files::replace(path, wanted.as_bytes(), Modes::PUBLIC) {
                Ok(()) => {
                    tracing::info!(
                        "{} written: {}, mtu {}",
                        path.display(),
                        facts.subnets.join(", "),
                        facts.mtu
                    );
                    self.written = Some(wanted);
                }
                Err(error) => wrong.push(refused(path, &error)),
            }
        } else {
            self.written = Some(wanted);
        }
        wrong.extend(first_before(path).map(|first| hidden(path, &first)));
        wrong
    }
}

/// Watches for ever. Call it when the daemon is ready.
pub(crate) async fn watch(
    mut files: Files,
    endpoints: Endpoints,
    inbox: Inbox,
    mut snapshots: watch::Receiver<Arc<Snapshot>>,
) {
    let mut shown = Vec::new();
    loop {
        let now = facts(&snapshots.borrow_and_update());
        let (known, wanted) = (endpoints.clone(), now.clone());
        // Disks may be slow, and nobody waits for this one.
        let looked = tokio::task::spawn_blocking(move || {
            files.read(&known);
            let wrong = files.mend(&wanted);
            (files, wrong)
        });
        let Ok((back, wrong)) = looked.await else { return };
        files = back;
        if wrong != shown {
            inbox.send(Event::Cni(wrong.clone()));
            shown = wrong;
        }
        let next = Instant::now() + INTERVAL;
        loop {
            tokio::select! {
                () = sleep_until(next) => break,
                changed = snapshots.changed() => match changed {
                    Ok(()) if facts(&snapshots.borrow_and_update()) != now => break,
                    Ok(()) => {}
                    Err(_) => return,
                },
            }
        }
    }
}

/// The file, if it is there and can be understood as text.
fn read(path: &Path) -> Option<String> {
    let mut text = String::new();
    File::open(path).ok()?.take(LONGEST).read_to_string(&mut text).ok()?;
    Some(text)
}

fn refused(path: &Path, error: &io::Error) -> Requirement {
    let directory = path.parent().unwrap_or(path).display();
    Requirement {
        what: format!("{} cannot be written, so new pods get no network: {error}", path.display()),
        command: format!("ls -ld {directory}"),
    }
}

fn changed(path: &Path, gone: bool) -> Requirement {
    let (directory, how) =
        (path.parent().unwrap_or(path).display(), if gone { "removed" } else { "changed" });
    Requirement {
        what: format!("somebody else {how} {}, which was written again", path.display()),
        command: format!("ls -la --full-time {directory}"),
    }
}

fn hidden(path: &Path, first: &Path) -> Requirement {
    let first = first.display();
    Requirement {
        what: format!(
            "container runtimes take {first} instead of {}: it comes first by name",
            path.display()
        ),
        command: format!("mv {first} {first}.disabled"),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    use super::Files;
    use crate::api::CniFacts;

    fn files(conflist: &Path) -> Files {
        let text = format!(
            "[node]\nname = \"a\"\naddress = \"192.0.2.1/24\"\n[local]\nsubnets = [\"10.1.0.0/24\"]\n[cni]\nconflist = {conflist:?}\n"
        );
        Files::new(&crate::config::parse(&text, "f").unwrap())
    }

    fn facts(mtu: u16) -> CniFacts {
        CniFacts { subnets: vec!["10.1.0.0/24".to_owned()], mtu, limited: None }
    }

    #[test]
    fn the_configuration_is_written_and_mended() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("net.d/10-underpass.conflist");
        let mut files = files(&path);
        let text = || std::fs::read_to_string(&path).unwrap();
        assert_eq!(files.mend(&facts(1450)), []);
        assert!(text().contains("\"mtu\": 1450"));
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
        assert_eq!(files.mend(&facts(1400)), [], "the change is our own");
        let good = text();
        assert!(good.contains("\"mtu\": 1400"));
        for (how, change) in [("changed", Some("{}")), ("removed", None)] {
            match change {
                Some(other) => std::fs::write(&path, other).unwrap(),
                None => std::fs::remove_file(&path).unwrap(),
            }
            let wrong = files.mend(&facts(1400));
            assert!(wrong[0].what.starts_with(&format!("somebody else {how} ")), "{wrong:?}");
            assert_eq!((text(), files.mend(&facts(1400))), (good.clone(), vec![]));
        }
        let left: Vec<_> = std::fs::read_dir(path.parent().unwrap()).unwrap().collect();
        assert_eq!(left.len(), 1, "{left:?}");
        std::fs::write(path.with_file_name("00-other.conf"), "").unwrap();
        assert!(files.mend(&facts(1400))[0].what.contains("00-other.conf instead of "));
    }

    #[test]
    fn what_cannot_be_written_is_shown() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file/10-underpass.conflist");
        std::fs::write(dir.path().join("file"), "").unwrap();
        let wrong = files(&path).mend(&facts(1450));
        assert!(
            wrong[0].what.contains("10-underpass.conflist cannot be written, so new pods get no network")
        );
        assert_eq!(wrong[0].command, format!("ls -ld {}/file", dir.path().display()));
    }
}
