//! Observing the facts that the engine judges: device node, capabilities, sysctls, links.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;

use super::{Host, sysctl};
use crate::control::engine::judge::{Facts, Needs, PreflightError, TunNode};
use crate::control::engine::port::{HostError, Link, Settings, Sysctl};

/// Looks at the host. Opens and closes /dev/net/tun, changes nothing.
///
/// # Errors
/// [`HostError::Netlink`] when links cannot be read. A file of /proc that cannot be read counts as
/// "no obstacle"; unreadable capabilities count as absent.
pub async fn gather(host: &Host, needs: &Needs) -> Result<Facts, HostError> {
    let identity = Identity::from_status(&fs::read_to_string("/proc/self/status").unwrap_or_default());
    Ok(Facts {
        tun_node: tun_node(TUN_NODE),
        capabilities: identity.capabilities,
        uid: identity.uid,
        groups: identity.groups,
        device: host.link_by_name(&needs.device).await?.and_then(|link| link.tun),
        settings: settings(host, &needs.uplink, Some(&host.links().await?)).await?,
    })
}

/// What administrators set, on a host whose uplink is `uplink`. `links` are all devices, where they were listed.
///
/// # Errors
/// [`HostError::Netlink`].
pub(super) async fn settings(
    host: &Host,
    uplink: &str,
    links: Option<&[Link]>,
) -> Result<Settings, HostError> {
    let up = async |name: &str| match links {
        Some(links) => Ok(links.iter().any(|link| link.up && link.name == name)),
        None => host.link_by_name(name).await.map(|link| link.is_some_and(|link| link.up)),
    };
    Ok(Settings {
        tunl0_up: up("tunl0").await?,
        ip6tnl0_up: up("ip6tnl0").await?,
        rp_filter_all: sysctl::read(&Sysctl::ReversePath.key("all")).unwrap_or(0),
        rp_filter_uplink: sysctl::read(&Sysctl::ReversePath.key(uplink)).unwrap_or(0),
        tunnels: links.map(|links| links.iter().filter_map(|link| link.ip_tunnel.clone()).collect()),
        drop_forwarded: host.dropping_chains(),
        ruled: None,
        forward_uplink: sysctl::read::<u8>(&Sysctl::Forwarding.key(uplink)) != Some(0),
        ip_forward: sysctl::read("ipv4/ip_forward") != Some(0_u8),
        ip6_forward: sysctl::read("ipv6/conf/all/forwarding") != Some(0_u8),
    })
}

/// Explains the failure `error` to bind UDP port `port`: names the kernel VXLAN device that holds
/// it, if one does. `None` when the error is not about a port in use.
pub async fn udp_bind_error(host: &Host, port: u16, error: &io::Error) -> Option<PreflightError> {
    if error.kind() != io::ErrorKind::AddrInUse {
        return None;
    }
    // A VXLAN device holds its port only while it is up. Without the list of links the hint at `ss`
    // is still true.
    let links = host.links().await.unwrap_or_default();
    let owner = links.into_iter().find(|link| link.up && link.vxlan_port == Some(port));
    Some(PreflightError::PortInUse { port, owner: owner.map(|link| link.name) })
}

fn tun_node(path: &str) -> TunNode {
    let Err(error) = File::options().read(true).write(true).open(path) else { return TunNode::Ready };
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENOTDIR) => TunNode::Missing,
        Some(libc::EPERM) => TunNode::Forbidden,
        Some(libc::ENODEV | libc::ENXIO) => TunNode::NoDriver,
        Some(libc::EACCES) => match fs::metadata(path) {
            Ok(data) => TunNode::Denied { mode: data.mode() & 0o7777, uid: data.uid(), gid: data.gid() },
            Err(error) => TunNode::Broken(error.to_string()),
        },
        _ => TunNode::Broken(error.to_string()),
    }
}

/// Who this process is, as far as the kernel's permission checks go.
#[derive(Debug, Default, Eq, PartialEq)]
struct Identity {
    capabilities: u64,
    uid: u32,
    groups: Vec<u32>,
}

impl Identity {
    /// Reads the text of /proc/self/status (proc(5)). `Uid:` and `Gid:` list real, effective,
    /// saved and file system ids, in this order.
    fn from_status(status: &str) -> Self {
        let numbers = |key: &str| -> Vec<u32> {
            let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default();
            line.split_whitespace().filter_map(|word| word.parse().ok()).collect()
        };
        let capabilities = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
        let mut groups = numbers("Groups:");
        groups.extend(numbers("Gid:").get(1));
        Self {
            capabilities: capabilities.and_then(|c| u64::from_str_radix(c.trim(), 16).ok()).unwrap_or(0),
            uid: numbers("Uid:").get(1).copied().unwrap_or(u32::MAX),
            groups,
        }
    }
}

const TUN_NODE: &str = "/dev/net/tun";

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::{Identity, TunNode, tun_node};

    #[test]
    fn identity_is_the_effective_one() {
        let status = "Name:\tx\nUid:\t0\t1000\t0\t0\nGid:\t0\t1001\t0\t0\nGroups:\t27 100 \nCapPrm:\t000001ffffffffff\nCapEff:\t0000000000003000\n";
        let identity = Identity::from_status(status);
        assert_eq!(
            identity,
            Identity { capabilities: 1 << 12 | 1 << 13, uid: 1000, groups: vec![27, 100, 1001] }
        );
    }

    #[test]
    fn an_unreadable_status_means_no_rights() {
        for status in ["", "CapEff:\tzz\nUid:\nGid:\tx", "Uid:\t1"] {
            let nobody = Identity { capabilities: 0, uid: u32::MAX, groups: Vec::new() };
            assert_eq!(Identity::from_status(status), nobody, "{status:?}");
        }
    }

    #[test]
    fn the_device_node_is_opened_for_real() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tun");
        let path = path.to_str().unwrap();
        assert_eq!(tun_node(path), TunNode::Missing);
        fs::write(path, "").unwrap();
        assert_eq!(tun_node(path), TunNode::Ready);
        assert!(matches!(tun_node(folder.path().to_str().unwrap()), TunNode::Broken(_)), "a folder");
        fs::set_permissions(path, fs::Permissions::from_mode(0o040)).unwrap();
        // Root passes every permission check, so that only other users see the denial.
        let seen = tun_node(path);
        assert!(seen == TunNode::Ready || matches!(seen, TunNode::Denied { mode: 0o040, .. }), "{seen:?}");
    }
}
