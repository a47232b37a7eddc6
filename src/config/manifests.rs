//! `[policy] directory`: manifests of policies, and of what they are about.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::diagnostic::{ConfigError, ConfigErrors};
use super::input::{open_regular, read as read_file};
use crate::policy::{Document, Id, Known, Object, Position, Tier, World, read_documents};

/// Files of a directory, at most.
const MOST_FILES: usize = 4096;
/// Faults that are told, at most.
const MOST_ERRORS: usize = 1000;
/// How names of manifests end.
const ENDINGS: [&str; 3] = ["yaml", "yml", "json"];

/// What a directory says.
#[derive(Default)]
pub(super) struct Manifests {
    /// All objects that were right.
    pub(super) world: World,
    /// Why the directory cannot be read.
    pub(super) unreadable: Option<String>,
    /// What is wrong with the files.
    pub(super) errors: Vec<ConfigError>,
    /// Where what was found is.
    pub(super) places: Places,
}

/// Where objects and addresses of endpoints are.
#[derive(Default)]
pub(super) struct Places {
    /// Objects.
    pub(super) objects: HashMap<Id, Place>,
    /// Addresses of endpoints.
    pub(super) addresses: HashMap<IpAddr, Place>,
}

/// Where something is.
pub(super) enum Place {
    /// In a manifest.
    Manifest(Arc<str>, Position),
    /// In a line of the configuration.
    Line(usize),
}

/// In words, behind "exists already".
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Manifest(file, Position { line, column }) => write!(f, "in {file}:{line}:{column}"),
            Self::Line(line) => write!(f, "in line {line}"),
        }
    }
}

/// The objects of manifests: of files, and of all in directories.
///
/// # Errors
/// Everything that is wrong with them.
pub fn load_manifests(paths: &[PathBuf], known: Known) -> Result<World, ConfigErrors> {
    let mut manifests = Manifests::default();
    let mut all = Vec::new();
    for path in paths {
        match path.is_dir().then(|| within(path)) {
            None => all.push(path.clone()),
            Some(Ok(files)) => all.extend(files),
            Some(Err(reason)) => {
                let file = path.display().to_string().into();
                manifests.errors.push(ConfigError::new(&file, (0, 0), &reason));
            }
        }
    }
    manifests.read_files(&all, known);
    match manifests.errors.is_empty() {
        true => Ok(manifests.world),
        false => Err(ConfigErrors { errors: manifests.errors }),
    }
}

/// Reads all manifests of a directory.
pub(super) fn read(directory: &Path, known: Known) -> Manifests {
    let mut manifests = Manifests::default();
    match within(directory) {
        Ok(files) => manifests.read_files(&files, known),
        Err(reason) => manifests.unreadable = Some(reason),
    }
    manifests
}

/// The manifests of a directory, or why they are not read.
fn within(directory: &Path) -> Result<Vec<PathBuf>, String> {
    let found = files(directory).map_err(|error| format!("cannot read {}: {error}", directory.display()))?;
    if found.len() > MOST_FILES {
        let count = found.len();
        return Err(format!(
            "{} has {count} manifests, more than {MOST_FILES}; join some",
            directory.display()
        ));
    }
    Ok(found)
}

/// The manifests of a directory, by name.
fn files(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        let is_hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        let ending = path.extension().and_then(OsStr::to_str);
        if !is_hidden && ending.is_some_and(|ending| ENDINGS.contains(&ending)) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

impl Manifests {
    fn fault(&mut self, file: &Arc<str>, at: Position, message: &str) {
        self.errors.push(ConfigError::new(file, (at.line, at.column), message));
    }

    /// Reads manifests that belong together.
    fn read_files(&mut self, files: &[PathBuf], known: Known) {
        let mut policies = Vec::new();
        for path in files {
            let file: Arc<str> = path.display().to_string().into();
            self.read_file(path, &file, known, &mut policies);
        }
        // With a cluster tiers may come from there.
        if known == Known::Directory {
            for (tier, file, at) in policies {
                if tier != Tier::DEFAULT && !self.world.tiers().contains_key(&tier) {
                    let message =
                        format!("tier: there is no tier \"{tier}\"; write a manifest of it, or use another");
                    self.fault(&file, at, &message);
                }
            }
        }
        self.errors.sort_by(|one, other| {
            (&one.file, one.line, one.column).cmp(&(&other.file, other.line, other.column))
        });
        let more = self.errors.len().saturating_sub(MOST_ERRORS);
        if more > 0 {
            self.errors.truncate(MOST_ERRORS);
            if let Some(last) = self.errors.last().map(|error| error.file.clone()) {
                self.errors.push(ConfigError::new(&last, (0, 0), &format!("and {more} more mistakes")));
            }
        }
    }

    /// Reads one manifest, and notes the tiers of its policies.
    fn read_file(
        &mut self,
        path: &Path,
        file: &Arc<str>,
        known: Known,
        policies: &mut Vec<(String, Arc<str>, Position)>,
    ) {
        let bytes = match open_regular(path).and_then(read_file) {
            Ok(bytes) => bytes,
            Err(error) => {
                self.errors.push(ConfigError::new(
                    file,
                    (0, 0),
                    &format!("cannot read the manifest: {error}"),
                ));
                return;
            }
        };
        let Ok(text) = std::str::from_utf8(&bytes) else {
            self.errors.push(ConfigError::new(file, (0, 0), "not UTF-8, which a manifest must be"));
            return;
        };
        let (documents, faults) = read_documents(text);
        for fault in faults {
            self.fault(file, fault.at, &fault.message);
        }
        for document in documents.into_iter().flat_map(Document::unfolded) {
            match Object::read_where(&document.value, known) {
                Ok(object) => self.add(object, &document, file, policies),
                Err(faults) => {
                    for fault in faults {
                        self.fault(file, document.position(&fault.path), &fault.message);
                    }
                }
            }
        }
    }

    fn add(
        &mut self,
        object: Object,
        document: &Document,
        file: &Arc<str>,
        policies: &mut Vec<(String, Arc<str>, Position)>,
    ) {
        let id = object.id();
        let at = document.position("/metadata/name");
        match self.places.objects.entry(id) {
            Entry::Occupied(before) => {
                let message = format!("{} exists already {}; remove one of them", before.key(), before.get());
                return self.fault(file, at, &message);
            }
            Entry::Vacant(free) => drop(free.insert(Place::Manifest(file.clone(), at))),
        }
        match &object {
            Object::Endpoint(endpoint) => {
                for address in &endpoint.addresses {
                    match self.places.addresses.entry(*address) {
                        Entry::Occupied(before) => {
                            let message = format!(
                                "{address} is also an address of the endpoint {}; each has its own",
                                before.get()
                            );
                            self.fault(file, at, &message);
                        }
                        Entry::Vacant(free) => drop(free.insert(Place::Manifest(file.clone(), at))),
                    }
                }
            }
            Object::Policy(policy) => {
                policies.push((policy.tier.clone(), file.clone(), document.position("/spec/tier")));
            }
            _ => {}
        }
        self.world.set(object);
    }
}
