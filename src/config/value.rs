//! The rules a single value must obey, whatever else the file says.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use toml::de::DeValue;

use super::reader::{integer, integer_in, parsed, text};
use super::{Backend, CniPlugins, DirectVia, Dscp, Hooks, Switch, Uplink};
use crate::net::words::clip;
use crate::net::{EncapMode, HostName, Prefix, Vni};
use crate::wire::vxlan::FIRST_SOURCE_PORT;

/// The words of the offload switches.
pub(super) const SWITCHES: [(&str, Switch); 3] =
    [("auto", Switch::Auto), ("on", Switch::On), ("off", Switch::Off)];
/// The words of `backend`.
pub(super) const BACKENDS: [(&str, Backend); 3] =
    [("auto", Backend::Auto), ("offload", Backend::Offload), ("plain", Backend::Plain)];
/// The words of `uplink`.
pub(super) const UPLINKS: [(&str, Uplink); 3] =
    [("auto", Uplink::Auto), ("socket", Uplink::Socket), ("tap", Uplink::Tap)];
/// The words of `kernel_path_hooks`.
pub(super) const HOOKS: [(&str, Hooks); 3] =
    [("auto", Hooks::Auto), (Hooks::Tcx.name(), Hooks::Tcx), (Hooks::Clsact.name(), Hooks::Clsact)];
/// The words of `via`.
pub(super) const DIRECT_VIAS: [(&str, DirectVia); 2] =
    [(DirectVia::Pump.name(), DirectVia::Pump), (DirectVia::Kernel.name(), DirectVia::Kernel)];
/// The words of `plugins`.
pub(super) const CNI_PLUGINS: [(&str, CniPlugins); 1] = [(CniPlugins::Ptp.name(), CniPlugins::Ptp)];
/// The words of `ipip_mode` and `vxlan_mode`.
pub(super) const ENCAP_MODES: [(&str, EncapMode); 3] = [
    (EncapMode::Never.name(), EncapMode::Never),
    (EncapMode::CrossSubnet.name(), EncapMode::CrossSubnet),
    (EncapMode::Always.name(), EncapMode::Always),
];

/// Room for a path in `sockaddr_un`, its closing NUL taken off (unix(7)).
const LONGEST_SOCKET_PATH: usize = 107;
/// Bytes of the path of another file: the kernel takes no more.
const LONGEST_PATH: usize = 4095;
/// Room for an interface name, its closing NUL taken off (IFNAMSIZ).
const LONGEST_DEVICE: usize = 15;

/// `tunnel.dscp`.
pub(super) fn dscp(value: &DeValue<'_>) -> Result<Dscp, String> {
    match value.as_str() {
        Some("inherit") => Ok(Dscp::Inherit),
        _ => integer_in(value, 0, 63)
            .map(Dscp::Fixed)
            .map_err(|reason| format!("{reason}; or write \"inherit\"")),
    }
}

/// `node.address` that is given.
pub(super) fn node_net(value: &DeValue<'_>) -> Result<Ipv4Net, String> {
    match interface_address(value, "192.0.2.1/24")? {
        IpNet::V4(net) => no_edge(net).map(|()| net),
        IpNet::V6(net) => Err(format!("{net} is IPv6; it belongs in address6")),
    }
}

/// `node.address6` that is given.
pub(super) fn node_net6(value: &DeValue<'_>) -> Result<Ipv6Net, String> {
    match interface_address(value, "2001:db8::1/64")? {
        IpNet::V6(net) => Ok(net),
        IpNet::V4(net) => Err(format!("{net} is IPv4; it belongs in address")),
    }
}

/// An address that one interface can have, with the length of its subnet's prefix.
fn interface_address(value: &DeValue<'_>, example: &str) -> Result<IpNet, String> {
    let given = text(value)?;
    let net: IpNet = given.parse().map_err(|_| match given.parse::<IpAddr>() {
        Ok(address) => format!("{address} lacks its prefix length; write it like {example}"),
        Err(_) => format!("\"{}\" is not an address with a prefix length like {example}", clip(given)),
    })?;
    if net.prefix_len() == 0 {
        return Err(format!("{net}: a subnet of length 0 holds every address; write it like {example}"));
    }
    unicast(net.addr())?;
    Ok(net)
}

/// Whether an interface's address `net` can be this node's: the rules of one that is given.
///
/// # Errors
/// Why not.
pub fn for_node(net: IpNet) -> Result<(), String> {
    unicast(net.addr())?;
    match net {
        _ if net.prefix_len() == 0 => Err(format!("{net}: a subnet of length 0 holds every address")),
        IpNet::V4(net) => no_edge(net),
        IpNet::V6(_) => Ok(()),
    }
}

/// No host has the first or last address of a subnet.
fn no_edge(net: Ipv4Net) -> Result<(), String> {
    let edge = match net.addr() {
        address if net.prefix_len() >= 31 || ![net.network(), net.broadcast()].contains(&address) => {
            return Ok(());
        }
        address if address == net.network() => "network",
        _ => "broadcast",
    };
    Err(format!("{} is the {edge} address of {}; give the node's own address in it", net.addr(), net.trunc()))
}

/// Where a peer is.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum PeerAddress {
    /// At an address.
    Ip(IpAddr),
    /// Where a resolver says.
    Name(HostName),
}

/// `peer.address`.
pub(super) fn peer_address(value: &DeValue<'_>) -> Result<PeerAddress, String> {
    match text(value)?.parse() {
        Ok(name) => Ok(PeerAddress::Name(name)),
        Err(_) => host_address(value, "192.0.2.2 or a host name like node-b.example").map(PeerAddress::Ip),
    }
}

/// An element of `peer.also_from`.
pub(super) fn further_address(value: &DeValue<'_>) -> Result<IpAddr, String> {
    host_address(value, "192.0.2.2")
}

/// `peer.address6`.
pub(super) fn peer_address6(value: &DeValue<'_>) -> Result<Option<Ipv6Addr>, String> {
    match host_address(value, "2001:db8::2")? {
        IpAddr::V6(address) => Ok(Some(address)),
        IpAddr::V4(address) => Err(format!("{address} is IPv4; it belongs in address")),
    }
}

/// `tunnel.address` when it is not "auto".
pub(super) fn tunnel_address(value: &DeValue<'_>) -> Result<IpAddr, String> {
    host_address(value, "10.244.1.0")
}

fn host_address(value: &DeValue<'_>, example: &str) -> Result<IpAddr, String> {
    let given = text(value)?;
    let address = given.parse().map_err(|_| match given.parse::<IpNet>() {
        Ok(net) => format!("{net} has a prefix length; write the address alone, {}", net.addr()),
        Err(_) => format!("\"{}\" is not an IP address; write one like {example}", clip(given)),
    })?;
    unicast(address)?;
    Ok(address)
}

/// A prefix of pods: what a pool or a subnet may be.
pub(super) fn pod_prefix(value: &DeValue<'_>) -> Result<Prefix, String> {
    for_pods(parsed(value)?)
}

/// Passes a prefix that pods can have.
///
/// # Errors
/// Why they cannot.
pub fn for_pods(prefix: Prefix) -> Result<Prefix, String> {
    match special_block(prefix.address()) {
        Some((kind, len)) if prefix.len() >= len => {
            Err(format!("{prefix} is {kind}, which is never routed to pods; use a unicast prefix"))
        }
        _ => Ok(prefix),
    }
}

/// An element of `sends_for`.
pub(super) fn sender_prefix(value: &DeValue<'_>) -> Result<Prefix, String> {
    for_senders(parsed(value)?)
}

/// Passes a prefix that a node may be allowed to send for.
///
/// # Errors
/// Why it may not.
pub fn for_senders(prefix: Prefix) -> Result<Prefix, String> {
    if prefix.is_default() {
        return Err(format!("{prefix} would let the node speak for everybody; list the networks behind it"));
    }
    for_pods(prefix)
}

/// An element of `node.external_nodes`.
pub(super) fn external_nodes(value: &DeValue<'_>) -> Result<Prefix, String> {
    let prefix: Prefix = parsed(value)?;
    if prefix.is_default() {
        return Err(format!(
            "{prefix} would accept tunnel packets from everybody; list the networks of the nodes"
        ));
    }
    match special_block(prefix.address()) {
        Some((kind, len)) if prefix.len() >= len => {
            Err(format!("{prefix} is {kind}, from where no node sends; use a unicast prefix"))
        }
        _ => Ok(prefix),
    }
}

/// Whether `address` can be that of one host beyond its own link.
///
/// # Errors
/// Why it cannot.
pub fn unicast(address: IpAddr) -> Result<(), String> {
    match special_block(address) {
        Some((kind, _)) => Err(format!("{address} is {kind}; give a unicast address")),
        None => Ok(()),
    }
}

/// The block of special addresses around `address`, with its prefix length (RFC 6890).
fn special_block(address: IpAddr) -> Option<(&'static str, u8)> {
    match address {
        IpAddr::V4(a) if a.is_unspecified() => Some(("unspecified", 8)),
        IpAddr::V4(a) if a.octets()[0] == 0 => Some(("\"this network\"", 8)),
        IpAddr::V4(a) if a.is_loopback() => Some(("loopback", 8)),
        IpAddr::V4(a) if a.is_link_local() => Some(("link-local", 16)),
        IpAddr::V4(a) if a.is_multicast() => Some(("multicast", 4)),
        IpAddr::V4(a) if a.is_broadcast() => Some(("broadcast", 32)),
        IpAddr::V6(a) if a.is_unspecified() => Some(("unspecified", 128)),
        IpAddr::V6(a) if a.is_loopback() => Some(("loopback", 128)),
        IpAddr::V6(a) if a.is_unicast_link_local() => Some(("link-local", 10)),
        IpAddr::V6(a) if a.is_multicast() => Some(("multicast", 8)),
        IpAddr::V6(a) if a.to_ipv4_mapped().is_some() => Some(("IPv4-mapped", 96)),
        IpAddr::V4(_) | IpAddr::V6(_) => None,
    }
}

/// `tunnel.device`: what the kernel takes as a name (`dev_valid_name`), without `%`, which would
/// make it a template.
pub(super) fn device(value: &DeValue<'_>) -> Result<String, String> {
    let name = text(value)?;
    let strange = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '/' | ':' | '%');
    let reason = match name {
        "" => "is empty",
        "." | ".." => "is a directory name",
        "lo" => "is the loopback device",
        _ if name.len() > LONGEST_DEVICE => "is longer than 15 bytes",
        _ if name.contains(strange) => "contains a slash, colon, percent sign or white space",
        _ => return Ok(name.to_owned()),
    };
    Err(format!("\"{}\" {reason}; use an interface name like up0", clip(name)))
}

/// `vxlan.port`. The dynamic range is ours for source ports: a listener in it would take the
/// answers of other flows for tunnel packets.
pub(super) fn vxlan_port(value: &DeValue<'_>) -> Result<u16, String> {
    let number = integer(value)?;
    match u16::try_from(number) {
        Ok(0) | Err(_) => Err(format!("{number} is not a UDP port; use 1 to 49151, 4789 by RFC 7348")),
        Ok(_) if number >= i64::from(FIRST_SOURCE_PORT) => Err(format!(
            "{number} collides with the VXLAN source ports 49152 to 65535; use 1 to 49151, 4789 by RFC 7348"
        )),
        Ok(port) => Ok(port),
    }
}

/// `vxlan.vni`.
pub(super) fn vni(value: &DeValue<'_>) -> Result<Vni, String> {
    Vni::try_from(integer(value)?).map_err(|error| error.to_string())
}

/// The absolute path of a file.
pub(super) fn absolute(value: &DeValue<'_>) -> Result<PathBuf, String> {
    let path = PathBuf::from(text(value)?);
    match path.is_absolute() {
        true => Ok(path),
        false => Err(format!("\"{}\" is not an absolute path", clip(text(value)?))),
    }
}

/// `control.socket`.
pub(super) fn socket_path(value: &DeValue<'_>) -> Result<PathBuf, String> {
    let path = text(value)?;
    let reason = match path {
        _ if !path.starts_with('/') => "is not an absolute path",
        _ if path.ends_with('/') => "names a directory",
        _ if path.contains('\0') => "contains a NUL byte",
        _ if path.len() > LONGEST_SOCKET_PATH => {
            let len = path.len();
            return Err(format!("\"{}\" has {len} bytes; a socket path has at most 107", clip(path)));
        }
        _ => return Ok(PathBuf::from(path)),
    };
    Err(format!("\"{}\" {reason}; write one like /run/underpass/underpass.sock", clip(path)))
}

/// `cni.conflist`: the file must have a name that container runtimes look for.
pub(super) fn conflist_path(value: &DeValue<'_>) -> Result<PathBuf, String> {
    let path = text(value)?;
    let reason = match path {
        _ if !path.starts_with('/') => "is not an absolute path",
        _ if !path.ends_with(".conflist") || path.ends_with("/.conflist") => {
            "does not end in .conflist, so no container runtime would read it"
        }
        _ if path.contains('\0') => "contains a NUL byte",
        _ if path.len() > LONGEST_PATH => "is too long",
        _ => return Ok(PathBuf::from(path)),
    };
    Err(format!("\"{}\" {reason}; write one like {}", clip(path), super::Cni::CONFLIST))
}

/// `control.max_routes`: a number of routes that memory can hold.
pub(super) fn max_routes(value: &DeValue<'_>) -> Result<usize, String> {
    integer_in(value, 0, 100_000_000)
}

/// `metrics.listen`.
pub(super) fn listen(value: &DeValue<'_>) -> Result<Option<SocketAddr>, String> {
    let given = text(value)?;
    given.parse().map(Some).map_err(|_| {
        format!(
            "\"{}\" is not an address with a port; write one like 127.0.0.1:9091 or [::1]:9091",
            clip(given)
        )
    })
}
