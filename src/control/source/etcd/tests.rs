//! What is made of etcd's keys, whatever they hold, and which subnet a node takes.

use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::acquire::{Plan, Wish, acquire, elder, in_the_way, keep, left_behind};
use super::discover::discover;
use super::facts::{Facts, Record};
use super::layout::{Layout, Taken};
use super::record::{self, OwnNode, Said};
use crate::control::source::discovered::Discovered;
use crate::net::Prefix;

const OWN: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const VXLAN: &str = r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}"#;

fn own() -> OwnNode {
    OwnNode {
        address: OWN,
        address6: None,
        mac: "66:01:02:03:04:05".parse().unwrap(),
        mac6: "66:01:02:03:04:06".parse().unwrap(),
    }
}

fn layout(text: &str) -> Layout {
    Layout::read(text).unwrap()
}

fn prefixes<const N: usize>(texts: [&str; N]) -> Vec<Prefix> {
    texts.map(|text| text.parse().unwrap()).to_vec()
}

/// A record as old as its place in the list.
fn facts<const N: usize>(records: [(&str, &str); N]) -> Facts {
    let mut facts = Facts::default();
    for (at, (key, value)) in (1..).zip(records) {
        let record = Record { value: value.to_owned(), created: at, modified: at, lease: 7 };
        facts.put(key, record);
    }
    facts
}

fn vxlan(address: &str, mac: &str) -> String {
    format!(
        r#"{{"PublicIP":"{address}","PublicIPv6":null,"BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"{mac}"}}}}"#
    )
}

/// Nodes with what is known of them, and what was left out.
fn told(found: &Discovered) -> (Vec<String>, Vec<String>) {
    let node = |node: &crate::control::source::discovered::Node| {
        let subnets: Vec<_> = node.subnets.iter().map(ToString::to_string).collect();
        let mac = node.vtep_mac.map_or(String::new(), |mac| format!(" {mac}"));
        format!("{} {}{mac} {}", node.name, node.address, subnets.join(" "))
    };
    let refused = found.refused.iter().map(|refused| format!("{}: {}", refused.object, refused.reason));
    (found.nodes.iter().map(node).collect(), refused.collect())
}

#[test]
fn keys_are_subnets() {
    let read = |key| record::subnets(key);
    assert_eq!(read("10.5.52.0-24").unwrap(), prefixes(["10.5.52.0/24"]));
    let both = prefixes(["10.5.52.0/24", "2001:cafe:42::/64"]);
    assert_eq!(read("10.5.52.0-24&2001:cafe:42::-64").unwrap(), both);
    assert_eq!(record::key(&both), "10.5.52.0-24&2001:cafe:42::-64");
    for junk in [
        "",
        "-",
        "&",
        "10.5.52.0",
        "10.5.52.0/24",
        "10.5.52.1-24",
        "10.5.52.0-33",
        "10.5.52.0-+24",
        "10.5.52.0-24&",
        "10.5.52.0-24&10.6.0.0-24",
        "2001:cafe:42::-64",
        "2001:cafe:42::-64&10.5.52.0-24",
        "10.5.52.0-24&2001:cafe:42::-64&2001:cafe:43::-64",
        "10.5.52.0-24/x",
    ] {
        assert!(read(junk).is_err(), "{junk}");
    }
}

#[test]
fn values_are_flannels() {
    let network = layout(VXLAN).network;
    assert_eq!(
        record::value(&network, own(), false),
        r#"{"PublicIP":"192.0.2.1","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"66:01:02:03:04:05"}}"#
    );
    let six = OwnNode { address6: Some("2001:db8::1".parse().unwrap()), ..own() };
    assert_eq!(
        record::value(&network, six, true),
        r#"{"PublicIP":"192.0.2.1","PublicIPv6":"2001:db8::1","BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"66:01:02:03:04:05"},"BackendV6Data":{"VNI":1,"VtepMAC":"66:01:02:03:04:06"}}"#
    );
    for kind in ["ipip", "host-gw"] {
        let network = layout(&VXLAN.replace("vxlan", kind)).network;
        let expected = format!(r#"{{"PublicIP":"192.0.2.1","PublicIPv6":null,"BackendType":"{kind}"}}"#);
        assert_eq!(record::value(&network, own(), false), expected);
    }
}

#[test]
fn the_configuration_has_flannels_defaults() {
    let has = |text: &str, subnet: &str| layout(text).four.has(subnet.parse().unwrap());
    // From the second subnet to the last.
    for (subnet, expected) in [
        ("10.5.0.0/24", false),
        ("10.5.1.0/24", true),
        ("10.5.255.0/24", true),
        ("10.6.0.0/24", false),
        ("10.5.1.0/25", false),
        ("10.5.0.0/23", false),
    ] {
        assert_eq!(has(VXLAN, subnet), expected, "{subnet}");
    }
    assert!(has(r#"{"Network":"10.5.0.0/22","Backend":{"Type":"vxlan"}}"#, "10.5.1.0/24"));
    assert!(has(r#"{"Network":"10.5.0.0/23","Backend":{"Type":"vxlan"}}"#, "10.5.0.128/25"));
    assert!(has(r#"{"network":"10.5.0.0/28","backend":{"type":"host-gw"}}"#, "10.5.0.4/30"));
    let bounds = r#"{"Network":"10.5.0.0/16","SubnetLen":20,"SubnetMin":"10.5.0.0","SubnetMax":"10.5.32.0","Backend":{"Type":"ipip","DirectRouting":true}}"#;
    for (subnet, expected) in [("10.5.0.0/20", true), ("10.5.32.0/20", true), ("10.5.48.0/20", false)] {
        assert_eq!(has(bounds, subnet), expected, "{subnet}");
    }
    let six = layout(
        r#"{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fd00:5::/48","Backend":{"Type":"vxlan","VNI":9,"Port":4789}}"#,
    );
    assert!(six.fits(&prefixes(["10.5.1.0/24", "fd00:5:0:1::/64"])));
    for other in [prefixes(["10.5.1.0/24"]), prefixes(["10.5.1.0/24", "fd00:5::/64"])] {
        assert!(!six.fits(&other), "{other:?}");
    }
    assert_eq!((six.network.port, six.network.vni.get(), six.network.networks.len()), (4789, 9, 2));
    let off = layout(r#"{"Network":"10.5.0.0/16","IPv6Network":"fd00:5::/48","Backend":{"Type":"vxlan"}}"#);
    assert_eq!((off.six, off.network.networks), (None, prefixes(["10.5.0.0/16"])));
}

#[test]
fn a_wrong_configuration_is_refused() {
    for (text, expected) in [
        ("", "no JSON: "),
        ("[]", "no JSON object"),
        ("null", "the backend udp cannot be spoken; known: vxlan, ipip, host-gw"),
        (r#"{"Network":"10.5.0.0/16"}"#, "the backend udp cannot be spoken; "),
        (
            r#"{"Network":"10.5.0.0/16","Backend":{"Type":"wireguard"}}"#,
            "the backend wireguard cannot be spoken; ",
        ),
        (r#"{"Backend":{"Type":"vxlan"}}"#, "Network: "),
        (r#"{"Network":"10.5.0.1/16","Backend":{"Type":"vxlan"}}"#, "Network: "),
        (
            r#"{"Network":"fd00::/48","Backend":{"Type":"vxlan"}}"#,
            "Network: fd00::/48 is of the other family",
        ),
        (
            r#"{"Network":"10.5.0.0/29","Backend":{"Type":"vxlan"}}"#,
            "SubnetLen: 31 does not go with 10.5.0.0/29",
        ),
        (
            r#"{"Network":"10.5.0.0/16","SubnetLen":17,"Backend":{"Type":"vxlan"}}"#,
            "SubnetLen: 17 does not go with",
        ),
        (
            r#"{"Network":"10.5.0.0/16","SubnetLen":31,"Backend":{"Type":"vxlan"}}"#,
            "SubnetLen: 31 does not go with",
        ),
        (
            r#"{"Network":"10.5.0.0/16","SubnetLen":-1,"Backend":{"Type":"vxlan"}}"#,
            "invalid value: integer `-1`",
        ),
        (
            r#"{"Network":"10.5.0.0/16","SubnetMin":"10.6.0.0","Backend":{"Type":"vxlan"}}"#,
            "SubnetMin: \"10.6.0.0\" is not",
        ),
        (
            r#"{"Network":"10.5.0.0/16","SubnetMax":"10.5.9.1","Backend":{"Type":"vxlan"}}"#,
            "SubnetMax: \"10.5.9.1\" is not",
        ),
        (
            r#"{"Network":"10.5.0.0/16","SubnetMin":"10.5.9.0","SubnetMax":"10.5.8.0","Backend":{"Type":"vxlan"}}"#,
            "SubnetMin is behind SubnetMax",
        ),
        (r#"{"Network":"10.5.0.0/16","EnableIPv6":true,"Backend":{"Type":"vxlan"}}"#, "IPv6Network: "),
        (
            r#"{"Network":"10.5.0.0/16","EnableIPv4":false,"Backend":{"Type":"vxlan"}}"#,
            "EnableIPv4 is false: ",
        ),
        (r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan","VNI":16777216}}"#, "VNI: "),
        (
            r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan","Port":65536}}"#,
            "invalid value: integer `65536`",
        ),
    ] {
        let reason = Layout::read(text).unwrap_err();
        assert!(reason.starts_with(expected), "{text}: {reason}");
    }
}

#[test]
fn nodes_are_the_addresses_of_records() {
    let (two, three) = (vxlan("192.0.2.2", "02:00:00:00:00:02"), vxlan("192.0.2.3", "02:00:00:00:00:03"));
    let newer = vxlan("192.0.2.2", "02:00:00:00:00:22");
    let mut facts = facts([
        ("10.5.2.0-24", two.as_str()),
        ("10.5.1.0-24", &vxlan("192.0.2.1", "66:01:02:03:04:05")),
        ("10.5.3.0-24", &three),
        (
            "10.5.4.0-24",
            r#"{"PublicIP":"192.0.2.4","BackendType":"vxlan","BackendData":{"VtepMAC":"02:00:00:00:00:04"}}"#,
        ),
        ("10.5.20.0-24", &newer),
        ("10.5.5.0-24", r#"{"PublicIP":"192.0.2.5","BackendType":"host-gw"}"#),
        ("10.5.6.0-24", r#"{"PublicIP":"192.0.2.6"}"#),
        (
            "10.5.7.0-24",
            r#"{"PublicIP":"192.0.2.7","BackendType":"vxlan","BackendData":{"VNI":2,"VtepMAC":"02:00:00:00:00:07"}}"#,
        ),
        (
            "10.5.8.0-24",
            r#"{"PublicIP":"nowhere","BackendType":"vxlan","BackendData":{"VtepMAC":"02:00:00:00:00:08"}}"#,
        ),
        ("10.5.9.0-24", "{"),
        ("10.5.10.0-24", r#"{"BackendType":"vxlan"}"#),
        ("10.5.11.0-24", r#"{"PublicIP":7}"#),
        ("junk", &vxlan("192.0.2.12", "02:00:00:00:00:12")),
        ("10.5.13.0-24", &vxlan("192.0.2.1", "02:00:00:00:00:13")),
    ]);
    facts.own = Some("10.5.1.0-24".to_owned());
    // Reserved for somebody who is not there yet.
    let reserved = Record { value: r#"{"PublicIP":"192.0.2.99"}"#.to_owned(), ..Record::default() };
    facts.put("10.5.99.0-24", reserved);
    let found = discover(&facts, &layout(VXLAN), own());
    let (nodes, refused) = told(&found);
    assert_eq!(
        nodes,
        [
            "192.0.2.2 192.0.2.2 02:00:00:00:00:22 10.5.2.0/24 10.5.20.0/24",
            "192.0.2.3 192.0.2.3 02:00:00:00:00:03 10.5.3.0/24",
            "192.0.2.4 192.0.2.4 02:00:00:00:00:04 10.5.4.0/24",
        ]
    );
    let expected = [
        "key subnets/10.5.5.0-24: its BackendType is host-gw, here it is vxlan",
        "key subnets/10.5.6.0-24: its BackendType is udp, here it is vxlan",
        "key subnets/10.5.7.0-24: BackendData: VNI 2, here it is 1",
        "key subnets/10.5.8.0-24: PublicIP: \"nowhere\" is no such address",
        "key subnets/10.5.9.0-24: no JSON: ",
        "key subnets/10.5.10.0-24: it has no PublicIP",
        "key subnets/10.5.11.0-24: invalid type: integer `7`",
        "key subnets/junk: \"junk\" is no subnet like 10.5.52.0-24",
        "key subnets/10.5.13.0-24: it is of this node's address",
    ];
    assert_eq!(refused.len(), expected.len(), "{refused:?}");
    for (refused, expected) in refused.iter().zip(expected) {
        assert!(refused.starts_with(expected), "{refused}");
    }
    assert_eq!(found.own.subnets, prefixes(["10.5.1.0/24"]));
    assert_eq!((found.vxlan_port, found.vni.map(|vni| vni.get())), (Some(8472), Some(1)));
}

#[test]
fn the_backend_decides_how_packets_travel() {
    for (backend, expected) in [
        (r#"{"Type":"vxlan"}"#, "10.5.0.0/16 Never Always"),
        (r#"{"Type":"vxlan","Directrouting":true}"#, "10.5.0.0/16 Never CrossSubnet"),
        (r#"{"Type":"ipip"}"#, "10.5.0.0/16 Always Never"),
        (r#"{"Type":"ipip","DirectRouting":true}"#, "10.5.0.0/16 CrossSubnet Never"),
        (r#"{"Type":"host-gw"}"#, "10.5.0.0/16 Never Never"),
    ] {
        let layout = layout(&format!(r#"{{"Network":"10.5.0.0/16","Backend":{backend}}}"#));
        let pools = discover(&Facts::default(), &layout, own()).pools;
        let said: Vec<_> = pools
            .iter()
            .map(|pool| format!("{} {} {}", pool.cidr, pool.ipip_mode, pool.vxlan_mode))
            .collect();
        assert_eq!(said, [expected]);
    }
}

#[test]
fn a_node_of_both_families_is_two_peers() {
    let layout = layout(
        r#"{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fd00:5::/48","Backend":{"Type":"vxlan"}}"#,
    );
    let value = r#"{"PublicIP":"192.0.2.2","PublicIPv6":"2001:db8::2","BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"02:00:00:00:00:02"},"BackendV6Data":{"VNI":1,"VtepMAC":"02:00:00:00:06:02"}}"#;
    let facts = facts([("10.5.2.0-24&fd00:5:0:2::-64", value)]);
    let (nodes, refused) = told(&discover(&facts, &layout, own()));
    assert_eq!(
        nodes,
        [
            "192.0.2.2 192.0.2.2 02:00:00:00:00:02 10.5.2.0/24",
            "192.0.2.2-v6 2001:db8::2 02:00:00:00:06:02 fd00:5:0:2::/64"
        ]
    );
    assert!(refused.is_empty(), "{refused:?}");
}

fn wish<'a>(previous: &'a [Vec<Prefix>], given: Option<&str>) -> Wish<'a> {
    Wish { own: OWN, given: (given.map(|given| given.parse().unwrap()), None), previous, random: 0 }
}

fn claim(subnet: &str) -> Plan {
    Plan::Claim(prefixes([subnet]))
}

fn taken(plan: Result<Plan, String>) -> String {
    match plan {
        Ok(Plan::Take { key, .. }) => key,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_order_is_flannels() {
    let layout = layout(VXLAN);
    let (mine, theirs) = (vxlan("192.0.2.1", "66:01:02:03:04:05"), vxlan("192.0.2.2", "02:00:00:00:00:02"));
    let previous = [prefixes(["10.5.9.0/24"]), prefixes(["10.5.8.0/24"])];
    // Its own record, however it came there; one that does not fit is none.
    let all = facts([("10.5.0.0-24", mine.as_str()), ("10.5.7.0-24", &mine), ("10.5.9.0-24", &theirs)]);
    assert_eq!(taken(acquire(&all, &layout, &wish(&previous, None))), "10.5.7.0-24");
    assert_eq!(left_behind(&all, "10.5.7.0-24", OWN), [("10.5.0.0-24", 1)]);
    // What it had, where that is free and fits.
    let all = facts([("10.5.9.0-24", theirs.as_str())]);
    assert_eq!(acquire(&all, &layout, &wish(&previous, None)), Ok(claim("10.5.8.0/24")));
    let odd = [prefixes(["10.6.9.0/24"]), prefixes(["10.5.9.0/25"]), prefixes(["10.5.0.0/24"]), Vec::new()];
    assert_eq!(acquire(&Facts::default(), &layout, &wish(&odd, None)), Ok(claim("10.5.1.0/24")));
    // One that is free, whatever the records there hold: a key is a claim.
    let all = facts([("10.5.1.0-24", "junk"), ("10.5.2.0-23", &theirs), ("10.5.4.128-25", &theirs)]);
    assert_eq!(acquire(&all, &layout, &wish(&[], None)), Ok(claim("10.5.5.0/24")));
    let last = Wish { random: u64::MAX, ..wish(&[], None) };
    let Ok(Plan::Claim(drawn)) = acquire(&all, &layout, &last) else { panic!("nothing drawn") };
    assert!(layout.fits(&drawn));
    let full = facts([("10.5.0.0-16", theirs.as_str())]);
    let reason = acquire(&full, &layout, &wish(&[], None)).unwrap_err();
    assert!(reason.starts_with("no subnet of 10.5.0.0/16 is free"), "{reason}");
}

#[test]
fn what_the_file_gives_goes_before() {
    let layout = layout(VXLAN);
    let (mine, theirs) = (vxlan("192.0.2.1", "66:01:02:03:04:05"), vxlan("192.0.2.2", "02:00:00:00:00:02"));
    let given = |subnet| wish(&[], Some(subnet));
    let all = facts([("10.5.7.0-24", mine.as_str()), ("10.5.8.0-24", &theirs)]);
    assert_eq!(acquire(&all, &layout, &given("10.5.9.0/24")), Ok(claim("10.5.9.0/24")));
    assert_eq!(left_behind(&all, "10.5.9.0-24", OWN), [("10.5.7.0-24", 2 - 1)]);
    assert_eq!(taken(acquire(&all, &layout, &given("10.5.7.0/24"))), "10.5.7.0-24");
    // Another length, or the first subnet, is what an administrator may give.
    assert_eq!(acquire(&all, &layout, &given("10.5.0.0/26")), Ok(claim("10.5.0.0/26")));
    let reason = acquire(&all, &layout, &given("10.5.8.0/25")).unwrap_err();
    assert!(
        reason.contains("10.5.8.0/25 of this node's file is that of 192.0.2.2 (key subnets/10.5.8.0-24)"),
        "{reason}"
    );
    let reason = acquire(&all, &layout, &given("10.6.8.0/24")).unwrap_err();
    assert!(reason.ends_with("is outside of 10.5.0.0/16"), "{reason}");
}

#[test]
fn who_has_pods_keeps_its_subnet() {
    let (mine, theirs) = (vxlan("192.0.2.1", "66:01:02:03:04:05"), vxlan("192.0.2.2", "02:00:00:00:00:02"));
    let key = "10.5.7.0-24";
    assert_eq!(keep(&Facts::default(), key, OWN), Ok(claim("10.5.7.0/24")));
    assert_eq!(taken(keep(&facts([(key, mine.as_str())]), key, OWN)), key);
    assert_eq!(taken(keep(&facts([(key, "junk")]), key, OWN)), key);
    for other in [key, "10.5.7.128-25", "10.5.0.0-20"] {
        let reason = keep(&facts([(other, theirs.as_str())]), key, OWN).unwrap_err();
        assert!(reason.contains("10.5.7.0/24 of this node is that of 192.0.2.2 (key subnets/"), "{reason}");
    }
    // Of two that claim parts of the same the older record counts.
    let all = facts([("10.5.7.0-24&fd00::-64", theirs.as_str()), (key, &mine), ("10.5.7.0-25", &theirs)]);
    assert_eq!(elder(&all, key, OWN), Some("10.5.7.0-24&fd00::-64"));
    let six = facts([("10.5.7.0-24&fd00::-64", mine.as_str()), ("10.5.8.0-24", &mine)]);
    assert_eq!(in_the_way(&six, key, OWN), [("10.5.7.0-24&fd00::-64", 1)]);
    assert_eq!(elder(&facts([(key, mine.as_str()), ("10.5.7.0-25", &theirs)]), key, OWN), None);
}

#[test]
fn a_large_claim_costs_no_time() {
    let layout = layout(
        r#"{"Network":"10.0.0.0/8","SubnetLen":30,"EnableIPv6":true,"IPv6Network":"fd00::/16","IPv6SubnetLen":126,"Backend":{"Type":"ipip"}}"#,
    );
    let taken: Taken = prefixes(["10.0.0.0/9", "fd00::/17"]).into_iter().collect();
    assert_eq!(layout.four.draw(&taken, 0), Some("10.128.0.0/30".parse().unwrap()));
    assert_eq!(layout.six.unwrap().draw(&taken, 0), Some("fd00:8000::/126".parse().unwrap()));
}

proptest! {
    #[test]
    fn nothing_that_is_written_there_does_harm(
        keys in prop::collection::vec("([0-9.]{1,12}-[0-9]{1,3})?(&[a-f0-9:]{0,9}-[0-9]{1,3})?|.{0,30}", 0..8),
        value in r#"(\{("PublicIP":("192.0.2.[2-9]"|7|null),)?("BackendType":"[a-z]{0,5}",)?"BackendData":(null|\{"VNI":-?[0-9]{1,12}\}|[0-9]{1,3})\})|.{0,40}"#,
        config in r#"\{"Network":"[0-9./]{0,14}","SubnetLen":[0-9]{1,3},"SubnetMin":"[0-9.]{0,12}","EnableIPv6":(true|false),"IPv6Network":"[a-f0-9:/]{0,12}","Backend":\{"Type":"(vxlan|ipip)"\}\}|.{0,30}"#,
        random in any::<u64>(),
    ) {
        let mut all = Facts::default();
        for (at, key) in (1..).zip(&keys) {
            all.put(key, Record { value: value.clone(), created: at, modified: at, lease: at % 2 });
        }
        let _ = Said::read(&value);
        for layout in [Layout::read(&config).ok(), Some(layout(VXLAN))].into_iter().flatten() {
            discover(&all, &layout, own());
            for key in &keys {
                let _ = keep(&all, key, OWN);
                elder(&all, key, OWN);
            }
            if let Ok(Plan::Claim(subnets)) = acquire(&all, &layout, &Wish { random, ..wish(&[], None) }) {
                prop_assert!(layout.fits(&subnets), "{subnets:?}");
                let taken: Taken = keys.iter().filter_map(|key| record::subnets(key).ok()).flatten().collect();
                prop_assert!(subnets.iter().all(|subnet| taken.is_free(*subnet)), "{subnets:?} {keys:?}");
            }
        }
    }
}
