//! Segmentation and its inverse, in user space.
//!
//! A *super-packet* is one TCP or UDP packet of up to 64 KiB that stands for many equal segments.
//! [`split`] cuts one that the TUN handed us into segments for the wire; [`merge`] joins segments
//! from the wire into one for the TUN; [`fragment`] cuts a plain packet or a segment. None copies payload: they
//! describe packets as [`Piece`](crate::dataplane::packet::Piece)s of buffers that stay where they are.
#![expect(
    clippy::cast_possible_truncation,
    reason = "lengths of headers, and of packets, which are at most MAX_PACKET; halves of a hash"
)]

mod candidate;
pub mod flow;
pub mod fragment;
pub mod merge;
pub mod metadata;
mod shape;
pub mod split;
pub mod unfinished;

pub use flow::Flow;
pub use merge::Merge;
pub use metadata::{Metadata, MetadataSource};
pub use split::Split;

#[cfg(test)]
mod tests;
