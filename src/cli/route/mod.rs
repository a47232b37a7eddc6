//! `underpass route`: edits and lists.

pub(super) mod edit;
pub(super) mod list;
