//! flannel's `subnet.env` (pkg/subnet/subnet.go) for CNI plugins and scripts on the host: order and form are read by others.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use crate::control::source::cluster::Announcement;
use crate::files::{self, Modes};
use crate::net::Prefix;

/// Has the file at `path` say that this node has `subnets` of `networks`.
///
/// # Errors
/// Why it cannot be written; `section` of the configuration has its path.
pub(in crate::control::source) fn write(
    path: &Path,
    section: &str,
    networks: &[Prefix],
    subnets: &[Prefix],
    announcement: &Announcement,
) -> Result<(), String> {
    let text = text(networks, subnets, announcement);
    if std::fs::read(path).is_ok_and(|there| there == text.as_bytes()) {
        return Ok(());
    }
    let done = files::replace(path, text.as_bytes(), Modes::PUBLIC);
    done.map_err(|error| format!("{}: {error}; correct `subnet_file` under {section}", path.display()))
}

fn text(networks: &[Prefix], subnets: &[Prefix], announcement: &Announcement) -> String {
    let network = |is_ipv4| networks.iter().find(|network| network.is_ipv4() == is_ipv4);
    let subnet = |is_ipv4| subnets.iter().find(|subnet| subnet.is_ipv4() == is_ipv4);
    let mut text = String::new();
    let mut say = |key: &str, value: String| text.push_str(&format!("{key}={value}\n"));
    for (is_ipv4, infix) in [(true, ""), (false, "IPV6_")] {
        if let (Some(network), Some(subnet)) = (network(is_ipv4), subnet(is_ipv4)) {
            say(&format!("FLANNEL_{infix}NETWORK"), network.to_string());
            say(&format!("FLANNEL_{infix}SUBNET"), first_host(*subnet));
        }
    }
    say("FLANNEL_MTU", announcement.mtu.to_string());
    say("FLANNEL_IPMASQ", announcement.masquerades.to_string());
    text
}

/// The address behind the first of `subnet`, with its length: the gateway of its pods.
fn first_host(subnet: Prefix) -> String {
    let len = subnet.len();
    match subnet.address() {
        IpAddr::V4(first) => format!("{}/{len}", Ipv4Addr::from_bits(first.to_bits().saturating_add(1))),
        IpAddr::V6(first) => format!("{}/{len}", Ipv6Addr::from_bits(first.to_bits().saturating_add(1))),
    }
}

#[cfg(test)]
mod tests {
    use super::{Announcement, Prefix, text, write};

    fn prefixes<const N: usize>(texts: [&str; N]) -> Vec<Prefix> {
        texts.map(|text| text.parse().unwrap()).to_vec()
    }

    #[test]
    fn it_is_flannels() {
        let networks = prefixes(["10.244.0.0/16", "fd00:244::/48"]);
        let subnets = prefixes(["10.244.3.0/24", "fd00:244:0:3::/64"]);
        assert_eq!(
            text(&networks, &subnets, &Announcement::sample()),
            "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.3.1/24\n\
             FLANNEL_IPV6_NETWORK=fd00:244::/48\nFLANNEL_IPV6_SUBNET=fd00:244:0:3::1/64\n\
             FLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"
        );
        assert_eq!(
            text(&networks[..1], &subnets, &Announcement::sample()),
            "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.3.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"
        );
    }

    #[test]
    fn what_cannot_be_written_names_the_key() {
        let dir = tempfile::tempdir().unwrap();
        let error = write(dir.path(), "[source.etcd]", &[], &[], &Announcement::sample()).unwrap_err();
        assert!(error.ends_with("; correct `subnet_file` under [source.etcd]"), "{error}");
    }
}
