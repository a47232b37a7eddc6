//! Packets that may be merged, and which may.

use super::flow::Flow;

/// What may be merged; the switches of the configuration and what the device takes.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// Merge TCP.
    pub tcp: bool,
    /// Merge UDP.
    pub udp: bool,
}

/// A packet on its way to the device: `at..at + flow.total_len` of the arena.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    /// What it is.
    pub flow: Flow,
    /// Offset in the arena.
    pub at: usize,
    /// How many it may be.
    pub grouping: Grouping,
}

/// What the socket's word leaves open about a received packet that may be several in one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Grouping {
    /// It is a single packet.
    Single,
    /// It is UDP datagrams with this many bytes of payload each, the last maybe fewer.
    Datagrams(u16),
    /// A TCP packet may be several, of whatever size.
    Tcp,
    /// Any packet may be.
    Any,
}
