//! The rules of single values.

use super::{BASE, errors_when, errors_with, good, with};
use crate::config::Dscp;

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
        ("dscp = 64", "8: dscp: 64 is out of range; use 0 to 63; or write \"inherit\""),
        ("dscp = \"ef\"", "8: dscp: expected an integer, found the string \"ef\"; or write \"inherit\""),
    ] {
        assert_eq!(errors_with(&format!("[tunnel]\n{line}")), format!("f:14:{expected}"));
    }
    assert_eq!(with("[tunnel]\ndscp = 63").tunnel.dscp, Dscp::Fixed(63));
    assert_eq!(with("[tunnel]\nmtu = 576\nworkers = 64").tunnel.mtu, Some(576));
}

#[test]
fn pods_may_nest_and_strangers_may_send_only_by_permission() {
    let config = with("");
    assert!(!config.tunnel.allow_nested && config.node.external_nodes.is_empty());
    assert!(with("[tunnel]\nallow_nested = true").tunnel.allow_nested);
    assert_eq!(
        errors_with("[tunnel]\nallow_nested = \"yes\""),
        "f:14:16: allow_nested: expected true or false, found the string \"yes\""
    );
    let node = |list: &str| format!("external_nodes = {list}\n[local]");
    let config = good(&BASE.replacen("[local]", &node("[\"198.51.100.0/24\", \"2001:db8:7::/48\"]"), 1));
    let texts: Vec<_> = config.node.external_nodes.iter().map(ToString::to_string).collect();
    assert_eq!(texts, ["198.51.100.0/24", "2001:db8:7::/48"]);
    assert_eq!(
        errors_when("[local]", &node("[\"0.0.0.0/0\", \"127.0.0.0/8\", \"198.51.100.7/24\"]")),
        "f:4:19: external_nodes: 0.0.0.0/0 would accept tunnel packets from everybody; \
         list the networks of the nodes\n\
         f:4:32: external_nodes: 127.0.0.0/8 is loopback, from where no node sends; use a unicast prefix\n\
         f:4:47: external_nodes: \"198.51.100.7/24\" has host bits set; did you mean 198.51.100.0/24?"
    );
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
        errors_when("[[peer]]", "nat_outgoing = \"true\"\nnatOutgoing = true\n[[peer]]"),
        "f:8:16: nat_outgoing: expected a boolean; write true without quotes\n\
         f:9:1: unknown key \"natOutgoing\" in [[pool]]; did you mean \"nat_outgoing\"?"
    );
    assert_eq!(
        errors_when("[[peer]]", "vxlan_mode = \"Always\"\nverify = true\n[[peer]]"),
        "f:9:10: verify: only a pool with a mode \"CrossSubnet\" has a direct path to verify and a tunnel to take \
         instead; set one of its modes to that, or remove this"
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
fn a_peer_may_have_a_port_of_its_own() {
    assert_eq!(with("").peers[0].port, None);
    for port in [1, 49152, 65535] {
        assert_eq!(with(&format!("port = {port}")).peers[0].port, Some(port));
    }
    for port in ["0", "65536", "-1"] {
        let reason = format!("{port} is out of range; use 1 to 65535");
        assert_eq!(errors_with(&format!("port = {port}")), format!("f:13:8: port: {reason}"));
    }
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
        ("2001:db8::1/64", "2001:db8::1/64 is IPv6; it belongs in address6"),
    ] {
        assert_eq!(errors_when("192.0.2.1/24", address), format!("f:3:11: address: {reason}"));
    }
    for address in ["192.0.2.0/31", "192.0.2.1/32"] {
        assert_eq!(good(&BASE.replace("192.0.2.1/24", address)).node.address.unwrap().to_string(), address);
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
