//! What can be wrong with a host, in words, and what to do about it.

use crate::control::engine::port::Requirement;
use crate::net::Prefix;

/// Why the daemon refuses to start.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PreflightError {
    /// /dev/net/tun does not exist.
    #[error(
        "/dev/net/tun is missing, no TUN can be made; create it with `mkdir -p /dev/net && mknod /dev/net/tun c 10 200`, in a container pass it in (`--device /dev/net/tun`)"
    )]
    TunMissing,
    /// /dev/net/tun may not be opened.
    #[error(
        "/dev/net/tun may not be opened by this user: it has mode {mode:04o}, owner {uid}:{gid}; `chmod 0666 /dev/net/tun` (the kernel still demands CAP_NET_ADMIN) or run as its owner"
    )]
    TunDenied {
        /// Permission bits.
        mode: u32,
        /// Owning user.
        uid: u32,
        /// Owning group.
        gid: u32,
    },
    /// A device control group is in the way.
    #[error(
        "/dev/net/tun may not be opened: a device control group forbids it; allow the device (container: `--device /dev/net/tun`, systemd: `DeviceAllow=/dev/net/tun rw`)"
    )]
    TunForbidden,
    /// The kernel has no TUN driver.
    #[error(
        "/dev/net/tun exists but the kernel has no driver behind it; `modprobe tun` on the host, or use a kernel with CONFIG_TUN"
    )]
    TunNoDriver,
    /// Opening failed otherwise.
    #[error(
        "/dev/net/tun cannot be opened: {0}; look at it with `ls -l /dev/net/tun`, it must be character device 10:200"
    )]
    TunBroken(String),
    /// The TUN cannot be made.
    #[error(
        "CAP_NET_ADMIN is missing, it is needed to make the TUN {device}; run as root or with `setcap cap_net_admin+ep`, or let an administrator prepare it: `ip tuntap add dev {device} mode tun user {uid}`"
    )]
    NoNetAdmin {
        /// The TUN.
        device: String,
        /// Our user.
        uid: u32,
    },
    /// The existing TUN belongs to someone else.
    #[error(
        "CAP_NET_ADMIN is missing and the existing TUN {device} belongs to another user or group (owner {}, group {}; we are user {uid}); prepare it anew: `ip tuntap add dev {device} mode tun user {uid}`",
        (*.owner).map_or_else(|| "any".to_owned(), user), id(*.group)
    )]
    NotOurTun {
        /// The TUN.
        device: String,
        /// The user allowed to use it.
        owner: Option<u32>,
        /// The group allowed to use it.
        group: Option<u32>,
        /// Our user.
        uid: u32,
    },
    /// The existing TUN has another owner, who could attach to it beside us.
    #[error(
        "the existing TUN {device} belongs to {}, who could read and forge its packets; run as that user, or prepare it anew: \
         `ip link del {device}`, then `ip tuntap add dev {device} mode tun user {uid} multi_queue`",
        user(*.owner)
    )]
    TunOfOther {
        /// The TUN.
        device: String,
        /// The user who may attach to it.
        owner: u32,
        /// Our user.
        uid: u32,
    },
    /// The TUN is held by a process. The kernel would let us in as one more queue, and give each process a
    /// part of the packets.
    #[error(
        "cannot open TUN device {device}: another process holds it; stop that one or choose another `device`"
    )]
    TunInUse {
        /// The TUN.
        device: String,
    },
    /// Raw sockets are not allowed.
    #[error(
        "CAP_NET_RAW is missing, it is needed for the raw sockets of {modes}; run as root or with `setcap cap_net_admin,cap_net_raw+ep`, or use `vxlan_mode = \"Always\"` in every pool and keep every peer subnet inside a pool"
    )]
    NoNetRaw {
        /// The modes in use, as "ipip and direct".
        modes: &'static str,
    },
    /// The kernel's own IPIP device would deliver each packet a second time.
    #[error(
        "the kernel's IPIP device tunl0 is up and would deliver every IPIP packet a second time; stop what uses it, then `ip link set tunl0 down` (or `rmmod ipip`)"
    )]
    KernelIpip,
    /// The kernel's own IPv6 tunnel device would deliver each packet a second time.
    #[error(
        "the kernel's tunnel device ip6tnl0 is up and would deliver every IP-in-IPv6 packet a second time; stop what uses it, then `ip link set ip6tnl0 down` (or `rmmod ip6_tunnel`)"
    )]
    KernelIp6Tunnel,
    /// Another device of the kernel would deliver packets a second time.
    #[error(
        "the kernel's tunnel device {device} is up, takes IP-in-IP packets of the tunnel too and would deliver them a second time; stop what uses it, then `ip link set {device} down`"
    )]
    KernelTunnel {
        /// The device.
        device: String,
    },
    /// Strict reverse path filtering drops direct traffic.
    #[error(
        "strict reverse path filtering on {uplink} would drop direct traffic, whose sources are routed to the TUN; set it to loose: `sysctl -w net/ipv4/conf/{uplink}/rp_filter=2`"
    )]
    StrictReversePath {
        /// The uplink.
        uplink: String,
    },
    /// The VXLAN port is taken.
    #[error("UDP port {port} is in use{}", port_owner(*.port, .owner.as_deref()))]
    PortInUse {
        /// The port.
        port: u16,
        /// The kernel VXLAN device that holds it, if one does.
        owner: Option<String>,
    },
}

/// What works, but perhaps not as meant.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Warning {
    /// The host does not forward.
    #[error(
        "net.ipv4.ip_forward is 0: traffic of the host itself works, traffic of pods is not forwarded; `sysctl -w net.ipv4.ip_forward=1`"
    )]
    ForwardingOff,
    /// The host does not forward IPv6.
    #[error(
        "net.ipv6.conf.all.forwarding is 0: IPv6 traffic of the host itself works, that of pods is not forwarded; `sysctl -w net.ipv6.conf.all.forwarding=1`"
    )]
    Ipv6ForwardingOff,
    /// The uplink does not forward.
    #[error(
        "net.ipv4.conf.{uplink}.forwarding is 0: direct traffic of other nodes does not reach pods; `sysctl -w net/ipv4/conf/{uplink}/forwarding=1`"
    )]
    UplinkForwardingOff {
        /// The uplink.
        uplink: String,
    },
    /// The firewall drops what is forwarded.
    #[error(
        "the firewall drops every forwarded packet (nftables chain {chain}: policy drop and no rule): traffic of pods does not pass; `nft chain {chain} '{{ policy accept; }}'`, or add rules"
    )]
    ForwardDropped {
        /// Family, table and chain.
        chain: String,
    },
    /// A rule takes packets before the main table sees them.
    #[error("{}; `{}`", ruled_away(*prefix, *others, *table), show_rules(*prefix))]
    RuledAway {
        /// The first destination that it is about.
        prefix: Prefix,
        /// How many more there are.
        others: usize,
        /// The table that takes them; `None` where they are refused.
        table: Option<u32>,
    },
}

impl PreflightError {
    /// What to do about an error that may appear while the daemon runs.
    pub(super) fn requirement(&self) -> Option<Requirement> {
        let (what, command) = match self {
            Self::KernelIpip => (
                "the kernel's IPIP device tunl0 is up and delivers every IPIP packet a second time"
                    .to_owned(),
                "ip link set tunl0 down".to_owned(),
            ),
            Self::KernelIp6Tunnel => (
                "the kernel's tunnel device ip6tnl0 is up and delivers every IP-in-IPv6 packet a second time"
                    .to_owned(),
                "ip link set ip6tnl0 down".to_owned(),
            ),
            Self::KernelTunnel { device } => (
                format!(
                    "the kernel's tunnel device {device} is up and delivers IP-in-IP packets of the tunnel a second time"
                ),
                format!("ip link set {device} down"),
            ),
            Self::StrictReversePath { uplink } => (
                format!(
                    "strict reverse path filtering on {uplink} drops direct traffic, whose sources are routed to the TUN"
                ),
                format!("sysctl -w net/ipv4/conf/{uplink}/rp_filter=2"),
            ),
            _ => return None,
        };
        Some(Requirement { what, command })
    }
}

impl Warning {
    pub(super) fn requirement(&self) -> Requirement {
        let (what, command) = match self {
            Self::ForwardingOff => (
                "net.ipv4.ip_forward is 0: traffic of pods is not forwarded".to_owned(),
                "sysctl -w net.ipv4.ip_forward=1".to_owned(),
            ),
            Self::Ipv6ForwardingOff => (
                "net.ipv6.conf.all.forwarding is 0: IPv6 traffic of pods is not forwarded".to_owned(),
                "sysctl -w net.ipv6.conf.all.forwarding=1".to_owned(),
            ),
            Self::UplinkForwardingOff { uplink } => (
                format!("{uplink} does not forward: direct traffic of other nodes does not reach pods"),
                format!("sysctl -w net/ipv4/conf/{uplink}/forwarding=1"),
            ),
            Self::ForwardDropped { chain } => (
                format!(
                    "the firewall drops every forwarded packet: nftables chain {chain} has the policy drop and no rule"
                ),
                format!("nft chain {chain} '{{ policy accept; }}'"),
            ),
            Self::RuledAway { prefix, others, table } => {
                (ruled_away(*prefix, *others, *table), show_rules(*prefix))
            }
        };
        Requirement { what, command }
    }
}

fn ruled_away(prefix: Prefix, others: usize, table: Option<u32>) -> String {
    let more = if others == 0 { String::new() } else { format!(" and {others} more") };
    let takes =
        table.map_or_else(|| "refuses them".to_owned(), |table| format!("leads them to table {table}"));
    format!("packets for {prefix}{more} do not reach the tunnel: a rule {takes}")
}

fn show_rules(prefix: Prefix) -> String {
    if prefix.is_ipv4() { "ip rule show" } else { "ip -6 rule show" }.to_owned()
}

/// A user in words. Who has no number in our user namespace is shown by the kernel's overflow number.
pub fn user(uid: u32) -> String {
    match uid {
        OVERFLOW_UID => format!("user {uid} (nobody, or one without a number in this user namespace)"),
        _ => format!("user {uid}"),
    }
}

fn id(number: Option<u32>) -> String {
    number.map_or_else(|| "any".to_owned(), |n| n.to_string())
}

fn port_owner(port: u16, owner: Option<&str>) -> String {
    match owner {
        Some(device) => format!(
            " by the kernel's VXLAN device {device}; remove it with `ip link del {device}` once nothing uses it, or choose another `port` under [vxlan] on every node"
        ),
        None => format!(
            "; see who has it with `ss -ulpn 'sport = :{port}'`, stop that, or choose another `port` under [vxlan] on every node"
        ),
    }
}

/// The kernel's number for users whom a user namespace does not map (`DEFAULT_OVERFLOWUID`).
const OVERFLOW_UID: u32 = 65534;
