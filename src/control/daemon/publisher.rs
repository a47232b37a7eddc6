//! Bringing edits to the packet path and to the kernel, in batches.
//!
//! ```text
//! edit ──▶ Rib, at once ──▶ table of the workers ──▶ kernel routes, where one is needed
//!          generation n     ≤ 10 ms later, once      by a task of its own
//! ```
//!
//! The first edit after a pause is published at once, those of the 10 ms behind it together.
//! Nothing runs while nothing is edited.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};

use super::sys;
use crate::control::engine::edit::Pending;
use crate::control::engine::kernel_cover::{Leads, Steps};
use crate::control::engine::refusal::{Kind, Refusal};
use crate::control::engine::state::{Daemon, State};
use crate::net::Prefix;

/// The shortest time between publications.
const WINDOW: Duration = Duration::from_millis(10);
/// Routes whose loss frees memory worth giving back.
const MANY: usize = 50_000;
/// Times for the workers to leave the tables that were replaced, from one to the next.
const SETTLE: [Duration; 3] = [Duration::from_millis(300), Duration::from_secs(1), Duration::from_secs(4)];

/// What is between an edit and its effect.
pub struct Writer {
    wake: Notify,
    peers: Notify,
    published: watch::Sender<Published>,
    /// The generation that the kernel's routes are at.
    led: watch::Sender<u64>,
    kernel: Mutex<Option<Kernel>>,
    /// Edits so far; changed only by whoever may write to the state.
    generation: AtomicU64,
    shrunk: Notify,
}

/// The last publication.
#[derive(Clone, Debug, Default)]
struct Published {
    generation: u64,
    /// Why the packet path does not have it.
    refused: Option<String>,
}

/// Who changes the kernel's routes.
struct Kernel {
    leads: Leads,
    steps: mpsc::UnboundedSender<(u64, Steps)>,
}

impl Kernel {
    fn send(&self, generation: u64, steps: Steps) -> bool {
        self.steps.send((generation, steps)).is_ok()
    }
}

impl Default for Writer {
    fn default() -> Self {
        Self {
            wake: Notify::new(),
            peers: Notify::new(),
            published: watch::Sender::new(Published::default()),
            led: watch::Sender::new(0),
            kernel: Mutex::new(None),
            generation: AtomicU64::new(0),
            shrunk: Notify::new(),
        }
    }
}

impl Writer {
    /// Completes when nodes were made known or forgotten.
    pub async fn peers_changed(&self) {
        self.peers.notified().await;
    }

    fn next_generation(&self) -> u64 {
        self.generation.fetch_add(1, Relaxed) + 1
    }
}

impl Daemon {
    /// Edits the routes, and has the edit published soon. Returns what it did and its generation.
    ///
    /// # Errors
    /// When the edit is refused.
    pub fn change<T>(
        &self,
        edit: impl FnOnce(&mut State, u32) -> Result<T, Refusal>,
    ) -> Result<(T, u64), Refusal> {
        let mut state = self.state_mut();
        let before = state.rib.len();
        let changed = edit(&mut state, self.second())?;
        let generation = self.writer.next_generation();
        if before.saturating_sub(state.rib.len()) > MANY {
            self.writer.shrunk.notify_one();
        }
        self.writer.wake.notify_one();
        Ok((changed, generation))
    }

    /// Changes who is known, publishes that at once, and then does what `after` says.
    ///
    /// # Errors
    /// When the change is refused.
    pub fn change_peers<T>(
        &self,
        change: impl FnOnce(&mut State, u32) -> Result<T, Refusal>,
        after: impl FnOnce(&mut State, T),
    ) -> Result<u64, Refusal> {
        let mut state = self.state_mut();
        let done = change(&mut state, self.second())?;
        let generation = self.writer.next_generation();
        if self.publish(&mut state) {
            after(&mut state, done);
        }
        self.writer.peers.notify_one();
        Ok(generation)
    }

    /// Completes when the packet path and the kernel have the edits up to `generation`.
    ///
    /// # Errors
    /// When the packet path cannot hold them.
    pub async fn settled(&self, generation: u64) -> Result<(), Refusal> {
        let mut published = self.writer.published.subscribe();
        let refused = match published.wait_for(|last| last.generation >= generation).await {
            Ok(last) => last.refused.clone(),
            Err(_) => None,
        };
        if let Some(reason) = refused {
            return Err(Refusal::new(Kind::Full, format!("the routes are known, but not in use: {reason}")));
        }
        // The sender lives as long as the daemon.
        let _ = self.writer.led.subscribe().wait_for(|led| *led >= generation).await;
        Ok(())
    }

    /// Publishes what is edited, for ever.
    pub async fn write(&self) {
        tokio::join!(self.publish_edits(), self.give_memory_back());
    }

    async fn publish_edits(&self) {
        let mut next = Instant::now();
        loop {
            self.writer.wake.notified().await;
            sleep_until(next).await;
            self.publish(&mut self.state_mut());
            next = Instant::now() + WINDOW;
        }
    }

    async fn give_memory_back(&self) {
        loop {
            self.writer.shrunk.notified().await;
            let mut pauses = SETTLE.iter();
            while let Some(pause) = pauses.next() {
                tokio::select! {
                    () = sleep(*pause) => sys::trim(),
                    () = self.writer.shrunk.notified() => pauses = SETTLE.iter(),
                }
            }
        }
    }

    /// Publishes everything that is pending; false when the packet path cannot hold it.
    fn publish(&self, state: &mut State) -> bool {
        let generation = self.writer.generation.load(Relaxed);
        let mut kernel = self.writer.kernel.lock().unwrap_or_else(PoisonError::into_inner);
        let steps = kernel.as_mut().map(|kernel| match &state.pending {
            Pending::Nothing => Steps::default(),
            Pending::Some(changed) => kernel.leads.update(&state.rib, changed),
            Pending::Everything => match state.new_pools.take() {
                Some(pools) => kernel.leads.follow_pools(pools, &state.rib),
                None => kernel.leads.renew(&state.rib),
            },
        });
        let refused = state.publish().err().map(|full| full.to_string());
        if let Some(reason) = &refused {
            tracing::error!("the packet path keeps its old routes: {reason}");
        }
        let taken = refused.is_none();
        self.writer.published.send_replace(Published { generation, refused });
        // Whoever receives the steps sets the generation; without one there is nothing to wait for.
        let sent = kernel.as_ref().zip(steps).is_some_and(|(kernel, steps)| kernel.send(generation, steps));
        if !sent {
            self.set_led(generation);
        }
        taken
    }

    /// Has `leads` followed: what changes goes to `steps`, to be reported by [`Daemon::set_led`].
    pub fn lead(&self, leads: Leads, steps: mpsc::UnboundedSender<(u64, Steps)>) {
        let mut kernel = self.writer.kernel.lock().unwrap_or_else(PoisonError::into_inner);
        *kernel = Some(Kernel { leads, steps });
    }

    /// Everything that is to lead into the TUN.
    pub fn leads(&self) -> BTreeSet<Prefix> {
        let kernel = self.writer.kernel.lock().unwrap_or_else(PoisonError::into_inner);
        kernel.as_ref().map_or_else(BTreeSet::new, |kernel| kernel.leads.all())
    }

    /// Says that the kernel's routes are at `generation`.
    pub fn set_led(&self, generation: u64) {
        self.writer.led.send_replace(generation);
    }

    /// The second of the daemon's life.
    pub(in crate::control) fn second(&self) -> u32 {
        self.started.elapsed().as_secs().min(u32::MAX.into()) as u32
    }
}
