//! What each fuzz target does with its bytes, as plain functions, so that libFuzzer and a stable
//! `cargo test` run the same code. Every check is an assertion: a panic is a finding.
//!
//! | Target | Bytes | Must hold |
//! |---|---|---|
//! | `inbound_ipip`, `inbound_vxlan` | receives of a socket | delivered or in one drop counter; only what the sender may send, only for us, unchanged |
//! | `tun_read` | reads of the TUN with vnet header | sent or in one drop counter; every outer packet well-formed and small enough |
//! | `split_merge` | packets, and damage to them | cutting and joining change no byte and no order |
//! | `config` | a configuration file | positions inside the text; what is accepted can be run |
//! | `policy` | manifests of network policy | positions inside the text; rules say what their trace says |
//! | `control` | bytes of an HTTP client | an HTTP answer or none, and an end |
//! | `capture_filter` | a capture's filter and a packet | an answer, and the opposite one for the opposite filter |

mod configuration;
mod filter;
mod http;
mod inbound;
mod input;
mod node;
mod outbound;
mod policy;
mod segment;

pub use configuration::config;
pub use filter::capture_filter;
pub use http::control;
pub use inbound::{inbound_ipip, inbound_vxlan};
pub use outbound::tun_read;
pub use policy::policy;
pub use segment::split_merge;

/// A target's name and what it runs.
pub type Target = (&'static str, fn(&[u8]));

/// Every target, by the name of its folders under `seeds/` and `regressions/`.
pub const TARGETS: [Target; 8] = [
    ("inbound_ipip", inbound_ipip),
    ("inbound_vxlan", inbound_vxlan),
    ("tun_read", tun_read),
    ("split_merge", split_merge),
    ("config", config),
    ("policy", policy),
    ("control", control),
    ("capture_filter", capture_filter),
];
