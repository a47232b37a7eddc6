//! Who enforces what a trace shows, by the routes and the scope.

use std::net::IpAddr;
use std::sync::Arc;

use super::model::{Model, Recorder};
use crate::api::TraceSide;
use crate::control::engine::{Event, NetworkPolicy};
use crate::dataplane::policy::{Settings, Tuple};
use crate::policy::{World, compile};

/// b is reached by the tunnel, c by bare packets.
const NODE: &str = r#"
[node]
name = "a"
address = "192.0.2.1/24"
[local]
subnets = ["10.244.1.0/24"]
[[pool]]
cidr = "10.244.2.0/24"
vxlan_mode = "Always"
[[pool]]
cidr = "10.244.3.0/24"
ipip_mode = "CrossSubnet"
[[peer]]
name = "b"
address = "192.0.2.2"
subnets = ["10.244.2.0/24"]
[[peer]]
name = "c"
address = "192.0.2.3"
subnets = ["10.244.3.0/24"]
"#;
const HERE: &str = "10.244.1.2";
const BESIDE: &str = "10.244.1.3";
const TUNNEL: &str = "10.244.2.2";
const BARE: &str = "10.244.3.2";
const OUTSIDE: &str = "203.0.113.9";
const HOST: &str = "192.0.2.1";

fn started(scope: &str, deny_unknown: bool) -> Recorder {
    let text = format!("{NODE}[policy]\nscope = \"{scope}\"\n");
    let mut recorder = Recorder::start(&text, Model::new(), true).unwrap();
    let compiled = Arc::new(compile(&World::default(), 1, None).unwrap());
    let settings = Settings { deny_unknown, connections: 100, ..Settings::default() };
    recorder.follow(Event::NetworkPolicy(Some(NetworkPolicy { compiled, settings })));
    recorder
}

/// Both ends of a trace.
fn ends(recorder: &Recorder, source: &str, destination: &str) -> [TraceSide; 2] {
    let address = |text: &str| text.parse::<IpAddr>().unwrap();
    let (source, destination) = (address(source), address(destination));
    let tuple = Tuple { source, destination, protocol: 47, ports: None, icmp: None };
    let trace = recorder.engine.snapshot().trace(&tuple).unwrap();
    [trace.egress, trace.ingress]
}

#[test]
fn each_end_is_enforced_where_its_packets_are_seen() {
    let overlay = started("overlay", false);
    let all = started("all", false);
    let by = |recorder: &Recorder, source, destination| {
        ends(recorder, source, destination).map(|side| {
            assert_eq!(side.enforced_here, side.enforced_by.as_deref() == Some("a"), "{side:?}");
            assert!(!side.enforcement.is_empty());
            side.enforced_by
        })
    };
    let named = |names: [Option<&str>; 2]| names.map(|name| name.map(str::to_owned));
    for (source, destination, in_overlay, in_all) in [
        (HERE, TUNNEL, [Some("a"), Some("b")], [Some("a"), Some("b")]),
        (TUNNEL, HERE, [Some("b"), Some("a")], [Some("b"), Some("a")]),
        // The pump sends bare packets, and the kernel takes them.
        (HERE, BARE, [Some("a"), Some("c")], [Some("a"), Some("c")]),
        (BARE, HERE, [Some("c"), None], [Some("c"), Some("a")]),
        (HERE, BESIDE, [None, None], [Some("a"), Some("a")]),
        (HERE, OUTSIDE, [None, None], [Some("a"), None]),
        (OUTSIDE, HERE, [None, None], [None, Some("a")]),
        (HERE, HOST, [None, None], [None, None]),
        (HOST, HERE, [None, None], [None, None]),
        (TUNNEL, BARE, [Some("b"), Some("c")], [Some("b"), Some("c")]),
    ] {
        assert_eq!(by(&overlay, source, destination), named(in_overlay), "{source} > {destination}");
        assert_eq!(by(&all, source, destination), named(in_all), "{source} > {destination}, all");
    }
}

#[test]
fn unknown_addresses_of_this_node_may_nothing_where_that_is_wanted() {
    for deny_unknown in [false, true] {
        let [egress, ingress] = ends(&started("overlay", deny_unknown), HERE, TUNNEL);
        let by = if deny_unknown { "unknown_endpoint" } else { "no_endpoint" };
        assert_eq!((egress.allowed, &*egress.decided.by), (!deny_unknown, by));
        assert_eq!((ingress.allowed, &*ingress.decided.by), (true, "no_endpoint"));
    }
}

#[test]
fn the_status_has_its_numbers() {
    let recorder = started("all", false);
    let status = recorder.engine.snapshot().policy_status(3).unwrap();
    assert_eq!((&*status.scope, status.connections_capacity, status.policies), ("all", 300, 0));
    assert!(status.generation > 0);
    assert_eq!(super::started().engine.snapshot().policy_status(3), None);
}
