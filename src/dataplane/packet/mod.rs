//! What the parts of the packet path hand to one another, and the traits they meet by.
//!
//! ```text
//!  TUN      Device::read, vnet header ─▶ forward ─▶ Outbox: Messages of Datagrams   sockets
//!  TUN      Sink, Device ◀─ Delivery  ◀─ forward ◀─ Received, Format                sockets
//! ```
//!
//! Nothing here decides anything or does I/O, and nothing is copied: packets are [`Piece`]s of buffers
//! that stay where they are. [`Worker`](crate::dataplane::observe::Worker), which packets are counted
//! with, is made of counters and captures and lives with them.

mod delivery;
mod device;
mod direction;
mod family;
mod offloaded;
mod outbox;
mod received;

pub use delivery::{Delivery, MAX_PIECES, Piece, Sink};
pub use device::{Device, MAX_PACKET};
pub use direction::Direction;
pub use family::{Family, PerFamily};
pub use offloaded::Offloaded;
pub use outbox::{Batch, Channel, Datagram, Full, Message, Outbox, Paths};
pub use received::{Format, Received};
