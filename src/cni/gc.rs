//! Taking away what belongs to pods that the runtime does not know any more.
//!
//! The stock plugins of today's distributions cannot do that themselves, so they are asked to delete what was recorded
//! of each, and each address that `host-local` keeps for somebody without a record.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::net::IpAddr;
use std::path::Path;

use rscni_plugin::error::Error;
use rscni_plugin::types::GcAttachment;

use super::conf::Conf;
use super::delegate::{Attachment, Delegate};
use super::records::MOST;
use crate::api::Endpoint;

/// Bytes of a reservation: a container and an interface.
const LONGEST: u64 = 1024;
/// Errors that are told.
const TOLD: usize = 10;

/// Takes away everything that is not `valid`; `forget` removes a record. Goes on after an error.
///
/// # Errors
/// The first of those that there were.
pub(super) fn collect(
    conf: &Conf,
    delegate: &Delegate,
    valid: &[GcAttachment],
    forget: impl Fn(&str) -> io::Result<()>,
) -> Result<(), Error> {
    let is_valid = |container_id: &str, ifname: &str| {
        valid.iter().any(|one| one.container_id == container_id && one.ifname == ifname)
    };
    let mut errors = Vec::new();
    let records = conf.records.all().unwrap_or_else(|error| {
        errors.push(format!("{}: {error}", conf.records.directory().display()));
        Vec::new()
    });
    let stale = |endpoint: &&Endpoint| {
        endpoint.network == conf.name && !is_valid(&endpoint.container_id, &endpoint.ifname)
    };
    for endpoint in records.iter().filter(stale) {
        // The namespace may be there still, and its name may be another pod's by now: the record says whose it was.
        let netns = if Path::new(&endpoint.netns).exists() { &endpoint.netns } else { "" };
        let about = Attachment { container_id: &endpoint.container_id, ifname: &endpoint.ifname, netns };
        let deleted =
            delegate.order("DEL", &conf.forgotten(), Some(about)).map_err(|error| error.to_string());
        let deleted = deleted.and_then(|()| forget(&endpoint.id).map_err(|error| error.to_string()));
        errors.extend(deleted.err().map(|error| format!("{}: {error}", endpoint.id)));
    }
    for (container_id, ifname) in reservations(&conf.addresses().join(&conf.name)) {
        if is_valid(&container_id, &ifname) {
            continue;
        }
        let about = Attachment { container_id: &container_id, ifname: &ifname, netns: "" };
        let released = delegate.order("DEL", &conf.forgotten(), Some(about));
        errors.extend(released.err().map(|error| format!("{container_id}:{ifname}: {error}")));
    }
    if errors.is_empty() {
        return Ok(());
    }
    errors.truncate(TOLD);
    Err(Error::IOFailure(errors.join("; ")))
}

/// Who has an address by the files of `host-local`: one for each, with the container and the interface in it.
fn reservations(directory: &Path) -> BTreeSet<(String, String)> {
    let Ok(entries) = fs::read_dir(directory) else { return BTreeSet::new() };
    let paths = entries.filter_map(Result::ok).map(|entry| entry.path());
    let is_address = |path: &Path| {
        let name = path.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| name.parse::<IpAddr>().is_ok())
    };
    let read = |path: &Path| {
        let mut text = String::new();
        File::open(path).ok()?.take(LONGEST).read_to_string(&mut text).ok()?;
        let mut lines = text.lines().map(str::trim);
        Some((lines.next()?.to_owned(), lines.next()?.to_owned()))
    };
    paths.filter(|path| is_address(path)).take(MOST).filter_map(|path| read(&path)).collect()
}

#[cfg(test)]
mod tests {
    use super::reservations;

    #[test]
    fn reservations_are_read_and_other_files_are_not() {
        let dir = tempfile::tempdir().unwrap();
        assert!(reservations(&dir.path().join("none")).is_empty());
        for (name, text) in [
            ("10.1.0.2", "c1\r\neth0"),
            ("fd00::2", "c1\neth0"),
            ("10.1.0.3", "c2"),
            ("last_reserved_ip.0", "10.1.0.2"),
            ("lock", ""),
            ("10.1.0.4", "c3\nnet1\n"),
        ] {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        let found: Vec<_> = reservations(dir.path()).into_iter().collect();
        assert_eq!(found, [pair("c1", "eth0"), pair("c3", "net1")]);
    }
}
