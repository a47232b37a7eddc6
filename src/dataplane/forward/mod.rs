//! The two flows, composed of the parts below and testable without root.
//!
//! ```text
//! outbound   device ─▶ classify ─▶ route ─▶ judge ─▶ decide ─▶ split ─▶ encapsulate ─▶ underlay
//! inbound    underlay ─▶ strip ─▶ admit ─▶ judge ─▶ merge ─▶ device
//! ```
//!
//! Both flows work on bytes in buffers and on a published [`Forwarding`]. Nothing here does I/O: what is
//! to be sent is left in an outbox, what is to be delivered goes to a sink.

mod compile;
mod icmp_errors;
mod inbound;
mod inputs;
mod kernel_records;
mod neighbour_replies;
mod outbound;
mod scope;
mod speakers;
mod tables;
mod way;

pub use compile::Compiler;
pub use icmp_errors::IcmpErrors;
pub use inbound::{Inbound, InboundCx, is_uncut, outer};
pub use inputs::{Inputs, MIN_MTU, Peer, TapLink, TunLink, Underlay};
pub use neighbour_replies::NeighbourReplies;
pub use outbound::{Hairpin, Outbound, OutboundCx};
pub use scope::Scope;
pub use tables::{Forwarding, OuterIp, OuterSource, Senders};
pub use way::{Choice, Way};

#[cfg(test)]
mod tests;
