//! Whether the daemon can work on this host: judged before the start, before a reload, and again
//! whenever the host has been observed.
//!
//! Pure: facts in, errors and warnings out. `control/host` gathers them.

use super::port::{Capabilities, Requirement, Settings, TunDetails};

/// What the configuration demands of the host.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Needs {
    /// Name of the TUN to make or to attach to.
    pub device: String,
    /// Name of the interface that owns the node address.
    pub uplink: String,
    /// Whether some pool can choose `ipip`.
    pub ipip: bool,
    /// Whether some pool or subnet can choose `direct`.
    pub direct: bool,
    /// Whether pods of this node use IPv6.
    pub ipv6: bool,
    /// Whether tunnel packets come over IPv6.
    pub ipv6_underlay: bool,
}

/// What was observed on the host.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Facts {
    /// State of /dev/net/tun.
    pub tun_node: TunNode,
    /// Effective capabilities of this process, as the bit set of capabilities(7).
    pub capabilities: u64,
    /// Effective user of this process.
    pub uid: u32,
    /// Effective and supplementary groups of this process.
    pub groups: Vec<u32>,
    /// The TUN of the configured name, when it exists already.
    pub device: Option<TunDetails>,
    /// What an administrator sets.
    pub settings: Settings,
}

/// State of /dev/net/tun, found by opening it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum TunNode {
    /// It can be opened.
    Ready,
    /// There is no such file.
    Missing,
    /// File permissions forbid it.
    Denied {
        /// Permission bits.
        mode: u32,
        /// Owning user.
        uid: u32,
        /// Owning group.
        gid: u32,
    },
    /// A device control group forbids it (EPERM).
    Forbidden,
    /// The file is there, its driver is not (ENODEV, ENXIO).
    NoDriver,
    /// Anything else, in words.
    Broken(String),
}

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
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
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
}

/// All that stands against a start, and all that is worth a word.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Verdict {
    /// Reasons to refuse.
    pub errors: Vec<PreflightError>,
    /// Reasons to warn.
    pub warnings: Vec<Warning>,
}

/// Compares what is needed with what is there, before a start.
pub fn judge(needs: &Needs, facts: &Facts) -> Verdict {
    let before = [
        tun_node(&facts.tun_node),
        net_admin(needs, facts),
        other_owner(needs, facts),
        tun_in_use(needs, facts),
        net_raw(needs, facts.capabilities()),
    ];
    let later = judge_settings(needs, &facts.settings);
    Verdict { errors: before.into_iter().flatten().chain(later.errors).collect(), ..later }
}

/// Compares what is needed with what may change while the daemon runs.
pub fn judge_settings(needs: &Needs, settings: &Settings) -> Verdict {
    let errors = [
        settings.tunl0_up.then_some(PreflightError::KernelIpip),
        (settings.ip6tnl0_up && needs.ipv6_underlay).then_some(PreflightError::KernelIp6Tunnel),
        reverse_path(needs, settings),
    ];
    let warnings = [
        (!settings.ip_forward).then_some(Warning::ForwardingOff),
        (!settings.ip6_forward && needs.ipv6).then_some(Warning::Ipv6ForwardingOff),
    ];
    Verdict {
        errors: errors.into_iter().flatten().collect(),
        warnings: warnings.into_iter().flatten().collect(),
    }
}

impl Verdict {
    /// What an administrator has to do, where that can be said in one command.
    pub fn requirements(&self) -> impl Iterator<Item = Requirement> + '_ {
        let errors = self.errors.iter().filter_map(PreflightError::requirement);
        errors.chain(self.warnings.iter().map(|warning| warning.requirement()))
    }
}

impl PreflightError {
    /// What to do about an error that may appear while the daemon runs.
    fn requirement(&self) -> Option<Requirement> {
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
    fn requirement(self) -> Requirement {
        let (what, command) = match self {
            Self::ForwardingOff => (
                "net.ipv4.ip_forward is 0: traffic of pods is not forwarded",
                "sysctl -w net.ipv4.ip_forward=1",
            ),
            Self::Ipv6ForwardingOff => (
                "net.ipv6.conf.all.forwarding is 0: IPv6 traffic of pods is not forwarded",
                "sysctl -w net.ipv6.conf.all.forwarding=1",
            ),
        };
        Requirement { what: what.to_owned(), command: command.to_owned() }
    }
}

fn tun_node(node: &TunNode) -> Option<PreflightError> {
    match node {
        TunNode::Ready => None,
        TunNode::Missing => Some(PreflightError::TunMissing),
        TunNode::Denied { mode, uid, gid } => {
            Some(PreflightError::TunDenied { mode: *mode, uid: *uid, gid: *gid })
        }
        TunNode::Forbidden => Some(PreflightError::TunForbidden),
        TunNode::NoDriver => Some(PreflightError::TunNoDriver),
        TunNode::Broken(reason) => Some(PreflightError::TunBroken(reason.clone())),
    }
}

/// The kernel's rule for attaching without the capability (`tun_not_capable`): the owner, if one
/// is set, must be we, and the group, if one is set, must be one of ours.
fn net_admin(needs: &Needs, facts: &Facts) -> Option<PreflightError> {
    if facts.has(CAP_NET_ADMIN) {
        return None;
    }
    let (device, uid) = (needs.device.clone(), facts.uid);
    let Some(tun) = &facts.device else { return Some(PreflightError::NoNetAdmin { device, uid }) };
    let user_fits = tun.owner.is_none_or(|owner| owner == uid);
    let group_fits = tun.group.is_none_or(|group| facts.groups.contains(&group));
    (!(user_fits && group_fits)).then_some(PreflightError::NotOurTun {
        device,
        owner: tun.owner,
        group: tun.group,
        uid,
    })
}

/// With CAP_NET_ADMIN we could attach to every TUN, and take it from its owner. But he who made it for
/// somebody else did not mean us. One without an owner becomes ours when it is opened.
fn other_owner(needs: &Needs, facts: &Facts) -> Option<PreflightError> {
    let owner = facts.device.as_ref()?.owner.filter(|owner| *owner != facts.uid)?;
    let (device, uid) = (needs.device.clone(), facts.uid);
    facts.has(CAP_NET_ADMIN).then_some(PreflightError::TunOfOther { device, owner, uid })
}

/// A TUN that is not persistent exists only while a process holds it.
fn tun_in_use(needs: &Needs, facts: &Facts) -> Option<PreflightError> {
    let held = facts.device.as_ref().is_some_and(|tun| !tun.persistent || tun.queues > 0);
    held.then(|| PreflightError::TunInUse { device: needs.device.clone() })
}

fn net_raw(needs: &Needs, capabilities: Capabilities) -> Option<PreflightError> {
    let modes = match (needs.ipip, needs.direct) {
        _ if capabilities.net_raw => return None,
        (false, false) => return None,
        (true, false) => "ipip",
        (false, true) => "direct",
        (true, true) => "ipip and direct",
    };
    Some(PreflightError::NoNetRaw { modes })
}

/// The kernel uses the larger of the two values; 1 is strict, 2 loose.
fn reverse_path(needs: &Needs, settings: &Settings) -> Option<PreflightError> {
    let strict = settings.rp_filter_all.max(settings.rp_filter_uplink) == 1;
    (needs.direct && strict).then(|| PreflightError::StrictReversePath { uplink: needs.uplink.clone() })
}

impl Facts {
    /// What this process may do.
    pub fn capabilities(&self) -> Capabilities {
        Capabilities { net_admin: self.has(CAP_NET_ADMIN), net_raw: self.has(CAP_NET_RAW) }
    }

    fn has(&self, capability: u32) -> bool {
        self.capabilities >> capability & 1 == 1
    }
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
const CAP_NET_ADMIN: u32 = 12;
const CAP_NET_RAW: u32 = 13;

#[cfg(test)]
mod tests;
