//! The interfaces of a host and their addresses, as this node's own address is chosen from.

use ipnet::IpNet;

/// An interface with its addresses, both in the kernel's order.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Interface {
    /// Index.
    pub index: u32,
    /// Name.
    pub name: String,
    /// Whether it is administratively up.
    pub up: bool,
    /// Whether it is a loopback interface.
    pub loopback: bool,
    /// Its addresses.
    pub addresses: Vec<InterfaceAddress>,
}

/// An address of an interface.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct InterfaceAddress {
    /// The address with the length of its subnet.
    pub net: IpNet,
    /// Why it is none to build on, where the kernel says so.
    pub unfit: Option<&'static str>,
}
