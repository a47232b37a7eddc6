//! When to look at the host: on every notification, and now and then.

use std::time::{Duration, Instant};

/// From one look at devices and sysctls to the next. Most sysctls have no notification.
const QUICK: Duration = Duration::from_secs(1);
/// From one look at everything to the next, for what no notification told of.
const FULL: Duration = Duration::from_secs(30);
/// From a notification to the look that it causes: one change comes in several.
const NEWS_PAUSE: Duration = Duration::from_millis(50);
/// The part of the time that looks may take: a full table of routes takes long to read.
const SHARE: u32 = 10;
/// And the part where no notification asks for them.
const IDLE_SHARE: u32 = 400;

/// The plan of looks.
#[derive(Debug)]
pub(in crate::control::engine) struct Looks {
    quick: Instant,
    full: Instant,
    /// When that is without any news.
    backstop: Instant,
    /// The end of the last look and how long it took.
    last: Option<(Instant, Duration)>,
    /// Whether a look is under way, and whether at everything.
    running: Option<bool>,
    /// Looks at everything that have begun.
    pub begun: u64,
}

impl Looks {
    /// The host was looked at just now.
    pub(in crate::control::engine) fn new(now: Instant) -> Self {
        Self {
            quick: now + QUICK,
            full: now + FULL,
            backstop: now + FULL,
            last: None,
            running: None,
            begun: 0,
        }
    }

    /// Something has changed on the host.
    pub(in crate::control::engine) fn news(&mut self, now: Instant) {
        let rested = self.last.map_or(now, |(end, took)| end + took * SHARE);
        self.full = self.full.min(rested.max(now + NEWS_PAUSE));
    }

    /// Somebody waits for a look that begins from now on. Returns its number.
    pub(in crate::control::engine) fn at_once(&mut self, now: Instant) -> u64 {
        self.full = self.full.min(now);
        self.begun + 1
    }

    /// Whether a look is due, and then whether at everything.
    pub(in crate::control::engine) fn begin(&mut self, now: Instant) -> Option<bool> {
        if self.running.is_some() || self.deadline() > now {
            return None;
        }
        let full = self.full <= now;
        if full {
            self.begun += 1;
            // What is news from now on takes another look.
            self.full = now + FULL;
            self.backstop = self.full;
        }
        self.running = Some(full);
        self.running
    }

    /// A look has ended that took so long.
    pub(in crate::control::engine) fn end(&mut self, took: Duration, now: Instant) {
        if self.running.take() == Some(true) {
            self.last = Some((now, took));
            // Unless news came meanwhile.
            if self.full == self.backstop {
                self.full = self.full.max(now + took * IDLE_SHARE);
            }
        }
        self.quick = now + QUICK;
    }

    /// When the next look is due.
    pub(in crate::control::engine) fn deadline(&self) -> Instant {
        self.quick.min(self.full)
    }

    /// Whether a look is under way.
    pub(in crate::control::engine) fn is_running(&self) -> bool {
        self.running.is_some()
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{FULL, Looks, NEWS_PAUSE, QUICK};

    #[test]
    fn looks_are_short_every_second_and_whole_now_and_then() {
        let start = Instant::now();
        let mut looks = Looks::new(start);
        assert_eq!(looks.begin(start), None);
        let mut now = start;
        let mut kinds = Vec::new();
        while kinds.len() < 31 {
            now = looks.deadline();
            kinds.extend(looks.begin(now));
            assert_eq!(looks.begin(now), None, "one at a time");
            looks.end(Duration::ZERO, now);
        }
        assert_eq!(kinds.iter().filter(|full| **full).count(), 1);
        assert!(kinds[29] && now <= start + FULL + QUICK);
    }

    #[test]
    fn news_are_gathered_and_looked_at_once() {
        let start = Instant::now();
        let mut looks = Looks::new(start);
        looks.news(start);
        looks.news(start + NEWS_PAUSE / 2);
        assert_eq!(looks.begin(start + NEWS_PAUSE / 2), None);
        let now = start + NEWS_PAUSE;
        assert_eq!(looks.begin(now), Some(true));
        // News that come while a look is under way may have come too late for it.
        looks.news(now);
        looks.end(Duration::from_millis(300), now + Duration::from_millis(300));
        let next = looks.deadline();
        assert_eq!(next, now + NEWS_PAUSE);
        assert_eq!(looks.begin(next + QUICK), Some(true));
        looks.end(Duration::from_millis(300), next + QUICK);
        // A look that takes long is not taken all the time.
        looks.news(next + QUICK);
        assert_eq!(looks.full, next + QUICK + Duration::from_secs(3));
        assert_eq!(looks.at_once(next + QUICK), 3);
        assert_eq!(looks.begin(next + QUICK), Some(true));
        // Even less so where there are no news.
        looks.end(Duration::from_millis(300), next + QUICK);
        assert_eq!(looks.full, next + QUICK + Duration::from_secs(120));
    }
}
