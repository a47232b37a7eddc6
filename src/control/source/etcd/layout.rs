//! flannel's configuration in etcd: the network, and which subnets of it nodes may have (flannel pkg/subnet/config.go).

use std::collections::{BTreeSet, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::Deserialize;

use crate::control::source::flannel::{NetConf, Network, lower};
use crate::net::Prefix;

/// Free subnets among which one is drawn.
const CHOICE: usize = 100;

/// The configuration, read and checked.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Layout {
    /// What is the same on all nodes.
    pub(super) network: Network,
    /// The IPv4 subnets of nodes.
    pub(super) four: Range,
    /// Those of IPv6, where nodes have some.
    pub(super) six: Option<Range>,
}

/// Subnets of one length, from the first to the last.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Range {
    network: Prefix,
    len: u8,
    first: u128,
    last: u128,
}

/// The configuration with its keys in lower case, as far as it is about subnets.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Conf {
    network: String,
    subnetlen: u8,
    subnetmin: Option<String>,
    subnetmax: Option<String>,
    enableipv4: Option<bool>,
    enableipv6: bool,
    ipv6network: String,
    ipv6subnetlen: u8,
    ipv6subnetmin: Option<String>,
    ipv6subnetmax: Option<String>,
}

/// What is different between the families.
struct Rules {
    is_ipv4: bool,
    /// The usual length of subnets, where the network has room for some of them.
    usual: u8,
    /// The longest there may be.
    longest: u8,
}

const FOUR: Rules = Rules { is_ipv4: true, usual: 24, longest: 30 };
const SIX: Rules = Rules { is_ipv4: false, usual: 64, longest: 126 };

impl Layout {
    /// Reads the value of `config`.
    ///
    /// # Errors
    /// What of it is wrong or cannot be spoken.
    pub(super) fn read(text: &str) -> Result<Self, String> {
        let conf: Conf = lower(text)?;
        if conf.enableipv4 == Some(false) {
            return Err("EnableIPv4 is false: a key of flannel's in etcd has an IPv4 subnet".to_owned());
        }
        // What is without a type is `udp` for flannel.
        let mut network = lower::<NetConf>(text)?.network(|| "udp".to_owned())?;
        network.networks.retain(|network| network.is_ipv4() || conf.enableipv6);
        let bounds = (conf.subnetmin.as_deref(), conf.subnetmax.as_deref());
        let four = Range::new(&FOUR, &conf.network, conf.subnetlen, bounds)?;
        let six = match conf.enableipv6 {
            true => {
                let bounds = (conf.ipv6subnetmin.as_deref(), conf.ipv6subnetmax.as_deref());
                let range = Range::new(&SIX, &conf.ipv6network, conf.ipv6subnetlen, bounds);
                Some(range.map_err(|reason| format!("IPv6{reason}"))?)
            }
            false => None,
        };
        Ok(Self { network, four, six })
    }

    /// Whether a node may have just these subnets.
    pub(super) fn fits(&self, subnets: &[Prefix]) -> bool {
        match (subnets, &self.six) {
            ([four], None) => self.four.has(*four),
            ([four, six], Some(range)) => self.four.has(*four) && range.has(*six),
            _ => false,
        }
    }
}

impl Range {
    fn new(
        rules: &Rules,
        network: &str,
        len: u8,
        (min, max): (Option<&str>, Option<&str>),
    ) -> Result<Self, String> {
        let network: Prefix = network.parse().map_err(|error| format!("Network: {error}"))?;
        if network.is_ipv4() != rules.is_ipv4 {
            return Err(format!("Network: {network} is of the other family"));
        }
        let len = match len {
            // For usual subnets there must be at least four of them.
            0 if network.len() <= rules.usual - 2 => rules.usual,
            0 => network.len().saturating_add(2),
            given => given,
        };
        if len > rules.longest || len < network.len().saturating_add(2) {
            let (low, high) = (network.len().saturating_add(2), rules.longest);
            return Err(format!("SubnetLen: {len} does not go with {network}; from {low} to {high} do"));
        }
        let step = step(rules.is_ipv4, len);
        let bound = |name: &str, text: Option<&str>, usual: u128| match text.filter(|text| !text.is_empty()) {
            None => Ok(usual),
            Some(text) => {
                let address = text.parse::<IpAddr>().ok().filter(|address| network.contains(*address));
                let address = address.map(bits).filter(|bits| bits % step == 0);
                address.ok_or_else(|| {
                    format!("{name}: \"{text}\" is not the first address of a /{len} of {network}")
                })
            }
        };
        // The first one is left out unless it is asked for.
        let first = bound("SubnetMin", min, bits(network.address()) + step)?;
        let last = bound("SubnetMax", max, bits(network.last()) - (step - 1))?;
        if first > last {
            return Err("SubnetMin is behind SubnetMax".to_owned());
        }
        Ok(Self { network, len, first, last })
    }

    /// The network that it is of.
    pub(super) fn network(&self) -> Prefix {
        self.network
    }

    /// Whether `subnet` is one of them.
    pub(super) fn has(&self, subnet: Prefix) -> bool {
        let is_one = subnet.is_ipv4() == self.network.is_ipv4() && subnet.len() == self.len;
        is_one && (self.first..=self.last).contains(&bits(subnet.address()))
    }

    /// One that is free, drawn by `random` among the first of these; none where all are taken.
    pub(super) fn draw(&self, taken: &Taken, random: u64) -> Option<Prefix> {
        let step = step(self.network.is_ipv4(), self.len);
        let (mut free, mut next) = (Vec::new(), Some(self.first));
        while let Some(at) = next.filter(|at| *at <= self.last && free.len() < CHOICE) {
            let subnet = prefix(self.network.is_ipv4(), at, self.len)?;
            next = match taken.around(subnet) {
                // Whatever a large one covers is passed over at once.
                Some(around) => bits(around.last()).checked_add(1),
                None => {
                    if taken.is_free(subnet) {
                        free.push(subnet);
                    }
                    at.checked_add(step)
                }
            };
        }
        let at = usize::try_from(random % u64::try_from(free.len()).ok().filter(|len| *len > 0)?).ok()?;
        free.get(at).copied()
    }
}

/// Subnets that others have.
#[derive(Debug, Default)]
pub(super) struct Taken {
    prefixes: HashSet<Prefix>,
    starts: BTreeSet<IpAddr>,
}

impl Taken {
    /// Whether nobody has any of it.
    pub(super) fn is_free(&self, subnet: Prefix) -> bool {
        self.around(subnet).is_none() && self.starts.range(subnet.address()..=subnet.last()).next().is_none()
    }

    fn around(&self, subnet: Prefix) -> Option<Prefix> {
        subnet.and_wider().find(|wider| self.prefixes.contains(wider))
    }
}

impl FromIterator<Prefix> for Taken {
    fn from_iter<I: IntoIterator<Item = Prefix>>(prefixes: I) -> Self {
        let prefixes: HashSet<Prefix> = prefixes.into_iter().collect();
        Self { starts: prefixes.iter().map(|prefix| prefix.address()).collect(), prefixes }
    }
}

/// From the first address of a subnet of this length to that of the next.
fn step(is_ipv4: bool, len: u8) -> u128 {
    1 << (if is_ipv4 { 32 } else { 128 } - u32::from(len))
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

fn prefix(is_ipv4: bool, bits: u128, len: u8) -> Option<Prefix> {
    let address = match is_ipv4 {
        true => Ipv4Addr::from_bits(u32::try_from(bits).ok()?).into(),
        false => Ipv6Addr::from_bits(bits).into(),
    };
    Prefix::containing(address, len)
}
