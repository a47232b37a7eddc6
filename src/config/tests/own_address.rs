//! Rules for this node's address, and peers at host names: what is understood, and what is wrong where.

use super::{errors, good};
use crate::config::{AddressRule, Destination};

/// A file with these keys under `[node]`.
fn file(keys: &str) -> String {
    format!("[node]\nname = \"a\"\n{keys}\n[local]\nsubnets = [\"10.1.0.0/24\"]\n")
}

#[test]
fn calicos_words_are_understood() {
    for words in [
        "first-found",
        "can-reach=192.0.2.9",
        "can-reach=gw.example",
        "interface=eth.*,^en[0-9]+$",
        r"interface=^(?i)eth\\d+$,ens\\w",
        "skip-interface=wlan.*",
        "cidr=192.0.2.0/24,10.0.0.0/8",
    ] {
        let node = good(&file(&format!("address = \"{words}\""))).node;
        assert_eq!((node.address, node.address6_rule), (None, None));
        assert_eq!(node.address_rule.unwrap().to_string(), words.replace(r"\\", r"\"));
    }
    let node = good(&file("address = \"auto\"\naddress6 = \"cidr=2001:db8::/32\"")).node;
    assert_eq!(node.address_rule, Some(AddressRule::FirstFound));
    assert_eq!(node.address6_rule.unwrap().to_string(), "cidr=2001:db8::/32");
    let node = good(&file("address = \"interface=a, b\"")).node;
    assert_eq!(node.address_rule, good(&file("address = \"interface=a,b\"")).node.address_rule);
    let AddressRule::CanReach(Destination::Name(name)) =
        good(&file("address = \"can-reach=GW.example.\"")).node.address_rule.unwrap()
    else {
        panic!("no name");
    };
    assert_eq!(name.as_str(), "gw.example");
}

#[test]
fn auto_is_the_clusters_where_there_is_one() {
    let section = "[source.kubernetes]\nnode_name = \"n1\"\n";
    let node = good(&format!("[node]\naddress = \"auto\"\n{section}")).node;
    assert_eq!((node.address, node.address_rule), (None, None));
    let node = good(&format!("[node]\naddress = \"first-found\"\n{section}")).node;
    assert_eq!(node.address_rule, Some(AddressRule::FirstFound));
}

#[test]
fn what_is_wrong_is_said_with_its_place() {
    let long = "x".repeat(257);
    let many = vec!["a"; 65].join(",");
    for (words, expected) in [
        ("first-fund", "\"first-fund\" is not known; did you mean \"first-found\"?"),
        ("first-found=eth0", "first-found: first-found takes nothing behind it; write \"first-found\""),
        ("interface", "\"interface\" lacks what it is about; write it like interface=^eth.*"),
        (
            "interfaces=eth0",
            "interfaces: \"interfaces=\" is not one of can-reach=, interface=, skip-interface=, cidr=; did you mean \"interface\"?",
        ),
        ("interface=", "interface: an element is empty; write one behind the sign and behind each comma"),
        ("interface=a,,b", "interface: an element is empty; write one behind the sign and behind each comma"),
        ("interface=a(", "interface: \"a(\" is not a regular expression: unclosed group"),
        (
            "interface=(((a{99}){99}){99})",
            "interface: \"(((a{99}){99}){99})\" is not a regular expression: Compiled regex exceeds size limit of 65536 bytes.",
        ),
        (&format!("interface={long}"), "interface: a pattern has 257 bytes; use at most 256"),
        (&format!("skip-interface={many}"), "skip-interface: 65 elements; use at most 64"),
        ("cidr=192.0.2.1/24", "cidr: \"192.0.2.1/24\" has host bits set; did you mean 192.0.2.0/24?"),
        ("cidr=2001:db8::/32", "cidr: 2001:db8:: is IPv6; it belongs in address6"),
        ("can-reach=", "can-reach: \"\" is neither an address nor a host name"),
        ("can-reach=127.0.0.1", "can-reach: 127.0.0.1 is loopback; give a unicast address"),
        ("can-reach=2001:db8::1", "can-reach: 2001:db8::1 is IPv6; it belongs in address6"),
        ("can-reach=192.0.2.300", "can-reach: \"192.0.2.300\" is neither an address nor a host name"),
        (
            "kubernetes-internal-ip",
            "kubernetes-internal-ip: with [source.kubernetes] write \"auto\" or leave the key out, the node's address there is taken then",
        ),
    ] {
        assert_eq!(errors(&file(&format!("address = \"{words}\""))), format!("f:3:11: address: {expected}"));
    }
    assert_eq!(
        errors(&file("address6 = \"cidr=192.0.2.0/24\"")),
        "f:3:12: address6: cidr: 192.0.2.0 is IPv4; it belongs in address"
    );
}

#[test]
fn peers_may_have_names_for_addresses() {
    let text = file("address = \"192.0.2.1/24\"")
        + "[[peer]]\nname = \"b\"\naddress = \"Node-B.example\"\nsubnets = [\"10.2.0.0/24\"]\nport = 7\n\
           [[peer]]\nname = \"c\"\naddress = \"192.0.2.3\"\nsubnets = []\n";
    let config = good(&text);
    assert_eq!((config.peers.len(), config.named_peers.len()), (1, 1));
    let named = &config.named_peers[0];
    assert_eq!(named.address.as_str(), "node-b.example");
    let peer = named.at("192.0.2.2".parse().unwrap(), None);
    assert_eq!((peer.name.as_str(), peer.port, peer.subnets.len()), ("b", Some(7), 1));
    for (address, expected) in [
        (
            "192.0.2.300",
            "\"192.0.2.300\" is not an IP address; write one like 192.0.2.2 or a host name like node-b.example",
        ),
        ("a b", "\"a b\" is not an IP address; write one like 192.0.2.2 or a host name like node-b.example"),
    ] {
        let errors = errors(&text.replace("Node-B.example", address));
        assert_eq!(errors, format!("f:8:11: address: {expected}"));
    }
    let twice = text.replace("\"192.0.2.3\"", "\"node-b.example.\"");
    assert_eq!(
        errors(&twice),
        "f:13:11: address: node-b.example is also the address of the peer in line 8; each node has its own"
    );
    // What does not depend on the address is judged as ever.
    let same = text.replace("subnets = []", "subnets = [\"10.2.0.0/24\"]");
    assert!(errors(&same).contains("overlapping peer subnets"));
    let further = text.replace("port = 7", "also_from = [\"b2.example\"]");
    assert!(errors(&further).contains("also_from: \"b2.example\" is not an IP address"));
}
