//! The border between the engine and the host: what is asked of the kernel, and what is seen of it.
//!
//! Only values: `control/host` executes the requests and makes the observations.

mod error;
mod interface;
mod kernel_route;
mod nat;
mod own_route;
mod pod_rules;
mod settings;
mod table;
mod uplink;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

pub use error::HostError;
pub use interface::{Interface, InterfaceAddress};
pub use kernel_route::KernelRoute;
pub use nat::{Blind, NatRules, NatView, nat_table};
pub use own_route::{DirectRoute, FirstHop, OwnKind, OwnRoute, PeerWay, TunRoute, WeightedHop};
pub use pod_rules::{
    POD_TABLE, Packets, PodLook, PodRoute, PodRouting, PodRule, REFUSAL_METRIC, RuleAction, TUN_GROUP,
};
pub use settings::{KernelTunnel, Settings};
pub use table::{Found, Interest, Table, widest};
pub use uplink::Uplink;

use crate::dataplane::device::Origin;
use crate::dataplane::underlay::Setup;
use crate::dataplane::underlay::tap::Tap;
use crate::net::{Mac, Prefix};

/// Our number in the kernel's route protocol field, of routes into the TUN. Not used by the kernel, iproute2's
/// `rt_protos`, BIRD (12), FRR (11, 186 to 198), Open/R (99) or Calico (80).
pub const ROUTE_PROTOCOL: u8 = crate::config::KernelRoutes::OWN_PROTOCOL;
/// The same of routes to other nodes.
pub const DIRECT_PROTOCOL: u8 = crate::config::KernelRoutes::DIRECT_PROTOCOL;
/// Packets the kernel queues towards us on each TUN queue. The default of 500 overflows in one
/// scheduling delay at full rate, and an overflow is a lost packet.
pub const TX_QUEUE_LEN: u32 = 10_000;

/// Everything that is asked of the kernel. It is the whole list: nothing else changes the host.
#[derive(Clone, Debug)]
pub enum HostRequest {
    /// Make or take over the TUN and open its queues.
    OpenTun {
        /// Its name.
        name: String,
        /// Whether it is there already.
        origin: Origin,
        /// Queues to open.
        queues: u16,
        /// How.
        backend: TunBackend,
    },
    /// Make the TAP.
    OpenTap {
        /// Its name.
        name: String,
        /// What become its queues.
        queues: Vec<Tap>,
    },
    /// Remove a TAP of ours.
    RemoveTap {
        /// Interface index.
        index: u32,
        /// Its name, for messages.
        name: String,
    },
    /// Open the sockets of one worker.
    OpenSockets {
        /// What all workers' sockets have in common.
        setup: Arc<Setup>,
        /// The worker.
        worker: u16,
    },
    /// Change a network device.
    Link {
        /// Interface index.
        index: u32,
        /// Its name, for messages.
        name: String,
        /// What to change.
        change: LinkChange,
    },
    /// Add an address to an interface, without duplicate address detection.
    AddAddress {
        /// Interface index.
        index: u32,
        /// The address; its prefix is the address alone.
        address: IpAddr,
    },
    /// Remove an address that was added.
    RemoveAddress {
        /// Interface index.
        index: u32,
        /// The address; its prefix is the address alone.
        address: IpAddr,
    },
    /// Add routes of ours and remove some, in this order. One that is added takes the place of another one of
    /// ours to the same destination at once.
    Routes {
        /// Interface index of the TUN.
        index: u32,
        /// Routes to add to the main table, under [`ROUTE_PROTOCOL`] and [`DIRECT_PROTOCOL`].
        add: Vec<OwnRoute>,
        /// Routes of ours to remove.
        remove: Vec<(Prefix, OwnKind)>,
    },
    /// Remove all routes of ours, as a former run may have left them.
    FlushRoutes {
        /// Interface index of the TUN.
        index: u32,
        /// Its name: the index may be another device's by now.
        name: String,
    },
    /// Write a sysctl of an interface.
    Sysctl {
        /// Interface name.
        name: String,
        /// Which.
        sysctl: Sysctl,
        /// The value.
        value: u8,
    },
    /// Replace a table of nftables in the family `inet` by one that masquerades, or remove it.
    Nat {
        /// Its name.
        table: String,
        /// What it does; nothing: it goes.
        rules: Option<NatRules>,
    },
    /// Add or remove a rule of policy routing.
    PodRule {
        /// The rule.
        rule: PodRule,
        /// Whether to add it.
        add: bool,
    },
    /// Add or remove a route of the table that such rules lead to.
    PodRoute {
        /// The route.
        route: PodRoute,
        /// Whether to add it.
        add: bool,
    },
    /// Tell the kernel that a neighbour is in use, so that it is resolved and stays so.
    UseNeighbour {
        /// Interface index.
        index: u32,
        /// The neighbour.
        address: IpAddr,
    },
    /// Look at the host; the answer is an observation.
    Observe(Look),
}

/// How the TUN is opened.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum TunBackend {
    /// Multi-queue with vnet headers, with these offloads.
    Offload {
        /// TCP super-packets.
        tso: bool,
        /// UDP super-packets.
        uso: bool,
    },
    /// One queue of plain packets.
    Plain,
}

/// A change of a network device.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum LinkChange {
    /// Administratively up.
    Up,
    /// Administratively down.
    Down,
    /// The MTU in bytes.
    Mtu(u16),
    /// The transmit queue length in packets.
    QueueLength(u32),
    /// The group of devices that it is in.
    Group(u32),
    /// No queueing discipline: for a TUN, which takes every packet. Only while it is down.
    NoQueue,
}

/// The metric the kernel gives a route that names none: 0 in IPv4, `IP6_RT_PRIO_USER` in IPv6.
pub fn default_metric(prefix: Prefix) -> u32 {
    if prefix.is_ipv4() { 0 } else { 1024 }
}

/// A sysctl of one interface.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Sysctl {
    /// `net.ipv4.conf.*.accept_local`: packets from addresses of this host are taken.
    AcceptLocal,
    /// `net.ipv4.conf.*.forwarding`.
    Forwarding,
    /// `net.ipv4.conf.*.rp_filter`.
    ReversePath,
    /// `net.ipv6.conf.*.addr_gen_mode`: 1 for no link-local address.
    AddressGeneration,
    /// `net.ipv6.conf.*.accept_ra`: router advertisements.
    RouterAdvertisements,
    /// `net.ipv6.conf.*.disable_ipv6`.
    DisableIpv6,
}

/// What the sysctls of the TAP have to be: the kernel must forward from it, from our own address, without a
/// reverse path check.
pub const TAP_SYSCTLS: [(Sysctl, u8); 3] =
    [(Sysctl::Forwarding, 1), (Sysctl::AcceptLocal, 1), (Sysctl::ReversePath, 0)];
/// And what only adds noise otherwise: it carries outer packets only, IPv6 would add router solicitations.
pub const TAP_QUIET: (Sysctl, u8) = (Sysctl::DisableIpv6, 1);

impl Sysctl {
    /// Its place below `net`, with slashes, for the interface `name`.
    pub fn key(self, name: &str) -> String {
        match self {
            Self::AcceptLocal => format!("ipv4/conf/{name}/accept_local"),
            Self::Forwarding => format!("ipv4/conf/{name}/forwarding"),
            Self::ReversePath => format!("ipv4/conf/{name}/rp_filter"),
            Self::AddressGeneration => format!("ipv6/conf/{name}/addr_gen_mode"),
            Self::RouterAdvertisements => format!("ipv6/conf/{name}/accept_ra"),
            Self::DisableIpv6 => format!("ipv6/conf/{name}/disable_ipv6"),
        }
    }
}

/// Which device.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Device {
    /// The one with this name.
    Named(String),
    /// The one with this index, whatever its name is by now.
    Index(u32),
}

/// What to look at.
#[derive(Clone, Debug)]
pub struct Look {
    /// The TUN.
    pub tun: Device,
    /// Index of the TAP, where there is one.
    pub tap: Option<u32>,
    /// Name of the uplink.
    pub uplink: String,
    /// Which routes of the main table to report; none are read without.
    pub routes: Option<Interest>,
    /// Routes of ours, to see whether a rule (ip-rule(8)) leads their packets elsewhere; only looked at
    /// together with `routes`.
    pub led: Vec<TunRoute>,
    /// Name of the table of nftables that masquerades; not looked at without.
    pub nat: Option<String>,
    /// What to look at of the policy routing of pods.
    pub pods: PodLook,
}

/// What the host looks like.
#[derive(Clone, Debug, Default)]
pub struct HostView {
    /// The TUN; `None` when it is gone.
    pub tun: Option<DeviceView>,
    /// The TAP, where there is one.
    pub tap: Option<DeviceView>,
    /// What others set.
    pub settings: Settings,
    /// The main table, where it was asked for.
    pub routes: Option<Arc<Table>>,
    /// What there is in the place of the table that masquerades, where that was looked at.
    pub nat: Option<NatView>,
    /// The policy routing of pods, where that was looked at.
    pub pods: Option<PodRouting>,
    /// How long the look took.
    pub took: Duration,
}

/// A device of ours.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct DeviceView {
    /// The device.
    pub link: Link,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Its sysctls that could be read; [`Sysctl::AcceptLocal`] as it takes effect.
    pub sysctls: BTreeMap<Sysctl, u8>,
}

/// A change of the host that the kernel told of.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Notice {
    /// An interface.
    Link(u32),
    /// An address of an interface.
    Address(u32),
    /// A route of the main table.
    Route {
        /// Its destination.
        prefix: Prefix,
        /// Its interface, where it has a single one.
        device: Option<u32>,
    },
    /// A route of another table, by its destination.
    Elsewhere(Prefix),
    /// A rule that chooses a table: the ways to peers may be others.
    Policy,
    /// Notifications were lost.
    Overrun,
}

/// What the daemon wants to know of a network device.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Link {
    /// Interface name.
    pub name: String,
    /// Interface index.
    pub index: u32,
    /// MTU in bytes.
    pub mtu: u32,
    /// Transmit queue length in packets.
    pub txqueuelen: u32,
    /// The group of devices that it is in (`IFLA_GROUP`).
    pub group: u32,
    /// Whether it is administratively up.
    pub up: bool,
    /// The kernel's word for its type, as "tun", "vxlan", "veth"; `None` for plain hardware.
    pub kind: Option<String>,
    /// Ethernet address.
    pub mac: Option<Mac>,
    /// Ownership, when this is a TUN or TAP.
    pub tun: Option<TunDetails>,
    /// UDP port, when this is a VXLAN device.
    pub vxlan_port: Option<u16>,
    /// What it takes, when this is a device for IP-in-IP that is up.
    pub ip_tunnel: Option<KernelTunnel>,
    /// Whether no packet leaves the host by it: `lo`, or a dummy.
    pub dead_end: bool,
}

/// Ownership of a TUN device.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct TunDetails {
    /// The user that may attach to it without privileges; `None`: any user.
    pub owner: Option<u32>,
    /// The group whose members may attach to it without privileges; `None`: any group.
    pub group: Option<u32>,
    /// Whether it stays when its last descriptor is closed.
    pub persistent: bool,
    /// Whether it takes more than one queue.
    pub multi_queue: bool,
    /// Queues that processes hold now, those put aside (`IFF_DETACH_QUEUE`) among them; the kernel
    /// tells only of a multi-queue one.
    pub queues: u32,
}

/// What this process may do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Capabilities {
    /// CAP_NET_ADMIN, at least in its own user namespace.
    pub net_admin: bool,
    /// CAP_NET_RAW, at least in its own user namespace.
    pub net_raw: bool,
}

/// A host setting that the daemon lacks the privilege to change, or that is another's to decide.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Requirement {
    /// What does not work for as long as it is not done.
    pub what: String,
    /// The command that does it.
    pub command: String,
}
