//! Host settings that the daemon lacks the privilege to change, or that are another's to decide.
//! Each is logged once when it appears and once when it is resolved.

use std::sync::Arc;

use crate::control::engine::port::Requirement;

/// Requirements shown at once: once those are met, the next are shown.
const MOST: usize = 100;

/// What is open, as of the last look.
#[derive(Debug, Default)]
pub(in crate::control::engine) struct Requirements {
    open: Arc<[Requirement]>,
}

/// What a look has changed.
#[derive(Debug, Default, Eq, PartialEq)]
pub(in crate::control::engine) struct Turn {
    /// Not there before.
    pub appeared: Vec<Requirement>,
    /// Not there any more.
    pub resolved: Vec<Requirement>,
}

impl Requirements {
    /// What is open.
    pub(in crate::control::engine) fn open(&self) -> Arc<[Requirement]> {
        Arc::clone(&self.open)
    }

    /// Takes what is open now, in the order in which it can be done.
    pub(in crate::control::engine) fn set(&mut self, mut now: Vec<Requirement>) -> Turn {
        now.truncate(MOST);
        let turn = Turn {
            appeared: now.iter().filter(|one| !self.open.contains(one)).cloned().collect(),
            resolved: self.open.iter().filter(|one| !now.contains(one)).cloned().collect(),
        };
        if turn != Turn::default() || self.open.len() != now.len() {
            self.open = now.into();
        }
        turn
    }
}

#[cfg(test)]
mod tests {
    use super::{MOST, Requirements};
    use crate::control::engine::port::Requirement;

    fn requirement(n: usize) -> Requirement {
        Requirement { what: format!("{n} is down"), command: format!("ip link set dev {n} up") }
    }

    #[test]
    fn each_appears_and_resolves_once() {
        let mut requirements = Requirements::default();
        let turn = requirements.set(vec![requirement(1), requirement(2)]);
        assert_eq!((turn.appeared.len(), turn.resolved.len()), (2, 0));
        assert_eq!(requirements.set(vec![requirement(1), requirement(2)]), super::Turn::default());
        let turn = requirements.set(vec![requirement(2), requirement(3)]);
        assert_eq!((turn.appeared, turn.resolved), (vec![requirement(3)], vec![requirement(1)]));
        assert_eq!(*requirements.open(), [requirement(2), requirement(3)]);
        requirements.set((0..2 * MOST).map(requirement).collect());
        assert_eq!(requirements.open().len(), MOST);
    }
}
