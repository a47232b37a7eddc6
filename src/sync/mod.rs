//! What threads share without locks.

mod published;
#[cfg(test)]
mod published_tests;

pub use published::{Pinned, Published};
