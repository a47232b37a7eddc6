//! The kernel path: programs in the kernel that repeat what the pump has decided about established flows.
//!
//! ```text
//! worker: packets of a flow, both ways ─▶ candidate ─▶ proved ─▶ Record ─install─▶ key ─▶ slot
//!                                                                                  │      │ state, headers,
//! TUN egress ──▶ program ── key of the packet ─────────────────────────────────────┘      │ bounds, counters
//!                   ├── repeats the record ─▶ uplink                                      │
//!                   └── anything unusual ───▶ pump                                        │
//! control plane: review of all slots after each table, collect, age ──────────────────────┘
//! ```
//!
//! The pump is the authority: it sees the first packets of each flow, and all that are unusual (see
//! `program/classify.rs`). A slot lies in memory that the programs and this process share, so that giving a flow back
//! to the pump is one store. Its key is removed, and the slot used again, only when no program can be at work on it
//! any more, so that every packet is counted.
#![expect(
    clippy::cast_possible_truncation,
    reason = "offsets of headers and of words of a slot, numbers of slots, and parts of hashes"
)]

mod candidates;
mod detour;
mod key;
mod program;
mod record;
mod shared;
mod slot;
#[cfg(test)]
mod tests;
mod tidy;
mod way;
mod words;

pub use crate::dataplane::ebpf::{Gate, Hook};
pub use candidates::{Arrived, Candidates};
pub use detour::{Detour, Rates};
pub use key::FlowKey;
pub use program::Addresses;
pub use record::{Encapsulation, Inbound, Outbound, Record};
pub use shared::{Attached, Carried, KernelPath, Pending, Place, Setup};
pub use way::Way;
