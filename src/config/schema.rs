//! The sections and keys that exist, and the best guess at what a wrong one was meant to be.

use crate::net::words::{clip, question};

/// A section of the file and the keys it may hold.
#[derive(Debug)]
pub(super) struct Section {
    /// Its name without brackets.
    pub(super) name: &'static str,
    /// Whether it is written `[[name]]` and may occur many times.
    pub(super) repeats: bool,
    /// Its keys, in the order of the documentation.
    pub(super) keys: &'static [&'static str],
}

impl Section {
    /// The rest of its name behind `outer` and a dot.
    pub(super) fn inside(&self, outer: &str) -> Option<&'static str> {
        self.name.strip_prefix(outer)?.strip_prefix('.')
    }

    /// As it is written in a file.
    pub(super) fn header(&self) -> String {
        if self.repeats { format!("[[{}]]", self.name) } else { format!("[{}]", self.name) }
    }
}

const fn single(name: &'static str, keys: &'static [&'static str]) -> Section {
    Section { name, repeats: false, keys }
}

const fn repeated(name: &'static str, keys: &'static [&'static str]) -> Section {
    Section { name, repeats: true, keys }
}

pub(super) static NODE: Section = single("node", &["name", "address", "address6", "external_nodes"]);
pub(super) static TUNNEL: Section = single(
    "tunnel",
    &[
        "device",
        "address",
        "mtu",
        "workers",
        "backend",
        "uplink",
        "dscp",
        "tso",
        "uso",
        "gro",
        "udp_gso",
        "udp_gro",
        "segment_sizes",
        "packet_socket",
        "kernel_path",
        "kernel_path_hooks",
        "kernel_path_after",
        "busy_poll",
        "allow_nested",
    ],
);
pub(super) static VXLAN: Section =
    single("vxlan", &["port", "vni", "udp6_zero_checksum", "udp6_zero_checksum_tx"]);
pub(super) static POOL: Section =
    repeated("pool", &["cidr", "ipip_mode", "vxlan_mode", "nat_outgoing", "verify"]);
pub(super) static DIRECT: Section = single("direct", &["via"]);
pub(super) static LOCAL: Section = single("local", &["subnets", "sends_for"]);
pub(super) static PEER: Section = repeated(
    "peer",
    &["name", "address", "address6", "also_from", "port", "subnets", "sends_for", "vtep_mac"],
);
pub(super) static CONTROL: Section = single("control", &["socket", "max_routes"]);
pub(super) static KUBERNETES: Section =
    single("source.kubernetes", &["kubeconfig", "node_name", "style", "state_file", "subnet_file"]);
pub(super) static KERNEL_ROUTES: Section =
    single("source.kernel", &["tables", "protocols", "prefixes", "implicit_peers"]);
pub(super) static ETCD: Section = single(
    "source.etcd",
    &["endpoints", "prefix", "tls", "user", "subnet", "subnet6", "lease_ttl", "state_file", "subnet_file"],
);
pub(super) static ETCD_TLS: Section = single("source.etcd.tls", &["ca", "cert", "key"]);
pub(super) static ETCD_USER: Section = single("source.etcd.user", &["name", "password_file"]);
pub(super) static METRICS: Section = single("metrics", &["listen"]);
pub(super) static CNI: Section = single("cni", &["conflist", "plugins"]);

pub(super) static POLICY: Section = single(
    "policy",
    &["directory", "scope", "connections", "fail_open", "default_deny_unknown", "fragments", "timeouts"],
);
pub(super) static POLICY_TIMEOUTS: Section = single(
    "policy.timeouts",
    &[
        "tcp_established",
        "tcp_syn",
        "tcp_fin",
        "tcp_time_wait",
        "tcp_close",
        "udp",
        "udp_stream",
        "icmp",
        "other",
        "pick_up",
    ],
);
pub(super) static ENDPOINT: Section =
    repeated("endpoint", &["name", "namespace", "addresses", "labels", "ports"]);

/// Every section, in the order of the documentation.
pub(super) static SECTIONS: [&Section; 18] = [
    &NODE,
    &TUNNEL,
    &VXLAN,
    &POOL,
    &DIRECT,
    &LOCAL,
    &PEER,
    &KUBERNETES,
    &ETCD,
    &ETCD_TLS,
    &ETCD_USER,
    &KERNEL_ROUTES,
    &POLICY,
    &POLICY_TIMEOUTS,
    &ENDPOINT,
    &CONTROL,
    &METRICS,
    &CNI,
];

/// What to say about `key`, which `section` does not know.
pub(super) fn unknown_key(section: &Section, key: &str) -> String {
    let header = section.header();
    format!("unknown key \"{}\" in {header}; {}", clip(key), advice(section, key))
}

/// What to say about `name`, which is no section.
pub(super) fn unknown_section(name: &str) -> String {
    let names = || SECTIONS.iter().map(|section| section.name);
    let advice = question(name, names()).or_else(|| home_of(name)).unwrap_or_else(|| {
        let headers: Vec<_> = SECTIONS.iter().map(|section| section.header()).collect();
        format!("known sections: {}", headers.join(", "))
    });
    format!("unknown section or key \"{}\"; {advice}", clip(name))
}

fn advice(section: &Section, key: &str) -> String {
    if section.name == ENDPOINT.name && key == "service_account" {
        return "there are no service accounts without Kubernetes; use labels, and selectors of them"
            .to_owned();
    }
    let near = question(key, section.keys.iter().copied());
    near.or_else(|| home_of(key)).unwrap_or_else(|| format!("known keys: {}", section.keys.join(", ")))
}

/// Where a key that was written in the wrong section belongs.
fn home_of(key: &str) -> Option<String> {
    let home = SECTIONS.iter().find(|section| section.keys.contains(&key))?;
    Some(format!("it belongs in {}", home.header()))
}
