//! What one worker works on.

use crate::dataplane::packet::Device;
use crate::dataplane::underlay::Sockets;

/// One worker's edges.
pub struct Lane {
    /// Its queue of the TUN.
    pub device: Box<dyn Device>,
    /// Its sockets.
    pub sockets: Sockets,
}
