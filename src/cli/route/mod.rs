//! `underpass route`: edits and lists.

pub mod edit;
pub mod list;
