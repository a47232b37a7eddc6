//! The sections and keys that exist, and the best guess at what a wrong one was meant to be.

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
        "allow_nested",
    ],
);
pub(super) static VXLAN: Section = single("vxlan", &["port", "vni", "udp6_zero_checksum"]);
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

/// Every section, in the order of the documentation.
pub(super) static SECTIONS: [&Section; 15] = [
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
    let advice = match closest(name, names()) {
        Some(near) => format!("did you mean \"{near}\"?"),
        None => home_of(name).unwrap_or_else(|| {
            let headers: Vec<_> = SECTIONS.iter().map(|section| section.header()).collect();
            format!("known sections: {}", headers.join(", "))
        }),
    };
    format!("unknown section or key \"{}\"; {advice}", clip(name))
}

fn advice(section: &Section, key: &str) -> String {
    let near = closest(key, section.keys.iter().copied()).map(|k| format!("did you mean \"{k}\"?"));
    near.or_else(|| home_of(key)).unwrap_or_else(|| format!("known keys: {}", section.keys.join(", ")))
}

/// Where a key that was written in the wrong section belongs.
fn home_of(key: &str) -> Option<String> {
    let home = SECTIONS.iter().find(|section| section.keys.contains(&key))?;
    Some(format!("it belongs in {}", home.header()))
}

/// The candidate that `word` is most likely a slip of: at most a third of its letters wrong,
/// letter case not counted.
pub(super) fn closest<'c>(word: &str, candidates: impl Iterator<Item = &'c str>) -> Option<&'c str> {
    const LONGEST: usize = 32; // the distance costs length × length
    if word.len() > LONGEST {
        return None;
    }
    let word = word.to_lowercase();
    let limit = (word.chars().count() / 3).max(1);
    candidates
        .map(|candidate| (strsim::damerau_levenshtein(&word, &candidate.to_lowercase()), candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// The beginning of `text`, short enough for a message.
pub(super) fn clip(text: &str) -> String {
    const LIMIT: usize = 64;
    match text.char_indices().nth(LIMIT) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
