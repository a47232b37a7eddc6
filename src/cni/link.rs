//! The way to the daemon: asked for what it knows, told what happens, and never waited for.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::api::{self, CniFacts, Endpoint, EndpointDeleted};
use crate::client::{Client, ClientError, Target};

/// What the daemon has for everything about one call: a stuck one must hold up no pod.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(50);

/// A daemon that may be away.
#[derive(Debug)]
pub(super) struct Link {
    socket: std::path::PathBuf,
}

impl Link {
    /// The daemon behind `socket`.
    pub(super) fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    /// What it takes to make the interface of a pod.
    ///
    /// # Errors
    /// When there is no answer in time.
    pub(super) fn facts(&self) -> Result<CniFacts, ClientError> {
        self.insist(|client| client.get(&Target::new(api::CNI)))
    }

    /// Tells it of `endpoint`. It reads the record later where that fails.
    pub(super) fn tell(&self, endpoint: &Endpoint) {
        let told = self.insist::<Endpoint>(|client| client.put(&target(&endpoint.id), endpoint));
        // There is nobody to hear of it, and nothing is lost.
        drop(told);
    }

    /// Tells it that `id` is gone. It misses the record later where that fails.
    pub(super) fn forget(&self, id: &str) {
        let told = self.insist::<EndpointDeleted>(|client| client.delete(&target(id)));
        drop(told);
    }

    /// Asks until there is an answer or the time is over: where a node starts hundreds of pods at once, the daemon
    /// closes connections in favour of others.
    fn insist<T>(&self, ask: impl Fn(&Client) -> Result<T, ClientError>) -> Result<T, ClientError> {
        let end = Instant::now() + PATIENCE;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match ask(&Client::limited(&self.socket, left)) {
                Err(ClientError::Ended { .. } | ClientError::Garbled { .. }) if left > PAUSE => {
                    std::thread::sleep(PAUSE);
                }
                answer => return answer,
            }
        }
    }
}

fn target(id: &str) -> Target {
    Target::new(api::ENDPOINT.replace("{id}", id))
}
