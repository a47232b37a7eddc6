//! The rules between values.

use super::{BASE, errors, errors_when, errors_with, good, with};
use crate::config::Backend;
use crate::net::{EncapMode, Mac};

#[test]
fn peer_address_is_another_host() {
    for (address, reason) in [
        ("x/y", "\"x/y\" is not an IP address; write one like 192.0.2.2 or a host name like node-b.example"),
        ("192.0.2.2/24", "192.0.2.2/24 has a prefix length; write the address alone, 192.0.2.2"),
        ("0.1.2.3", "0.1.2.3 is \"this network\"; give a unicast address"),
        ("127.0.0.1", "127.0.0.1 is loopback; give a unicast address"),
        ("192.0.2.1", "192.0.2.1 is this node's own address; give the peer's"),
        (
            "192.0.2.255",
            "192.0.2.255 is the network or broadcast address of this node's subnet 192.0.2.0/24; give a host's",
        ),
        ("2001:db8::2", "IPv6 needs this node's own IPv6 address; give address6 under [node]"),
    ] {
        assert_eq!(errors_when("192.0.2.2", address), format!("f:10:11: address: {reason}"));
    }
    let text =
        BASE.replace("[local]", "address6 = \"2001:db8::1/64\"\n[local]").replace("192.0.2.2", "2001:db8::1");
    assert_eq!(errors(&text), "f:11:11: address: 2001:db8::1 is this node's own address6; give the peer's");
}

/// The base file of a node with an IPv6 underlay address too; one line longer.
fn dual() -> String {
    BASE.replace("[local]", "address6 = \"2001:db8::1/64\"\n[local]")
}

#[test]
fn a_peer_is_reached_over_a_family_that_both_have() {
    let addresses = |text: &str| {
        let config = good(text);
        let addresses: Vec<_> = config.peers[0].addresses(&config.node).map(|a| a.to_string()).collect();
        addresses.join(" ")
    };
    let only6 = dual().replace("address = \"192.0.2.1/24\"\n", "");
    let both = |text: &str| text.replace("\"192.0.2.2\"", "\"192.0.2.2\"\naddress6 = \"2001:db8::2\"");
    let six = |text: &str| text.replace("192.0.2.2", "2001:db8::2");
    assert_eq!(addresses(&both(BASE)), "192.0.2.2");
    assert_eq!(addresses(&dual()), "192.0.2.2");
    assert_eq!(addresses(&both(&dual())), "192.0.2.2 2001:db8::2");
    assert_eq!(addresses(&six(&dual())), "2001:db8::2");
    assert_eq!(addresses(&six(&only6)), "2001:db8::2");
    assert_eq!(addresses(&both(&only6)), "2001:db8::2");
    assert_eq!(
        errors(&only6),
        "f:10:11: address: IPv4 needs this node's own IPv4 address; give address under [node], or the peer's address6"
    );
    assert_eq!(
        errors(
            &both(&six(&dual()))
                .replace("\"2001:db8::2\"\n", "\"2001:db8::2\"\naddress6 = \"2001:db8::3\"\n")
        ),
        "f:12:12: address6: address is IPv6 already; give the peer's IPv4 address there, or leave this out"
    );
}

#[test]
fn peer_address6_is_another_host() {
    for (address, reason) in [
        ("192.0.2.3", "192.0.2.3 is IPv4; it belongs in address"),
        ("2001:db8::1", "2001:db8::1 is this node's own address6; give the peer's"),
        ("fe80::2", "fe80::2 is link-local; give a unicast address"),
    ] {
        let text = dual().replace("\"192.0.2.2\"", &format!("\"192.0.2.2\"\naddress6 = \"{address}\""));
        assert_eq!(errors(&text), format!("f:12:12: address6: {reason}"));
    }
    let peer = "address6 = \"2001:db8::2\"\n[[peer]]\nname = \"c\"\naddress = \"192.0.2.3\"\nsubnets = []\n\
                address6 = \"2001:db8::2\"\n";
    assert_eq!(
        errors(&(dual() + peer)),
        "f:19:12: address6: 2001:db8::2 is also the address of the peer in line 14; each node has its own"
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
    // A pool with nodes in it is not routed as a whole.
    assert_eq!(good(&BASE.replace("10.0.0.0/8", "192.0.2.0/30")).pools.len(), 1);
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
    let pool = "is every address, not only those of pods; list the prefixes of the pods instead";
    let zero = "0.0.0.0/0";
    assert_eq!(errors_when("10.2.0.0/24", zero), format!("f:11:12: subnets: 0.0.0.0/0 {reason}"));
    assert_eq!(errors_when("10.1.0.0/24", zero), format!("f:5:12: subnets: 0.0.0.0/0 {reason}"));
    assert_eq!(errors_when("10.0.0.0/8", zero), format!("f:7:8: cidr: 0.0.0.0/0 {pool}"));
    // Over IPv4, an exit for all of IPv6 loops nothing.
    let exit = BASE.replace("10.2.0.0/24", "::/0");
    assert!(good(&exit).peers[0].subnets[0].is_default());
    let text = exit.replace("[local]", "address6 = \"2001:db8::1/64\"\n[local]");
    assert_eq!(errors(&text), format!("f:12:12: subnets: ::/0 {reason}"));
    // And the other way round.
    let exit = dual().replace("address = \"192.0.2.1/24\"\n", "").replace("192.0.2.2", "2001:db8::2");
    assert!(good(&exit.replace("10.2.0.0/24", "0.0.0.0/0")).peers[0].subnets[0].is_default());
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
fn a_list_of_senders_is_about_what_nobody_owns() {
    let good = with(
        "sends_for = [\"10.8.0.0/24\", \"10.0.0.0/8\", \"fd00:8::/64\"]\nalso_from = [\"192.0.2.12\"]\n",
    );
    assert_eq!((good.peers[0].sends_for.len(), good.peers[0].also_from.len()), (3, 1));
    for (prefix, reason) in [
        ("0.0.0.0/0", "0.0.0.0/0 would let the node speak for everybody; list the networks behind it"),
        ("127.0.0.0/8", "127.0.0.0/8 is loopback, which is never routed to pods; use a unicast prefix"),
        (
            "169.254.0.0/16",
            "169.254.0.0/16 is link-local, which is never routed to pods; use a unicast prefix",
        ),
        (
            "10.1.0.0/25",
            "10.1.0.0/25 lies inside local subnet 10.1.0.0/24 (line 5), whose owner alone may send from there; \
             remove it",
        ),
        (
            "10.2.0.0/24",
            "10.2.0.0/24 lies inside subnet 10.2.0.0/24 of peer \"b\" (line 11), which it may send from anyway; \
             remove it",
        ),
    ] {
        let expected = format!("f:13:14: sends_for: {reason}");
        assert_eq!(errors_with(&format!("sends_for = [\"{prefix}\"]")), expected);
    }
    let local = |prefix: &str| {
        BASE.replacen("\"10.1.0.0/24\"]", &format!("\"10.1.0.0/24\"]\nsends_for = [\"{prefix}\"]"), 1)
    };
    assert_eq!(super::good(&local("10.8.0.0/24")).local_sends_for.len(), 1);
    assert_eq!(
        errors(&local("10.2.0.9/32")),
        "f:6:14: sends_for: 10.2.0.9/32 lies inside subnet 10.2.0.0/24 of peer \"b\" (line 12), whose owner alone \
         may send from there; remove it"
    );
}

#[test]
fn every_address_that_a_peer_sends_from_is_its_own() {
    for (address, reason) in [
        ("192.0.2.1", "192.0.2.1 is this node's own address; give the peer's"),
        ("192.0.2.2", "192.0.2.2 is also the address of the peer in line 10; each node has its own"),
        ("10.2.0.1/32", "10.2.0.1/32 has a prefix length; write the address alone, 10.2.0.1"),
        ("ff02::1", "ff02::1 is multicast; give a unicast address"),
    ] {
        let expected = format!("f:13:14: also_from: {reason}");
        assert_eq!(errors_with(&format!("also_from = [\"{address}\"]")), expected);
    }
    let other =
        "also_from = [\"192.0.2.12\"]\n[[peer]]\nname = \"c\"\naddress = \"192.0.2.12\"\nsubnets = []\n";
    assert_eq!(
        errors_with(other),
        "f:16:11: address: 192.0.2.12 is also the address of the peer in line 13; each node has its own"
    );
}
