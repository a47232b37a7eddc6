//! What a cluster has of network policy: policies, what they select, and what they speak of.
//!
//! ```text
//! events ──read──▶ known objects of each kind ──▶ World ──▶ told, and kept in a file of its own
//! ```
//!
//! It is told apart from what the cluster says of its nodes, as pods come and go all the time. A part of it would be
//! wrong, so nothing is told before every kind has been listed; what was told before stays until then.

mod kinds;
mod read;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use kube::api::{ApiResource, DynamicObject};
use kube::runtime::watcher::Event;
use tokio::sync::watch;
use tokio::time::Instant;

pub(super) use self::kinds::Kind;
use self::read::Known;
use super::table::{Table, key};
use crate::control::source::cluster::PolicyEnds;
use crate::control::source::state_file::StateFile;
use crate::policy::World;

/// Writes of the file come no closer together, and take at most one part in so many of the time.
const WRITES: (Duration, u32) = (Duration::from_secs(1), 20);
/// Objects whose problems are said one by one.
const MOST_PROBLEMS: usize = 20;

/// What is known of the policies of a cluster, and to whom it is told.
pub(super) struct Policies {
    ends: PolicyEnds,
    file: StateFile<World>,
    /// What is watched in this session.
    watched: BTreeMap<Kind, Watched>,
    /// What the objects of each kind say, by the names that the watch has for them.
    known: BTreeMap<Kind, BTreeMap<String, Known>>,
    /// The same, as it is told.
    world: World,
    /// Objects that cannot be read.
    problems: Vec<String>,
    /// Why the world could not be kept.
    file_trouble: Option<String>,
    /// How long the last write took.
    write_took: Duration,
    write_at: Option<Instant>,
}

/// A kind of objects that is watched.
struct Watched {
    resource: ApiResource,
    table: Table<Known>,
    /// Why it is not followed now.
    lost: Option<String>,
}

impl Policies {
    /// Nothing known yet of those of the cluster in which this is `node`, beside whose `state_file` they have theirs.
    pub(super) fn new(ends: PolicyEnds, state_file: &Path, node: &str) -> Self {
        Self {
            ends,
            file: StateFile::new(&state_file.with_extension("policy.json"), node),
            watched: BTreeMap::new(),
            known: BTreeMap::new(),
            world: World::default(),
            problems: Vec::new(),
            file_trouble: None,
            write_took: Duration::ZERO,
            write_at: None,
        }
    }

    /// Whether anybody wants to know them, and whenever that changes.
    pub(super) fn wanted(&self) -> watch::Receiver<bool> {
        self.ends.wanted.clone()
    }

    /// Takes what the file has, until the API server says it anew; forgets everything where nobody wants it.
    pub(super) fn recall(&mut self) {
        if !*self.ends.wanted.borrow() {
            self.known.clear();
            self.watched.clear();
            self.problems.clear();
            self.write_at = None;
            self.tell(None);
            return;
        }
        if self.ends.tell.borrow().is_some() {
            return;
        }
        match self.file.read() {
            Ok(Some(world)) => self.tell(Some(Arc::new(world))),
            Ok(None) => {}
            Err(why) => tracing::warn!("what was known of the cluster's policies is lost: {why}"),
        }
    }

    /// Finds out what there is to watch in a session that begins.
    ///
    /// # Errors
    /// Why the API server cannot be asked.
    pub(super) async fn begin(&mut self, client: &Client) -> Result<Vec<(Kind, ApiResource)>, String> {
        self.watched.clear();
        // A wish from here on ends the session.
        if !*self.ends.wanted.borrow_and_update() {
            return Ok(Vec::new());
        }
        let found = kinds::found(client).await?;
        let watched =
            |resource: &ApiResource| Watched { resource: resource.clone(), table: Table::new(), lost: None };
        self.watched = found.iter().map(|(kind, resource)| (*kind, watched(resource))).collect();
        // A kind that is gone has no objects any more.
        self.known.retain(|kind, _| self.watched.contains_key(kind));
        Ok(found)
    }

    /// Whether the cluster has other kinds by now than those that are watched.
    pub(super) async fn are_others(&self, client: &Client) -> bool {
        if self.watched.is_empty() {
            return false;
        }
        let Ok(found) = kinds::found(client).await else { return false };
        let found: BTreeMap<_, _> = found.iter().map(|(kind, resource)| (kind, resource)).collect();
        let watched: BTreeMap<_, _> = self.watched.iter().map(|(kind, one)| (kind, &one.resource)).collect();
        found != watched
    }

    /// Takes an event of a kind. Returns whether there is something to tell.
    pub(super) fn take(&mut self, kind: Kind, event: Event<DynamicObject>) -> bool {
        let Some(watched) = self.watched.get_mut(&kind) else { return false };
        // A part of a list counts at its end.
        let is_part = matches!(event, Event::Init | Event::InitApply(_));
        let healed = !is_part && watched.lost.take().is_some();
        let one = match &event {
            Event::Apply(object) | Event::Delete(object) => Some(key(object)),
            _ => None,
        };
        let known = self.known.entry(kind).or_default();
        let before = one.as_ref().and_then(|one| known.get(one).cloned());
        let resource = &watched.resource;
        let changed = watched.table.take(known, event, |object| read::read(object, resource));
        if changed {
            match one {
                Some(one) => self.put(kind, &one, before),
                None => self.put_all(),
            }
        }
        changed || healed
    }

    /// Puts what is known of one object into the world, in the place of what was known `before`.
    fn put(&mut self, kind: Kind, one: &str, before: Option<Known>) {
        let now = self.known.get(&kind).and_then(|known| known.get(one));
        let was_wrong = before.as_ref().is_some_and(|before| before.problem.is_some());
        let is_wrong = now.is_some_and(|now| now.problem.is_some());
        let object = now.and_then(|now| now.object.clone());
        if let Some(before) = before.and_then(|before| before.object)
            && object.as_ref().is_none_or(|object| object.id() != before.id())
        {
            self.world.remove(&before.id());
        }
        if let Some(object) = object {
            self.world.set(object);
        }
        if was_wrong || is_wrong {
            self.find_problems();
        }
    }

    /// Makes the world of all that is known.
    fn put_all(&mut self) {
        let known = self.known.values().flat_map(BTreeMap::values);
        self.world = World::from(known.filter_map(|known| known.object.clone()).collect::<Vec<_>>());
        self.find_problems();
    }

    /// Notes which objects cannot be read.
    fn find_problems(&mut self) {
        let all = self.known.values().flat_map(BTreeMap::values);
        let mut problems = all.filter_map(|known| known.problem.clone());
        let mut found: Vec<String> = problems.by_ref().take(MOST_PROBLEMS).collect();
        let more = problems.count();
        if more > 0 {
            found.push(format!("{more} more objects of network policy cannot be read"));
        }
        let before: BTreeSet<&String> = self.problems.iter().collect();
        for problem in found.iter().filter(|problem| !before.contains(problem)) {
            tracing::warn!("source kubernetes: {problem}");
        }
        self.problems = found;
    }

    /// Notes that a kind cannot be followed now. Returns whether that is news.
    pub(super) fn lose(&mut self, kind: Kind, why: String) -> bool {
        // Most often all kinds fail at once, for one reason.
        let is_said = self.watched.values().any(|watched| watched.lost.as_ref() == Some(&why));
        let Some(watched) = self.watched.get_mut(&kind) else { return false };
        if !is_said && watched.lost.is_none() {
            tracing::warn!(
                "source kubernetes: network policy is not followed for now, the last state stays: {why}"
            );
        }
        watched.lost = Some(why);
        !is_said
    }

    /// Tells what is known, once everything has been listed.
    pub(super) fn say(&mut self) {
        if self.watched.is_empty() || !self.watched.values().all(|watched| watched.table.is_synced) {
            return;
        }
        if self.ends.tell.borrow().as_deref() == Some(&self.world) {
            return;
        }
        self.tell(Some(Arc::new(self.world.clone())));
        let pause = WRITES.0.max(self.write_took * WRITES.1);
        self.write_at.get_or_insert_with(|| Instant::now() + pause);
    }

    fn tell(&self, world: Option<Arc<World>>) {
        self.ends.tell.send_if_modified(|told| {
            let news = *told != world;
            *told = world;
            news
        });
    }

    /// When [`Policies::write`] is due.
    pub(super) fn write_at(&self) -> Option<Instant> {
        self.write_at
    }

    /// Keeps what was told.
    pub(super) fn write(&mut self) {
        self.write_at = None;
        let Some(world) = self.ends.tell.borrow().clone() else { return };
        let begun = Instant::now();
        let trouble = self.file.keep(&world).err().map(|why| {
            format!("the policies are not kept, so a start needs the cluster: {why}; correct `state_file` under [source.kubernetes]")
        });
        self.write_took = begun.elapsed();
        if self.file_trouble != trouble
            && let Some(why) = &trouble
        {
            tracing::warn!("source kubernetes: {why}");
        }
        self.file_trouble = trouble;
    }

    /// What is wrong now.
    pub(super) fn problems(&self) -> impl Iterator<Item = String> + '_ {
        let lost: BTreeSet<_> = self.watched.values().filter_map(|watched| watched.lost.as_ref()).collect();
        let lost = lost
            .into_iter()
            .map(|why| format!("network policy is not followed for now, the last state stays: {why}"));
        let too_many: usize = self.watched.values().map(|watched| watched.table.too_many).sum();
        let too_many = (too_many > 0)
            .then(|| format!("{too_many} objects of network policy are too many to be followed"));
        lost.chain(too_many).chain(self.file_trouble.iter().chain(&self.problems).cloned())
    }
}
