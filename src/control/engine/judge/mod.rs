//! Whether the daemon can work on this host: judged before the start, before a reload, and again
//! whenever the host has been observed.
//!
//! Pure: facts in, errors and warnings out. `control/host` gathers them.

mod problem;

use std::collections::BTreeMap;
use std::net::IpAddr;

pub use problem::{PreflightError, Warning, user};

use crate::net::Prefix;

use super::port::{Capabilities, KernelTunnel, Requirement, Settings, TunDetails};

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
    /// Whether the pump sends such packets over IPv4: then the kernel's way back to their pods is the TUN.
    pub direct_by_pump: bool,
    /// Whether pods of this node use IPv6.
    pub ipv6: bool,
    /// Whether tunnel packets come over IPv6.
    pub ipv6_underlay: bool,
    /// This node's underlay addresses.
    pub own: Vec<IpAddr>,
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

/// All that stands against a start, and all that is worth a word.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Verdict {
    /// Reasons to refuse.
    pub errors: Vec<PreflightError>,
    /// Reasons to warn.
    pub warnings: Vec<Warning>,
}

/// Compares what is needed with what is there, before a start; `is_peer` tells the addresses of other nodes.
pub fn judge(needs: &Needs, facts: &Facts, is_peer: impl Fn(IpAddr) -> bool) -> Verdict {
    let before = [
        tun_node(&facts.tun_node),
        net_admin(needs, facts),
        other_owner(needs, facts),
        tun_in_use(needs, facts),
        net_raw(needs, facts.capabilities()),
    ];
    let later = judge_settings(needs, &facts.settings, &is_peer);
    Verdict { errors: before.into_iter().flatten().chain(later.errors).collect(), ..later }
}

/// Compares what is needed with what may change while the daemon runs.
pub fn judge_settings(needs: &Needs, settings: &Settings, is_peer: impl Fn(IpAddr) -> bool) -> Verdict {
    let errors = [
        // Pools that only use VXLAN have nothing that could be delivered twice.
        (settings.tunl0_up && needs.ipip).then_some(PreflightError::KernelIpip),
        (settings.ip6tnl0_up && needs.ipip && needs.ipv6_underlay).then_some(PreflightError::KernelIp6Tunnel),
        reverse_path(needs, settings),
    ];
    let warnings = [
        (!settings.ip_forward).then_some(Warning::ForwardingOff),
        (!settings.ip6_forward && needs.ipv6).then_some(Warning::Ipv6ForwardingOff),
        (settings.ip_forward && !settings.forward_uplink && needs.direct)
            .then(|| Warning::UplinkForwardingOff { uplink: needs.uplink.clone() }),
    ];
    let dropping =
        settings.drop_forwarded.iter().map(|chain| Warning::ForwardDropped { chain: chain.clone() });
    Verdict {
        errors: errors.into_iter().flatten().chain(tunnels(needs, settings, is_peer)).collect(),
        warnings: warnings.into_iter().flatten().chain(dropping).chain(ruled_away(settings)).collect(),
    }
}

/// What rules lead elsewhere, told once for each family and table.
fn ruled_away(settings: &Settings) -> impl Iterator<Item = Warning> {
    let mut found: BTreeMap<(bool, Option<u32>), (Prefix, usize)> = BTreeMap::new();
    for (prefix, table) in settings.ruled.iter().flatten() {
        let known = found.entry((prefix.is_ipv4(), *table));
        known.and_modify(|(_, others)| *others += 1).or_insert((*prefix, 0));
    }
    let told = |((_, table), (prefix, others))| Warning::RuledAway { prefix, others, table };
    found.into_iter().map(told)
}

/// Devices that take packets of the tunnel as well. `tunl0` and `ip6tnl0` are judged by their names.
fn tunnels(
    needs: &Needs,
    settings: &Settings,
    is_peer: impl Fn(IpAddr) -> bool,
) -> impl Iterator<Item = PreflightError> {
    let takes = move |tunnel: &&KernelTunnel| {
        needs.ipip
            && !["tunl0", "ip6tnl0"].contains(&tunnel.name.as_str())
            && needs.own.iter().any(|own| own.is_ipv6() == tunnel.ipv6)
            && tunnel.local.is_none_or(|local| needs.own.contains(&local))
            && tunnel.remote.is_none_or(&is_peer)
    };
    let found: Vec<&KernelTunnel> = settings.tunnels.iter().flatten().filter(takes).collect();
    found.into_iter().map(|tunnel| PreflightError::KernelTunnel { device: tunnel.name.clone() })
}

impl Verdict {
    /// What an administrator has to do, where that can be said in one command.
    pub fn requirements(&self) -> impl Iterator<Item = Requirement> + '_ {
        let errors = self.errors.iter().filter_map(PreflightError::requirement);
        errors.chain(self.warnings.iter().map(|warning| warning.requirement()))
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
    (needs.direct_by_pump && strict)
        .then(|| PreflightError::StrictReversePath { uplink: needs.uplink.clone() })
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

const CAP_NET_ADMIN: u32 = 12;
const CAP_NET_RAW: u32 = 13;

#[cfg(test)]
mod tests;
