//! What has to be done now and then: dropping tables that no worker sees any more, giving memory back, and
//! logging what the workers gave up and what rules of policies want logged.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::time::sleep;

use super::fallbacks::Fallbacks;
use super::policy_log::PolicyLogger;
use super::sys;
use crate::dataplane::forward::Forwarding;
use crate::dataplane::observe::Counters;
use crate::sync::Published;

/// From one look at the workers to the next.
const TICK: Duration = Duration::from_secs(1);
/// One step of the workers' time.
const STEP: Duration = Duration::from_secs(4);
/// Times for the workers to leave the tables that were replaced, from one to the next.
const SETTLE: [Duration; 3] = [Duration::from_millis(300), Duration::from_secs(1), Duration::from_secs(4)];

/// Moves the workers' time on, drops replaced tables, logs what the workers gave up and offers it again, and logs what
/// rules of policies want logged, for ever.
pub(super) async fn tidy(
    forwarding: Arc<Published<Forwarding>>,
    fallbacks: Arc<Mutex<Fallbacks>>,
    counters: Counters,
) {
    let begun = Instant::now();
    let mut policies = PolicyLogger::default();
    loop {
        if let Some(clock) = counters.clock() {
            clock.set(1 + begun.elapsed().as_secs() / STEP.as_secs());
        }
        forwarding.reclaim();
        if let Ok(mut fallbacks) = fallbacks.lock() {
            let now = Instant::now();
            fallbacks.tell(&counters, now);
            fallbacks.offer(&counters, now);
        }
        policies.tell(&counters);
        sleep(TICK).await;
    }
}

/// Gives memory back to the system after many routes went, for ever.
pub(super) async fn give_memory_back(shrunk: Arc<Notify>) {
    loop {
        shrunk.notified().await;
        let mut pauses = SETTLE.iter();
        while let Some(pause) = pauses.next() {
            tokio::select! {
                () = sleep(*pause) => sys::trim(),
                () = shrunk.notified() => pauses = SETTLE.iter(),
            }
        }
    }
}
