//! The pods of this node, as the CNI plugin tells of them, and what it takes to make more.
//!
//! What the plugin keeps in files is the truth: they are read at the start and now and then, so that nothing is lost
//! while the daemon is away. What it says in between is only sooner.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::api::{CniFacts, Endpoint};
use crate::control::engine::Snapshot;
use crate::control::engine::refusal::{Kind, Refusal};

/// Endpoints, at most. A node has a few hundred pods.
const MOST: usize = 4096;

/// All endpoints that are known.
#[derive(Clone, Debug, Default)]
pub struct Endpoints(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    known: BTreeMap<String, Known>,
    /// What clients have changed since the last reading of the files began.
    changed: BTreeSet<String>,
}

#[derive(Debug)]
struct Known {
    endpoint: Endpoint,
    /// Whether there was a file of it.
    kept: bool,
}

impl Endpoints {
    /// Every one, in the order of their ids.
    pub fn list(&self) -> Vec<Endpoint> {
        self.state().known.values().map(|known| known.endpoint.clone()).collect()
    }

    /// Takes `endpoint`, in place of what was known of it before.
    ///
    /// # Errors
    /// When a part of it is too large, or there are too many.
    pub fn put(&self, endpoint: Endpoint) -> Result<(), Refusal> {
        endpoint.check().map_err(|reason| Refusal::new(Kind::Malformed, reason))?;
        let mut state = self.state();
        if state.known.len() >= MOST && !state.known.contains_key(&endpoint.id) {
            let text = format!("there are {MOST} endpoints already; delete one first");
            return Err(Refusal::new(Kind::Full, text));
        }
        state.note(&endpoint.id);
        let kept = state.known.get(&endpoint.id).is_some_and(|known| known.kept);
        state.known.insert(endpoint.id.clone(), Known { endpoint, kept });
        Ok(())
    }

    /// Forgets the endpoint `id`.
    ///
    /// # Errors
    /// When there is none.
    pub fn delete(&self, id: &str) -> Result<(), Refusal> {
        let mut state = self.state();
        state.note(id);
        match state.known.remove(id) {
            Some(_) => Ok(()),
            None => {
                let id: String = id.chars().take(64).collect();
                let text = format!("there is no endpoint \"{id}\"; `underpass endpoint list` shows all");
                Err(Refusal::new(Kind::Missing, text))
            }
        }
    }

    /// Reads the files by `read` and follows them, but where a client was quicker meanwhile.
    pub fn follow<E>(&self, read: impl FnOnce() -> Result<Vec<Endpoint>, E>) -> Result<(), E> {
        self.state().changed.clear();
        let files = read()?;
        let mut state = self.state();
        let State { known, changed } = &mut *state;
        let there: BTreeSet<&str> = files.iter().map(|endpoint| endpoint.id.as_str()).collect();
        known.retain(|id, known| !known.kept || changed.contains(id) || there.contains(id.as_str()));
        for endpoint in files {
            // One without addresses is being made.
            let skipped = changed.contains(&endpoint.id) || endpoint.addresses.is_empty();
            if skipped || (known.len() >= MOST && !known.contains_key(&endpoint.id)) {
                continue;
            }
            known.insert(endpoint.id.clone(), Known { endpoint, kept: true });
        }
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Notes a change, for as long as there are not more than could matter.
    fn note(&mut self, id: &str) {
        if self.changed.len() < 4 * MOST {
            self.changed.insert(id.to_owned());
        }
    }
}

/// What it takes to make the interface of a pod, as far as `snapshot` says.
pub(super) fn facts(snapshot: &Snapshot) -> CniFacts {
    CniFacts {
        subnets: snapshot.config.local_subnets.iter().map(ToString::to_string).collect(),
        mtu: snapshot.underlay.tun.mtu,
        limited: None,
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::{Endpoints, MOST};
    use crate::api::Endpoint;
    use crate::control::engine::refusal::Kind;

    fn ids(endpoints: &Endpoints) -> Vec<String> {
        endpoints.list().into_iter().map(|endpoint| endpoint.container_id).collect()
    }

    fn follow(endpoints: &Endpoints, files: &[&str]) {
        endpoints
            .follow(|| Ok::<_, Infallible>(files.iter().map(|one| Endpoint::sample(one)).collect()))
            .unwrap();
    }

    #[test]
    fn files_are_followed_and_what_clients_say_is_not_lost() {
        let endpoints = Endpoints::default();
        follow(&endpoints, &["a", "b"]);
        endpoints.put(Endpoint::sample("c")).unwrap();
        assert_eq!(ids(&endpoints), ["a", "b", "c"]);
        // Somebody has no files: what he said stays.
        follow(&endpoints, &["b"]);
        assert_eq!(ids(&endpoints), ["b", "c"]);
        follow(&endpoints, &["b", "c"]);
        follow(&endpoints, &["b"]);
        assert_eq!(ids(&endpoints), ["b"]);
        // What changes while files are read is newer than they are.
        endpoints
            .follow(|| {
                endpoints.delete("b:eth0").unwrap();
                endpoints.put(Endpoint::sample("d")).unwrap();
                Ok::<_, Infallible>(vec![Endpoint::sample("b")])
            })
            .unwrap();
        assert_eq!(ids(&endpoints), ["d"]);
        let making = Endpoint { addresses: Vec::new(), ..Endpoint::sample("e") };
        endpoints.follow(|| Ok::<_, Infallible>(vec![making])).unwrap();
        assert_eq!(ids(&endpoints), ["d"]);
        assert_eq!(endpoints.delete("b:eth0").unwrap_err().kind, Kind::Missing);
        assert_eq!(endpoints.follow(|| Err("unreadable")), Err("unreadable"));
        assert_eq!(ids(&endpoints), ["d"]);
    }

    #[test]
    fn there_is_an_end() {
        let endpoints = Endpoints::default();
        for n in 0..MOST {
            endpoints.put(Endpoint::sample(&format!("c{n}"))).unwrap();
        }
        assert_eq!(endpoints.put(Endpoint::sample("more")).unwrap_err().kind, Kind::Full);
        endpoints.put(Endpoint::sample("c7")).unwrap();
        follow(&endpoints, &["more"]);
        assert_eq!(endpoints.list().len(), MOST);
        let wrong = Endpoint { id: "x".to_owned(), ..Endpoint::sample("c") };
        assert_eq!(endpoints.put(wrong).unwrap_err().kind, Kind::Malformed);
    }
}
