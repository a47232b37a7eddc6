//! Routes, peers, and the tables made of them.

pub mod batch;
pub(in crate::control) mod edit;
pub mod kernel_cover;
pub mod lines;
pub(in crate::control) mod peers;
pub mod refusal;
pub(in crate::control) mod roster;
pub mod state;
