//! Routes change their mode with what is known of their direct path, and nothing else does.

use std::collections::BTreeMap;
use std::time::Instant;

use super::model::{Model, Recorder};
use super::{C, NODE, POOL, reload};
use crate::api::RouteMode;
use crate::control::engine::Event;
use crate::control::engine::bfd::Verdict;
use crate::route::DirectPath;

const B_PATH: &str = "192.0.2.2";

fn config() -> String {
    let verified = "vxlan_mode = \"CrossSubnet\"\nverify = true";
    [NODE, &POOL.replace("vxlan_mode = \"Always\"", verified), C].concat()
}

fn path(next_hop: &str) -> DirectPath {
    DirectPath { ipv4: true, next_hop: next_hop.parse().unwrap() }
}

fn said(used: bool) -> Event {
    let verdict = Verdict { used, works: used, heard: true, failures: u64::from(!used) };
    Event::DirectPaths(BTreeMap::from([(path(B_PATH), verdict)]))
}

fn mode(recorder: &Recorder, address: &str) -> (RouteMode, String) {
    let snapshot = recorder.engine.snapshot();
    let route = snapshot.route_get(address.parse().unwrap(), Instant::now()).unwrap();
    (route.mode, route.reason)
}

/// How many tables were published since the last time.
fn published(recorder: &mut Recorder) -> usize {
    std::mem::take(&mut recorder.wanted).iter().filter(|wanted| *wanted == "publish").count()
}

#[test]
fn a_route_follows_its_path() {
    let mut recorder = Recorder::start(&config(), Model::new(), true).unwrap();
    let inside = "10.244.2.9";
    assert_eq!(mode(&recorder, inside).0, RouteMode::Vxlan);
    let paths = recorder.engine.snapshot().paths_to_verify();
    assert_eq!(paths.keys().copied().collect::<Vec<_>>(), [path(B_PATH), path("192.0.2.3")]);
    assert_eq!(paths[&path(B_PATH)], ["10.244.2.0".parse::<std::net::IpAddr>().unwrap()]);
    recorder.wanted.clear();
    recorder.follow(said(true));
    assert_eq!(published(&mut recorder), 1, "at once");
    let (now, reason) = mode(&recorder, inside);
    assert_eq!(now, RouteMode::Direct);
    assert!(reason.contains("192.0.2.2 get through directly"), "{reason}");
    // Outside of the pool nothing is verified.
    assert_eq!(mode(&recorder, "172.16.3.1").0, RouteMode::Direct);
    recorder.follow(said(true));
    assert_eq!(published(&mut recorder), 0, "nothing new");
    recorder.follow(said(false));
    assert_eq!(published(&mut recorder), 1);
    let (now, reason) = mode(&recorder, inside);
    assert_eq!(now, RouteMode::Vxlan);
    assert!(reason.contains("do not get through"), "{reason}");
    let snapshot = recorder.engine.snapshot();
    assert_eq!((snapshot.direct_paths(), snapshot.direct_path_failures), ([0, 1], 1));
    let shown = &snapshot.peer_list()[0].direct_paths;
    assert_eq!((shown[0].verified, shown[0].failures, &*shown[0].family), (false, 1, "ipv4"));
}

#[test]
fn a_reload_keeps_what_is_known_and_can_end_it() {
    let mut recorder = Recorder::start(&config(), Model::new(), true).unwrap();
    recorder.follow(said(true));
    reload(&mut recorder, 1, &config().replace("[node]", "[tunnel]\nmtu = 1400\n[node]")).unwrap();
    assert_eq!(mode(&recorder, "10.244.2.9").0, RouteMode::Direct);
    recorder.follow(said(false));
    assert_eq!(mode(&recorder, "10.244.2.9").0, RouteMode::Vxlan);
    reload(&mut recorder, 2, &config().replace("verify = true", "verify = false")).unwrap();
    assert_eq!(mode(&recorder, "10.244.2.9").0, RouteMode::Direct);
    assert!(recorder.engine.snapshot().paths_to_verify().is_empty());
}

#[test]
fn packets_come_from_the_pods_of_a_neighbour_only() {
    let recorder = Recorder::start(&config(), Model::new(), true).unwrap();
    let snapshot = recorder.engine.snapshot();
    let from = |address: &str| snapshot.path_from(address.parse().unwrap());
    assert_eq!(from("10.244.2.0"), Some(path(B_PATH)));
    assert_eq!(from("10.244.1.5"), None, "our own");
    assert_eq!(from("10.244.9.0"), None, "nobody's");
    assert_eq!(snapshot.verifies_from(true), "10.244.1.0".parse().ok());
    assert_eq!(snapshot.verifies_from(false), None);
}
