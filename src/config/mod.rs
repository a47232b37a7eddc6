//! The configuration file, and the manifests that it leads to: TOML and YAML in, checked and typed values out.
//!
//! Nothing downstream of this module sees raw text. `load` reports every error of a file at
//! once, each with line and column; a configuration that comes out of it is one the daemon can run
//! as far as the file alone can tell.

mod check;
mod cluster;
mod diagnostic;
mod endpoint;
mod etcd;
mod input;
mod kernel_routes;
mod kubernetes;
mod manifests;
mod overlay;
mod own_address;
mod owners;
mod parse;
mod peer;
mod policy;
mod policy_section;
mod raw;
mod reader;
mod schema;
mod speakers;
#[cfg(test)]
mod tests;
mod tunnel;
mod unquoted;
mod value;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

pub use self::cluster::{Cluster, Etcd, EtcdIdentity, EtcdTls, EtcdUser, GivenVxlan, Kubernetes, Style};
pub use self::diagnostic::{ConfigError, ConfigErrors};
pub use self::manifests::load_manifests;
pub use self::own_address::{AddressRule, Destination, Patterns};
pub use self::parse::{load, load_again, parse};
pub use self::peer::{NamedPeer, Peer};
pub use self::policy::{Fragments, Policy, PolicyScope, PolicyTimeouts};
pub use self::value::{for_node, for_pods, for_senders, unicast};
use crate::net::{NodeName, Prefix, Vni};
pub use crate::route::Pool;

/// A whole checked configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// This node.
    pub node: Node,
    /// The TUN device and the packet pump.
    pub tunnel: Tunnel,
    /// VXLAN parameters, the same on all nodes.
    pub vxlan: Vxlan,
    /// The pools, in file order.
    pub pools: Vec<Pool>,
    /// `[direct] via`: who sends packets in the mode `direct`.
    pub direct_via: DirectVia,
    /// This node's own pod subnets, in file order.
    pub local_subnets: Vec<Prefix>,
    /// `[local] sends_for`: prefixes that this node may send from beside its subnets, in file order.
    pub local_sends_for: Vec<Prefix>,
    /// The other nodes at known addresses, in file order.
    pub peers: Vec<Peer>,
    /// The other nodes at host names, in file order: each is among `peers` as well for as long as its address is known.
    pub named_peers: Vec<NamedPeer>,
    /// `[source.kubernetes]` or `[source.etcd]`: where the rest of this comes from, when there is one of the sections.
    pub cluster: Option<Cluster>,
    /// `[source.kernel]`: the kernel's routes that are followed, when there is the section.
    pub kernel_routes: Option<KernelRoutes>,
    /// `[policy]` and `[[endpoint]]`: network policy; off when there is no such section.
    pub policy: Option<Policy>,
    /// The control socket.
    pub control: Control,
    /// The metrics listener; off when absent.
    pub metrics: Option<SocketAddr>,
    /// The network configuration for container runtimes; off when absent.
    pub cni: Option<Cni>,
}

/// `[node]`
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// `name`: unique among all nodes.
    pub name: NodeName,
    /// `address`: IPv4 underlay address with its prefix length; the prefix decides CrossSubnet. There
    /// is this or `address6`, or both, once the rules below have been followed.
    pub address: Option<Ipv4Net>,
    /// `address6`: IPv6 underlay address with its prefix length.
    pub address6: Option<Ipv6Net>,
    /// How `address` is found on the host, where the file does not give it.
    pub address_rule: Option<AddressRule>,
    /// How `address6` is found on the host, where the file does not give it.
    pub address6_rule: Option<AddressRule>,
    /// `external_nodes`: outer sources that are accepted besides the peers.
    pub external_nodes: Vec<Prefix>,
}

impl Node {
    /// The underlay addresses this node has, IPv4 first.
    pub fn addresses(&self) -> impl Iterator<Item = IpNet> {
        self.address.map(IpNet::V4).into_iter().chain(self.address6.map(IpNet::V6))
    }

    /// How the address of one family is found, where the file does not give it.
    pub fn rule(&self, is_ipv4: bool) -> Option<&AddressRule> {
        if is_ipv4 { self.address_rule.as_ref() } else { self.address6_rule.as_ref() }
    }
}

/// `[tunnel]`
#[derive(Clone, Debug, PartialEq)]
pub struct Tunnel {
    /// `device`: name of the TUN, at most 15 bytes.
    pub device: String,
    /// `address`: address on the TUN; `None` is "auto", the first of the first local subnet.
    pub address: Option<IpAddr>,
    /// `mtu`: bytes of the largest inner packet; `None` is "auto", the uplink's less the largest
    /// overhead in use.
    pub mtu: Option<u16>,
    /// `workers`: number of packet threads (1 to 64); `None` is "auto", one for each CPU, at most 8.
    pub workers: Option<u16>,
    /// `backend`.
    pub backend: Backend,
    /// `uplink`: how VXLAN super-packets reach the uplink.
    pub uplink: Uplink,
    /// `dscp`: of outer headers.
    pub dscp: Dscp,
    /// The offload switches.
    pub offload: Offload,
    /// `kernel_path`: whether the kernel carries established flows.
    pub kernel_path: Switch,
    /// `kernel_path_hooks`: how programs are attached.
    pub kernel_path_hooks: Hooks,
    /// `kernel_path_after`: packets each way after which a flow is one.
    pub kernel_path_after: u16,
    /// `busy_poll`: how long workers look for packets behind the last one before they sleep.
    pub busy_poll: Duration,
    /// `allow_nested`: whether pods may send tunnel packets of their own.
    pub allow_nested: bool,
}

impl Tunnel {
    /// The default of `device`.
    pub const DEVICE: &str = "up0";
    /// The default of `kernel_path_after`.
    pub const KERNEL_PATH_AFTER: u16 = 16;
    /// The default of `busy_poll`, in microseconds.
    pub const BUSY_POLL: u16 = 0;
}

/// `[tunnel] kernel_path_hooks`
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Hooks {
    /// TCX where the kernel has it, else clsact.
    #[default]
    Auto,
    /// TCX (Linux 6.6).
    Tcx,
    /// Filters of the queueing discipline clsact.
    Clsact,
}

impl Hooks {
    /// The word in the configuration and in `status`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        }
    }
}

/// `[tunnel] uplink`
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Uplink {
    /// `tap` where a self-test at start shows that it works, else `socket`.
    #[default]
    Auto,
    /// UDP sockets, with UDP_SEGMENT.
    Socket,
    /// A TAP with UDP-tunnel GSO (kernel 6.17 or newer).
    Tap,
}

/// `[tunnel] dscp`
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Dscp {
    /// The inner packet's.
    Inherit,
    /// This value, 0 to 63.
    Fixed(u8),
}

/// The offload switches of `[tunnel]`, each `auto`, `on` or `off`.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Offload {
    /// `tso`: take TCP super-packets from the TUN.
    pub tso: Switch,
    /// `uso`: take UDP super-packets from the TUN and give it some.
    pub uso: Switch,
    /// `gro`: merge received segments into super-packets before the TUN, or have the kernel do so.
    pub gro: Switch,
    /// `udp_gso`: send with UDP_SEGMENT.
    pub udp_gso: Switch,
    /// `udp_gro`: receive with UDP_GRO.
    pub udp_gro: Switch,
    /// `segment_sizes`: learn the segment sizes of received super-packets from packet sockets.
    pub segment_sizes: Switch,
    /// `packet_socket`: send and receive IPIP and direct traffic by AF_PACKET.
    pub packet_socket: Switch,
}

/// What to do about an offload.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Switch {
    /// Use it where the kernel has it, do without where not.
    #[default]
    Auto,
    /// Use it, and refuse to start where the kernel does not have it.
    On,
    /// Never use it.
    Off,
}

/// `[tunnel] backend`
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Backend {
    /// `offload`, or `plain` where the device refuses it.
    #[default]
    Auto,
    /// Multi-queue and vnet_hdr, opened by us.
    Offload,
    /// The tun-tap crate: one queue, one packet at a time.
    Plain,
}

/// `[vxlan]`
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Vxlan {
    /// `port`: UDP destination port.
    pub port: u16,
    /// `vni`.
    pub vni: Vni,
    /// `udp6_zero_checksum`: whether UDP over IPv6 without a checksum is received.
    pub udp6_zero_checksum: bool,
    /// `udp6_zero_checksum_tx`: whether all peers receive it, so that the kernel path may send it.
    pub udp6_zero_checksum_tx: bool,
}

/// `[direct] via`: who sends packets in the mode `direct`.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum DirectVia {
    /// This daemon: they come to the TUN.
    #[default]
    Pump,
    /// The kernel, by routes of this daemon to the other nodes, where that can be.
    Kernel,
}

impl DirectVia {
    /// The word in the file, in JSON and in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pump => "pump",
            Self::Kernel => "kernel",
        }
    }
}

/// `[source.kernel]`: routes that others, such as a BGP daemon, write to the kernel's tables.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct KernelRoutes {
    /// `tables`: numbers of routing tables; of one prefix in several, the route of the first counts.
    pub tables: Vec<u32>,
    /// `protocols`: numbers of the protocols whose routes count (`rtm_protocol`).
    pub protocols: Vec<u8>,
    /// `prefixes`: routes inside of these count; of the pools when empty.
    pub prefixes: Vec<Prefix>,
    /// `implicit_peers`: next hops inside of these become peers when they are none.
    pub implicit_peers: Vec<Prefix>,
}

impl KernelRoutes {
    /// The protocol number of the routes into the TUN that this daemon writes, which it never follows.
    pub const OWN_PROTOCOL: u8 = 117;
    /// That of its routes to other nodes, which it never follows either.
    pub const DIRECT_PROTOCOL: u8 = 118;
}

/// `[control]`
#[derive(Clone, Debug, PartialEq)]
pub struct Control {
    /// `socket`: path of the Unix socket.
    pub socket: PathBuf,
    /// `max_routes`: most routes that requests may lead to.
    pub max_routes: usize,
}

impl Control {
    /// The default of `socket`.
    pub const SOCKET: &str = "/run/underpass/underpass.sock";
    /// The default of `max_routes`.
    pub const MAX_ROUTES: usize = 4_000_000;
}

/// `[cni]`
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Cni {
    /// `conflist`: path of the file that the daemon writes for container runtimes.
    pub conflist: PathBuf,
    /// `plugins`.
    pub plugins: CniPlugins,
}

impl Cni {
    /// The default of `conflist`.
    pub const CONFLIST: &str = "/etc/cni/net.d/10-underpass.conflist";
}

/// `[cni] plugins`: which stock plugins make the interfaces of pods.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum CniPlugins {
    /// `ptp` with `host-local` addresses, then `portmap`.
    #[default]
    Ptp,
}

impl CniPlugins {
    /// The name of the plugin that makes interfaces.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ptp => "ptp",
        }
    }
}
