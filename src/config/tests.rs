//! Every rule of the configuration, each by the exact text a user sees.

use std::path::Path;

use proptest::prelude::*;

use super::schema::SECTIONS;
use super::{Backend, Config, Offload, Switch, Uplink, load, parse};
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
    assert_eq!(config.node.address.to_string(), "192.0.2.1/24");
    assert_eq!(config.node.address6, None);
    let tunnel = &config.tunnel;
    assert_eq!(tunnel.device, "up0");
    assert_eq!((tunnel.address, tunnel.mtu, tunnel.workers), (None, None, None));
    assert_eq!((tunnel.backend, tunnel.uplink), (Backend::Auto, Uplink::Auto));
    assert_eq!(tunnel.offload, Offload::default());
    assert_eq!((config.vxlan.port, config.vxlan.vni), (4789, Vni::CALICO));
    assert_eq!(config.pools[0].ipip_mode, EncapMode::Never);
    assert_eq!(config.pools[0].vxlan_mode, EncapMode::Never);
    assert_eq!(config.peers[0].vtep_mac, Mac::of_vtep("b"));
    assert_eq!(config.control.socket, Path::new("/run/underpass/underpass.sock"));
    assert_eq!(config.metrics, None);
}

#[test]
fn given_keys_are_taken() {
    let config = good(
        &"[tunnel]\ndevice='t'\naddress='10.1.0.9'\nmtu=1_400\nworkers=0x10\nbackend='offload'\nuplink='tap'\n\
         tso='on'\nuso='off'\ngro='auto'\nudp_gso='on'\nudp_gro='off'\npacket_socket='on'\n\
         [vxlan]\nport=8472\nvni=0\n[control]\nsocket='/s'\n[metrics]\nlisten='[::1]:9'\n[node]\n"
            .replace("[node]\n", &BASE.replace("[[peer]]", "[[peer]]\nvtep_mac='02:00:00:00:00:01'"))
            .replace("[node]\n", "[node]\naddress6='2001:db8::1/64'\n")
            .replace("cidr", "vxlan_mode='CrossSubnet'\ncidr"),
    );
    assert_eq!(config.node.address6.unwrap().to_string(), "2001:db8::1/64");
    let tunnel = &config.tunnel;
    assert_eq!(tunnel.device, "t");
    assert_eq!(tunnel.address.unwrap().to_string(), "10.1.0.9");
    assert_eq!((tunnel.mtu, tunnel.workers), (Some(1400), Some(16)));
    assert_eq!((tunnel.backend, tunnel.uplink), (Backend::Offload, Uplink::Tap));
    let expected = Offload {
        tso: Switch::On,
        uso: Switch::Off,
        gro: Switch::Auto,
        udp_gso: Switch::On,
        udp_gro: Switch::Off,
        packet_socket: Switch::On,
    };
    assert_eq!(tunnel.offload, expected);
    assert_eq!((config.vxlan.port, config.vxlan.vni.get()), (8472, 0));
    assert_eq!(config.pools[0].vxlan_mode, EncapMode::CrossSubnet);
    assert_eq!(config.peers[0].vtep_mac, Mac([2, 0, 0, 0, 0, 1]));
    assert_eq!(config.control.socket, Path::new("/s"));
    assert_eq!(config.metrics.unwrap().to_string(), "[::1]:9");
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
        .map(|line| line.strip_prefix("# ").filter(|rest| is_assignment(rest)).unwrap_or(line))
        .collect();
    let text = uncommented.join("\n");
    for section in SECTIONS {
        let header = format!("\n{}", section.header());
        let body = text.split(&header).skip(1);
        let body: String = body.map(|rest| rest.split("\n[").next().unwrap()).collect();
        for key in section.keys {
            assert!(body.contains(&format!("\n{key} = ")), "{key} in {}", section.header());
        }
    }
    let config = good(&text);
    assert_eq!(config.node.address6.unwrap().prefix_len(), 64);
    assert_eq!(config.peers[0].vtep_mac, Mac([0x66, 0x12, 0x34, 0x56, 0x78, 0x9a]));
    let defaults = good(BASE);
    assert_eq!(config.tunnel, defaults.tunnel);
    assert_eq!(config.vxlan, defaults.vxlan);
    assert_eq!(config.control, defaults.control);
}

fn is_assignment(line: &str) -> bool {
    let key = line.split(" = ").next().unwrap_or_default();
    key != line && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

#[test]
fn documentation_names_every_key() {
    let reference = include_str!("../../docs/configuration.md");
    for section in SECTIONS {
        let heading = format!("\n## `{}`", section.header());
        let body = reference.split(&heading).nth(1).expect(&heading).split("\n## ").next().unwrap();
        for key in section.keys {
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
    assert_eq!(found.file, "x.toml");
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
         f:3:8: string values must be quoted, expected literal string\n\
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
fn unknown_names_come_with_advice() {
    for (more, expected) in [
        ("[tunel]\n", "f:13:2: unknown section or key \"tunel\"; did you mean \"tunnel\"?"),
        (
            "[bgp]\n",
            "f:13:2: unknown section or key \"bgp\"; known sections: [node], [tunnel], [vxlan], [[pool]], [local], \
             [[peer]], [control], [metrics]",
        ),
        ("[control]\nlisten = 1\n", "f:14:1: unknown key \"listen\" in [control]; it belongs in [metrics]"),
        ("[control]\nfoo = 1\n", "f:14:1: unknown key \"foo\" in [control]; known keys: socket"),
        ("[vxlan]\nPort = 1\n", "f:14:1: unknown key \"Port\" in [vxlan]; did you mean \"port\"?"),
        ("vni = 1\n", "f:13:1: unknown key \"vni\" in [[peer]]; it belongs in [vxlan]"),
        ("subnet = []\n", "f:13:1: unknown key \"subnet\" in [[peer]]; did you mean \"subnets\"?"),
        ("[node.extra]\n", "f:13:7: unknown key \"extra\" in [node]; known keys: name, address, address6"),
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

#[test]
fn values_have_their_types() {
    for (value, found) in [
        ("\"x\"", "the string \"x\""),
        ("1.5", "the float 1.5"),
        ("1979-05-27", "the date 1979-05-27"),
        ("[]", "a list"),
        ("{}", "a table"),
    ] {
        assert_eq!(
            errors_with(&format!("[vxlan]\nvni = {value}")),
            format!("f:14:7: vni: expected an integer, found {found}")
        );
    }
    assert_eq!(
        errors_with("[vxlan]\nvni = \"4096\""),
        "f:14:7: vni: expected an integer; write 4096 without quotes"
    );
    assert_eq!(
        errors_with("[vxlan]\nvni = 0xffffffffffffffffff"),
        "f:14:7: vni: 0xffffffffffffffffff is out of range"
    );
    assert_eq!(
        errors_when("[\"10.2.0.0/24\"]", "\"10.2.0.0/24\""),
        "f:11:11: subnets: expected a list, found the string \"10.2.0.0/24\""
    );
    assert_eq!(
        errors_when("[\"10.1.0.0/24\"]", "[\"10.1.0.0/24\", 4]"),
        "f:5:27: subnets: expected a string, found the integer 4"
    );
}

#[test]
fn numbers_have_their_ranges() {
    for (line, expected) in [
        ("mtu = 575", "7: mtu: 575 is out of range; use 576 to 65535; or write \"auto\""),
        ("mtu = 65536", "7: mtu: 65536 is out of range; use 576 to 65535; or write \"auto\""),
        ("workers = 0", "11: workers: 0 is out of range; use 1 to 64; or write \"auto\""),
        ("workers = 65", "11: workers: 65 is out of range; use 1 to 64; or write \"auto\""),
        ("workers = -1", "11: workers: -1 is out of range; use 1 to 64; or write \"auto\""),
    ] {
        assert_eq!(errors_with(&format!("[tunnel]\n{line}")), format!("f:14:{expected}"));
    }
    assert_eq!(with("[tunnel]\nmtu = 576\nworkers = 64").tunnel.mtu, Some(576));
}

#[test]
fn words_are_calicos_and_exact() {
    assert_eq!(
        errors_when("[[peer]]", "ipip_mode = \"crosssubnet\"\nvxlan_mode = \"yes\"\n[[peer]]"),
        "f:8:13: ipip_mode: \"crosssubnet\" is not one of \"Never\", \"CrossSubnet\", \"Always\"; \
         did you mean \"CrossSubnet\"?\n\
         f:9:14: vxlan_mode: \"yes\" is not one of \"Never\", \"CrossSubnet\", \"Always\""
    );
    assert_eq!(
        errors_with("[tunnel]\nbackend = \"tap\"\nuplink = \"sockets\"\ntso = true\ngro = \"ON\""),
        "f:14:11: backend: \"tap\" is not one of \"auto\", \"offload\", \"plain\"\n\
         f:15:10: uplink: \"sockets\" is not one of \"auto\", \"socket\", \"tap\"; did you mean \"socket\"?\n\
         f:16:7: tso: expected a string, found the boolean true\n\
         f:17:7: gro: \"ON\" is not one of \"auto\", \"on\", \"off\"; did you mean \"on\"?"
    );
}

#[test]
fn vxlan_port_and_vni() {
    for (port, reason) in [
        ("-1", "-1 is not a UDP port; use 1 to 49151, 4789 by RFC 7348"),
        ("65536", "65536 is not a UDP port; use 1 to 49151, 4789 by RFC 7348"),
        (
            "49152",
            "49152 collides with the VXLAN source ports 49152 to 65535; use 1 to 49151, 4789 by RFC 7348",
        ),
        (
            "65535",
            "65535 collides with the VXLAN source ports 49152 to 65535; use 1 to 49151, 4789 by RFC 7348",
        ),
    ] {
        assert_eq!(errors_with(&format!("[vxlan]\nport = {port}")), format!("f:14:8: port: {reason}"));
    }
    let config = with("[vxlan]\nport = 49151\nvni = 16777215");
    assert_eq!((config.vxlan.port, config.vxlan.vni.get()), (49151, 0xff_ffff));
}

#[test]
fn device_names_are_the_kernels() {
    for (name, reason) in [
        ("", "is empty"),
        ("..", "is a directory name"),
        ("lo", "is the loopback device"),
        ("abcdefghijklmnop", "is longer than 15 bytes"),
        ("a b", "contains a slash, colon, percent sign or white space"),
        ("a/b", "contains a slash, colon, percent sign or white space"),
        ("up%d", "contains a slash, colon, percent sign or white space"),
    ] {
        assert_eq!(
            errors_with(&format!("[tunnel]\ndevice = \"{name}\"")),
            format!("f:14:10: device: \"{name}\" {reason}; use an interface name like up0")
        );
    }
    assert_eq!(with("[tunnel]\ndevice = \"abcdefghijklmno\"").tunnel.device, "abcdefghijklmno");
}

#[test]
fn node_address_is_one_of_a_host() {
    for (address, reason) in [
        ("192.0.2.1", "192.0.2.1 lacks its prefix length; write it like 192.0.2.1/24"),
        ("192.0.2.1/33", "\"192.0.2.1/33\" is not an address with a prefix length like 192.0.2.1/24"),
        ("x", "\"x\" is not an address with a prefix length like 192.0.2.1/24"),
        (
            "192.0.2.0/24",
            "192.0.2.0 is the network address of 192.0.2.0/24; give the node's own address in it",
        ),
        (
            "192.0.2.255/24",
            "192.0.2.255 is the broadcast address of 192.0.2.0/24; give the node's own address in it",
        ),
        ("0.0.0.0/8", "0.0.0.0 is unspecified; give a unicast address"),
        ("127.0.0.1/8", "127.0.0.1 is loopback; give a unicast address"),
        ("169.254.1.1/16", "169.254.1.1 is link-local; give a unicast address"),
        ("224.0.0.5/24", "224.0.0.5 is multicast; give a unicast address"),
        ("255.255.255.255/32", "255.255.255.255 is broadcast; give a unicast address"),
        ("192.0.2.1/0", "192.0.2.1/0: a subnet of length 0 holds every address; write it like 192.0.2.1/24"),
        ("2001:db8::1/64", "IPv6 underlay is not supported yet; give the node's IPv4 address"),
    ] {
        assert_eq!(errors_when("192.0.2.1/24", address), format!("f:3:11: address: {reason}"));
    }
    for address in ["192.0.2.0/31", "192.0.2.1/32"] {
        assert_eq!(good(&BASE.replace("192.0.2.1/24", address)).node.address.to_string(), address);
    }
}

#[test]
fn node_address6_is_one_of_a_host() {
    for (address, reason) in [
        ("192.0.2.1/24", "192.0.2.1/24 is IPv4; it belongs in address"),
        ("2001:db8::1", "2001:db8::1 lacks its prefix length; write it like 2001:db8::1/64"),
        ("fe80::1/64", "fe80::1 is link-local; give a unicast address"),
        ("::1/128", "::1 is loopback; give a unicast address"),
        ("::/64", ":: is unspecified; give a unicast address"),
        ("ff02::1/64", "ff02::1 is multicast; give a unicast address"),
        ("::ffff:1.2.3.4/128", "::ffff:1.2.3.4 is IPv4-mapped; give a unicast address"),
    ] {
        assert_eq!(
            errors_when("[local]", &format!("address6 = \"{address}\"\n[local]")),
            format!("f:4:12: address6: {reason}")
        );
    }
}

#[test]
fn peer_address_is_another_host() {
    for (address, reason) in [
        ("x", "\"x\" is not an IP address; write one like 192.0.2.2"),
        ("192.0.2.2/24", "192.0.2.2/24 has a prefix length; write the address alone, 192.0.2.2"),
        ("0.1.2.3", "0.1.2.3 is \"this network\"; give a unicast address"),
        ("127.0.0.1", "127.0.0.1 is loopback; give a unicast address"),
        ("192.0.2.1", "192.0.2.1 is this node's own address; give the peer's"),
        (
            "192.0.2.255",
            "192.0.2.255 is the network or broadcast address of this node's subnet 192.0.2.0/24; give a host's",
        ),
        ("2001:db8::2", "IPv6 underlay is not supported yet; give the peer's IPv4 address"),
    ] {
        assert_eq!(errors_when("192.0.2.2", address), format!("f:10:11: address: {reason}"));
    }
    let text =
        BASE.replace("[local]", "address6 = \"2001:db8::1/64\"\n[local]").replace("192.0.2.2", "2001:db8::1");
    assert_eq!(
        errors(&text),
        "f:11:11: address: IPv6 underlay is not supported yet; give the peer's IPv4 address\n\
         f:11:11: address: 2001:db8::1 is this node's own address6; give the peer's"
    );
}

#[test]
fn peers_differ_from_each_other_and_from_us() {
    assert_eq!(
        errors_with("[[peer]]\nname = \"b\"\naddress = \"192.0.2.2\"\nsubnets = []\n"),
        "f:14:8: name: peer \"b\" exists already in line 9; names are unique\n\
         f:15:11: address: 192.0.2.2 is also the address of the peer in line 10; each node has its own"
    );
    assert_eq!(
        errors_when("\"b\"", "\"a\""),
        "f:9:8: name: \"a\" is this node's own name; a node is not its own peer, remove this section"
    );
}

#[test]
fn vtep_addresses_are_unicast_and_unique() {
    assert_eq!(
        errors_with("vtep_mac = \"01:00:5e:00:00:01\""),
        "f:13:12: vtep_mac: \"01:00:5e:00:00:01\" is not a unicast MAC address; write six hexadecimal bytes like \
         66:0a:1b:2c:3d:4e"
    );
    let own = Mac::of_vtep("a");
    assert_eq!(
        errors_with(&format!("vtep_mac = \"{own}\"")),
        format!("f:13:12: vtep_mac: {own} is this node's own VTEP address; give the peer's")
    );
    let other = "[[peer]]\nname = \"c\"\naddress = \"192.0.2.3\"\nsubnets = []\n";
    assert_eq!(
        errors_with(&format!("vtep_mac = \"02:00:00:00:00:01\"\n{other}vtep_mac = \"02:00:00:00:00:01\"")),
        "f:18:12: vtep_mac: 02:00:00:00:00:01 is also the VTEP address of the peer in line 13; each node has its own"
    );
    let derived = Mac::of_vtep("c");
    assert_eq!(
        errors_with(&format!("vtep_mac = \"{derived}\"\n{other}")),
        format!(
            "f:13:12: vtep_mac: {derived} is also the VTEP address of the peer in line 15; each node has its own"
        )
    );
}

#[test]
fn prefixes_are_masked_and_unicast() {
    for (subnet, reason) in [
        ("10.2.0.1/24", "\"10.2.0.1/24\" has host bits set; did you mean 10.2.0.0/24?"),
        ("224.1.0.0/16", "224.1.0.0/16 is multicast, which is never routed to pods; use a unicast prefix"),
        ("127.0.0.0/8", "127.0.0.0/8 is loopback, which is never routed to pods; use a unicast prefix"),
        (
            "169.254.7.0/24",
            "169.254.7.0/24 is link-local, which is never routed to pods; use a unicast prefix",
        ),
        ("fe80::/64", "fe80::/64 is link-local, which is never routed to pods; use a unicast prefix"),
        ("ff00::/8", "ff00::/8 is multicast, which is never routed to pods; use a unicast prefix"),
        ("::1/128", "::1/128 is loopback, which is never routed to pods; use a unicast prefix"),
        (
            "255.255.255.255/32",
            "255.255.255.255/32 is broadcast, which is never routed to pods; use a unicast prefix",
        ),
    ] {
        assert_eq!(errors_when("10.2.0.0/24", subnet), format!("f:11:12: subnets: {reason}"));
        assert_eq!(errors_when("10.0.0.0/8", subnet), format!("f:7:8: cidr: {reason}"));
    }
    for subnet in ["::/129", "10.2.0.0", "10.2/16", "10.2.0.0/"] {
        assert_eq!(
            errors_when("10.2.0.0/24", subnet),
            format!(
                "f:11:12: subnets: \"{subnet}\" is not an IP prefix; write an address and a length like \
                 10.244.1.0/24 (at most /32 for IPv4, /128 for IPv6)"
            )
        );
    }
}

#[test]
fn a_prefix_has_one_owner() {
    let peer =
        |subnets: &str| format!("[[peer]]\nname = \"c\"\naddress = \"192.0.2.3\"\nsubnets = [{subnets}]\n");
    assert_eq!(
        errors_with(&peer("\"10.2.0.0/24\"")),
        "f:16:12: subnets: overlapping peer subnets with equal length: 10.2.0.0/24 belongs to peer \"b\" (line 11) \
         and to peer \"c\"; a prefix has one owner"
    );
    assert_eq!(
        errors_with(&peer("\"10.1.0.0/24\"")),
        "f:16:12: subnets: overlapping peer subnets with equal length: 10.1.0.0/24 belongs to this node (line 5) \
         and to peer \"c\"; a prefix has one owner"
    );
    assert_eq!(
        errors_with(&peer("\"10.3.0.0/24\", \"10.3.0.0/24\"")),
        "f:16:27: subnets: 10.3.0.0/24 is given twice, first in line 16; remove one"
    );
    assert_eq!(
        errors_with("[[pool]]\ncidr = \"10.0.0.0/8\"\n"),
        "f:14:8: cidr: 10.0.0.0/8 is given twice, first in line 7; remove one"
    );
    // A nameless peer is called by its line.
    let nameless = peer("\"10.2.0.0/24\"").replace("name = \"c\"\n", "");
    assert!(errors_with(&nameless).ends_with("(line 11) and to the peer in line 13; a prefix has one owner"));
}

#[test]
fn nested_prefixes_are_fine() {
    let config = with(
        "[[peer]]\nname = \"c\"\naddress = \"192.0.2.3\"\nsubnets = [\"10.2.0.64/26\", \"10.1.0.128/25\"]\n\
         [[pool]]\ncidr = \"10.2.0.0/16\"\nipip_mode = \"Always\"\n\
         [[pool]]\ncidr = \"fd00::/16\"\nipip_mode = \"CrossSubnet\"\n",
    );
    assert_eq!(config.peers[1].subnets.len(), 2);
    assert_eq!(config.pools[2].ipip_mode, EncapMode::CrossSubnet);
}

#[test]
fn node_addresses_are_never_routed_into_the_tunnel() {
    let tail = "packets to this node would be routed into the tunnel";
    assert_eq!(
        errors_when("10.0.0.0/8", "192.0.2.0/30"),
        format!(
            "f:3:11: address: 192.0.2.1 lies inside pool 192.0.2.0/30 (line 7); {tail}\n\
             f:10:11: address: 192.0.2.2 lies inside pool 192.0.2.0/30 (line 7); {tail}"
        )
    );
    assert_eq!(
        errors_when("10.1.0.0/24", "192.0.2.2/31"),
        format!("f:10:11: address: 192.0.2.2 lies inside local subnet 192.0.2.2/31 (line 5); {tail}")
    );
    assert_eq!(
        errors_when("10.2.0.0/24", "192.0.2.0/31"),
        format!("f:3:11: address: 192.0.2.1 lies inside subnet 192.0.2.0/31 of peer \"b\" (line 11); {tail}")
    );
    let text = BASE
        .replace("[local]", "address6 = \"fd00::1/64\"\n[local]")
        .replace("\"10.2.0.0/24\"", "\"fd00::/32\"");
    assert_eq!(
        errors(&text),
        format!("f:4:12: address6: fd00::1 lies inside subnet fd00::/32 of peer \"b\" (line 12); {tail}")
    );
}

#[test]
fn a_default_route_holds_every_node() {
    let reason = "contains every node's address; packets to them would be routed into the tunnel; list the prefixes \
                  without node addresses instead";
    let zero = "0.0.0.0/0";
    assert_eq!(errors_when("10.2.0.0/24", zero), format!("f:11:12: subnets: 0.0.0.0/0 {reason}"));
    assert_eq!(errors_when("10.1.0.0/24", zero), format!("f:5:12: subnets: 0.0.0.0/0 {reason}"));
    assert_eq!(errors_when("10.0.0.0/8", zero), format!("f:7:8: cidr: 0.0.0.0/0 {reason}"));
    // Over IPv4, an exit for all of IPv6 loops nothing.
    let exit = BASE.replace("10.2.0.0/24", "::/0");
    assert!(good(&exit).peers[0].subnets[0].is_default());
    let text = exit.replace("[local]", "address6 = \"2001:db8::1/64\"\n[local]");
    assert_eq!(errors(&text), format!("f:12:12: subnets: ::/0 {reason}"));
}

#[test]
fn one_encapsulation_for_a_pool() {
    assert_eq!(
        errors_when("cidr", "vxlan_mode = \"CrossSubnet\"\nipip_mode = \"Always\"\ncidr"),
        "f:8:13: ipip_mode \"Always\" and vxlan_mode \"CrossSubnet\" in one pool; set one of them to \"Never\""
    );
}

#[test]
fn tunnel_address_is_ours_alone() {
    for (address, reason) in [
        ("x", "\"x\" is not an IP address; write one like 10.244.1.0; or write \"auto\""),
        (
            "10.1.0.0/32",
            "10.1.0.0/32 has a prefix length; write the address alone, 10.1.0.0; or write \"auto\"",
        ),
        ("127.0.0.1", "127.0.0.1 is loopback; give a unicast address; or write \"auto\""),
        (
            "192.0.2.1",
            "192.0.2.1 is a node's underlay address; give the tunnel an address of its own, or write \"auto\"",
        ),
        (
            "10.2.0.9",
            "10.2.0.9 belongs to subnet 10.2.0.0/24 of peer \"b\" (line 11); give an address of a local subnet, \
             or write \"auto\"",
        ),
    ] {
        assert_eq!(
            errors_with(&format!("[tunnel]\naddress = \"{address}\"")),
            format!("f:14:11: address: {reason}")
        );
    }
}

#[test]
fn automatic_tunnel_address_needs_a_fit_local_subnet() {
    let none = "no local subnet for tunnel.address \"auto\"; give [local] subnets, or tunnel.address";
    assert_eq!(errors_when("subnets = [\"10.1.0.0/24\"]", ""), format!("f:4:1: {none}"));
    assert_eq!(errors_when("[\"10.1.0.0/24\"]", "[]"), format!("f:4:1: {none}"));
    let absent = BASE.replace("[local]\nsubnets = [\"10.1.0.0/24\"]\n", "");
    assert_eq!(errors(&absent), format!("f:1:1: {none}"));
    let given = good(&format!("{absent}[tunnel]\naddress = \"10.9.0.1\""));
    assert!(given.local_subnets.is_empty());
    // What is wrong with the subnets themselves is not reported a second time.
    assert_eq!(
        errors_when("[\"10.1.0.0/24\"]", "7"),
        "f:5:11: subnets: expected a list, found the integer 7"
    );
    assert_eq!(
        errors_when("10.2.0.0/24", "10.1.0.0/28"),
        "f:5:12: subnets: the first of 10.1.0.0/24 cannot be the tunnel's address: 10.1.0.0 belongs to subnet \
         10.1.0.0/28 of peer \"b\" (line 11); set tunnel.address"
    );
    assert_eq!(
        errors_when("10.1.0.0/24", "::/3"),
        "f:5:12: subnets: the first of ::/3 cannot be the tunnel's address: :: is unspecified; give a unicast \
         address; set tunnel.address"
    );
}

#[test]
fn ipv6_pods_need_its_mtu() {
    let text = BASE.replace("10.1.0.0/24\"", "10.1.0.0/24\", \"fd00::/64\"");
    assert_eq!(
        errors(&format!("{text}[tunnel]\nmtu = 1279")),
        "f:14:7: mtu: 1279 is too small for IPv6, which this node's pods use; use at least 1280"
    );
    assert_eq!(good(&format!("{text}[tunnel]\nmtu = 1280")).tunnel.mtu, Some(1280));
}

#[test]
fn plain_backend_promises_neither_queues_nor_offload() {
    assert_eq!(
        errors_with("[tunnel]\nbackend = \"plain\"\nworkers = 2\ntso = \"on\"\nuso = \"off\"\ngro = \"on\""),
        "f:15:11: workers: 2 workers need a queue each, but backend \"plain\" has one; use 1\n\
         f:16:7: tso: \"on\" needs backend \"offload\", but backend is \"plain\"; use \"auto\" or \"off\"\n\
         f:18:7: gro: \"on\" needs backend \"offload\", but backend is \"plain\"; use \"auto\" or \"off\""
    );
    assert_eq!(with("[tunnel]\nbackend = \"plain\"\nworkers = 1").tunnel.backend, Backend::Plain);
}

#[test]
fn socket_path_fits_the_kernel() {
    let long = format!("/{}", "x".repeat(107));
    for (path, reason) in [
        ("run/x", "\"run/x\" is not an absolute path; write one like /run/underpass/underpass.sock"),
        ("/run/", "\"/run/\" names a directory; write one like /run/underpass/underpass.sock"),
        ("/a\\u0000", "\"/a\\0\" contains a NUL byte; write one like /run/underpass/underpass.sock"),
        (&long, &format!("\"{}…\" has 108 bytes; a socket path has at most 107", &long[..64])),
    ] {
        assert_eq!(
            errors_with(&format!("[control]\nsocket = \"{path}\"")),
            format!("f:14:10: socket: {reason}")
        );
    }
    let config = with(&format!("[control]\nsocket = \"{}\"", &long[..107]));
    assert_eq!(config.control.socket.as_os_str().len(), 107);
}

#[test]
fn metrics_listener_is_an_address_with_a_port() {
    for listen in ["127.0.0.1", "localhost:9091", ":9091"] {
        assert_eq!(
            errors_with(&format!("[metrics]\nlisten = \"{listen}\"")),
            format!(
                "f:14:10: listen: \"{listen}\" is not an address with a port; write one like 127.0.0.1:9091 or \
                 [::1]:9091"
            )
        );
    }
    assert_eq!(with("[metrics]").metrics, None);
}

#[test]
fn hostile_text_stays_on_one_printable_line() {
    let printed = errors_with("[tunnel]\ndevice = \"\\u001b[2J\\nf:1:1: \\u202e\"");
    assert_eq!(
        printed,
        "f:14:10: device: \"\\u{1b}[2J\\nf:1:1: \\u{202e}\" contains a slash, colon, percent sign or white space; \
         use an interface name like up0"
    );
    let long = errors_when("10.2.0.0/24", &"9".repeat(10_000));
    assert_eq!(long.chars().count(), "f:11:12: ".len() + 501);
    assert!(long.ends_with("9…"));
}

#[test]
fn unreadable_files_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("none.toml");
    let error = load(&missing).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "{}: cannot read the configuration file: No such file or directory (os error 2)",
            missing.display()
        )
    );
    assert_eq!((error.errors[0].line, error.errors[0].column), (0, 0));
    let binary = dir.path().join("binary.toml");
    std::fs::write(&binary, b"# \xc3\xa9\nx = \"\xff\"").unwrap();
    assert_eq!(
        load(&binary).unwrap_err().to_string(),
        format!("{}:2:6: not UTF-8, which TOML must be; save the file as UTF-8", binary.display())
    );
    let endless = load(Path::new("/dev/zero")).unwrap_err().to_string();
    assert_eq!(endless, "/dev/zero: cannot read the configuration file: larger than 16 MiB");
}

/// Whatever comes in, the answer is a configuration or errors with positions inside the text.
fn judge(text: &str) {
    let Err(found) = parse(text, "f") else { return };
    assert!(!found.errors.is_empty());
    let lines = text.split('\n').count();
    assert!(found.errors.iter().all(|e| (1..=lines).contains(&e.line) && e.column >= 1));
    assert!(found.errors.is_sorted_by_key(|e| (e.line, e.column)));
    assert_eq!(found.to_string().lines().count(), found.errors.len());
}

proptest! {
    #[test]
    fn never_panics_on_text(text in ".*") {
        judge(&text);
    }

    #[test]
    fn never_panics_on_tokens(tokens in prop::collection::vec(prop::sample::select(TOKENS), 0..40)) {
        judge(&tokens.concat());
    }

    #[test]
    fn never_panics_on_mutations(cuts in prop::collection::vec((0..EXAMPLE.len(), 0..40_usize, ".{0,6}"), 1..6)) {
        let mut text: Vec<char> = EXAMPLE.chars().collect();
        for (at, len, new) in cuts {
            let at = at.min(text.len());
            let end = (at + len).min(text.len());
            text.splice(at..end, new.chars());
        }
        judge(&text.into_iter().collect::<String>());
    }

    #[test]
    fn never_panics_on_other_values(
        line in 0..EXAMPLE.lines().count(),
        value in prop::sample::select(TOKENS),
    ) {
        let swap = |(index, text): (usize, &str)| match text.split_once(" = ") {
            Some((key, _)) if index == line => format!("{key} = {value}\n"),
            _ => format!("{text}\n"),
        };
        judge(&EXAMPLE.lines().enumerate().map(swap).collect::<String>());
    }
}

const TOKENS: &[&str] = &[
    "\n",
    " = ",
    "[",
    "]",
    "[[",
    "]]",
    "{",
    "}",
    ",",
    ".",
    "\"",
    "'",
    "\"\"\"",
    "#",
    "-1",
    "0",
    "1e9",
    "nan",
    "true",
    "\"0.0.0.0/0\"",
    "\"::/0\"",
    "\"10.0.0.0/8\"",
    "\"ff02::1\"",
    "99999999999999999999",
    "0x",
    "[]",
    "{}",
    "[\"10.0.0.0/8\", 1]",
    "1979-05-27",
    "\"\\u0000\"",
    "\"auto\"",
    "[node]\n",
    "[[peer]]\n",
    "[[pool]]\n",
    "[peer]\n",
    "node.name",
    "tunnel.mtu",
    "name",
    "address",
    "subnets",
    "cidr",
    "vtep_mac",
    "é",
    "\u{feff}",
    "\r",
];
