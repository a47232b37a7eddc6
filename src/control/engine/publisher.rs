//! When edits are published, and who waits for it.
//!
//! ```text
//! edit ──▶ Rib, at once ──▶ table of the workers ──▶ kernel routes, where one is needed
//!          generation n     ≤ 10 ms later, once      as soon as the host has them
//! ```
//!
//! The first edit after a pause is published at once, those of the 10 ms behind it together.

use std::time::{Duration, Instant};

use super::event::{Asked, Effect, EffectId, Reply, RequestId};

/// The shortest time between publications.
const WINDOW: Duration = Duration::from_millis(10);

/// How long what failed is left alone.
const AGAIN: Duration = Duration::from_secs(10);

/// The schedule, and the clients that wait.
#[derive(Debug, Default)]
pub(super) struct Publisher {
    /// Edits so far.
    generation: u64,
    published: u64,
    /// When the next publication may be.
    next: Option<Instant>,
    waiting: Vec<Waiting>,
}

/// A client that is answered once packets see its change.
#[derive(Debug)]
struct Waiting {
    id: RequestId,
    generation: u64,
    /// The change of the kernel's routes that it also waits for.
    kernel: Option<EffectId>,
    reply: Reply,
}

impl Publisher {
    /// Counts an edit. Whoever asked for it is answered now, by the result, or later.
    pub(super) fn edited(&mut self, asked: Option<Asked>, reply: Reply) -> Option<Effect> {
        self.generation += 1;
        let asked = asked?;
        if !asked.wait {
            return Some(Effect::Answer(asked.id, Ok(reply)));
        }
        self.waiting.push(Waiting { id: asked.id, generation: self.generation, kernel: None, reply });
        None
    }

    /// Whether to publish now what is `pending`.
    pub(super) fn is_due(&self, pending: bool, urgent: bool, now: Instant) -> bool {
        pending && (urgent || self.next.is_none_or(|next| next <= now))
    }

    /// When to publish what is `pending`.
    pub(super) fn deadline(&self, pending: bool) -> Option<Instant> {
        self.next.filter(|_| pending)
    }

    /// Whether there were edits since the last publication.
    pub(super) fn is_behind(&self) -> bool {
        self.generation > self.published
    }

    /// Everything edited so far is published, and the kernel's routes follow by the request `kernel`.
    pub(super) fn published(&mut self, kernel: Option<EffectId>, now: Instant) -> Vec<Effect> {
        let before = std::mem::replace(&mut self.published, self.generation);
        self.next = Some(now + WINDOW);
        for waiting in self.waiting.iter_mut().filter(|waiting| waiting.generation > before) {
            waiting.kernel = kernel;
        }
        self.answers()
    }

    /// What is pending could not be published now.
    pub(super) fn postpone(&mut self, now: Instant) {
        self.next = Some(now + AGAIN);
    }

    /// The kernel's routes have followed by the request `kernel`.
    pub(super) fn followed(&mut self, kernel: EffectId) -> Vec<Effect> {
        for waiting in self.waiting.iter_mut().filter(|waiting| waiting.kernel == Some(kernel)) {
            waiting.kernel = None;
        }
        self.answers()
    }

    fn answers(&mut self) -> Vec<Effect> {
        let published = self.published;
        let settled = self.waiting.extract_if(.., |one| one.generation <= published && one.kernel.is_none());
        settled.map(|waiting| Effect::Answer(waiting.id, Ok(waiting.reply))).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::{Publisher, WINDOW};
    use crate::control::engine::event::{Asked, Effect, EffectId, Reply, RequestId};

    fn asked(id: u64, wait: bool) -> Option<Asked> {
        Some(Asked { id: RequestId(id), wait })
    }

    fn answered(effects: &[Effect]) -> Vec<(u64, bool)> {
        let answer = |effect: &Effect| match effect {
            Effect::Answer(id, result) => (id.0, result.is_ok()),
            other => panic!("{other:?}"),
        };
        effects.iter().map(answer).collect()
    }

    #[test]
    fn the_first_edit_is_published_at_once_and_the_next_together() {
        let (mut publisher, now) = (Publisher::default(), Instant::now());
        assert!(!publisher.is_due(false, false, now));
        assert!(publisher.is_due(true, false, now));
        publisher.published(None, now);
        assert_eq!(publisher.deadline(false), None);
        assert_eq!(publisher.deadline(true), Some(now + WINDOW));
        assert!(!publisher.is_due(true, false, now + WINDOW / 2));
        assert!(publisher.is_due(true, true, now + WINDOW / 2), "peers do not wait");
        assert!(publisher.is_due(true, false, now + WINDOW));
    }

    #[test]
    fn who_waits_is_answered_once_packets_and_kernel_are_there() {
        let (mut publisher, now) = (Publisher::default(), Instant::now());
        assert_eq!(
            answered(&publisher.edited(asked(1, false), Reply::Updated).into_iter().collect::<Vec<_>>()),
            [(1, true)]
        );
        assert!(publisher.edited(None, Reply::Updated).is_none());
        assert!(publisher.edited(asked(2, true), Reply::Updated).is_none());
        assert_eq!(answered(&publisher.published(Some(EffectId(7)), now)), []);
        publisher.edited(asked(3, true), Reply::Updated);
        assert_eq!(answered(&publisher.published(None, now)), [(3, true)]);
        assert_eq!(answered(&publisher.followed(EffectId(6))), []);
        assert_eq!(answered(&publisher.followed(EffectId(7))), [(2, true)]);
    }
}
