//! What others set on the host.

use std::net::IpAddr;

use crate::net::Prefix;

/// What an administrator sets and the tunnel depends on.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Settings {
    /// Whether `tunl0` exists and is up.
    pub tunl0_up: bool,
    /// Whether `ip6tnl0` exists and is up.
    pub ip6tnl0_up: bool,
    /// `net.ipv4.conf.all.rp_filter`.
    pub rp_filter_all: u8,
    /// `rp_filter` of the uplink.
    pub rp_filter_uplink: u8,
    /// Other devices of the kernel that are up and take IP-in-IP; `None` where that was not looked at.
    pub tunnels: Option<Vec<KernelTunnel>>,
    /// Chains of the firewall that drop every forwarded packet, as "ip filter FORWARD".
    pub drop_forwarded: Vec<String>,
    /// Destinations of our routes whose packets a rule leads elsewhere, and the table where that is what it does;
    /// `None` where that was not looked at.
    pub ruled: Option<Vec<(Prefix, Option<u32>)>>,
    /// `net.ipv4.conf.*.forwarding` of the uplink; true also when it cannot be read.
    pub forward_uplink: bool,
    /// `net.ipv4.ip_forward`; true also when it cannot be read.
    pub ip_forward: bool,
    /// `net.ipv6.conf.all.forwarding`; true also when it cannot be read.
    pub ip6_forward: bool,
}

/// A device of the kernel that takes IP-in-IP packets from anybody or from one address.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct KernelTunnel {
    /// Its name.
    pub name: String,
    /// Whether the outer header is IPv6.
    pub ipv6: bool,
    /// The address that it takes packets for; `None` for any.
    pub local: Option<IpAddr>,
    /// Where it takes packets from; `None` for anywhere.
    pub remote: Option<IpAddr>,
}

/// A host on which nothing is in the way.
impl Default for Settings {
    fn default() -> Self {
        Self {
            tunl0_up: false,
            ip6tnl0_up: false,
            rp_filter_all: 0,
            rp_filter_uplink: 0,
            tunnels: Some(Vec::new()),
            drop_forwarded: Vec::new(),
            ruled: Some(Vec::new()),
            forward_uplink: true,
            ip_forward: true,
            ip6_forward: true,
        }
    }
}
