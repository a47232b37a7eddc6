//! When a path that failed is used again.

use std::time::{Duration, Instant};

/// How long a path has to work again before it is used.
const HOLD: Duration = Duration::from_secs(5);
/// The same for one that fails again and again.
const LONGEST_HOLD: Duration = Duration::from_secs(80);
/// A path that has worked for so long is as good as one that never failed.
const FORGOTTEN: Duration = Duration::from_secs(300);

/// What is known of one path.
#[derive(Debug, Default)]
pub(super) struct Hysteresis {
    /// Since when it works, while it does.
    up: Option<Instant>,
    /// Whether it is used.
    used: bool,
    /// How long it has to work before it is used.
    hold: Duration,
    /// How often it was given up.
    failures: u64,
}

impl Hysteresis {
    /// Follows whether packets pass.
    pub(super) fn follow(&mut self, up: bool, now: Instant) {
        match (self.up, up) {
            (None, true) => self.up = Some(now),
            (Some(since), false) => {
                self.up = None;
                if std::mem::take(&mut self.used) {
                    self.failures += 1;
                }
                let worked = now.saturating_duration_since(since);
                self.hold = if worked > FORGOTTEN { HOLD } else { (self.hold * 2).clamp(HOLD, LONGEST_HOLD) };
            }
            _ => {}
        }
        self.used |= self.due().is_some_and(|due| due <= now);
    }

    /// When it will be used if it goes on working; `None` where it is used already or does not work.
    pub(super) fn due(&self) -> Option<Instant> {
        self.up.filter(|_| !self.used).map(|since| since + self.hold)
    }

    /// Whether it is used.
    pub(super) fn is_used(&self) -> bool {
        self.used
    }

    /// Whether packets pass, used or not.
    pub(super) fn works(&self) -> bool {
        self.up.is_some()
    }

    /// How often it was given up.
    pub(super) fn failures(&self) -> u64 {
        self.failures
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{FORGOTTEN, HOLD, Hysteresis, LONGEST_HOLD};

    #[test]
    fn a_path_is_used_at_once_and_after_a_failure_when_it_has_worked_for_a_while() {
        let (mut path, mut now) = (Hysteresis::default(), Instant::now());
        path.follow(false, now);
        assert!(!path.is_used() && path.failures() == 0);
        path.follow(true, now);
        assert!(path.is_used());
        let mut hold = HOLD;
        for failures in 1..8 {
            now += Duration::from_secs(10);
            path.follow(false, now);
            assert_eq!((path.is_used(), path.works(), path.failures()), (false, false, failures));
            path.follow(true, now);
            assert_eq!(path.due(), Some(now + hold));
            path.follow(true, now + hold - Duration::from_millis(1));
            assert!(!path.is_used() && path.works());
            now += hold;
            path.follow(true, now);
            assert!(path.is_used() && path.due().is_none());
            hold = (hold * 2).min(LONGEST_HOLD);
        }
        now += FORGOTTEN * 2;
        path.follow(false, now);
        path.follow(true, now);
        assert_eq!(path.due(), Some(now + HOLD));
    }

    #[test]
    fn one_that_fails_while_it_is_held_was_not_given_up() {
        let (mut path, now) = (Hysteresis::default(), Instant::now());
        path.follow(true, now);
        path.follow(false, now);
        for _ in 0..3 {
            path.follow(true, now);
            path.follow(false, now);
        }
        assert_eq!(path.failures(), 1);
    }
}
