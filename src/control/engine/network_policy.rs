//! The network policy that is enforced, and what it was made of.

use std::sync::Arc;

use crate::dataplane::policy::{ActivePolicy, Settings};
use crate::policy::Compiled;

/// A policy to enforce.
#[derive(Clone, Debug)]
pub struct NetworkPolicy {
    /// All that it consists of.
    pub compiled: Arc<Compiled>,
    /// How connections are followed.
    pub settings: Settings,
}

/// The same compilation, not one of the same rules.
impl PartialEq for NetworkPolicy {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.compiled, &other.compiled) && self.settings == other.settings
    }
}

impl NetworkPolicy {
    /// The same for the workers, as the policy with this number.
    pub(super) fn active(&self, generation: u32) -> ActivePolicy {
        ActivePolicy { rules: Arc::clone(&self.compiled.ruleset), generation, settings: self.settings }
    }
}
