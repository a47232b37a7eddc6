//! What is known of each source of routes: how far it is, and whether it can be reached.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::api::SourceStatus;
use crate::route::Source;

/// All sources that have said something.
#[derive(Clone, Debug, Default)]
pub(super) struct Sources {
    known: BTreeMap<Source, State>,
    /// How those do that know more than routes, by name.
    reports: BTreeMap<String, Arc<SourceStatus>>,
}

#[derive(Clone, Debug, Default)]
struct State {
    generation: u64,
    /// Why it cannot be reached.
    lost: Option<String>,
}

impl Sources {
    /// Takes an update's generation; false when it is not newer than the last.
    pub(super) fn advance(&mut self, source: Source, generation: u64) -> bool {
        let state = self.known.entry(source).or_default();
        let newer = generation > state.generation;
        if newer {
            state.generation = generation;
        }
        newer
    }

    /// Takes what a source says of itself.
    pub(super) fn report(&mut self, report: Arc<SourceStatus>) {
        self.reports.insert(report.name.clone(), report);
    }

    /// Forgets what a source said of itself.
    pub(super) fn forget(&mut self, name: &str) {
        self.reports.remove(name);
    }

    /// What the sources said last.
    pub(super) fn reports(&self) -> Vec<Arc<SourceStatus>> {
        self.reports.values().cloned().collect()
    }

    /// The source is there; returns whether it was lost before.
    pub(super) fn found(&mut self, source: Source) -> bool {
        self.known.get_mut(&source).is_some_and(|state| state.lost.take().is_some())
    }

    /// The source cannot be reached. Returns whether that is new.
    pub(super) fn lose(&mut self, source: Source, why: String) -> bool {
        let state = self.known.entry(source).or_default();
        state.lost.replace(why).is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::Sources;
    use crate::route::Source;

    #[test]
    fn late_updates_are_passed_over_and_losses_are_told_once() {
        let mut sources = Sources::default();
        assert!(sources.advance(Source::Static, 1) && sources.advance(Source::Static, 3));
        assert!(!sources.advance(Source::Static, 3) && !sources.advance(Source::Static, 2));
        assert!(sources.advance(Source::Control, 1), "each source counts by itself");
        assert!(!sources.found(Source::Static));
        assert!(sources.lose(Source::Static, "away".to_owned()));
        assert!(!sources.lose(Source::Static, "still away".to_owned()));
        assert!(sources.found(Source::Static));
        assert!(!sources.found(Source::Static));
    }
}
