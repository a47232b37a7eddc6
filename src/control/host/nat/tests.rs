//! What is written is understood again, in the words of nft, and nothing else is.

use std::collections::BTreeSet;

use nftables::batch::Batch;
use serde_json::{Value, json};

use super::{NatRules, objects, read};
use crate::net::Prefix;

const TABLE: &str = "underpass-up0";

fn prefixes(prefixes: &[&str]) -> BTreeSet<Prefix> {
    prefixes.iter().map(|text| text.parse().unwrap()).collect()
}

fn rules() -> NatRules {
    NatRules {
        device: "up0".to_owned(),
        pods: prefixes(&["10.244.0.0/16", "10.245.3.7/32", "fd00:10:244::/48"]),
        cluster: prefixes(&["10.244.0.0/15", "172.16.1.0/24", "fd00:10:244::/48"]),
        tunnel_ports: [4789, 8472].into(),
        by_tun: false,
    }
}

/// The table of `rules` as it is written, listed: everything has a handle, and there is a line about nft itself.
fn listing(rules: &NatRules) -> Value {
    let mut batch = Batch::new();
    objects(TABLE, rules).into_iter().for_each(|object| batch.add_obj(object));
    let mut listing = serde_json::to_value(batch.to_nftables()).unwrap();
    let objects = listing["nftables"].as_array_mut().unwrap();
    for (handle, object) in (1..).zip(objects.iter_mut()) {
        object.as_object_mut().unwrap().values_mut().for_each(|value| value["handle"] = json!(handle));
    }
    objects
        .insert(0, json!({"metainfo": {"version": "1.0.6", "release_name": "x", "json_schema_version": 1}}));
    listing
}

#[test]
fn what_is_written_is_read() {
    let only4 = NatRules { pods: prefixes(&["10.1.0.0/16"]), cluster: prefixes(&["10.0.0.0/8"]), ..rules() };
    let only6 = NatRules { pods: prefixes(&["fd00::/64"]), cluster: prefixes(&["fd00::/16"]), ..rules() };
    let by_tun = [rules(), only6.clone()].map(|rules| NatRules { by_tun: true, ..rules });
    for rules in [rules(), only4, only6].into_iter().chain(by_tun) {
        assert_eq!(read(TABLE, &listing(&rules).to_string()), Some(rules));
    }
}

/// As nft 1.0.6 and 1.1.3 list it: a single element stands for its set, and neighbours are one range.
#[test]
fn a_table_in_nfts_own_words() {
    let listed = r#"{"nftables": [{"metainfo": {"version": "1.1.3", "release_name": "Commodore Bullmoose #4", "json_schema_version": 1}},
        {"table": {"family": "inet", "name": "underpass-up0", "handle": 2}},
        {"chain": {"family": "inet", "table": "underpass-up0", "name": "postrouting", "handle": 6, "type": "nat", "hook": "postrouting",
            "prio": 100, "policy": "accept"}},
        {"rule": {"family": "inet", "table": "underpass-up0", "chain": "postrouting", "handle": 7, "expr": [
            {"match": {"op": "==", "left": {"meta": {"key": "oifname"}}, "right": "up0"}}, {"return": null}]}},
        {"rule": {"family": "inet", "table": "underpass-up0", "chain": "postrouting", "handle": 9, "expr": [
            {"match": {"op": "==", "left": {"meta": {"key": "l4proto"}}, "right": {"set": [4, 41, 47]}}}, {"return": null}]}},
        {"rule": {"family": "inet", "table": "underpass-up0", "chain": "postrouting", "handle": 10, "expr": [
            {"match": {"op": "==", "left": {"payload": {"protocol": "udp", "field": "dport"}}, "right": 4789}}, {"return": null}]}},
        {"rule": {"family": "inet", "table": "underpass-up0", "chain": "postrouting", "handle": 11, "expr": [
            {"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "saddr"}}, "right": {"set": [
                {"range": ["10.9.1.0", "10.9.3.255"]}, "10.245.3.7"]}}},
            {"match": {"op": "!=", "left": {"payload": {"protocol": "ip", "field": "daddr"}}, "right": {"prefix": {"addr": "10.0.0.0", "len": 8}}}},
            {"masquerade": null}]}},
        {"rule": {"family": "inet", "table": "underpass-up0", "chain": "postrouting", "handle": 12, "expr": [
            {"match": {"op": "==", "left": {"payload": {"protocol": "ip6", "field": "saddr"}}, "right": "fd00::1"}},
            {"match": {"op": "!=", "left": {"payload": {"protocol": "ip6", "field": "daddr"}}, "right": {"set": [{"range": ["fd00::1", "fd00::2"]}]}}},
            {"masquerade": null}]}}]}"#;
    let expected = NatRules {
        pods: prefixes(&["10.9.1.0/24", "10.9.2.0/23", "10.245.3.7/32", "fd00::1/128"]),
        cluster: prefixes(&["10.0.0.0/8", "fd00::1/128", "fd00::2/128"]),
        tunnel_ports: [4789].into(),
        ..rules()
    };
    assert_eq!(read(TABLE, listed), Some(expected));
    for (from, to) in [
        (r#"{"masquerade": null}"#, r#"{"masquerade": {"flags": "fully-random"}}"#),
        (r#""right": "up0""#, r#""right": 7"#),
        ("4789", "478900"),
        ("4789", "\"domain\""),
        ("[4, 41, 47]", "[4, 41]"),
        ("10.9.3.255", "fd00::5"),
        ("10.9.3.255", "10.9.3.256"),
        (r#""len": 8"#, r#""len": 33"#),
        (r#""prio": 100"#, r#""prio": 99"#),
        (r#""policy": "accept""#, r#""policy": "drop""#),
        ("!=", "=="),
        (r#""handle": 9"#, r#""comment": "mine""#),
        ("underpass-up0", "underpass-up1"),
    ] {
        let other = listed.replace(from, to);
        assert_ne!(other, listed, "{from}");
        assert_eq!(read(TABLE, &other), None, "{from} {to}");
    }
}

#[test]
fn what_somebody_has_changed_is_not_ours() {
    let changes: [fn(&mut Vec<Value>); 7] = [
        |objects| _ = objects.pop(),
        |objects| objects.push(objects.last().unwrap().clone()),
        |objects| drop(objects.swap_remove(3)),
        |objects| {
            let last = objects.len() - 1;
            objects.swap(last, last - 1);
        },
        |objects| {
            let set =
                json!({"family": "inet", "table": TABLE, "name": "more", "type": "ipv4_addr", "handle": 77});
            objects.push(json!({"set": set}));
        },
        |objects| {
            let rule = objects.iter_mut().find(|object| object.get("rule").is_some()).unwrap();
            rule["rule"]["expr"] = json!([{"drop": null}]);
        },
        |objects| objects.push(json!({"something": {"new": 1}})),
    ];
    for (place, change) in changes.into_iter().enumerate() {
        let mut listing = listing(&rules());
        change(listing["nftables"].as_array_mut().unwrap());
        let seen = read(TABLE, &listing.to_string());
        // Without its last rule it is the table of IPv4 alone.
        assert!(seen.is_none_or(|seen| seen != rules()), "{place}");
    }
    for text in ["", "{}", "{\"nftables\": []}", "[1", "{\"nftables\": [{\"set\": {}}]}"] {
        assert_eq!(read(TABLE, text), None, "{text}");
    }
}
