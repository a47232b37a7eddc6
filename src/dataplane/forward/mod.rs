//! The two flows, composed of the parts below and testable without root.
//!
//! ```text
//! outbound   device ─▶ classify ─▶ route ─▶ decide ─▶ split ─▶ encapsulate ─▶ underlay
//! inbound    underlay ─▶ strip ─▶ admit ─▶ merge ─▶ device
//! ```
//!
//! Both flows work on bytes in buffers and on a published [`Forwarding`]; neither does I/O.

mod compile;
mod deliver;
mod icmp_errors;
mod inbound;
mod inputs;
mod neighbour_replies;
mod outbound;
mod scope;
mod tables;
mod way;

pub use compile::Compiler;
pub use deliver::Deliver;
pub use icmp_errors::Replies;
pub use inbound::{Inbound, is_uncut, outer};
pub use inputs::{Inputs, MIN_MTU, Peer, TapLink, TunLink, Underlay};
pub use neighbour_replies::Answers;
pub use outbound::Outbound;
pub use scope::Scope;
pub use tables::{Forwarding, Origin, OuterIp};
pub use way::{Choice, Way};

#[cfg(test)]
mod tests;
