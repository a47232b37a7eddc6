//! Where routes come from. A source only edits the [`Rib`](crate::route::Rib).

pub mod file;
