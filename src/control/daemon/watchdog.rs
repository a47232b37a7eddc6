//! Do the workers make progress? Each counts how often it comes by its edges. One that sleeps does not, so it is
//! woken, and then it has to.

use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::time::sleep;

use crate::dataplane::observe::Counters;
use crate::dataplane::pump::{Failure, Wakers};

/// From one look to the next.
const TICK: Duration = Duration::from_secs(1);
/// A worker that has not come by for so long is shown as stuck.
const SHOWN: Duration = Duration::from_secs(3);
/// And one that has not for so long ends the daemon: what restarts it does more than we can.
const FATAL: Duration = Duration::from_secs(10);

/// What is known of one worker.
#[derive(Debug)]
struct Pulse {
    beat: u64,
    since: Instant,
}

impl Pulse {
    /// How long the worker has not come by, given what it has counted so far.
    fn silent(&mut self, beat: u64, now: Instant) -> Duration {
        if beat != self.beat {
            *self = Self { beat, since: now };
        }
        now.saturating_duration_since(self.since)
    }
}

/// Watches for ever. Tells of a worker that is stuck for good.
pub(super) async fn watch(counters: Counters, wakers: Wakers, failed: mpsc::Sender<Failure>) {
    let begun = Instant::now();
    let beat = |worker: usize| counters.worker(worker).beat.get();
    let mut pulses: Vec<Pulse> =
        (0..counters.workers()).map(|worker| Pulse { beat: beat(worker), since: begun }).collect();
    let mut last = begun;
    loop {
        // Who sleeps comes by now.
        wakers.wake();
        sleep(TICK).await;
        let now = Instant::now();
        // Where this process was stopped, the workers had no time either.
        let stopped = now.saturating_duration_since(last).saturating_sub(TICK * 2);
        last = now;
        for (worker, pulse) in pulses.iter_mut().enumerate() {
            pulse.since += stopped.min(now.saturating_duration_since(pulse.since));
            let silent = pulse.silent(beat(worker), now);
            let before = counters.worker(worker).set_stuck(silent >= SHOWN);
            if silent >= SHOWN && !before {
                tracing::error!("worker {worker} makes no progress");
            } else if silent < SHOWN && before {
                tracing::warn!("worker {worker} makes progress again");
            }
            if silent >= FATAL {
                // Who waits for it ends the daemon, and us.
                let _ = failed.send(Failure::Stuck { worker, seconds: silent.as_secs() }).await;
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::Pulse;

    #[test]
    fn silence_is_counted_from_the_last_beat() {
        let start = Instant::now();
        let mut pulse = Pulse { beat: 7, since: start };
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(pulse.silent(8, at(2)), Duration::ZERO);
        assert_eq!(pulse.silent(8, at(5)), Duration::from_secs(3));
        assert_eq!(pulse.silent(9, at(13)), Duration::ZERO);
    }
}
