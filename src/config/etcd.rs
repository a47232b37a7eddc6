//! `[source.etcd]`: which etcd, and what this node claims there.

use std::path::PathBuf;

use toml::de::{DeTable, DeValue};

use super::diagnostic::Log;
use super::reader::{At, List, Table, auto_or, integer_in, parsed, text};
use super::value::{absolute, for_pods};
use super::{EtcdIdentity, EtcdTls, EtcdUser, GivenVxlan, schema};
use crate::net::Prefix;
use crate::net::words::clip;

/// Seconds of `lease_ttl`: less would not outlive a change of etcd's leader, more no node.
const LEASE_TTL: (u32, u32) = (10, 30 * 86_400);
/// Most members that are named: etcd's own advice is seven.
const MOST_ENDPOINTS: usize = 64;

/// The section. Wherever a value is `None`, what was wrong with it is in the log.
pub(super) struct Etcd {
    /// Offset of the section.
    pub(super) at: usize,
    endpoints: List<String>,
    prefix: Option<At<String>>,
    /// The section of that name; whether nothing was wrong with it.
    tls: Result<Option<EtcdTls>, ()>,
    user: Result<Option<EtcdUser>, ()>,
    subnet: Option<At<Option<Prefix>>>,
    subnet6: Option<At<Option<Prefix>>>,
    lease_ttl: Option<At<u32>>,
    state_file: Option<At<PathBuf>>,
    subnet_file: Option<At<PathBuf>>,
    vxlan: GivenVxlan,
}

impl Etcd {
    /// The section of the document, if there is one, beside what `vxlan` gives.
    pub(super) fn read(root: &DeTable<'_>, vxlan: GivenVxlan, log: &mut Log<'_>) -> Option<Self> {
        let table = Table::single(root, &schema::ETCD, log);
        if !table.is_there() {
            return None;
        }
        if !cfg!(feature = "etcd") {
            log.push(
                table.at,
                "[source.etcd]: this program was built without the feature `etcd`; build it with",
            );
        }
        let file = |default: &str| PathBuf::from(default);
        let (low, high) = LEASE_TTL;
        let this = Self {
            at: table.at,
            endpoints: table.list(log, "endpoints", endpoint),
            prefix: table.value_or(log, "prefix", super::Etcd::PREFIX.to_owned(), prefix),
            tls: tls(root, log),
            user: user(root, log),
            subnet: table.value_or(log, "subnet", None, |v| auto_or(v, ipv4_subnet)),
            subnet6: table.value_or(log, "subnet6", None, |v| auto_or(v, ipv6_subnet)),
            lease_ttl: table.value_or(log, "lease_ttl", super::Etcd::LEASE_TTL, |v| integer_in(v, low, high)),
            state_file: table.value_or(log, "state_file", file(super::Etcd::STATE_FILE), absolute),
            subnet_file: table.value_or(log, "subnet_file", file(super::Kubernetes::SUBNET_FILE), absolute),
            vxlan,
        };
        this.judge_endpoints(log);
        Some(this)
    }

    /// Endpoints are all of one kind, and who they are is checked.
    fn judge_endpoints(&self, log: &mut Log<'_>) {
        let endpoints = &self.endpoints.items;
        if self.endpoints.whole && endpoints.is_empty() {
            log.push(self.at, "endpoints: there is none; give one like \"http://192.0.2.10:2379\"");
        }
        if let Some(At { at, .. }) = endpoints.get(MOST_ENDPOINTS) {
            log.push(*at, format!("endpoints: more than {MOST_ENDPOINTS}"));
        }
        let Some(first) = endpoints.first() else { return };
        let is_secure = |endpoint: &At<String>| endpoint.value.starts_with("https://");
        if let Some(other) = endpoints.iter().find(|other| is_secure(other) != is_secure(first)) {
            log.push(other.at, "endpoints: some are http and some https; make all of them one or the other");
        }
        match &self.tls {
            Ok(None) if is_secure(first) => {
                let missing = "endpoints: https needs the certificate of who signs etcd's: give `ca` under [source.etcd.tls]";
                log.push(first.at, missing);
            }
            Ok(Some(_)) if !is_secure(first) => {
                log.push(
                    first.at,
                    "endpoints: [source.etcd.tls] is given, but this is http; write https, or remove that section",
                );
            }
            _ => {}
        }
    }

    /// The checked section; `None` when anything was wrong.
    pub(super) fn build(self) -> Option<super::Etcd> {
        Some(super::Etcd {
            endpoints: self.endpoints.build()?,
            prefix: self.prefix?.value,
            tls: self.tls.ok()?,
            user: self.user.ok()?,
            subnet: self.subnet?.value,
            subnet6: self.subnet6?.value,
            lease_ttl: self.lease_ttl?.value,
            state_file: self.state_file?.value,
            subnet_file: self.subnet_file?.value,
            vxlan: self.vxlan,
        })
    }
}

/// `[source.etcd.tls]`
fn tls(root: &DeTable<'_>, log: &mut Log<'_>) -> Result<Option<EtcdTls>, ()> {
    let table = Table::single(root, &schema::ETCD_TLS, log);
    if !table.is_there() {
        return Ok(None);
    }
    let mut own = |key| table.value_or(log, key, None, |v| absolute(v).map(Some));
    let (cert, key) = (own("cert"), own("key"));
    let ca = table.value(log, "ca", absolute).ok_or(())?.value;
    let identity = match (cert.ok_or(())?.value, key.ok_or(())?.value) {
        (Some(cert), Some(key)) => Some(EtcdIdentity { cert, key }),
        (None, None) => None,
        (cert, _) => {
            let (there, missing) = if cert.is_some() { ("cert", "key") } else { ("key", "cert") };
            log.push(table.at, format!("{there} without {missing}; give both, or neither"));
            return Err(());
        }
    };
    Ok(Some(EtcdTls { ca, identity }))
}

/// `[source.etcd.user]`
fn user(root: &DeTable<'_>, log: &mut Log<'_>) -> Result<Option<EtcdUser>, ()> {
    let table = Table::single(root, &schema::ETCD_USER, log);
    if !table.is_there() {
        return Ok(None);
    }
    let name = table.value(log, "name", |v| text(v).map(str::to_owned));
    let password_file = table.value(log, "password_file", absolute);
    Ok(Some(EtcdUser { name: name.ok_or(())?.value, password_file: password_file.ok_or(())?.value }))
}

/// `http` or `https` with a host and, if need be, a port.
fn endpoint(value: &DeValue<'_>) -> Result<String, String> {
    let given = text(value)?;
    let wrong = || format!("\"{}\" is no endpoint; write one like \"http://192.0.2.10:2379\"", clip(given));
    let rest =
        ["http://", "https://"].iter().find_map(|scheme| given.strip_prefix(scheme)).ok_or_else(wrong)?;
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let is_plain = |c: char| c.is_ascii_alphanumeric() || ".-_:[]".contains(c);
    let host = rest.rsplit_once(':').filter(|_| !rest.ends_with(']')).map_or(rest, |(host, _)| host);
    let port = rest.strip_prefix(host).and_then(|port| port.strip_prefix(':'));
    let has_port = port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port != 0));
    if host.is_empty() || !rest.chars().all(is_plain) || !has_port {
        return Err(wrong());
    }
    Ok(given.strip_suffix('/').unwrap_or(given).to_owned())
}

/// What keys begin with: absolute as a path, and without a slash at the end.
fn prefix(value: &DeValue<'_>) -> Result<String, String> {
    let given = text(value)?;
    let path = given.trim_end_matches('/');
    match path.starts_with('/') && !path.contains("//") && !path.contains(char::is_control) {
        true => Ok(path.to_owned()),
        false => Err(format!("\"{}\" is no prefix; write one like \"{}\"", clip(given), super::Etcd::PREFIX)),
    }
}

/// `subnet` when it is not "auto".
fn ipv4_subnet(value: &DeValue<'_>) -> Result<Prefix, String> {
    let subnet = for_pods(parsed(value)?)?;
    subnet.is_ipv4().then_some(subnet).ok_or_else(|| format!("{subnet} is IPv6; it belongs in subnet6"))
}

/// `subnet6` when it is not "auto".
fn ipv6_subnet(value: &DeValue<'_>) -> Result<Prefix, String> {
    let subnet = for_pods(parsed(value)?)?;
    (!subnet.is_ipv4()).then_some(subnet).ok_or_else(|| format!("{subnet} is IPv4; it belongs in subnet"))
}
