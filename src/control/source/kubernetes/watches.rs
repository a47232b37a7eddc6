//! Watches of the API server: each tells of one kind of object, again and again where it fails.

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::{BoxStream, SelectAll};
use kube::api::{ApiResource, DynamicObject};
use kube::runtime::watcher::{self, Event, watcher};
use kube::runtime::{WatchStreamExt, utils::Backoff};
use kube::{Api, Client};

use super::objects::Kind;
use super::policies;

/// From a failed watch to the next, growing.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(3));
/// What is watched: for nodes and what they are, or for policies.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Watched {
    Cluster(Kind),
    Policies(policies::Kind),
}

/// What a watch of a kind tells.
pub(super) type Told = (Watched, watcher::Result<Event<DynamicObject>>);
pub(super) type Watches = SelectAll<BoxStream<'static, Told>>;

/// A watch of the kind that `resource` names, of those objects that `config` selects.
pub(super) fn watch(
    client: &Client,
    kind: Watched,
    resource: &ApiResource,
    config: watcher::Config,
) -> BoxStream<'static, Told> {
    // Untyped, as one object that is not as its type would have it would fail the whole list.
    let objects = Api::<DynamicObject>::all_with(client.clone(), resource);
    let watch = watcher(objects, config).backoff(Pauses::new());
    watch.map(move |told| (kind, told)).boxed()
}

/// The pauses of one watch.
struct Pauses(Duration);

impl Pauses {
    fn new() -> Self {
        Self(PAUSES.0)
    }
}

impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let pause = self.0;
        self.0 = (pause * 2).min(PAUSES.1);
        Some(pause)
    }
}

impl Backoff for Pauses {
    fn reset(&mut self) {
        self.0 = PAUSES.0;
    }
}
