//! What is flannel's own, wherever its nodes find each other: its network, its nodes, its file for others on the host.

pub(super) mod node;
pub(super) mod subnet_file;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::discovered::shown;
use crate::net::{EncapMode, Prefix, Vni};
use crate::route::Pool;

/// UDP port of flannel's VXLAN by default: that of the kernel.
const PORT: u16 = 8472;
/// flannel's VXLAN network by default.
const VNI: i64 = 1;

/// How flannel's nodes reach each other.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::control::source) enum Backend {
    /// `vxlan`
    Vxlan,
    /// `ipip`
    Ipip,
    /// `host-gw`
    HostGateway,
}

impl Backend {
    const ALL: [(&str, Self); 3] =
        [("vxlan", Self::Vxlan), ("ipip", Self::Ipip), ("host-gw", Self::HostGateway)];

    /// flannel's word for it.
    pub(in crate::control::source) fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, backend)| *backend == self).map_or("", |(name, _)| name)
    }

    fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(known, _)| *known == name).map(|(_, backend)| *backend)
    }
}

/// What is the same on all nodes.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::control::source) struct Network {
    /// How nodes reach each other.
    pub backend: Backend,
    /// flannel's networks, IPv4 and IPv6.
    pub networks: Vec<Prefix>,
    direct_routing: bool,
    /// UDP port of VXLAN.
    pub port: u16,
    /// The VXLAN network.
    pub vni: Vni,
}

/// flannel's configuration, such as `net-conf.json`, with its keys in lower case.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(in crate::control::source) struct NetConf {
    network: String,
    ipv6network: String,
    backend: BackendConf,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct BackendConf {
    r#type: String,
    vni: Option<i64>,
    port: u16,
    directrouting: bool,
}

impl NetConf {
    /// The network that this is. `usual` is the backend where none is named.
    ///
    /// # Errors
    /// What of it cannot be spoken.
    pub(in crate::control::source) fn network(
        self,
        usual: impl FnOnce() -> String,
    ) -> Result<Network, String> {
        let networks = [self.network, self.ipv6network].into_iter().filter(|text| !text.is_empty());
        let networks =
            networks.map(|text| text.parse::<Prefix>().map_err(|error| format!("Network: {error}")));
        let kind = match self.backend.r#type.as_str() {
            "" => usual(),
            kind => kind.to_owned(),
        };
        let known = || Backend::ALL.map(|(name, _)| name).join(", ");
        let backend = Backend::named(&kind)
            .ok_or_else(|| format!("the backend {} cannot be spoken; known: {}", shown(&kind), known()))?;
        let vni = self.backend.vni.unwrap_or(VNI);
        Ok(Network {
            backend,
            networks: networks.collect::<Result<_, _>>()?,
            direct_routing: self.backend.directrouting,
            port: if self.backend.port == 0 { PORT } else { self.backend.port },
            vni: Vni::try_from(vni).map_err(|error| format!("VNI: {error}"))?,
        })
    }
}

impl Network {
    /// The pools that this is. flannel's manifests run it with `--ip-masq`: what leaves the cluster gets the node's
    /// address.
    pub(in crate::control::source) fn pools(&self) -> Vec<Pool> {
        let when = if self.direct_routing { EncapMode::CrossSubnet } else { EncapMode::Always };
        let (ipip_mode, vxlan_mode) = match self.backend {
            Backend::Vxlan => (EncapMode::Never, when),
            Backend::Ipip => (when, EncapMode::Never),
            Backend::HostGateway => (EncapMode::Never, EncapMode::Never),
        };
        let pool =
            |cidr: &Prefix| Pool { cidr: *cidr, ipip_mode, vxlan_mode, nat_outgoing: true, verify: false };
        self.networks.iter().map(pool).collect()
    }
}

/// Reads JSON without regard to the case of its keys, as flannel does (encoding/json); `null` is the default.
///
/// # Errors
/// Why it cannot be read.
pub(in crate::control::source) fn lower<T: Default + DeserializeOwned>(text: &str) -> Result<T, String> {
    let value: Value = serde_json::from_str(text).map_err(|error| format!("no JSON: {error}"))?;
    match value {
        Value::Null => Ok(T::default()),
        value @ Value::Object(_) => {
            serde_json::from_value(lower_keys(value)).map_err(|error| error.to_string())
        }
        _ => Err("no JSON object".to_owned()),
    }
}

fn lower_keys(value: Value) -> Value {
    match value {
        Value::Object(entries) => Value::Object(
            entries.into_iter().map(|(key, value)| (key.to_lowercase(), lower_keys(value))).collect(),
        ),
        other => other,
    }
}
