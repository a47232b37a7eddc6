//! Trying again what has failed: soon at first, then at longer and longer intervals.

use std::time::{Duration, Instant};

/// After the first failure.
const FIRST: Duration = Duration::from_secs(1);
/// At most.
const LONGEST: Duration = Duration::from_secs(64);
/// What has worked for so long begins with [`FIRST`] at its next failure; what fails at each try never does.
const FORGIVEN: Duration = Duration::from_secs(2 * LONGEST.as_secs());

/// When to try next.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    /// The pause after the last failure, and when it is over.
    waiting: Option<(Duration, Instant)>,
    /// When it last began to work.
    working: Option<Instant>,
}

impl Backoff {
    /// Whether to try now.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.waiting.is_none_or(|(_, until)| until <= now)
    }

    /// It has failed at `now`: waits for longer than the last time.
    pub(super) fn failed(&mut self, now: Instant) {
        let forgiven = self.working.take().is_some_and(|since| now >= since + FORGIVEN);
        let last = self.waiting.filter(|_| !forgiven).map(|(pause, _)| pause);
        let pause = last.map_or(FIRST, |pause| (2 * pause).min(LONGEST));
        self.waiting = Some((pause, now + pause));
    }

    /// It works from `now` on.
    pub(super) fn succeeded(&mut self, now: Instant) {
        self.working.get_or_insert(now);
    }

    /// It is tried at `now`, and whether it works shows later: the next try, if there is one, comes as if this one
    /// had failed.
    pub(super) fn tried(&mut self, now: Instant) {
        self.failed(now);
        self.succeeded(now);
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{Backoff, FORGIVEN};

    #[test]
    fn pauses_grow_until_it_works_for_a_while() {
        let (mut backoff, mut now) = (Backoff::default(), Instant::now());
        assert!(backoff.is_due(now));
        let mut pauses = Vec::new();
        for _ in 0..9 {
            backoff.failed(now);
            let begun = now;
            while !backoff.is_due(now) {
                now += Duration::from_secs(1);
            }
            pauses.push((now - begun).as_secs());
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 64, 64]);
        // To work for a moment is not to work.
        backoff.succeeded(now);
        backoff.failed(now + FORGIVEN / 2);
        assert!(!backoff.is_due(now + FORGIVEN / 2 + Duration::from_secs(63)));
        now += Duration::from_secs(600);
        backoff.succeeded(now);
        backoff.failed(now + FORGIVEN);
        assert!(backoff.is_due(now + FORGIVEN + Duration::from_secs(1)));
    }
}
