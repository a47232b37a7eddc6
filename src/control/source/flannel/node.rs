//! A flannel node as it says where it is: `PublicIP` and `BackendData`, or the annotations of the same meaning.
//!
//! A flannel node has a VXLAN device for each family, each with an Ethernet address of its own, and IPv6 pods are
//! reached over IPv6: so a node of both families is two peers.

use std::net::IpAddr;

use serde::Deserialize;

use super::{Backend, Network, lower};
use crate::control::source::discovered::{Node, shown};
use crate::net::{Mac, Prefix, Vni};

/// One family of a node.
#[derive(Clone, Copy, Debug)]
pub(in crate::control::source) struct Half<'a> {
    /// Which family.
    pub is_ipv4: bool,
    /// Its underlay address, and what that is called.
    pub address: (&'a str, &'a str),
    /// What its backend has to say, in JSON, and what that is called.
    pub data: (&'a str, &'a str),
}

/// `backend-data` with its keys in lower case.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct BackendData {
    vni: Option<i64>,
    vtepmac: String,
}

impl Half<'_> {
    /// The peer that this half of the node `name` is in `network`, with those of `cidrs` that are of its family.
    ///
    /// # Errors
    /// What of it cannot be used.
    pub(in crate::control::source) fn node(
        &self,
        name: &str,
        network: &Network,
        cidrs: &[Prefix],
    ) -> Result<Node, String> {
        let (text, key) = self.address;
        let address = text.parse::<IpAddr>().ok().filter(|address| address.is_ipv4() == self.is_ipv4);
        let address = address.ok_or_else(|| format!("{key}: \"{}\" is no such address", shown(text)))?;
        let vtep_mac = match network.backend {
            Backend::Vxlan => Some(self.vtep(network.vni)?),
            Backend::Ipip | Backend::HostGateway => None,
        };
        let subnets = cidrs.iter().copied().filter(|cidr| cidr.is_ipv4() == self.is_ipv4).collect();
        let name = if self.is_ipv4 { name.to_owned() } else { second_peer(name) };
        Ok(Node { name, address, address6: None, vtep_mac, subnets })
    }

    /// The Ethernet address of its VXLAN device, which must be in the network `vni`.
    fn vtep(&self, vni: Vni) -> Result<Mac, String> {
        let (text, key) = self.data;
        let wrong = |reason: String| format!("{key}: {reason}");
        let data: BackendData = lower(text).map_err(wrong)?;
        // Old records lack it (flannel#426).
        let theirs = data.vni.unwrap_or_else(|| vni.get().into());
        if theirs != i64::from(vni.get()) {
            return Err(wrong(format!("VNI {theirs}, here it is {}", vni.get())));
        }
        unicast_mac(&data.vtepmac).map_err(|reason| wrong(format!("VtepMAC: {reason}")))
    }
}

/// What a node of the Ethernet address `mac` says as its backend's data; `None` where the backend has none. Order and
/// form are those of flannel's own (encoding/json).
pub(in crate::control::source) fn backend_data(network: &Network, mac: Mac) -> Option<String> {
    match network.backend {
        Backend::Vxlan => Some(format!("{{\"VNI\":{},\"VtepMAC\":\"{mac}\"}}", network.vni.get())),
        Backend::Ipip | Backend::HostGateway => None,
    }
}

/// The Ethernet address of a tunnel device.
///
/// # Errors
/// When it is none, or no host's.
pub(in crate::control::source) fn unicast_mac(text: &str) -> Result<Mac, String> {
    let mac = text.parse::<Mac>().map_err(|error| error.to_string())?;
    mac.is_unicast().then_some(mac).ok_or_else(|| format!("{mac} is no host's"))
}

/// The name of the peer that is the IPv6 half of a node, where the tunnel has a device for each family. Calico's rule for
/// the Ethernet address of the second one is over this name, too.
pub(in crate::control::source) fn second_peer(node: &str) -> String {
    format!("{node}-v6")
}
