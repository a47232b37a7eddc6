//! What each style makes of the objects of a cluster.

use std::collections::BTreeMap;

use kube::api::DynamicObject;
use serde_json::json;

use super::facts::{AffinityFacts, BlockFacts, Facts, NodeFacts, PoolFacts};
use super::{discover, objects, style_of};
use crate::config::Style;
use crate::control::source::discovered::Discovered;
use crate::route::Pool;

/// A node as old as `created`.
fn node(created: i64, address: &str, cidrs: &[&str], annotations: &[(&str, &str)]) -> NodeFacts {
    NodeFacts {
        created,
        addresses: address.split(' ').filter(|address| !address.is_empty()).map(str::to_owned).collect(),
        pod_cidrs: cidrs.iter().map(|cidr| (*cidr).to_owned()).collect(),
        annotations: annotations
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect(),
        network_unavailable: None,
    }
}

fn facts<const N: usize>(nodes: [(&str, NodeFacts); N]) -> Facts {
    let nodes: BTreeMap<String, NodeFacts> = nodes.map(|(name, node)| (name.to_owned(), node)).into();
    Facts { nodes, ..Facts::default() }
}

/// Nodes with what is known of them, and what was left out.
fn told(found: &Discovered) -> (Vec<String>, Vec<String>) {
    let node = |node: &crate::control::source::discovered::Node| {
        let subnets: Vec<_> = node.subnets.iter().map(ToString::to_string).collect();
        let second = node.address6.map_or(String::new(), |address| format!("+{address}"));
        let mac = node.vtep_mac.map_or(String::new(), |mac| format!(" {mac}"));
        format!("{} {}{second}{mac} {}", node.name, node.address, subnets.join(" "))
    };
    let refused = found.refused.iter().map(|refused| format!("{}: {}", refused.object, refused.reason));
    (found.nodes.iter().map(node).collect(), refused.collect())
}

fn words(pools: &[Pool]) -> Vec<String> {
    pools.iter().map(|pool| format!("{} {} {}", pool.cidr, pool.ipip_mode, pool.vxlan_mode)).collect()
}

#[test]
fn native_nodes_are_addresses_and_pod_cidrs() {
    let facts = facts([
        ("own", node(5, "192.0.2.1 2001:db8::1", &["10.1.0.0/24", "fd00:1::/64"], &[])),
        ("young", node(9, "192.0.2.3", &["10.3.0.0/24"], &[])),
        ("old", node(1, "junk 2001:db8::2 192.0.2.2", &["10.2.0.0/24", "fd00:2::/64", "10.2.0.1/24"], &[])),
        ("six", node(2, "2001:db8::6", &["fd00:6::/64"], &[])),
        ("lost", node(3, "", &["10.9.0.0/24"], &[])),
        ("bare", node(4, "192.0.2.4", &[], &[])),
    ]);
    let found = discover(&facts, Style::Native, "own");
    assert!(found.own.is_known);
    assert_eq!(found.own.addresses.len(), 2);
    assert_eq!(found.own.subnets, ["10.1.0.0/24".parse().unwrap(), "fd00:1::/64".parse().unwrap()]);
    let (nodes, refused) = told(&found);
    assert_eq!(
        nodes,
        [
            "old 192.0.2.2+2001:db8::2 10.2.0.0/24 fd00:2::/64",
            "six 2001:db8::6 fd00:6::/64",
            "bare 192.0.2.4 ",
            "young 192.0.2.3 10.3.0.0/24"
        ]
    );
    assert_eq!(refused.len(), 2, "{refused:?}");
    assert!(refused[0].starts_with("node old: podCIDR 10.2.0.1/24: "), "{refused:?}");
    assert_eq!(refused[1], "node lost: it has no address of type InternalIP");
}

const FLANNEL: [(&str, &str); 4] = [
    ("flannel.alpha.coreos.com/kube-subnet-manager", "true"),
    ("flannel.alpha.coreos.com/backend-type", "vxlan"),
    ("flannel.alpha.coreos.com/backend-data", r#"{"VNI":1,"VtepMAC":"02:00:00:00:00:02"}"#),
    ("flannel.alpha.coreos.com/public-ip", "192.0.2.2"),
];

fn with(changes: &[(&str, &str)]) -> Vec<(String, String)> {
    let mut all: BTreeMap<String, String> =
        FLANNEL.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    for (key, value) in changes {
        let key = format!("flannel.alpha.coreos.com/{key}");
        if value.is_empty() { drop(all.remove(&key)) } else { drop(all.insert(key, (*value).to_owned())) }
    }
    all.into_iter().collect()
}

fn flannel_node(created: i64, cidrs: &[&str], changes: &[(&str, &str)]) -> NodeFacts {
    NodeFacts { annotations: with(changes).into_iter().collect(), ..node(created, "192.0.2.99", cidrs, &[]) }
}

#[test]
fn flannel_nodes_say_where_they_are_by_annotations() {
    let mut facts = facts([
        ("own", node(5, "192.0.2.1", &["10.244.1.0/24"], &[])),
        ("n2", flannel_node(1, &["10.244.2.0/24"], &[])),
        (
            "n3",
            flannel_node(
                2,
                &["10.244.3.0/24"],
                &[("public-ip", "192.0.2.3"), ("backend-data", r#"{"VtepMAC":"02:00:00:00:00:03"}"#)],
            ),
        ),
        ("wg", flannel_node(3, &["10.244.4.0/24"], &[("backend-type", "wireguard")])),
        ("udp", flannel_node(3, &["10.244.4.0/24"], &[("backend-type", "")])),
        (
            "other",
            flannel_node(
                3,
                &["10.244.5.0/24"],
                &[("backend-data", r#"{"VNI":7,"VtepMAC":"02:00:00:00:00:05"}"#)],
            ),
        ),
        ("junk", flannel_node(3, &["10.244.6.0/24"], &[("backend-data", "{")])),
        ("null", flannel_node(3, &["10.244.6.0/24"], &[("backend-data", "null")])),
        (
            "group",
            flannel_node(
                3,
                &["10.244.6.0/24"],
                &[("backend-data", r#"{"VNI":1,"VtepMAC":"01:00:5e:00:00:05"}"#)],
            ),
        ),
        ("where", flannel_node(3, &["10.244.7.0/24"], &[("public-ip", "nowhere")])),
        ("fresh", node(3, "192.0.2.8", &["10.244.8.0/24"], &[])),
    ]);
    let found = discover(&facts, Style::Flannel, "own");
    let (nodes, refused) = told(&found);
    assert_eq!(
        nodes,
        ["n2 192.0.2.2 02:00:00:00:00:02 10.244.2.0/24", "n3 192.0.2.3 02:00:00:00:00:03 10.244.3.0/24"]
    );
    assert_eq!((found.vxlan_port, found.vni.map(|vni| vni.get())), (Some(8472), Some(1)));
    assert!(found.pools.is_empty(), "nothing says what the network is");
    let names: Vec<&str> = refused.iter().map(|line| line.split(':').next().unwrap()).collect();
    assert_eq!(
        names,
        ["node group", "node junk", "node null", "node other", "node udp", "node wg", "node where"],
        "{refused:?}"
    );
    facts.net_conf = Some(
        r#"{"Network":"10.244.0.0/16","IPv6Network":"fd00:244::/48","Backend":{"Type":"vxlan","Port":8473,"VNI":7,"Directrouting":true}}"#
            .to_owned(),
    );
    let found = discover(&facts, Style::Flannel, "own");
    assert_eq!(words(&found.pools), ["10.244.0.0/16 Never CrossSubnet", "fd00:244::/48 Never CrossSubnet"]);
    assert_eq!((found.vxlan_port, found.vni.map(|vni| vni.get())), (Some(8473), Some(7)));
    assert_eq!(
        told(&found).0,
        ["n3 192.0.2.3 02:00:00:00:00:03 10.244.3.0/24", "other 192.0.2.2 02:00:00:00:00:05 10.244.5.0/24"]
    );
    for (conf, pools) in [
        (r#"{"Network":"10.244.0.0/16","Backend":{"Type":"host-gw"}}"#, "10.244.0.0/16 Never Never"),
        (r#"{"network":"10.244.0.0/16","backend":{"type":"ipip"}}"#, "10.244.0.0/16 Always Never"),
        (r#"{"Network":"10.244.0.0/16","Backend":{"Type":"wireguard"}}"#, ""),
        ("[]", ""),
        (r#"{"Network":"10.244.0.0"}"#, ""),
    ] {
        facts.net_conf = Some(conf.to_owned());
        let found = discover(&facts, Style::Flannel, "own");
        assert_eq!(words(&found.pools).join(""), pools, "{conf}");
        assert_eq!(
            found.refused.iter().any(|refused| refused.object == "flannel's net-conf.json"),
            pools.is_empty()
        );
        assert!(found.own.is_known);
    }
}

#[test]
fn a_flannel_node_of_both_families_is_two_peers() {
    let both =
        [("public-ipv6", "2001:db8::2"), ("backend-v6-data", r#"{"VNI":1,"VtepMAC":"02:00:00:00:00:62"}"#)];
    let facts = facts([
        ("own", node(5, "192.0.2.1", &["10.244.1.0/24", "fd00:1::/64"], &[])),
        ("n2", flannel_node(1, &["10.244.2.0/24", "fd00:2::/64"], &both)),
    ]);
    let (nodes, refused) = told(&discover(&facts, Style::Flannel, "own"));
    assert_eq!(
        nodes,
        ["n2 192.0.2.2 02:00:00:00:00:02 10.244.2.0/24", "n2-v6 2001:db8::2 02:00:00:00:00:62 fd00:2::/64"]
    );
    assert!(refused.is_empty(), "{refused:?}");
}

fn affinity(node: &str, cidr: &str, state: &str) -> AffinityFacts {
    AffinityFacts { node: node.to_owned(), cidr: cidr.to_owned(), state: state.to_owned(), deleted: false }
}

#[test]
fn calicos_blocks_and_pools_are_subnets_and_pools() {
    let own = [
        ("projectcalico.org/IPv4Address", "192.0.2.1/25"),
        ("projectcalico.org/IPv4IPIPTunnelAddr", "10.244.1.64"),
    ];
    let other = [
        ("projectcalico.org/IPv4Address", "192.0.2.2/24"),
        ("projectcalico.org/VXLANTunnelMACAddr", "02:00:00:00:00:02"),
    ];
    let six = [
        ("projectcalico.org/IPv6Address", "2001:db8::3/64"),
        ("projectcalico.org/VXLANTunnelMACAddrV6", "junk"),
    ];
    let mut facts = facts([
        ("own", node(5, "203.0.113.1", &["10.99.1.0/24"], &own)),
        ("n2", node(1, "203.0.113.2", &["10.99.2.0/24"], &other)),
        ("n3", node(2, "192.0.2.3", &[], &six)),
    ]);
    let pool = |cidr: &str, ipip: &str, vxlan: &str, uses: &[&str]| PoolFacts {
        cidr: cidr.to_owned(),
        ipip_mode: ipip.to_owned(),
        vxlan_mode: vxlan.to_owned(),
        nat_outgoing: true,
        allowed_uses: uses.iter().map(|used| (*used).to_owned()).collect(),
    };
    let pools = [
        ("a", pool("10.244.0.0/16", "CrossSubnet", "Never", &[])),
        ("b", pool("fd00:244::/48", "", "Always", &["Workload"])),
        ("c", pool("10.250.0.0/16", "Never", "Never", &["LoadBalancer"])),
        ("d", pool("10.251.0.0/16", "Sometimes", "Never", &[])),
    ];
    facts.pools = pools.map(|(name, pool)| (name.to_owned(), pool)).into();
    let affinities = [
        affinity("own", "10.244.1.64/26", "confirmed"),
        affinity("n2", "10.244.2.0/26", "confirmed"),
        affinity("n2", "10.244.2.64/26", ""),
        affinity("n3", "10.244.3.0/26", "pending"),
        affinity("n3", "fd00:244::/122", "confirmed"),
        affinity("n3", "10.244.2.0/26", "confirmed"),
        affinity("gone", "10.244.9.0/26", "confirmed"),
        affinity("n3", "junk", "confirmed"),
    ];
    facts.affinities =
        (0..).zip(affinities).map(|(index, affinity)| (format!("{index}"), affinity)).collect();
    let borrowed = BTreeMap::from([("10.244.1.70".parse().unwrap(), "n2".to_owned())]);
    facts.blocks.insert("10-244-1-64-26".to_owned(), BlockFacts { borrowed });
    let found = discover(&facts, Style::Calico, "own");
    assert_eq!(words(&found.pools), ["10.244.0.0/16 CrossSubnet Never", "fd00:244::/48 Never Always"]);
    assert!(found.pools.iter().all(|pool| pool.nat_outgoing));
    assert_eq!(found.own.net, Some("192.0.2.1/25".parse().unwrap()));
    assert_eq!(found.own.subnets, ["10.244.1.64/26".parse().unwrap()]);
    assert_eq!(found.own.tunnel_address, Some("10.244.1.64".parse().unwrap()));
    let (nodes, refused) = told(&found);
    assert_eq!(
        nodes,
        [
            "n2 192.0.2.2 02:00:00:00:00:02 10.244.2.0/26 10.244.2.64/26 10.244.1.70/32",
            "n3 192.0.2.3 ",
            "n3-v6 2001:db8::3 fd00:244::/122"
        ]
    );
    let refused = refused.join("\n");
    for part in [
        "IPPool d: ipipMode: \"Sometimes\" is not one of",
        "BlockAffinity 5: 10.244.2.0/26 is another affinity's already",
        "BlockAffinity 7: cidr: ",
        "node gone: blocks are its own, but there is no such node",
        "node n3: projectcalico.org/VXLANTunnelMACAddrV6: ",
    ] {
        assert!(refused.contains(part), "{part} in\n{refused}");
    }
    // Nobody has blocks: pods have addresses out of pod CIDRs.
    facts.affinities.clear();
    facts.blocks.clear();
    let found = discover(&facts, Style::Calico, "own");
    assert_eq!(found.own.subnets, ["10.99.1.0/24".parse().unwrap()]);
    assert_eq!(told(&found).0[0], "n2 192.0.2.2 02:00:00:00:00:02 10.99.2.0/24");
}

#[test]
fn the_style_is_what_is_found() {
    let mut facts = facts([("n1", node(1, "192.0.2.1", &[], &[]))]);
    assert_eq!(style_of(&facts).0, Style::Native);
    facts.pools.insert("a".to_owned(), PoolFacts::default());
    assert_eq!(style_of(&facts).0, Style::Calico);
    facts.nodes.insert("n2".to_owned(), flannel_node(1, &[], &[]));
    assert_eq!(style_of(&facts).0, Style::Flannel);
    facts.affinities.insert("x".to_owned(), AffinityFacts::default());
    assert_eq!(style_of(&facts).0, Style::Calico);
}

fn object(spec: serde_json::Value) -> DynamicObject {
    serde_json::from_value(json!({ "metadata": { "name": "x" }, "spec": spec })).unwrap()
}

#[test]
fn nodes_are_read_whatever_they_hold() {
    let whole: DynamicObject = serde_json::from_value(json!({
        "metadata": {
            "name": "n1", "creationTimestamp": "2026-11-29T12:00:00Z",
            "annotations": {"flannel.alpha.coreos.com/public-ip": "192.0.2.1", "projectcalico.org/ASNumber": "1", "x": "y"},
        },
        "spec": {"podCIDR": "10.1.0.0/24", "podCIDRs": ["10.1.0.0/24", 7, "fd00::/64"]},
        "status": {
            "addresses": [
                {"type": "Hostname", "address": "n1"}, {"type": "InternalIP", "address": "192.0.2.1"},
                {"type": "InternalIP"}, 7, {"type": "InternalIP", "address": "2001:db8::1"},
            ],
            "conditions": [{"type": "Ready", "status": "False"}, {"type": "NetworkUnavailable", "status": "True"}],
        },
    }))
    .unwrap();
    let facts = objects::node(whole);
    assert_eq!(facts.created, 1_795_953_600);
    assert_eq!(facts.addresses, ["192.0.2.1", "", "2001:db8::1"]);
    assert_eq!(facts.pod_cidrs, ["10.1.0.0/24", "fd00::/64"]);
    let keys: Vec<_> = facts.annotations.keys().map(String::as_str).collect();
    assert_eq!(keys, ["flannel.alpha.coreos.com/public-ip", "projectcalico.org/ASNumber"]);
    assert_eq!(facts.network_unavailable, Some(true));
    let old =
        json!({"metadata": {"name": "n1"}, "spec": {"podCIDR": "10.1.0.0/24"}, "status": {"addresses": {}}});
    let facts = objects::node(serde_json::from_value(old).unwrap());
    assert_eq!((facts.pod_cidrs, facts.network_unavailable), (vec!["10.1.0.0/24".to_owned()], None));
    for junk in [json!(null), json!(7), json!([])] {
        let object = json!({"metadata": {"name": "n1"}, "spec": junk.clone(), "status": junk});
        assert_eq!(objects::node(serde_json::from_value(object).unwrap()), NodeFacts::default());
    }
}

#[test]
fn calicos_objects_are_read_whatever_they_hold() {
    let block = objects::block(object(json!({
        "cidr": "10.244.1.64/26", "affinity": "host:n1",
        "allocations": [null, 0, 1, 7, "x", 1],
        "attributes": [{"secondary": {"node": "n1"}}, {"secondary": {"node": "n2"}}],
    })));
    let borrowed = block.unwrap().borrowed;
    let addresses: Vec<_> = borrowed.iter().map(|(address, node)| format!("{address} {node}")).collect();
    assert_eq!(addresses, ["10.244.1.66 n2", "10.244.1.69 n2"]);
    for junk in [
        json!(null),
        json!(7),
        json!({"cidr": 7}),
        json!({"cidr": "10.0.0.0/8", "allocations": [], "attributes": {}}),
    ] {
        assert!(objects::block(object(junk.clone())).is_none(), "{junk}");
        let _ = (
            objects::pool(object(junk.clone())),
            objects::affinity(object(junk.clone())),
            objects::is_locked(&object(junk)),
        );
    }
    for (deleted, expected) in
        [(json!("true"), true), (json!(true), true), (json!("false"), false), (json!(null), false)]
    {
        let affinity = objects::affinity(object(
            json!({"node": "n1", "cidr": "10.0.0.0/26", "state": "confirmed", "deleted": deleted}),
        ));
        assert_eq!(affinity.unwrap().deleted, expected);
    }
    let long = "x".repeat(10_000);
    assert_eq!(objects::pool(object(json!({"cidr": long}))).unwrap().cidr.len(), 4096);
    assert!(objects::is_locked(&object(json!({"datastoreReady": false}))));
    assert!(!objects::is_locked(&object(json!({"datastoreReady": true}))));
}
