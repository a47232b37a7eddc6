//! The network policy to enforce: what the file's directory has and what the cluster has, compiled.
//!
//! ```text
//! directory ─┐
//!            ├─ merge ─▶ World ─ compile, in a thread of its own ─▶ engine
//! cluster ───┘
//! ```

use std::sync::Arc;
use std::time::Duration;

use crate::config::{self, Config};
use crate::control::engine::NetworkPolicy;
use crate::dataplane::policy::{Fragments, Settings, Timeouts};
use crate::policy::{Compiled, World, compile};

/// What is enforced, and what it was made of.
#[derive(Debug, Default)]
pub(in crate::control::daemon) struct Policies {
    /// The number of workers, for which counters are made.
    workers: usize,
    last: Option<Last>,
    /// Why the last objects could not be compiled.
    trouble: Option<String>,
}

#[derive(Debug)]
struct Last {
    file: Arc<World>,
    cluster: Option<Arc<World>>,
    compiled: Arc<Compiled>,
}

impl Policies {
    /// Begins a run with so many workers: nothing is counted yet.
    pub(in crate::control::daemon) fn begin(&mut self, workers: usize) {
        *self = Self { workers, ..Self::default() };
    }

    /// The policy that `config` and the cluster's objects make; `None` where policies are off.
    ///
    /// # Errors
    /// Why they cannot be enforced.
    pub(in crate::control::daemon) async fn make(
        &mut self,
        config: &Config,
        cluster: Option<Arc<World>>,
    ) -> Result<Option<NetworkPolicy>, String> {
        let Some(policy) = &config.policy else { return Ok(None) };
        let settings = settings(policy, self.workers);
        if let Some(last) = self.last.as_ref().filter(|last| last.is_of(&policy.world, cluster.as_ref())) {
            return Ok(Some(NetworkPolicy { compiled: Arc::clone(&last.compiled), settings }));
        }
        let (file, workers) = (Arc::clone(&policy.world), self.workers);
        let before = self.last.as_ref().map(|last| Arc::clone(&last.compiled));
        let both = (Arc::clone(&file), cluster.clone());
        let compiled = tokio::task::spawn_blocking(move || {
            let (world, replaced) = merged(&both.0, both.1.as_deref());
            for id in replaced {
                tracing::warn!("policies: {id} of the cluster gives way to that of the directory");
            }
            compile(&world, workers, before.as_deref())
        });
        let compiled =
            compiled.await.map_err(|error| format!("policies: the compilation failed: {error}"))?;
        let compiled = Arc::new(compiled.map_err(|error| format!("policies: {error}"))?);
        self.tell(&compiled);
        self.last = Some(Last { file, cluster, compiled: Arc::clone(&compiled) });
        Ok(Some(NetworkPolicy { compiled, settings }))
    }

    /// Logs what has no part in what is enforced from now on, where it had before.
    fn tell(&self, compiled: &Compiled) {
        let known = self.last.as_ref().map_or(&[][..], |last| &last.compiled.left_out);
        for sentence in compiled.left_out.iter().filter(|sentence| !known.contains(sentence)).take(TOLD) {
            tracing::warn!("policies: {sentence}");
        }
    }

    /// Takes note of why the cluster's objects cannot be enforced, and says so once.
    pub(super) fn trouble(&mut self, trouble: Option<String>) {
        if let Some(why) = trouble.as_ref().filter(|_| self.trouble != trouble) {
            tracing::error!("{why}; what was enforced before stays");
        }
        self.trouble = trouble;
    }
}

/// Sentences that are logged at once, at most.
const TOLD: usize = 20;

impl Last {
    fn is_of(&self, file: &Arc<World>, cluster: Option<&Arc<World>>) -> bool {
        let same_cluster = match (&self.cluster, cluster) {
            (Some(before), Some(now)) => Arc::ptr_eq(before, now) || before == now,
            (None, None) => true,
            _ => false,
        };
        same_cluster && (Arc::ptr_eq(&self.file, file) || self.file == *file)
    }
}

/// The objects of both; returns which of the cluster's give way.
fn merged(file: &World, cluster: Option<&World>) -> (World, Vec<crate::policy::Id>) {
    let Some(cluster) = cluster else { return (file.clone(), Vec::new()) };
    let mut world = cluster.clone();
    let replaced = world.merge(file);
    (world, replaced)
}

fn settings(policy: &config::Policy, workers: usize) -> Settings {
    let seconds = |duration: Duration| u32::try_from(duration.as_secs()).unwrap_or(u32::MAX);
    let times = &policy.timeouts;
    let timeouts = Timeouts {
        tcp_syn: seconds(times.tcp_syn),
        tcp_established: seconds(times.tcp_established),
        tcp_fin: seconds(times.tcp_fin),
        tcp_time_wait: seconds(times.tcp_time_wait),
        tcp_close: seconds(times.tcp_close),
        udp: seconds(times.udp),
        udp_stream: seconds(times.udp_stream),
        icmp: seconds(times.icmp),
        other: seconds(times.other),
        ..Timeouts::default()
    };
    Settings {
        connections: policy.connections.div_ceil(workers.max(1)),
        fail_open: policy.fail_open,
        deny_unknown: policy.default_deny_unknown,
        fragments: match policy.fragments {
            config::Fragments::Judge => Fragments::Judge,
            config::Fragments::Pass => Fragments::Pass,
        },
        timeouts,
        pick_up: seconds(times.pick_up),
    }
}
