//! `[direct] via = "kernel"`: which routes to nodes the kernel is given, and what becomes of them.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use super::model::{ETH, Model, Recorder, TUN};
use super::{batch, reload, way};
use crate::control::engine::port::{FirstHop, HostRequest, PeerWay, ROUTE_PROTOCOL, Settings};
use crate::control::engine::{Event, Request};
use crate::route::Source;

const NODE: &str = r#"
[node]
name = "a"
address = "192.0.2.1/24"
address6 = "2001:db8::1/64"
[local]
subnets = ["10.244.1.0/24", "fd00:1::/64"]
"#;
const KERNEL: &str = "[direct]\nvia = \"kernel\"\n";
/// b and c are in the subnet of this node, d is behind a router, e has an IPv6 address alone.
const PEERS: &str = r#"
[[pool]]
cidr = "10.244.0.0/16"
ipip_mode = "CrossSubnet"
[[pool]]
cidr = "fd00::/16"
ipip_mode = "CrossSubnet"
[[peer]]
name = "b"
address = "192.0.2.2"
address6 = "2001:db8::2"
subnets = ["10.244.2.0/24", "fd00:2::/64"]
[[peer]]
name = "c"
address = "192.0.2.3"
subnets = ["10.244.3.0/24", "fd00:3::/64", "172.16.0.0/16"]
[[peer]]
name = "d"
address = "198.51.100.4"
subnets = ["10.244.4.0/24", "172.16.4.0/24"]
[[peer]]
name = "e"
address = "2001:db8::5"
subnets = ["10.244.5.0/24"]
"#;
const GATEWAY: &str = "192.0.2.254";
/// All of them, where nothing is amiss.
const ROUTES: [&str; 5] = [
    "10.244.2.0/24 via 192.0.2.2 dev e2",
    "10.244.3.0/24 via 192.0.2.3 dev e2",
    "10.244.5.0/24 via inet6 2001:db8::5 dev e2",
    "172.16.0.0/16 via 192.0.2.3 dev e2",
    "172.16.4.0/24 via 192.0.2.254 dev e2",
];
const ROUTE6: &str = "fd00:2::/64 via 2001:db8::2 dev e2";

fn ways() -> HashMap<IpAddr, PeerWay> {
    let on_link = ["192.0.2.2", "192.0.2.3", "2001:db8::2", "2001:db8::5"];
    let mut ways: HashMap<IpAddr, PeerWay> =
        on_link.iter().map(|address| (address.parse().unwrap(), way(address, 1500))).collect();
    ways.insert("198.51.100.4".parse().unwrap(), way(GATEWAY, 1500));
    ways
}

fn expected() -> Vec<&'static str> {
    ROUTES.into_iter().chain([ROUTE6]).collect()
}

fn started() -> Recorder {
    let config = [NODE, KERNEL, PEERS].concat();
    let mut recorder = Recorder::start_with(&config, Model::new(), true, ways()).unwrap();
    recorder.pass(Duration::from_secs(1));
    recorder
}

/// Who sends bare packets to an address, and why not the kernel.
fn via(recorder: &Recorder, address: &str) -> (Option<String>, Option<String>) {
    let entry = recorder.engine.snapshot().route_get(address.parse().unwrap(), recorder.now).unwrap();
    (entry.via, entry.via_reason)
}

fn edit(recorder: &mut Recorder, text: &str) {
    recorder.ask(Request::Edit(batch(text)), true);
    assert!(recorder.answers.pop().is_none_or(|(_, answer)| answer.is_ok()));
    recorder.pass(Duration::from_secs(1));
}

#[test]
fn direct_subnets_are_routes_to_their_nodes() {
    let recorder = started();
    assert_eq!(recorder.model.direct(), expected());
    // The pools lead into the TUN still; 172.16.0.0/16 lies in none.
    assert_eq!(recorder.model.ours(), ["10.244.0.0/16", "fd00::/16"]);
    assert_eq!(recorder.open(), [""; 0]);
    let kernel = (Some("kernel".to_owned()), None);
    for address in ["10.244.2.9", "172.16.9.9", "172.16.4.9", "fd00:2::9", "10.244.5.9"] {
        assert_eq!(via(&recorder, address), kernel, "{address}");
    }
    assert_eq!(via(&recorder, "10.244.4.9"), (None, None), "a tunnel");
    let (who, why) = via(&recorder, "fd00:3::9");
    assert_eq!(who.as_deref(), Some("pump"));
    assert!(why.unwrap().contains("cannot send IPv6 by way of 192.0.2.3"));
    let direct = recorder.engine.snapshot().direct;
    assert_eq!((direct.by_kernel, direct.by_pump), (6, 1));
}

#[test]
fn what_others_do_to_them_is_mended() {
    let mut recorder = started();
    recorder.change(|model| model.routes.retain(|route| route.is_ours(TUN)));
    assert_eq!(recorder.model.direct(), expected());
    // Another way, as if it had been changed.
    recorder.change(|model| model.to_hosts[0].mtu = Some(1300));
    assert_eq!(recorder.model.direct(), expected());
    // One of ours that nobody wants, as a former run may have left it.
    recorder.change(|model| {
        model.foreign("10.9.0.0/16", ETH);
        model.routes.last_mut().unwrap().protocol = super::super::port::DIRECT_PROTOCOL;
    });
    assert_eq!(recorder.model.direct(), expected());
    // Somebody else's route is never touched, and shown.
    recorder.change(|model| {
        model.routes.retain(|route| route.prefix.to_string() != "10.244.2.0/24");
        model.foreign("10.244.2.0/24", ETH);
    });
    assert_eq!(recorder.open(), ["ip route del 10.244.2.0/24 dev eth0 metric 0"]);
    recorder.change(|model| model.routes.retain(|route| route.protocol != 4));
    assert_eq!(
        (recorder.model.direct(), recorder.open()),
        (expected().iter().map(ToString::to_string).collect(), Vec::new())
    );
}

#[test]
fn the_way_to_a_node_is_followed() {
    let mut recorder = started();
    let mut ways = ways();
    let d: IpAddr = "198.51.100.4".parse().unwrap();
    let hop = FirstHop { index: 9, via: "203.0.113.1".parse().unwrap(), onlink: true };
    ways.insert(d, PeerWay { hop, mtu: 1400, route_mtu: Some(1400) });
    recorder.follow(Event::Ways(ways.clone()));
    assert!(
        recorder.model.direct().contains(&"172.16.4.0/24 mtu 1400 via 203.0.113.1 dev e9 onlink".to_owned())
    );
    // Without a way the pump has it, and tells the pods; c's route is wider and would take its packets.
    ways.remove(&d);
    recorder.follow(Event::Ways(ways.clone()));
    assert!(!recorder.model.direct().iter().any(|route| route.starts_with("172.16.4.0/24")));
    assert_eq!(recorder.model.ours(), ["10.244.0.0/16", "172.16.4.0/24", "fd00::/16"]);
    assert_eq!(
        via(&recorder, "172.16.4.9"),
        (Some("pump".to_owned()), Some("the kernel has no way to the node".to_owned()))
    );
    // And so does c's without one, which has no wider one.
    ways.remove(&"192.0.2.3".parse().unwrap());
    recorder.follow(Event::Ways(ways));
    assert_eq!(recorder.model.ours(), ["10.244.0.0/16", "172.16.0.0/16", "fd00::/16"]);
    recorder.follow(Event::Ways(super::direct::ways()));
    assert_eq!(recorder.model.direct(), expected());
    assert_eq!(recorder.model.ours(), ["10.244.0.0/16", "fd00::/16"]);
}

#[test]
fn a_tunnel_inside_of_what_the_kernel_sends_has_a_route_of_its_own() {
    let mut recorder = started();
    // b's subnet in the pool has a host that is behind the router, and c's wide one has pools.
    edit(&mut recorder, "10.244.2.64/26 via d\n10.244.2.65/32 via b\n");
    assert_eq!(recorder.model.ours(), ["10.244.0.0/16", "10.244.2.64/26", "fd00::/16"]);
    assert!(recorder.model.direct().contains(&"10.244.2.65/32 via 192.0.2.2 dev e2".to_owned()));
    assert_eq!(via(&recorder, "10.244.2.66").0, None);
    edit(&mut recorder, "del 10.244.2.64/26\ndel 10.244.2.65/32\n");
    assert_eq!(recorder.model.ours(), ["10.244.0.0/16", "fd00::/16"]);
    assert_eq!(recorder.model.direct(), expected());
    // What contains pods of this node ends here and does not circle.
    edit(&mut recorder, "10.244.0.0/20 via b\n");
    let (who, why) = via(&recorder, "10.244.9.9");
    assert_eq!(who.as_deref(), Some("pump"));
    assert!(why.unwrap().starts_with("10.244.1.0/24 of this node lies inside"));
    assert_eq!(recorder.model.direct(), expected());
    // Equal to a pool.
    edit(&mut recorder, "del 10.244.0.0/20\nfd00::/16 via b\n");
    assert!(recorder.model.direct().iter().all(|route| !route.starts_with("fd00::/16")), "pods are inside");
}

#[test]
fn a_wide_route_that_the_kernel_sends_leaves_pools_inside_of_it() {
    let text =
        [NODE, KERNEL, PEERS].concat().replace("\"172.16.0.0/16\"", "\"10.0.0.0/8\", \"172.16.0.0/16\"");
    let text = text.replace("\"10.244.1.0/24\", ", "\"192.168.1.0/24\", ");
    let recorder = Recorder::start_with(&text, Model::new(), true, ways()).unwrap();
    // The pool inside is CrossSubnet and c is near: it is sent to c like all around it.
    assert!(recorder.model.direct().contains(&"10.0.0.0/8 via 192.0.2.3 dev e2".to_owned()));
    assert!(recorder.model.direct().contains(&"10.244.0.0/16 via 192.0.2.3 dev e2".to_owned()));
    assert_eq!(recorder.model.ours(), ["10.244.4.0/24", "fd00::/16"], "d is behind a router");
    let always = text.replacen("CrossSubnet", "Always", 1);
    let recorder = Recorder::start_with(&always, Model::new(), true, ways()).unwrap();
    assert_eq!(recorder.model.ours(), ["10.244.0.0/16", "fd00::/16"]);
    assert!(recorder.model.direct().iter().all(|route| !route.starts_with("10.244.")));
}

#[test]
fn several_nodes_are_several_hops() {
    let mut recorder = started();
    edit(&mut recorder, "172.20.0.0/16 via b,c\n172.21.0.0/16 via c,d mtu 1300\n10.244.6.0/24 via b,d\n");
    let direct = recorder.model.direct();
    let several = "172.20.0.0/16 nexthop via 192.0.2.2 dev e2 nexthop via 192.0.2.3 dev e2";
    assert!(direct.contains(&several.to_owned()), "{direct:?}");
    let limited = "172.21.0.0/16 mtu 1300 nexthop via 192.0.2.3 dev e2 nexthop via 192.0.2.254 dev e2";
    assert!(direct.contains(&limited.to_owned()), "{direct:?}");
    // One of them by a tunnel: all of them are the pump's.
    assert!(direct.iter().all(|route| !route.starts_with("10.244.6.0/24")));
    assert_eq!(via(&recorder, "10.244.6.1").0.as_deref(), Some("pump"));
    recorder.ask(Request::DeletePeer("c".to_owned()), true);
    recorder.pass(Duration::from_secs(1));
    let direct = recorder.model.direct();
    assert!(direct.contains(&"172.20.0.0/16 via 192.0.2.2 dev e2".to_owned()), "{direct:?}");
}

#[test]
fn a_reload_moves_packets_to_the_kernel_and_back() {
    let mut recorder = started();
    let pump = [NODE, PEERS].concat();
    reload(&mut recorder, 1, &pump).unwrap();
    assert_eq!(recorder.model.direct(), [""; 0]);
    assert_eq!(recorder.model.ours(), ["10.244.0.0/16", "172.16.0.0/16", "fd00::/16"]);
    assert_eq!(via(&recorder, "10.244.2.9"), (Some("pump".to_owned()), None));
    // Strict reverse path filtering is only in the way of what the pump sends.
    recorder.model.settings = Settings { rp_filter_all: 1, ..Settings::default() };
    reload(&mut recorder, 2, &[&pump, KERNEL].concat()).unwrap();
    recorder.pass(Duration::from_secs(1));
    assert_eq!(
        (recorder.model.direct(), recorder.open()),
        (expected().iter().map(ToString::to_string).collect(), Vec::new())
    );
    assert!(reload(&mut recorder, 3, &pump).unwrap_err().text.contains("rp_filter"));
    recorder.wanted.clear();
    let requests = recorder.engine.take_down();
    assert!(matches!(requests[0], HostRequest::FlushRoutes { .. }));
    for request in requests {
        recorder.carry_out(super::EffectId(0), &request);
    }
    assert_eq!((recorder.model.direct(), recorder.model.ours()), (Vec::new(), Vec::new()));
}

#[test]
fn what_the_kernel_refuses_the_pump_does() {
    let mut model = Model::new();
    model.refuses_direct = true;
    let config = [NODE, KERNEL, PEERS].concat();
    let mut recorder = Recorder::start_with(&config, model, true, ways()).unwrap();
    recorder.pass(Duration::from_secs(2));
    assert_eq!(recorder.model.ours(), ["10.244.0.0/16", "172.16.0.0/16", "fd00::/16"]);
    let open = &recorder.engine.snapshot().requirements;
    let said = "packets for 10.244.2.0/24 go by the pump and not by the kernel: cannot do that: no";
    assert!(open.iter().any(|one| one.what.starts_with(said)), "{open:?}");
    recorder.model.refuses_direct = false;
    // Not by itself for a while, but soon once an interface has changed.
    recorder.pass(Duration::from_secs(5));
    assert_eq!(recorder.model.direct(), [""; 0]);
    recorder.change(|_| ());
    assert_eq!(
        (recorder.model.direct(), recorder.open()),
        (expected().iter().map(ToString::to_string).collect(), Vec::new())
    );
    assert_eq!(recorder.model.ours(), ["10.244.0.0/16", "fd00::/16"]);
}

#[test]
fn without_the_right_each_is_shown_with_its_command() {
    let mut model = Model::new();
    for prefix in ["10.244.0.0/16", "fd00::/16"] {
        model.foreign(prefix, TUN);
    }
    let config = [NODE, KERNEL, PEERS].concat();
    let mut recorder = Recorder::start_with(&config, model, false, ways()).unwrap();
    recorder.pass(Duration::from_secs(1));
    let open = recorder.open();
    assert!(open.contains(&"ip route add 10.244.2.0/24 via 192.0.2.2 dev eth0".to_owned()), "{open:?}");
    assert!(open.contains(&format!("ip route add {}", ROUTE6.replace("e2", "eth0"))), "{open:?}");
    let pump = (Some("pump".to_owned()), Some("the kernel lacks the route".to_owned()));
    assert_eq!(via(&recorder, "10.244.2.9"), pump);
    // An administrator runs it.
    let mut there = started();
    let theirs = there.model.to_hosts.remove(0);
    recorder.change(|model| {
        model.foreign(&theirs.prefix.to_string(), ETH);
        model.to_hosts.push(theirs.clone());
    });
    assert!(!recorder.open().iter().any(|one| one.contains(&theirs.prefix.to_string())));
    assert_eq!(via(&recorder, &theirs.prefix.address().to_string()).0.as_deref(), Some("kernel"));
}

#[test]
fn a_routing_daemons_route_in_the_main_table_is_left_to_it() {
    let followed = "[source.kernel]\nprotocols = [\"bird\"]\n";
    let config = [NODE, KERNEL, PEERS, followed].concat();
    let mut recorder = Recorder::start_with(&config, Model::new(), true, ways()).unwrap();
    let learn = |recorder: &mut Recorder, text: &str| {
        recorder.follow(super::update(
            Source::Kernel,
            recorder.answers.len() as u64 + 1,
            super::Update::Changes(batch(text)),
        ));
        recorder.pass(Duration::from_secs(1));
    };
    learn(&mut recorder, "10.244.7.0/24 via b\n10.244.8.0/24 via d\n10.244.7.64/26 via d\n");
    // What goes bare is BIRD's own; what is for the tunnel is outdone, also inside of it.
    assert!(recorder.model.direct().iter().all(|route| !route.starts_with("10.244.7.")));
    assert_eq!(via(&recorder, "10.244.7.1").0.as_deref(), Some("kernel"));
    assert_eq!(recorder.model.ours(), ["10.244.0.0/16", "10.244.7.64/26", "10.244.8.0/24", "fd00::/16"]);
    assert!(recorder.model.routes.iter().any(|route| route.protocol == ROUTE_PROTOCOL));
}
