//! Changes of what is known: routes, peers and the configuration, judged as a whole and made as a whole.

pub mod batch;
pub(super) mod edit;
pub(super) mod followed;
pub mod lines;
mod peers;
pub(super) mod pending;
pub(super) mod reload;
pub(super) mod roster;
pub(super) mod transaction;
