//! Judging, before anything is changed, whether the daemon can work on this host.
//!
//! [`judge`] is pure: facts in, errors and warnings out. `facts.rs` observes them.

use super::link::TunDetails;

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
    /// Whether `tunl0` exists and is up.
    pub tunl0_up: bool,
    /// `net.ipv4.conf.all.rp_filter`.
    pub rp_filter_all: u8,
    /// `rp_filter` of the uplink.
    pub rp_filter_uplink: u8,
    /// `net.ipv4.ip_forward`; true also when it cannot be read.
    pub ip_forward: bool,
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
        "CAP_NET_ADMIN is missing and the existing TUN {device} belongs to another user or group (user {}, group {}; we are user {uid}); prepare it anew: `ip tuntap add dev {device} mode tun user {uid}`",
        id(*.owner), id(*.group)
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
    /// The TUN has an owner. The kernel would let us in as one more queue, and give each process a
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
}

/// All that stands against a start, and all that is worth a word.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Verdict {
    /// Reasons to refuse.
    pub errors: Vec<PreflightError>,
    /// Reasons to warn.
    pub warnings: Vec<Warning>,
}

/// Compares what is needed with what is there.
pub fn judge(needs: &Needs, facts: &Facts) -> Verdict {
    let errors = [
        tun_node(&facts.tun_node),
        net_admin(needs, facts),
        tun_in_use(needs, facts),
        net_raw(needs, facts),
        facts.tunl0_up.then_some(PreflightError::KernelIpip),
        reverse_path(needs, facts),
    ];
    let warnings = (!facts.ip_forward).then_some(Warning::ForwardingOff);
    Verdict { errors: errors.into_iter().flatten().collect(), warnings: warnings.into_iter().collect() }
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

/// A TUN that is not persistent exists only while a process holds it.
fn tun_in_use(needs: &Needs, facts: &Facts) -> Option<PreflightError> {
    let held = facts.device.as_ref().is_some_and(|tun| !tun.persistent || tun.queues > 0);
    held.then(|| PreflightError::TunInUse { device: needs.device.clone() })
}

fn net_raw(needs: &Needs, facts: &Facts) -> Option<PreflightError> {
    let modes = match (needs.ipip, needs.direct) {
        _ if facts.has(CAP_NET_RAW) => return None,
        (false, false) => return None,
        (true, false) => "ipip",
        (false, true) => "direct",
        (true, true) => "ipip and direct",
    };
    Some(PreflightError::NoNetRaw { modes })
}

/// The kernel uses the larger of the two values; 1 is strict, 2 loose.
fn reverse_path(needs: &Needs, facts: &Facts) -> Option<PreflightError> {
    let strict = facts.rp_filter_all.max(facts.rp_filter_uplink) == 1;
    (needs.direct && strict).then(|| PreflightError::StrictReversePath { uplink: needs.uplink.clone() })
}

impl Facts {
    fn has(&self, capability: u32) -> bool {
        self.capabilities >> capability & 1 == 1
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

const CAP_NET_ADMIN: u32 = 12;
const CAP_NET_RAW: u32 = 13;

#[cfg(test)]
mod tests {
    use super::{Facts, Needs, PreflightError, TunNode, Verdict, Warning, judge};
    use crate::control::host::TunDetails;

    const ALL: u64 = 1 << 12 | 1 << 13;

    fn needs() -> Needs {
        Needs { device: "up0".to_owned(), uplink: "eth0".to_owned(), ipip: true, direct: true }
    }

    fn good() -> Facts {
        Facts {
            tun_node: TunNode::Ready,
            capabilities: ALL,
            uid: 1000,
            groups: vec![1000, 27],
            device: None,
            tunl0_up: false,
            rp_filter_all: 0,
            rp_filter_uplink: 2,
            ip_forward: true,
        }
    }

    fn errors(facts: &Facts) -> Vec<PreflightError> {
        judge(&needs(), facts).errors
    }

    #[test]
    fn a_good_host_passes() {
        assert_eq!(judge(&needs(), &good()), Verdict::default());
    }

    #[test]
    fn every_obstacle_is_reported_at_once() {
        let facts = Facts {
            tun_node: TunNode::Missing,
            capabilities: 0,
            tunl0_up: true,
            rp_filter_all: 1,
            rp_filter_uplink: 0,
            ip_forward: false,
            ..good()
        };
        let verdict = judge(&needs(), &facts);
        let expected = [
            PreflightError::TunMissing,
            PreflightError::NoNetAdmin { device: "up0".to_owned(), uid: 1000 },
            PreflightError::NoNetRaw { modes: "ipip and direct" },
            PreflightError::KernelIpip,
            PreflightError::StrictReversePath { uplink: "eth0".to_owned() },
        ];
        assert_eq!(verdict.errors, expected);
        assert_eq!(verdict.warnings, [Warning::ForwardingOff]);
    }

    #[test]
    fn a_tun_of_our_own_replaces_net_admin() {
        let with = |owner, group| Facts {
            capabilities: 1 << 13,
            device: Some(TunDetails { owner, group, persistent: true, ..TunDetails::default() }),
            ..good()
        };
        for (owner, group) in [(None, None), (Some(1000), None), (None, Some(27)), (Some(1000), Some(27))] {
            assert_eq!(errors(&with(owner, group)), [], "{owner:?} {group:?}");
        }
        for (owner, group) in [(Some(0), None), (None, Some(5)), (Some(1000), Some(5)), (Some(0), Some(27))] {
            let expected = PreflightError::NotOurTun { device: "up0".to_owned(), owner, group, uid: 1000 };
            assert_eq!(errors(&with(owner, group)), [expected]);
        }
    }

    #[test]
    fn a_tun_that_another_process_holds_is_not_shared() {
        let with = |persistent, queues| {
            let tun = TunDetails { persistent, queues, multi_queue: true, ..TunDetails::default() };
            errors(&Facts { device: Some(tun), ..good() })
        };
        assert_eq!(with(true, 0), []);
        for (persistent, queues) in [(false, 0), (false, 2), (true, 1)] {
            let expected = PreflightError::TunInUse { device: "up0".to_owned() };
            assert_eq!(with(persistent, queues), [expected], "{persistent} {queues}");
        }
    }

    #[test]
    fn raw_sockets_only_for_modes_that_use_them() {
        let facts = Facts { capabilities: 1 << 12, ..good() };
        let with = |ipip, direct| judge(&Needs { ipip, direct, ..needs() }, &facts).errors;
        assert_eq!(with(false, false), []);
        assert_eq!(with(true, false), [PreflightError::NoNetRaw { modes: "ipip" }]);
        assert_eq!(with(false, true), [PreflightError::NoNetRaw { modes: "direct" }]);
    }

    #[test]
    fn the_larger_rp_filter_counts_and_only_for_direct() {
        let strict = |all, uplink| {
            !errors(&Facts { rp_filter_all: all, rp_filter_uplink: uplink, ..good() }).is_empty()
        };
        assert!(strict(1, 0) && strict(0, 1) && strict(1, 1));
        assert!(!strict(0, 0) && !strict(2, 1) && !strict(1, 2));
        let facts = Facts { rp_filter_all: 1, rp_filter_uplink: 1, ..good() };
        assert_eq!(judge(&Needs { direct: false, ..needs() }, &facts), Verdict::default());
    }

    #[test]
    fn texts_name_culprit_reason_and_next_step() {
        let denied = PreflightError::TunDenied { mode: 0o600, uid: 0, gid: 0 }.to_string();
        assert!(denied.contains("mode 0600, owner 0:0"), "{denied}");
        let owned = PreflightError::PortInUse { port: 4789, owner: Some("flannel.1".to_owned()) }.to_string();
        assert!(owned.starts_with("UDP port 4789 is in use by the kernel's VXLAN device flannel.1; remove it with `ip link del flannel.1`"), "{owned}");
        let unknown = PreflightError::PortInUse { port: 4789, owner: None }.to_string();
        assert!(unknown.contains("`ss -ulpn 'sport = :4789'`"), "{unknown}");
        let strict = PreflightError::StrictReversePath { uplink: "eth0.7".to_owned() }.to_string();
        assert!(strict.contains("`sysctl -w net/ipv4/conf/eth0.7/rp_filter=2`"), "{strict}");
        let foreign =
            PreflightError::NotOurTun { device: "up0".to_owned(), owner: Some(5), group: None, uid: 1000 };
        assert!(foreign.to_string().contains("(user 5, group any; we are user 1000)"), "{foreign}");
    }
}
