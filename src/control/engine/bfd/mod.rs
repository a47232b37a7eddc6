//! Which direct paths work: bidirectional forwarding detection (RFC 5880, RFC 5881) between addresses of pods.
//!
//! ```text
//! this node                                          the peer
//! pod address ──control packet, bare, TTL 255──▶ pod address     Up here: both directions pass
//!             ◀──control packet, bare, TTL 255──
//! ```
//!
//! Pure: packets and moments in, packets and verdicts out. `daemon/watch/direct_paths` has the sockets.

mod hysteresis;
mod paths;
mod session;

pub use self::paths::{Outgoing, Paths, Verdict};
