//! The two ways through a node.

/// A way through this node.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Direction {
    /// From the device to the underlay.
    Outbound,
    /// From the underlay to the device.
    Inbound,
}
