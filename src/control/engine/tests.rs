//! The engine against a recording host: every event, refusals, requests that fail, and the order of effects.

mod direct;
mod direct_paths;
mod full;
mod model;
mod nat;
mod network_policy;
mod notices;
mod pods;

use std::collections::HashMap;
use std::time::Duration;

use proptest::prelude::*;

use self::model::{ETH, Model, Recorder, TUN, persistent};
use super::edits::batch::{Batch, Places};
use super::edits::lines::{Kinds, Reader};
use super::port::{
    FirstHop, HostRequest, KernelTunnel, LinkChange, PeerWay, Requirement, Settings, Sysctl, Uplink,
};
use super::refusal::{Kind, Refusal};
use super::{
    Asked, Effect, EffectId, Event, Failure, PathMtu, Probed, Reply, Request, RequestId, TapUse, Update, look,
};
use crate::api::NewPeer;
use crate::dataplane::encap::frame::Hop;
use crate::dataplane::packet::Offloaded;
use crate::net::{Mac, Mode};
use crate::route::Source;

const NODE: &str = r#"
[node]
name = "a"
address = "192.0.2.1/24"
[local]
subnets = ["10.244.1.0/24"]
"#;
const POOL: &str = r#"
[[pool]]
cidr = "10.244.0.0/16"
vxlan_mode = "Always"
[[peer]]
name = "b"
address = "192.0.2.2"
subnets = ["10.244.2.0/24"]
"#;
const C: &str = r#"
[[peer]]
name = "c"
address = "192.0.2.3"
subnets = ["172.16.3.0/24"]
"#;

fn started() -> Recorder {
    Recorder::start(&[NODE, POOL, C].concat(), Model::new(), true).unwrap()
}

/// A way by the uplink.
fn way(via: &str, mtu: u16) -> PeerWay {
    let hop = FirstHop { index: ETH, via: via.parse().unwrap(), onlink: false };
    PeerWay { hop, mtu, route_mtu: None }
}

fn batch(text: &str) -> Batch {
    let mut reader = Reader::new(Kinds::All);
    assert!(reader.push(text.as_bytes()));
    reader.finish().unwrap()
}

fn edit(text: &str) -> Request {
    Request::Edit(batch(text))
}

fn update(source: Source, generation: u64, update: Update) -> Event {
    Event::Update { source, generation, update, request: None }
}

/// Another configuration, with what the host looks like where its pools are.
fn reload(recorder: &mut Recorder, generation: u64, text: &str) -> Result<Reply, Refusal> {
    let config = crate::config::parse(text, "test.toml").unwrap();
    let view = recorder.carry_out(EffectId(0), &HostRequest::Observe(look(&config, "eth0", None)));
    let Event::Observed(_, view) = view else { panic!("no view") };
    let update =
        Update::Configuration { config: Ok(Box::new(config)), view: Some(view), network_policy: None };
    let asked = Asked { id: RequestId(1000 + generation), wait: false };
    recorder.follow(Event::Update { source: Source::Static, generation, update, request: Some(asked) });
    recorder.answers.pop().unwrap().1
}

#[test]
fn peers_that_go_together_are_published_once() {
    let mut recorder = started();
    recorder.wanted.clear();
    let names = ["b", "nobody", "c"].map(str::to_owned).to_vec();
    let id = recorder.ask(Request::DeletePeers(names), false);
    assert_eq!(recorder.answers.pop(), Some((id, Ok(Reply::PeersDeleted))));
    assert_eq!(recorder.wanted.iter().filter(|wanted| *wanted == "publish").count(), 1);
    assert_eq!(recorder.engine.snapshot().peer_count(), 0);
    assert!(!recorder.has_way("10.244.2.9") && !recorder.has_way("172.16.3.9"));
}

#[test]
fn a_start_brings_the_host_to_what_it_should_be() {
    let recorder = started();
    let expected = [
        "up0 AddressGeneration=1",
        "up0 RouterAdvertisements=0",
        "up0 AcceptLocal=1",
        "up0 Mtu(1430)",
        "up0 QueueLength(10000)",
        "add 10.244.1.0",
        "up0 NoQueue",
        "up0 Up",
        "up0-x AcceptLocal=1",
        "up0-x Up",
    ];
    // A direct pool would leave 1500; VXLAN takes 50 and the route outside of the pools nothing.
    let wanted: Vec<String> = recorder.wanted.iter().map(|one| one.replace("1450", "1430")).collect();
    assert_eq!(wanted[..expected.len()], expected);
    assert_eq!(recorder.model.ours(), ["10.244.0.0/16", "172.16.3.0/24"]);
    assert_eq!(recorder.open(), [""; 0]);
    assert!(recorder.has_way("10.244.2.1") && recorder.has_way("172.16.3.1"));
}

#[test]
fn what_others_change_is_mended() {
    let mut recorder = started();
    let changes: [fn(&mut Model); 8] = [
        |model| model.routes.clear(),
        |model| model.tun().addresses.clear(),
        |model| model.tun().link.mtu = 1300,
        |model| model.tun().link.txqueuelen = 1,
        |model| _ = model.tun().sysctls.insert(Sysctl::AcceptLocal, 0),
        |model| _ = model.tun().sysctls.insert(Sysctl::Forwarding, 0),
        |model| model.tap.as_mut().unwrap().link.up = false,
        |model| _ = model.tap.as_mut().unwrap().sysctls.insert(Sysctl::ReversePath, 1),
    ];
    let good = recorder.model.clone();
    for (place, change) in changes.into_iter().enumerate() {
        recorder.change(change);
        assert_eq!(recorder.model.ours(), good.ours(), "{place}");
        assert_eq!((&recorder.model.tun, &recorder.model.tap), (&good.tun, &good.tap), "{place}");
        assert_eq!(recorder.open(), [""; 0], "{place}");
    }
    // One of ours that should not be there.
    recorder.change(|model| {
        model.foreign("10.9.0.0/16", TUN);
        model.routes.last_mut().unwrap().protocol = super::port::ROUTE_PROTOCOL;
    });
    assert_eq!(recorder.model.ours(), good.ours());
}

#[test]
fn somebody_who_insists_is_answered_once_a_second() {
    let mut recorder = started();
    recorder.pass(Duration::from_secs(2));
    recorder.wanted.clear();
    for _ in 0..20 {
        recorder.model.tun().link.mtu = 1300;
        recorder.follow(Event::Noticed(super::port::Notice::Link(TUN)));
        recorder.pass(Duration::from_millis(100));
    }
    let times = recorder.wanted.iter().filter(|one| one.starts_with("up0 Mtu")).count();
    assert!((2..=3).contains(&times), "{times}");
}

#[test]
fn routes_of_others_are_shown_and_gone_when_they_are() {
    let mut recorder = started();
    recorder.change(|model| model.foreign("10.244.2.0/24", ETH));
    assert_eq!(recorder.open(), ["ip route del 10.244.2.0/24 dev eth0 metric 0"]);
    recorder.change(|model| {
        model.routes.retain(|route| route.prefix.to_string() != "172.16.3.0/24");
        model.foreign("172.16.3.0/24", ETH);
    });
    assert!(recorder.open().contains(&"ip route del 172.16.3.0/24 dev eth0 metric 0".to_owned()));
    assert_eq!(recorder.model.ours(), ["10.244.0.0/16"]);
    recorder.change(|model| model.routes.retain(|route| route.device != Some(ETH)));
    assert_eq!(recorder.open(), [""; 0]);
    assert_eq!(recorder.model.ours(), ["10.244.0.0/16", "172.16.3.0/24"]);
}

#[test]
fn what_a_start_refuses_a_reload_refuses() {
    let mut model = Model::new();
    model.foreign("10.244.0.0/16", ETH);
    let at_start = Recorder::start(&[NODE, POOL].concat(), model, true).err().unwrap();
    assert!(at_start.starts_with("cannot add the route 10.244.0.0/16 dev up0"), "{at_start}");

    let mut recorder = Recorder::start(NODE, Model::new(), true).unwrap();
    recorder.model.foreign("10.244.0.0/16", ETH);
    let refusal = reload(&mut recorder, 1, &[NODE, POOL].concat()).unwrap_err();
    assert!(refusal.text.starts_with(&at_start), "{refusal:?}");
    assert!(!recorder.engine.snapshot().reloaded && !recorder.has_way("10.244.2.1"));
    // Nor is strict reverse path filtering for a direct pool.
    recorder.model.routes.clear();
    recorder.model.settings = Settings { rp_filter_all: 1, ..Settings::default() };
    let direct = POOL.replace("vxlan_mode = \"Always\"", "");
    assert_eq!(reload(&mut recorder, 2, &[NODE, &direct].concat()).unwrap_err().kind, Kind::Conflict);
    recorder.model.settings = Settings::default();
    let reply = reload(&mut recorder, 3, &[NODE, POOL, C].concat()).unwrap();
    assert_eq!(reply, Reply::Reloaded { peers: 2, routes: 3 });
    assert_eq!(recorder.model.ours(), ["10.244.0.0/16", "172.16.3.0/24"]);
    assert!(recorder.engine.snapshot().reloaded);
}

#[test]
fn settings_of_the_host_become_requirements() {
    let mut recorder = started();
    recorder.change(|model| model.settings.ip_forward = false);
    assert_eq!(recorder.open(), ["sysctl -w net.ipv4.ip_forward=1"]);
    assert!(recorder.wanted.contains(&"require sysctl -w net.ipv4.ip_forward=1".to_owned()));
    recorder.change(|model| model.settings.ip_forward = true);
    assert!(recorder.wanted.contains(&"resolved sysctl -w net.ipv4.ip_forward=1".to_owned()));
    // Routes outside of every pool travel bare.
    recorder.change(|model| model.settings.rp_filter_uplink = 1);
    assert_eq!(recorder.open(), ["sysctl -w net/ipv4/conf/eth0/rp_filter=2"]);
}

#[test]
fn kernel_tunnels_from_any_address_of_a_peer_are_shown() {
    let config =
        [NODE, &POOL.replace("vxlan_mode", "ipip_mode"), "also_from = [\"192.0.2.22\"]\n", C].concat();
    let mut recorder = Recorder::start(&config, Model::new(), true).unwrap();
    let tunnel = |remote: &str| KernelTunnel {
        name: "t1".to_owned(),
        ipv6: false,
        local: None,
        remote: Some(remote.parse().unwrap()),
    };
    for (remote, shown) in [("192.0.2.9", 0), ("192.0.2.2", 1), ("192.0.2.22", 1), ("192.0.2.1", 0)] {
        recorder.change(|model| model.settings.tunnels = Some(vec![tunnel(remote)]));
        recorder.pass(Duration::from_secs(31));
        assert_eq!(recorder.open().len(), shown, "{remote}");
        let config = crate::config::parse(&config, "test.toml").unwrap();
        assert_eq!(super::is_peer(&config, remote.parse().unwrap()), shown > 0, "{remote}");
    }
}

#[test]
fn a_refused_privilege_ends_all_attempts() {
    let mut model = Model::new();
    model.refuses = |request| match request {
        HostRequest::Observe(_) => None,
        _ => Some(libc::EPERM),
    };
    let mut recorder = Recorder::start(&[NODE, POOL].concat(), model, true).unwrap();
    let expected = [
        "ip link set dev up0 up",
        "ip link set dev up0-x up",
        "ip link set dev up0 mtu 1450",
        "ip link set dev up0 txqueuelen 10000",
        "ip address add 10.244.1.0/32 dev up0",
        "sysctl -w net/ipv4/conf/up0/accept_local=1",
        "sysctl -w net/ipv4/conf/up0-x/accept_local=1",
        "ip route add 10.244.0.0/16 dev up0",
    ];
    assert_eq!(recorder.open(), expected);
    recorder.wanted.clear();
    recorder.pass(Duration::from_secs(40));
    assert!(recorder.wanted.iter().all(|one| one == "look" || one == "glance"), "{:?}", recorder.wanted);
    // The packet path follows the MTU that is there.
    assert_eq!(recorder.engine.snapshot().underlay.tun.mtu, 1500);
    recorder.change(|model| model.tun().link.mtu = 1450);
    assert_eq!(recorder.engine.snapshot().underlay.tun.mtu, 1450);
}

#[test]
fn another_device_with_the_name_of_the_tap_is_left_alone() {
    let mut recorder = started();
    recorder.change(|model| {
        let tap = model.tap.as_mut().unwrap();
        (tap.link.index, tap.link.up) = (99, false);
    });
    assert!(!recorder.model.tap.as_ref().unwrap().link.up);
}

#[test]
fn rules_that_lead_elsewhere_are_shown_once_for_each_table() {
    let mut recorder = started();
    let prefix = |text: &str| text.parse().unwrap();
    recorder.change(|model| {
        let ruled = ["10.244.0.0/16", "172.16.3.0/24"].map(|text| (prefix(text), Some(100)));
        model.settings.ruled = Some(ruled.into_iter().chain([(prefix("fd00::/48"), None)]).collect());
    });
    let open = recorder.engine.snapshot().requirements;
    let told: Vec<_> = open.iter().map(|one| (one.what.as_str(), one.command.as_str())).collect();
    let expected = [
        ("packets for fd00::/48 do not reach the tunnel: a rule refuses them", "ip -6 rule show"),
        (
            "packets for 10.244.0.0/16 and 1 more do not reach the tunnel: a rule leads them to table 100",
            "ip rule show",
        ),
    ];
    assert_eq!(told, expected);
    recorder.change(|model| model.settings.ruled = Some(Vec::new()));
    assert_eq!(recorder.open(), [""; 0]);
}

#[test]
fn a_device_that_went_to_another_namespace_is_missed() {
    let mut recorder = started();
    recorder.change(|model| model.tun = None);
    let open = recorder.engine.snapshot().requirements;
    assert!(open[0].what.starts_with("up0 is not in this network namespace any more"), "{open:?}");
}

#[test]
fn a_device_that_was_set_down_stays_down_and_is_shown() {
    let mut recorder = started();
    let good = recorder.model.ours();
    recorder.change(|model| model.tun().link.up = false);
    recorder.pass(Duration::from_secs(35));
    assert!(!recorder.model.tun().link.up);
    assert_eq!(recorder.open()[0], "ip link set dev up0 up");
    recorder.change(|model| model.tun().link.up = true);
    assert_eq!((recorder.model.ours(), recorder.open()), (good, Vec::new()));
}

#[test]
fn other_refusals_are_explained_and_tried_again() {
    let mut recorder = started();
    recorder.model.refuses = |request| match request {
        HostRequest::Link { change: LinkChange::Up, .. } | HostRequest::Routes { .. } => Some(libc::ENOBUFS),
        _ => None,
    };
    recorder.change(|model| model.routes.clear());
    let open = recorder.engine.snapshot().requirements;
    assert_eq!(open.len(), 2);
    assert!(open[0].what.contains("do not reach the tunnel: cannot do that: no"), "{open:?}");
    recorder.change(|model| model.tap.as_mut().unwrap().link.up = false);
    assert_eq!(recorder.open()[0], "ip link set dev up0-x up");
    recorder.model.refuses = |_| None;
    recorder.pass(Duration::from_secs(65));
    assert_eq!(recorder.open(), [""; 0]);
    assert_eq!(recorder.model.ours().len(), 2);
}

#[test]
fn an_edit_is_seen_by_packets_then_by_the_kernel_then_answered() {
    let mut recorder = started();
    recorder.pass(Duration::from_secs(1));
    recorder.wanted.clear();
    let asked = Asked { id: RequestId(7), wait: true };
    let event = Event::Request(asked, edit("172.17.0.0/16 via b\n"));
    let effects = recorder.engine.handle(event, recorder.now);
    let mut requests: Vec<_> = effects.into_iter().filter_map(|effect| recorder.record(effect)).collect();
    assert_eq!(recorder.wanted, ["publish", "routes +1 -0"]);
    assert!(recorder.has_way("172.17.0.1") && recorder.answers.is_empty());
    let (id, request) = requests.remove(0);
    let ended = recorder.carry_out(id, &request);
    recorder.follow(ended);
    let changed = super::Changed { added: 1, deleted: 0 };
    assert_eq!(recorder.answers, [(7, Ok(Reply::Routes(changed, 4)))]);
    // Without waiting the answer comes first, and edits within the window are published together.
    recorder.wanted.clear();
    recorder.ask(edit("172.18.0.0/16 via b\n"), false);
    recorder.ask(edit("172.19.0.0/16 via b\n"), true);
    assert_eq!(recorder.wanted, ["answer 1"]);
    recorder.pass(Duration::from_millis(20));
    assert_eq!(recorder.wanted, ["answer 1", "publish", "routes +2 -0", "answer 2"]);
    // What changes nothing is answered, too.
    recorder.pass(Duration::from_secs(1));
    let id = recorder.ask(Request::Edit(Batch::new(Places::Lines)), true);
    assert_eq!(recorder.answers.last().unwrap().0, id);
}

#[test]
fn a_refused_change_changes_nothing() {
    let mut recorder = started();
    recorder.wanted.clear();
    recorder.ask(edit("172.17.0.0/16 via nobody\n"), true);
    recorder.ask(edit("del 172.17.0.0/16\n"), false);
    recorder.ask(Request::DeletePeer("nobody".to_owned()), true);
    let refused: Vec<Kind> =
        recorder.answers.iter().map(|(_, answer)| answer.clone().unwrap_err().kind).collect();
    assert_eq!(refused.len(), 3);
    assert!(refused.iter().all(|kind| [Kind::UnknownPeer, Kind::Missing, Kind::Conflict].contains(kind)));
    assert!(recorder.wanted.iter().all(|one| one.starts_with("answer")), "{:?}", recorder.wanted);
    let config = Err(Refusal::new(Kind::Malformed, "no TOML"));
    let update_ = Update::Configuration { config, view: None, network_policy: None };
    let asked = Some(Asked { id: RequestId(9), wait: true });
    recorder.follow(Event::Update { source: Source::Static, generation: 5, update: update_, request: asked });
    assert_eq!(recorder.answers.last().unwrap().1.clone().unwrap_err().text, "no TOML");
}

#[test]
fn without_the_right_edits_are_judged_by_what_the_kernel_has() {
    let mut model = Model::new();
    model.foreign("10.244.0.0/16", TUN);
    let mut recorder = Recorder::start(&[NODE, POOL].concat(), model, false).unwrap();
    let refused = recorder.ask(edit("172.17.0.0/16 via b\n"), true);
    let (id, answer) = recorder.answers.pop().unwrap();
    assert_eq!(id, refused);
    assert!(answer.unwrap_err().text.contains("`ip route add 172.17.0.0/16 dev up0`"));
    recorder.model.foreign("172.17.0.0/16", TUN);
    recorder.ask(edit("172.17.0.0/16 via b\n"), true);
    recorder.pass(Duration::from_millis(20));
    assert!(recorder.answers.pop().unwrap().1.is_ok(), "looked at after it was asked");
    assert!(recorder.has_way("172.17.0.1"));
    // A look that fails judges nothing; the next one does.
    recorder.model.refuses = |_| Some(libc::ENOBUFS);
    recorder.ask(edit("del 172.17.0.0/16\n"), false);
    assert!(recorder.answers.is_empty());
    recorder.model.refuses = |_| None;
    recorder.pass(Duration::from_secs(31));
    assert!(recorder.answers.pop().unwrap().1.is_ok());
}

#[test]
fn sources_have_one_rule_each_for_late_lost_and_withdrawn() {
    let mut recorder = started();
    recorder.follow(update(Source::Control, 5, Update::Changes(batch("172.17.0.0/16 via b\n"))));
    recorder.follow(update(Source::Control, 4, Update::Changes(batch("172.18.0.0/16 via b\n"))));
    recorder.pass(Duration::from_secs(1));
    assert!(recorder.has_way("172.17.0.1") && !recorder.has_way("172.18.0.1"));
    recorder.follow(update(Source::Control, 6, Update::Lost("away".to_owned())));
    recorder.pass(Duration::from_secs(100));
    assert!(recorder.has_way("172.17.0.1"), "what is lost stays");
    let changes = batch("del 172.17.0.0/16\n172.19.0.0/16 via b\n172.21.0.0/16 via nobody\n");
    recorder.follow(update(Source::Control, 7, Update::Changes(changes)));
    recorder.pass(Duration::from_secs(1));
    assert!(!recorder.has_way("172.17.0.1") && recorder.has_way("172.19.0.1"));
    assert!(!recorder.has_way("172.21.0.1"), "what is wrong is left out");
    recorder.follow(update(Source::Control, 8, Update::Withdrawn));
    recorder.pass(Duration::from_secs(1));
    assert!(!recorder.has_way("172.19.0.1") && recorder.has_way("10.244.2.1"));
    assert_eq!(recorder.model.ours(), ["10.244.0.0/16", "172.16.3.0/24"]);
}

#[test]
fn peers_come_and_go() {
    let mut recorder = started();
    let peer = NewPeer {
        name: "d".to_owned(),
        address: "192.0.2.4".parse().unwrap(),
        address6: None,
        also_from: Vec::new(),
        sends_for: Vec::new(),
        subnets: vec!["172.20.0.0/16".to_owned()],
        vtep_mac: None,
        port: None,
    };
    recorder.ask(Request::AddPeer(peer.clone()), true);
    assert_eq!(recorder.answers.pop().unwrap().1, Ok(Reply::PeerAdded("d".to_owned())));
    assert_eq!(recorder.engine.snapshot().peer_count(), 3);
    assert!(recorder.has_way("172.20.0.1"));
    // Changed in one publication, kernel routes and all; unchanged there is none.
    let moved = NewPeer { subnets: vec!["172.20.0.0/17".to_owned()], ..peer.clone() };
    for (peer, published) in [(&peer, 0), (&moved, 1), (&moved, 0)] {
        recorder.wanted.clear();
        recorder.ask(Request::ReplacePeer(peer.clone()), true);
        assert_eq!(recorder.answers.pop().unwrap().1, Ok(Reply::PeerAdded("d".to_owned())));
        let publications = recorder.wanted.iter().filter(|one| *one == "publish").count();
        assert_eq!(publications, published, "{:?}", recorder.wanted);
        assert!(recorder.has_way("172.20.0.1"));
    }
    assert!(!recorder.has_way("172.20.128.1"));
    assert_eq!(recorder.model.ours(), ["10.244.0.0/16", "172.16.3.0/24", "172.20.0.0/17"]);
    recorder.ask(Request::DeletePeer("d".to_owned()), true);
    assert_eq!(recorder.answers.pop().unwrap().1, Ok(Reply::PeerDeleted));
    assert!(!recorder.has_way("172.20.0.1"));
    assert_eq!(recorder.model.ours(), ["10.244.0.0/16", "172.16.3.0/24"]);
    recorder.ask(Request::Replace(batch("172.21.0.0/16 via c\n")), true);
    assert_eq!(recorder.engine.snapshot().routes(), 4);
}

#[test]
fn the_uplink_is_followed() {
    let mut recorder = started();
    let uplink = |index, mtu| Uplink { name: "eth1".to_owned(), index, mtu, ..Uplink::default() };
    recorder.pass(Duration::from_secs(2));
    recorder.wanted.clear();
    recorder.follow(Event::Uplink(uplink(ETH, 1400)));
    assert_eq!(recorder.wanted[..2], ["publish", "up0 Mtu(1350)"]);
    let snapshot = recorder.engine.snapshot();
    assert_eq!((snapshot.underlay.mtu, snapshot.underlay.tun.mtu, &*snapshot.uplink), (1400, 1350, "eth1"));
    recorder.follow(Event::Uplink(uplink(9, 1400)));
    assert_eq!(recorder.engine.snapshot().underlay.uplink, 9);
    let hop = Hop { destination: Mac([2; 6]), source: Mac([4; 6]) };
    recorder.wanted.clear();
    let hops = || Event::Hops(HashMap::from([("192.0.2.2".parse().unwrap(), hop)]));
    recorder.follow(hops());
    recorder.follow(hops());
    assert_eq!(recorder.wanted.iter().filter(|one| *one == "publish").count(), 1, "only what is new");
    let (peer, mode, port) = ("192.0.2.2".parse().unwrap(), Mode::Vxlan, Some(4789));
    recorder.follow(Event::PathMtu(PathMtu { peer, mode, port, mtu: 1300, quoted: 1400, sent: 1400 }));
    recorder.follow(Event::Probed(peer, Probed::TooBig(1300)));
    let mtu = |recorder: &Recorder| {
        recorder.engine.snapshot().route_get("10.244.2.1".parse().unwrap(), recorder.now).unwrap().mtu
    };
    assert_eq!(mtu(&recorder), 1250);
    recorder.pass(Duration::from_secs(601));
    assert_eq!(mtu(&recorder), 1250, "what was confirmed stays for longer than that");
    recorder.pass(Duration::from_secs(2000));
    assert_eq!(mtu(&recorder), 1350, "but not for ever");
    // One peer is behind a smaller link than the others, and then all are.
    let links = |mtu| Event::Ways(HashMap::from([("192.0.2.2".parse().unwrap(), way("192.0.2.2", mtu))]));
    recorder.follow(links(1200));
    assert_eq!((mtu(&recorder), recorder.engine.snapshot().underlay.tun.mtu), (1150, 1350));
}

#[test]
fn a_first_link_too_small_for_ipv6_is_shown_and_a_path_behind_it_is_not() {
    let config = [&NODE.replace("24\"]", "24\", \"fd00:1::/64\"]"), POOL].concat();
    let mut recorder = Recorder::start(&config, Model::new(), true).unwrap();
    let peer = "192.0.2.2".parse().unwrap();
    let link = |mtu| Event::Ways(HashMap::from([(peer, way("192.0.2.2", mtu))]));
    recorder.follow(link(1500));
    let (mode, port) = (Mode::Vxlan, Some(4789));
    recorder.follow(Event::PathMtu(PathMtu { peer, mode, port, mtu: 1300, quoted: 1500, sent: 1500 }));
    recorder.follow(Event::Probed(peer, Probed::TooBig(1300)));
    let route = recorder.engine.snapshot().route_get("10.244.2.1".parse().unwrap(), recorder.now);
    assert_eq!((route.unwrap().mtu, recorder.open()), (1250, Vec::new()));
    recorder.follow(link(1300));
    assert_eq!(recorder.open(), ["ip link set eth0 mtu 1330"]);
    let what = &recorder.engine.snapshot().requirements[0].what;
    assert!(what.contains("carries IPv6 packets of 1250 bytes by vxlan, and IPv6 demands 1280:"), "{what}");
}

#[test]
fn the_tap_and_strangers_are_said() {
    let mut recorder = started();
    let state = |recorder: &Recorder| recorder.engine.snapshot().tap_state.to_string();
    recorder.follow(Event::Tap(TapUse::default()));
    assert_eq!(state(&recorder), "off: not tested yet");
    recorder.follow(Event::Tap(TapUse { said: Some(Offloaded::Active), ..TapUse::default() }));
    assert_eq!(state(&recorder), "active");
    recorder.follow(Event::Tap(TapUse::default()));
    assert_eq!(state(&recorder), "off: no peer is reached by what it carries");
    let stranger = Requirement { what: "up0 has 3 queues".to_owned(), command: "grep".to_owned() };
    recorder.follow(Event::Strangers(vec![stranger]));
    assert_eq!(recorder.open(), ["grep"]);
    recorder.follow(Event::Strangers(Vec::new()));
    assert_eq!(recorder.open(), [""; 0]);
}

#[test]
fn looks_that_fail_and_answers_to_nothing_do_no_harm() {
    let mut recorder = started();
    recorder.model.refuses = |request| matches!(request, HostRequest::Observe(_)).then_some(libc::ENOBUFS);
    recorder.change(|model| model.routes.clear());
    assert_eq!(recorder.model.ours(), [""; 0]);
    recorder.model.refuses = |_| None;
    recorder.pass(Duration::from_secs(31));
    assert_eq!(recorder.model.ours().len(), 2);
    let failures = || vec![Failure { route: None, error: super::port::HostError::NoDevice("x".to_owned()) }];
    recorder.follow(Event::Ended(EffectId(9999), failures()));
    recorder.follow(Event::Observed(EffectId(9999), Box::default()));
    recorder.pass(Duration::from_secs(31));
    assert_eq!(recorder.open(), [""; 0]);
    // A device that is gone is nothing to mend, and no look is missing in what is taken down.
    recorder.change(|model| model.tun = None);
    assert_eq!(recorder.engine.take_down().len(), 0);
}

#[test]
fn the_end_takes_back_what_was_changed() {
    let requests = |mut recorder: Recorder| -> Vec<String> {
        let requests = recorder.engine.take_down();
        recorder.wanted.clear();
        for (n, request) in requests.into_iter().enumerate() {
            recorder.record(Effect::Host(EffectId(n as u64), request));
        }
        recorder.wanted
    };
    assert_eq!(requests(started()), ["flush", "remove 10.244.1.0"]);
    let mut model = Model::new();
    persistent(&mut model);
    let recorder = Recorder::start(&[NODE, POOL].concat(), model.clone(), true).unwrap();
    assert_eq!(requests(recorder), ["flush", "remove 10.244.1.0", "up0 Down"]);
    model.tun().addresses.push("10.244.1.0".parse().unwrap());
    model.tun().link.up = true;
    let recorder = Recorder::start(&[NODE, POOL].concat(), model, true).unwrap();
    assert_eq!(requests(recorder), ["flush"], "an administrator's stays");
}

/// What somebody may do to the host.
fn disturb(model: &mut Model, what: u8) {
    match what {
        0 => model.routes.retain(|route| !route.is_ours(TUN)),
        1 => model.foreign("10.244.7.0/24", ETH),
        2 => model.routes.retain(|route| route.device != Some(ETH)),
        3 => {
            model.tun().link.up = false;
            model.settle();
            model.tun().link.up = true;
        }
        4 => model.tun().link.mtu = 1234,
        5 => model.tun().addresses.clear(),
        6 => model.settings.ip_forward = !model.settings.ip_forward,
        7 => _ = model.tun().sysctls.insert(Sysctl::AcceptLocal, 0),
        8 => {
            model.routes.retain(|route| route.prefix.to_string() != "172.16.3.0/24");
            model.foreign("172.16.3.0/24", ETH);
        }
        _ => drop(model.routes.pop().filter(|route| route.is_ours(TUN))),
    }
    model.settle();
}

proptest! {
    /// Whatever is done to the host, it is as it should be or what is not is shown; routes of others stay.
    #[test]
    fn the_host_is_as_it_should_be_or_it_is_shown(changes in prop::collection::vec(prop::collection::vec(0_u8..10, 1..4), 1..8)) {
        let mut recorder = started();
        for together in changes {
            recorder.change(|model| together.iter().for_each(|what| disturb(model, *what)));
            let foreign = |model: &Model| model.routes.iter().filter(|route| route.device == Some(ETH)).count();
            let before = foreign(&recorder.model);
            recorder.pass(Duration::from_secs(3));
            prop_assert_eq!(foreign(&recorder.model), before);
            let open = recorder.open();
            let tun = recorder.model.tun().clone();
            prop_assert!(tun.link.up && tun.link.mtu == 1450 && tun.addresses.len() == 1);
            prop_assert_eq!(tun.sysctls[&Sysctl::AcceptLocal], 1);
            for prefix in ["10.244.0.0/16", "172.16.3.0/24"] {
                let ours = recorder.model.ours().contains(&prefix.to_owned());
                let shown = open.iter().any(|command| command.contains(prefix));
                prop_assert!(ours != shown, "{} {:?}", prefix, open);
            }
            let forwards = recorder.model.settings.ip_forward;
            prop_assert_eq!(open.iter().any(|command| command.contains("ip_forward")), !forwards);
        }
    }
}
