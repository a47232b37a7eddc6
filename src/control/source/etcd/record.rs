//! flannel's records in etcd: a key that is a subnet, and a value that says where it is (flannel pkg/subnet/etcd).

use std::net::{Ipv4Addr, Ipv6Addr};

use serde::Deserialize;
use serde_json::Value;

use crate::control::source::flannel::node::{Half, backend_data};
use crate::control::source::flannel::{Network, lower};
use crate::net::{Mac, Prefix};

/// The backend that flannel leaves out.
const UNNAMED: &str = "udp";

/// A value with its keys in lower case.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Attributes {
    publicip: Option<String>,
    publicipv6: Option<String>,
    backendtype: Option<String>,
    backenddata: Value,
    backendv6data: Value,
}

/// What a value says.
#[derive(Debug, PartialEq)]
pub(super) struct Said {
    /// `PublicIP`, whatever is written there.
    pub(super) address: Option<String>,
    address6: Option<String>,
    /// `BackendType`.
    pub(super) backend: String,
    data: String,
    data6: String,
}

/// Where this node is.
#[derive(Clone, Copy, Debug)]
pub(super) struct OwnNode {
    /// Its IPv4 underlay address, by which etcd knows it.
    pub(super) address: Ipv4Addr,
    /// The IPv6 one.
    pub(super) address6: Option<Ipv6Addr>,
    /// Its Ethernet address inside VXLAN packets.
    pub(super) mac: Mac,
    /// The same as the peer that its IPv6 half is: no two peers have one.
    pub(super) mac6: Mac,
}

impl Said {
    /// Reads a value.
    ///
    /// # Errors
    /// Why it is none of flannel's.
    pub(super) fn read(value: &str) -> Result<Self, String> {
        if value.is_empty() {
            return Err("its value is empty, no text, or too long".to_owned());
        }
        let said: Attributes = lower(value)?;
        Ok(Self {
            address: said.publicip,
            address6: said.publicipv6,
            backend: said.backendtype.unwrap_or_else(|| UNNAMED.to_owned()),
            data: said.backenddata.to_string(),
            data6: said.backendv6data.to_string(),
        })
    }

    /// Whether it is of the node at `own`.
    pub(super) fn is_of(&self, own: Ipv4Addr) -> bool {
        self.address.as_deref().and_then(|text| text.parse().ok()) == Some(own)
    }

    /// Whether it only says for whom the subnet is, as an administrator writes who reserves one.
    pub(super) fn is_bare(&self) -> bool {
        self.backend == UNNAMED && self.data == "null" && self.data6 == "null"
    }

    /// The families that it says something of.
    pub(super) fn halves(&self) -> impl Iterator<Item = Half<'_>> {
        let four = self.address.as_deref().map(|address| Half {
            is_ipv4: true,
            address: (address, "PublicIP"),
            data: (&self.data, "BackendData"),
        });
        let six = self.address6.as_deref().map(|address| Half {
            is_ipv4: false,
            address: (address, "PublicIPv6"),
            data: (&self.data6, "BackendV6Data"),
        });
        four.into_iter().chain(six)
    }
}

/// The value of the node `own` with a subnet of IPv6 or none. The order and the form of its keys are flannel's
/// (`LeaseAttrs`).
pub(super) fn value(network: &Network, own: OwnNode, has_ipv6: bool) -> String {
    let six = own.address6.filter(|_| has_ipv6);
    let address6 = six.map_or_else(|| "null".to_owned(), |address| format!("\"{address}\""));
    let mut text = format!(
        "{{\"PublicIP\":\"{}\",\"PublicIPv6\":{address6},\"BackendType\":\"{}\"",
        own.address,
        network.backend.name()
    );
    if let Some(data) = backend_data(network, own.mac) {
        text.push_str(&format!(",\"BackendData\":{data}"));
    }
    if let Some(data) = backend_data(network, own.mac6).filter(|_| six.is_some()) {
        text.push_str(&format!(",\"BackendV6Data\":{data}"));
    }
    text.push('}');
    text
}

/// The subnets that a key below `subnets/` is: one of IPv4, and maybe one of IPv6.
///
/// # Errors
/// Why it is none.
pub(super) fn subnets(key: &str) -> Result<Vec<Prefix>, String> {
    let (four, six) = key.split_once('&').map_or((key, None), |(four, six)| (four, Some(six)));
    let mut subnets = vec![subnet(four).filter(|four| four.is_ipv4()).ok_or_else(|| no_subnet(four))?];
    if let Some(six) = six {
        subnets.push(subnet(six).filter(|six| !six.is_ipv4()).ok_or_else(|| no_subnet(six))?);
    }
    Ok(subnets)
}

fn no_subnet(text: &str) -> String {
    format!("\"{text}\" is no subnet like 10.5.52.0-24")
}

fn subnet(text: &str) -> Option<Prefix> {
    let (address, len) = text.rsplit_once('-')?;
    // No sign, which a number might have elsewhere.
    let len = len.bytes().all(|byte| byte.is_ascii_digit()).then_some(len)?;
    format!("{address}/{len}").parse().ok()
}

/// The key of `subnets`, below `subnets/`.
pub(super) fn key(subnets: &[Prefix]) -> String {
    let parts: Vec<String> = subnets.iter().map(|subnet| subnet.to_string().replace('/', "-")).collect();
    parts.join("&")
}
