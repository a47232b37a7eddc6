//! What is written is understood again, in the words of nft 1.0.6, and nothing else is.

use nftables::batch::Batch;
use serde_json::{Value, json};

use super::{NatRules, objects, read};
use crate::net::Prefix;

const TABLE: &str = "underpass-up0";

fn prefixes(prefixes: &[&str]) -> std::collections::BTreeSet<Prefix> {
    prefixes.iter().map(|text| text.parse().unwrap()).collect()
}

fn rules() -> NatRules {
    NatRules {
        device: "up0".to_owned(),
        pods: prefixes(&["10.244.0.0/16", "10.245.3.7/32", "fd00:10:244::/48"]),
        cluster: prefixes(&["10.244.0.0/15", "fd00:10:244::/48"]),
        tunnel_ports: [4789, 8472].into(),
    }
}

/// As nft lists the table of `rules`: everything has a handle, and there is a line about nft itself.
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
    for rules in [rules(), only4] {
        assert_eq!(read(TABLE, &listing(&rules).to_string()), Some(rules));
    }
}

#[test]
fn a_table_in_nfts_own_words() {
    let listed = r#"{"nftables": [{"metainfo": {"version": "1.0.6", "release_name": "Lester Gooch #5", "json_schema_version": 1}},
        {"table": {"family": "inet", "name": "underpass-up0", "handle": 2}},
        {"set": {"family": "inet", "name": "pods4", "table": "underpass-up0", "type": "ipv4_addr", "handle": 1, "flags": ["interval"],
            "elem": [{"prefix": {"addr": "10.244.0.0", "len": 16}}, "10.245.3.7"]}},
        {"set": {"family": "inet", "name": "cluster4", "table": "underpass-up0", "type": "ipv4_addr", "handle": 2, "flags": ["interval"],
            "elem": [{"prefix": {"addr": "10.244.0.0", "len": 15}}]}},
        {"set": {"family": "inet", "name": "tunnel-ports", "table": "underpass-up0", "type": "inet_service", "handle": 5, "elem": [4789]}},
        {"chain": {"family": "inet", "table": "underpass-up0", "name": "postrouting", "handle": 6, "type": "nat", "hook": "postrouting",
            "prio": 100, "policy": "accept"}},
        {"rule": {"family": "inet", "table": "underpass-up0", "chain": "postrouting", "handle": 7, "expr": [
            {"match": {"op": "==", "left": {"meta": {"key": "oifname"}}, "right": "up0"}}, {"return": null}]}},
        {"rule": {"family": "inet", "table": "underpass-up0", "chain": "postrouting", "handle": 9, "expr": [
            {"match": {"op": "==", "left": {"meta": {"key": "l4proto"}}, "right": {"set": [4, 41, 47]}}}, {"return": null}]}},
        {"rule": {"family": "inet", "table": "underpass-up0", "chain": "postrouting", "handle": 10, "expr": [
            {"match": {"op": "==", "left": {"payload": {"protocol": "udp", "field": "dport"}}, "right": "@tunnel-ports"}}, {"return": null}]}},
        {"rule": {"family": "inet", "table": "underpass-up0", "chain": "postrouting", "handle": 11, "expr": [
            {"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "saddr"}}, "right": "@pods4"}},
            {"match": {"op": "!=", "left": {"payload": {"protocol": "ip", "field": "daddr"}}, "right": "@cluster4"}}, {"masquerade": null}]}}]}"#;
    let expected = NatRules {
        pods: prefixes(&["10.244.0.0/16", "10.245.3.7/32"]),
        cluster: prefixes(&["10.244.0.0/15"]),
        tunnel_ports: [4789].into(),
        ..rules()
    };
    assert_eq!(read(TABLE, listed), Some(expected));
    let random = listed.replace(r#"{"masquerade": null}"#, r#"{"masquerade": {"flags": "fully-random"}}"#);
    assert_eq!(read(TABLE, &random), None);
}

#[test]
fn what_somebody_has_changed_is_not_ours() {
    let changes: [fn(&mut Vec<Value>); 9] = [
        |objects| _ = objects.pop(),
        |objects| objects.push(objects.last().unwrap().clone()),
        |objects| drop(objects.swap_remove(2)),
        |objects| {
            let last = objects.len() - 1;
            objects.swap(last, last - 1);
        },
        |objects| {
            let chain = objects.iter_mut().find(|object| object.get("chain").is_some()).unwrap();
            chain["chain"]["prio"] = json!(0);
        },
        |objects| {
            let set = objects.iter_mut().find(|object| object.get("set").is_some()).unwrap();
            set["set"]["elem"] = json!([{"range": ["10.0.0.0", "10.0.0.7"]}]);
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
        assert_eq!(read(TABLE, &listing.to_string()), None, "{place}");
    }
    for text in ["", "{}", "{\"nftables\": []}", "[1", "{\"nftables\": [{\"set\": {}}]}"] {
        assert_eq!(read(TABLE, text), None, "{text}");
    }
}
