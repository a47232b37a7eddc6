//! Every rule of the configuration, each by the exact text a user sees.

mod conflicts;
mod etcd;
mod hostile;
mod kernel_routes;
mod kubernetes;
mod own_address;
mod policy;
mod values;

use std::path::Path;

use super::schema::{SECTIONS, Section};
use super::{Backend, CniPlugins, Config, DirectVia, Dscp, Offload, Switch, Uplink, load, parse};
use crate::net::{EncapMode, Mac, Vni};

const EXAMPLE: &str = include_str!("../../config/example.toml");

/// The smallest file that is right; 12 lines, so that what a test appends begins in line 13.
const BASE: &str = r#"[node]
name = "a"
address = "192.0.2.1/24"
[local]
subnets = ["10.1.0.0/24"]
[[pool]]
cidr = "10.0.0.0/8"
[[peer]]
name = "b"
address = "192.0.2.2"
subnets = ["10.2.0.0/24"]
#
"#;

/// What is wrong with `text`, as printed.
fn errors(text: &str) -> String {
    parse(text, "f").expect_err("must be refused").to_string()
}

/// What is wrong with the base file and `more` behind it.
fn errors_with(more: &str) -> String {
    errors(&format!("{BASE}{more}"))
}

/// What is wrong with the base file when `from` reads `to`.
fn errors_when(from: &str, to: &str) -> String {
    assert!(BASE.contains(from), "{from}");
    errors(&BASE.replacen(from, to, 1))
}

fn good(text: &str) -> Config {
    parse(text, "f").unwrap_or_else(|errors| panic!("{errors}"))
}

fn with(more: &str) -> Config {
    good(&format!("{BASE}{more}"))
}

#[test]
fn absent_keys_have_the_documented_defaults() {
    let config = good(BASE);
    assert_eq!(config.node.name.as_str(), "a");
    assert_eq!(config.node.address.unwrap().to_string(), "192.0.2.1/24");
    assert_eq!(config.node.address6, None);
    let tunnel = &config.tunnel;
    assert_eq!(tunnel.device, "up0");
    assert_eq!((tunnel.address, tunnel.mtu, tunnel.workers), (None, None, None));
    assert_eq!((tunnel.backend, tunnel.uplink), (Backend::Auto, Uplink::Auto));
    assert_eq!(tunnel.dscp, Dscp::Fixed(0));
    assert_eq!(tunnel.offload, Offload::default());
    assert_eq!((config.vxlan.port, config.vxlan.vni), (4789, Vni::CALICO));
    assert_eq!(config.pools[0].ipip_mode, EncapMode::Never);
    assert_eq!(config.pools[0].vxlan_mode, EncapMode::Never);
    assert!(!config.pools[0].nat_outgoing && !config.pools[0].verify);
    assert_eq!(config.peers[0].vtep_mac, Mac::of_vtep("b"));
    assert_eq!(config.control.socket, Path::new("/run/underpass/underpass.sock"));
    assert_eq!((config.metrics, config.cni, config.direct_via), (None, None, DirectVia::Pump));
}

#[test]
fn given_keys_are_taken() {
    let config = good(
        &"[tunnel]\ndevice='t'\naddress='10.1.0.9'\nmtu=1_400\nworkers=0x10\nbackend='offload'\nuplink='tap'\ndscp='inherit'\n\
         tso='on'\nuso='off'\ngro='auto'\nudp_gso='on'\nudp_gro='off'\nsegment_sizes='off'\npacket_socket='on'\n\
         [vxlan]\nport=8472\nvni=0\n[control]\nsocket='/s'\n[metrics]\nlisten='[::1]:9'\n[node]\n"
            .replace("[node]\n", &BASE.replace("[[peer]]", "[[peer]]\nvtep_mac='02:00:00:00:00:01'"))
            .replace("[node]\n", "[node]\naddress6='2001:db8::1/64'\n")
            .replace("cidr", "vxlan_mode='CrossSubnet'\nnat_outgoing=true\nverify=true\ncidr"),
    );
    assert_eq!(config.node.address6.unwrap().to_string(), "2001:db8::1/64");
    let tunnel = &config.tunnel;
    assert_eq!(tunnel.device, "t");
    assert_eq!(tunnel.address.unwrap().to_string(), "10.1.0.9");
    assert_eq!((tunnel.mtu, tunnel.workers), (Some(1400), Some(16)));
    assert_eq!((tunnel.backend, tunnel.uplink), (Backend::Offload, Uplink::Tap));
    assert_eq!(tunnel.dscp, Dscp::Inherit);
    let expected = Offload {
        tso: Switch::On,
        uso: Switch::Off,
        gro: Switch::Auto,
        udp_gso: Switch::On,
        udp_gro: Switch::Off,
        segment_sizes: Switch::Off,
        packet_socket: Switch::On,
    };
    assert_eq!(tunnel.offload, expected);
    assert_eq!((config.vxlan.port, config.vxlan.vni.get()), (8472, 0));
    assert_eq!(config.pools[0].vxlan_mode, EncapMode::CrossSubnet);
    assert!(config.pools[0].nat_outgoing && config.pools[0].verify);
    assert_eq!(config.peers[0].vtep_mac, Mac([2, 0, 0, 0, 0, 1]));
    assert_eq!(config.control.socket, Path::new("/s"));
    assert_eq!(config.metrics.unwrap().to_string(), "[::1]:9");
    let cni = with("[cni]\nconflist='/x/1.conflist'\nplugins='ptp'\n").cni.unwrap();
    assert_eq!((cni.conflist.as_path(), cni.plugins), (Path::new("/x/1.conflist"), CniPlugins::Ptp));
}

#[test]
fn an_empty_section_turns_the_network_configuration_on() {
    let cni = with("[cni]\n").cni.unwrap();
    assert_eq!(cni.conflist, Path::new("/etc/cni/net.d/10-underpass.conflist"));
    assert_eq!(cni.plugins, CniPlugins::default());
    for (wrong, said) in [
        (
            "conflist = 'x.conflist'",
            "conflist: \"x.conflist\" is not an absolute path; write one like /etc/cni/",
        ),
        ("conflist = '/x.conf'", "conflist: \"/x.conf\" does not end in .conflist, so no container runtime"),
        ("conflist = '/x/.conflist'", "conflist: \"/x/.conflist\" does not end in .conflist"),
        ("plugins = 'bridge'", "plugins: \"bridge\" is not one of \"ptp\""),
        ("plugin = 'ptp'", "unknown key \"plugin\" in [cni]; did you mean \"plugins\"?"),
    ] {
        let errors = errors_with(&format!("[cni]\n{wrong}\n"));
        assert!(errors.contains(said), "{errors}");
    }
}

#[test]
fn strings_without_quotes_are_called_that() {
    for (wrong, right) in [
        ("name = node-a", "f:1:8: node-a is a string, which needs quotes; write \"node-a\""),
        ("name = node", "f:1:8: node is a string, which needs quotes; write \"node\""),
        (
            "address = 192.0.2.1/24",
            "f:1:11: 192.0.2.1/24 is a string, which needs quotes; write \"192.0.2.1/24\"",
        ),
        ("address6 = 2001:db8::1/64", "f:1:12: 2001:db8::1/64 is a string"),
        ("address6 = fd00::1/64", "f:1:12: fd00::1/64 is a string"),
        ("dscp = inherit # a comment", "f:1:8: inherit is a string"),
        ("mtu = auto", "f:1:7: auto is a string"),
        ("subnets = [10.244.1.0/24]", "f:1:12: 10.244.1.0/24 is a string"),
        ("subnets = [\"10.1.0.0/16\", 10.244.1.0/24]", "f:1:27: 10.244.1.0/24 is a string"),
        ("subnets = [\n  10.244.1.0/24,\n]", "f:2:3: 10.244.1.0/24 is a string"),
        ("socket = /run/x.sock", "f:1:10: /run/x.sock is a string"),
        ("listen = 127.0.0.1:9091", "f:1:10: 127.0.0.1:9091 is a string"),
        ("vtep_mac = 66:12:34:56:78:9a", "f:1:12: 66:12:34:56:78:9a is a string"),
    ] {
        let said = parse(wrong, "f").unwrap_err().to_string();
        let first = said.lines().next().unwrap();
        assert!(first.starts_with(right), "{wrong}: {said}");
    }
    // Other faults keep their names.
    for other in ["name = \"node-a", "name", "name \"a\"", "[node", "name = 'a", "x = 1 2", "= 1"] {
        let said = parse(other, "f").unwrap_err().to_string();
        assert!(!said.contains("needs quotes"), "{other}: {said}");
    }
}

#[test]
fn shipped_files_load() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    let minimal = load(&root.join("minimal.toml")).unwrap();
    assert_eq!((minimal.peers.len(), minimal.pools[0].vxlan_mode), (1, EncapMode::Always));
    let example = load(&root.join("example.toml")).unwrap();
    assert_eq!((example.peers.len(), example.pools.len()), (2, 2));
    assert_eq!(example.metrics.unwrap().port(), 9091);
}

#[test]
fn example_shows_every_key_and_the_defaults() {
    let uncommented: Vec<_> = EXAMPLE
        .lines()
        .map(|line| line.strip_prefix("# ").filter(|rest| is_code(rest)).unwrap_or(line))
        .collect();
    let text = uncommented.join("\n");
    for section in SECTIONS {
        let header = format!("\n{}", section.header());
        let body = text.split(&header).skip(1);
        let body: String = body.map(|rest| rest.split("\n[").next().unwrap()).collect();
        for key in own_keys(section) {
            assert!(body.contains(&format!("\n{key} = ")), "{key} in {}", section.header());
        }
    }
    // A node is of one cluster.
    good(&without(&text, "\n[source.kubernetes"));
    let config = good(&without(&text, "\n[source.etcd"));
    assert_eq!(config.node.address6.unwrap().prefix_len(), 64);
    assert_eq!(config.peers[0].vtep_mac, Mac([0x66, 0x12, 0x34, 0x56, 0x78, 0x9a]));
    let defaults = good(BASE);
    assert_eq!(config.tunnel, defaults.tunnel);
    assert_eq!(config.vxlan, defaults.vxlan);
    assert_eq!(config.control, defaults.control);
}

/// The keys of a section that are no sections themselves.
fn own_keys(section: &Section) -> impl Iterator<Item = &'static str> {
    let is_section = |key: &str| SECTIONS.iter().any(|other| other.inside(section.name) == Some(key));
    section.keys.iter().copied().filter(move |key| !is_section(key))
}

/// `text` without the sections whose headers begin so.
fn without(text: &str, header: &str) -> String {
    let mut rest = text.to_owned();
    while let Some(begin) = rest.find(header) {
        let end = rest[begin + 1..].find("\n[").map_or(rest.len(), |end| begin + 1 + end);
        rest.replace_range(begin..end, "");
    }
    rest
}

fn is_code(line: &str) -> bool {
    if line.starts_with('[') && line.ends_with(']') {
        return true;
    }
    let key = line.split(" = ").next().unwrap_or_default();
    key != line && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

#[test]
fn documentation_names_every_key() {
    let reference = include_str!("../../docs/configuration.md");
    for section in SECTIONS {
        let heading = format!("\n## `{}`", section.header());
        let body = reference.split(&heading).nth(1).expect(&heading).split("\n## ").next().unwrap();
        for key in own_keys(section) {
            assert!(body.contains(&format!("\n| `{key}` |")), "{key} in {heading}");
        }
    }
}

#[test]
fn all_errors_of_a_file_are_reported_at_once() {
    let text = "[node]\nname = \"a b\"\naddres = \"192.0.2.1/24\"\n\
                [tunnel]\nmtu = 100\nworkers = true\n\
                [vxlan]\nvni = 16777216\nport = 0\n\
                [[pool]]\ncidr = \"10.0.0.1/8\"\nipip_mode = \"Always\"\nvxlan_mode = \"Always\"\n\
                [[peer]]\nname = \"b\"\naddress = \"10.2.0.2\"\nsubnets = [\"10.2.0.0/33\", \"10.2.0.0/16\"]\n";
    assert_eq!(
        errors(text),
        "f:1:1: missing key \"address\" in [node]\n\
         f:1:1: no local subnet for tunnel.address \"auto\"; give [local] subnets, or tunnel.address\n\
         f:2:8: name: \"a b\" is not a node name; use 1 to 253 letters, digits, dots, dashes or underscores\n\
         f:3:1: unknown key \"addres\" in [node]; did you mean \"address\"?\n\
         f:5:7: mtu: 100 is out of range; use 576 to 65535; or write \"auto\"\n\
         f:6:11: workers: expected an integer, found the boolean true; or write \"auto\"\n\
         f:8:7: vni: VNI 16777216 is out of range; a VXLAN network identifier has 24 bits (0 to 16777215)\n\
         f:9:8: port: 0 is not a UDP port; use 1 to 49151, 4789 by RFC 7348\n\
         f:11:8: cidr: \"10.0.0.1/8\" has host bits set; did you mean 10.0.0.0/8?\n\
         f:13:14: ipip_mode \"Always\" and vxlan_mode \"Always\" in one pool; set one of them to \"Never\"\n\
         f:16:11: address: 10.2.0.2 lies inside subnet 10.2.0.0/16 of peer \"b\" (line 17); packets to this node \
         would be routed into the tunnel\n\
         f:17:12: subnets: \"10.2.0.0/33\" is not an IP prefix; write an address and a length like 10.244.1.0/24 \
         (at most /32 for IPv4, /128 for IPv6)"
    );
}

#[test]
fn errors_carry_their_position() {
    let found =
        parse("[node]\nname = 1\naddress = 2\n[local]\nsubnets = [\"10.1.0.0/24\"]", "x.toml").unwrap_err();
    assert!(found.errors.iter().all(|error| &*error.file == "x.toml"));
    let positions: Vec<_> = found.errors.iter().map(|e| (e.line, e.column)).collect();
    assert_eq!(positions, [(2, 8), (3, 11)]);
    assert_eq!(found.errors[0].message, "name: expected a string, found the integer 1");
}

#[test]
fn columns_count_characters_and_a_byte_order_mark_is_none() {
    let advice = "did you mean \"listen\"?";
    assert_eq!(
        errors(&format!("metrics = {{ \"ääää\" = 1, lasten = 2 }}\n{BASE}")),
        format!(
            "f:1:13: unknown key \"ääää\" in [metrics]; known keys: listen\n\
             f:1:25: unknown key \"lasten\" in [metrics]; {advice}"
        )
    );
    assert_eq!(
        errors(&format!("\u{feff}metrics.\"lästen\" = 1\r\n# ä\r\n{BASE}").replace("\"a\"", "\"ä\" # ä")),
        format!(
            "f:1:9: unknown key \"lästen\" in [metrics]; {advice}\n\
             f:4:8: name: \"ä\" is not a node name; use 1 to 253 letters, digits, dots, dashes or underscores"
        )
    );
}

#[test]
fn broken_syntax_is_reported_alone_but_wholly() {
    let text = "[node]\nname = \nport = abc\n[tunnel\nmtu = 1\n";
    assert_eq!(
        errors(text),
        "f:2:8: string values must be quoted, expected literal string\n\
         f:3:8: abc is a string, which needs quotes; write \"abc\"\n\
         f:4:8: unclosed table, expected `]`"
    );
}

#[test]
fn a_repeated_key_does_not_hide_other_errors() {
    assert_eq!(
        errors_with("[vxlan]\nvni = -1\nvni = 7\n"),
        "f:14:7: vni: VNI -1 is out of range; a VXLAN network identifier has 24 bits (0 to 16777215)\n\
         f:15:1: duplicate key"
    );
}

#[test]
fn direct_packets_go_by_the_pump_or_by_the_kernel() {
    for (word, via) in [("pump", DirectVia::Pump), ("kernel", DirectVia::Kernel)] {
        assert_eq!(with(&format!("[direct]\nvia='{word}'\n")).direct_via, via);
    }
    let wrong = errors_with("[direct]\nvia='kernels'\n");
    assert!(
        wrong.contains("via: \"kernels\" is not one of \"pump\", \"kernel\"; did you mean \"kernel\"?"),
        "{wrong}"
    );
}

#[test]
fn unknown_names_come_with_advice() {
    for (more, expected) in [
        ("[tunel]\n", "f:13:2: unknown section or key \"tunel\"; did you mean \"tunnel\"?"),
        (
            "[bgp]\n",
            "f:13:2: unknown section or key \"bgp\"; known sections: [node], [tunnel], [vxlan], [[pool]], [direct], [local], \
             [[peer]], [source.kubernetes], [source.etcd], [source.etcd.tls], [source.etcd.user], [source.kernel], \
             [policy], [policy.timeouts], [[endpoint]], [control], [metrics], [cni]",
        ),
        ("[control]\nlisten = 1\n", "f:14:1: unknown key \"listen\" in [control]; it belongs in [metrics]"),
        ("[control]\nfoo = 1\n", "f:14:1: unknown key \"foo\" in [control]; known keys: socket, max_routes"),
        ("[vxlan]\nPort = 1\n", "f:14:1: unknown key \"Port\" in [vxlan]; did you mean \"port\"?"),
        ("vni = 1\n", "f:13:1: unknown key \"vni\" in [[peer]]; it belongs in [vxlan]"),
        ("subnet = []\n", "f:13:1: unknown key \"subnet\" in [[peer]]; did you mean \"subnets\"?"),
        (
            "[node.extra]\n",
            "f:13:7: unknown key \"extra\" in [node]; known keys: name, address, address6, external_nodes",
        ),
    ] {
        assert_eq!(errors_with(more), expected);
    }
    assert!(errors("mtu = 1\n").contains("f:1:1: unknown section or key \"mtu\"; it belongs in [tunnel]"));
}

#[test]
fn sections_have_their_form() {
    for (text, expected) in [
        ("node = 3", "f:1:8: node: expected a section [node], found the integer 3"),
        ("[[node]]", "f:1:1: node is a single section; write [node], once"),
        ("[peer]\nname = \"b\"", "f:1:1: peer is a list of sections; write [[peer]] above each"),
        ("pool = \"x\"", "f:1:8: pool: expected a section [[pool]], found the string \"x\""),
        ("peer = [7]", "f:1:9: peer: expected a section [[peer]], found the integer 7"),
        ("", "f:1:1: missing section [node]"),
    ] {
        assert!(errors(text).lines().any(|line| line == expected), "{text}: {}", errors(text));
    }
    let no_node = errors("tunnel.address = \"10.9.0.1\"");
    assert_eq!(no_node, "f:1:1: missing section [node]");
}

#[test]
fn missing_keys_are_reported_at_their_section() {
    assert_eq!(
        errors_with("[[peer]]\n\n  [[peer]]\nname = \"x\"\n[[pool]]\n"),
        "f:13:1: missing key \"name\" in [[peer]]\n\
         f:13:1: missing key \"address\" in [[peer]]\n\
         f:13:1: missing key \"subnets\" in [[peer]]\n\
         f:15:3: missing key \"address\" in [[peer]]\n\
         f:15:3: missing key \"subnets\" in [[peer]]\n\
         f:17:1: missing key \"cidr\" in [[pool]]"
    );
    assert_eq!(errors_when("name = \"a\"\n", ""), "f:1:1: missing key \"name\" in [node]");
}
