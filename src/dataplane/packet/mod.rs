//! What the parts of the packet path hand to one another, and the traits they meet by.
//!
//! ```text
//!  TUN      Device::read, vnet header ─▶ forward ─▶ Outbox: Messages of Datagrams   sockets
//!  TUN      Sink, Device ◀─ Delivery  ◀─ forward ◀─ Received, Format                sockets
//! ```
//!
//! Nothing here decides anything or does I/O, and nothing is copied: packets are [`Piece`]s of buffers
//! that stay where they are.

mod delivery;
mod device;
mod outbox;
mod received;

pub use delivery::{Delivery, Piece, Sink};
pub use device::{Device, MAX_PACKET};
pub use outbox::{Channel, Datagram, Full, Message, Outbox, Paths};
pub use received::{Format, Received};
