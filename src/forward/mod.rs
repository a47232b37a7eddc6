//! The two flows, composed of the parts below and testable without root.
//!
//! ```text
//! outbound   device ─▶ classify ─▶ route ─▶ decide ─▶ split ─▶ encapsulate ─▶ underlay
//! inbound    underlay ─▶ strip ─▶ admit ─▶ merge ─▶ device
//! ```
//!
//! Both flows work on bytes in buffers and on a published [`Forwarding`]; neither does I/O.

mod deliver;
mod inbound;
mod outbound;
mod outbox;
mod scope;
mod tables;

pub use deliver::Deliver;
pub use inbound::{Format, Inbound, Received, is_uncut};
pub use outbound::{Outbound, Paths};
pub use outbox::{Channel, Datagram, Full, Message, Outbox};
pub use scope::Scope;
pub use tables::{Forwarding, Origin, Peer, TapLink, Underlay};

#[cfg(test)]
mod tests;
