//! More different next hops than the packet path can number, and numbers that come back.

use std::fmt::Write;
use std::time::Duration;

use super::model::{Model, Recorder};
use super::{C, NODE, POOL, batch, edit};
use crate::api::NewPeer;
use crate::control::engine::edits::pending::Pending;
use crate::control::engine::refusal::Kind;
use crate::control::engine::{Changed, Event, Reply, Request};
use crate::route::Source;

/// Host routes with more combinations of node and MTU than there are ids.
fn too_many() -> String {
    let mut text = "172.30.0.0/16 via b\n".to_owned();
    for n in 0..66_000_u32 {
        let (node, mtu) = if n < 60_000 { ("b", 1000 + n) } else { ("c", n - 59_000) };
        writeln!(text, "{}/32 via {node} mtu {mtu}", std::net::Ipv4Addr::from_bits(0x0A14_0000 + n)).unwrap();
    }
    text
}

#[test]
fn too_many_next_hops_are_refused_and_everything_stays() {
    let config = [NODE, POOL, C].concat().replace("10.244.0.0/16", "10.0.0.0/8");
    let mut recorder = Recorder::start(&config, Model::new(), true).unwrap();
    recorder.pass(Duration::from_secs(1));
    let before = recorder.engine.state.rib.len();
    recorder.wanted.clear();
    recorder.ask(edit("172.29.0.0/16 via b\n"), true);
    // Both within the window of one publication.
    let small = recorder.ask(edit("172.28.0.0/16 via b\n"), true);
    recorder.ask(edit(&too_many()), true);
    let refusal = recorder.answers.pop().unwrap().1.unwrap_err();
    assert_eq!(refusal.kind, Kind::Full);
    assert!(refusal.text.starts_with("more than 65535 different next hops"), "{refusal:?}");
    assert!(refusal.text.ends_with("nothing has changed"), "{refusal:?}");
    recorder.pass(Duration::from_secs(1));
    assert_eq!(recorder.answers.pop().unwrap().0, small, "what fits is not held up");
    assert_eq!(recorder.engine.state.rib.len(), before + 2);
    assert!(recorder.has_way("10.244.2.1") && recorder.has_way("172.28.0.1"));
    assert!(!recorder.has_way("172.30.0.1"));
    let ours = ["10.0.0.0/8", "172.16.3.0/24", "172.28.0.0/16", "172.29.0.0/16"];
    assert_eq!(recorder.model.ours(), ours);
    // It is not tried again by itself.
    recorder.wanted.clear();
    let (begin, mut ticks) = (recorder.now, 0);
    while recorder.engine.deadline() <= begin + Duration::from_millis(200) {
        recorder.now = recorder.engine.deadline().max(recorder.now);
        recorder.follow(Event::Tick);
        ticks += 1;
    }
    assert!(ticks <= 1, "only the look of each second: {ticks}");
    assert!(!recorder.wanted.contains(&"publish".to_owned()), "{:?}", recorder.wanted);
    recorder.ask(Request::Replace(batch("172.30.0.0/16 via b\n")), true);
    assert!(recorder.has_way("172.30.0.1"));
}

#[test]
fn nobody_is_told_that_something_is_done_which_is_not() {
    let config = [NODE, POOL, C].concat().replace("10.244.0.0/16", "10.0.0.0/8");
    let mut recorder = Recorder::start(&config, Model::new(), true).unwrap();
    recorder.pass(Duration::from_secs(1));
    recorder.ask(edit("172.29.0.0/16 via b\n"), false);
    let waits = recorder.ask(edit("172.28.0.0/16 via b\n"), true);
    recorder.answers.clear();
    // What does not fit has come past what looks for that.
    recorder.engine.state.edit(Source::Control, &mut batch(&too_many()), 0).unwrap();
    recorder.pass(Duration::from_secs(1));
    assert_eq!((recorder.answers.len(), recorder.has_way("172.28.0.1")), (0, false));
    recorder.engine.state.replace(Source::Control, &mut batch("172.28.0.0/16 via b\n"), 0).unwrap();
    recorder.pass(Duration::from_secs(11));
    assert_eq!((recorder.answers.pop().unwrap().0, recorder.has_way("172.28.0.1")), (waits, true));
}

/// A node that may have eight routes and has two.
fn small() -> Recorder {
    let limit = "[control]\nmax_routes = 8\n";
    let mut recorder = Recorder::start(&[NODE, limit, POOL].concat(), Model::new(), true).unwrap();
    recorder.pass(Duration::from_secs(1));
    recorder
}

#[test]
fn a_peer_that_is_refused_leaves_the_kernels_routes_as_they_were() {
    let mut recorder = small();
    assert_eq!(recorder.model.ours(), ["10.244.0.0/16"]);
    // With an address in the pool: only what the nodes have leads into the TUN then.
    let mut peer = NewPeer {
        name: "d".to_owned(),
        address: "10.244.200.1".parse().unwrap(),
        address6: None,
        also_from: Vec::new(),
        sends_for: Vec::new(),
        subnets: (1..8).map(|n| format!("172.20.{n}.0/24")).collect(),
        vtep_mac: None,
        port: None,
    };
    recorder.ask(Request::AddPeer(peer.clone()), true);
    assert_eq!(recorder.answers.pop().unwrap().1.unwrap_err().kind, Kind::Full);
    assert_eq!(recorder.model.ours(), ["10.244.0.0/16"]);
    peer.subnets.truncate(1);
    recorder.ask(Request::AddPeer(peer), true);
    assert!(recorder.answers.pop().unwrap().1.is_ok());
    assert_eq!(recorder.model.ours(), ["10.244.2.0/24", "172.20.1.0/24"]);
}

#[test]
fn what_is_refused_does_not_have_everything_compiled_anew() {
    let mut recorder = small();
    recorder.ask(edit("172.28.0.0/16 via b\n"), false);
    recorder.ask(edit("172.29.0.0/16 via b\n"), false);
    let seven: String = (1..8).map(|n| format!("172.20.{n}.0/24 via b\n")).collect();
    recorder.ask(edit(&seven), true);
    assert_eq!(recorder.answers.pop().unwrap().1.unwrap_err().kind, Kind::Full);
    let pending = |recorder: &Recorder| match &recorder.engine.state.pending {
        Pending::Some(prefixes) => prefixes.iter().map(ToString::to_string).collect(),
        other => vec![format!("{other:?}")],
    };
    assert_eq!(pending(&recorder), ["172.29.0.0/16"]);
    recorder.pass(Duration::from_secs(1));
    assert!(recorder.has_way("172.29.0.1") && !recorder.has_way("172.20.1.1"));
    recorder.ask(edit(&seven), true);
    assert_eq!(pending(&recorder), ["Nothing"]);
}

/// A node with pods and the peers p0 to p16.
fn many_peers() -> Recorder {
    let mut config = NODE.to_owned() + "[[pool]]\ncidr = \"10.0.0.0/8\"\nvxlan_mode = \"Always\"\n";
    for n in 0..17 {
        write!(config, "[[peer]]\nname = \"p{n}\"\naddress = \"192.0.2.{}\"\nsubnets = []\n", 10 + n)
            .unwrap();
    }
    let mut recorder = Recorder::start(&config, Model::new(), true).unwrap();
    recorder.pass(Duration::from_secs(1));
    recorder
}

/// Routes to the sets of at least two peers whose numbers are the bits of numbers in `range`.
fn sets(range: std::ops::Range<u32>) -> String {
    let mut text = String::new();
    for bits in range.filter(|bits| bits.count_ones() > 1) {
        let names: Vec<String> = (0..17).filter(|n| bits >> n & 1 > 0).map(|n| format!("p{n}")).collect();
        let prefix = std::net::Ipv4Addr::from_bits(0x0A80_0000 + bits);
        writeln!(text, "{prefix}/32 via {}", names.join(",")).unwrap();
    }
    text
}

#[test]
fn sets_of_nodes_can_be_other_ones_for_ever() {
    let mut recorder = many_peers();
    for range in [0..50_000, 50_000..100_000, 80_000..131_072, 0..50_000] {
        recorder.ask(Request::Replace(batch(&sets(range))), true);
        let (_, answer) = recorder.answers.pop().unwrap();
        assert!(matches!(answer, Ok(Reply::Routes(..))), "{answer:?}");
    }
    recorder.ask(Request::Replace(batch("")), true);
    recorder.ask(edit(&sets(70_000..130_000)), true);
    assert!(recorder.answers.pop().unwrap().1.is_ok());
    // One by one beside those that stay.
    for bits in 1_030..1_330 {
        recorder.ask(edit(&sets(bits..bits + 1)), false);
        recorder.ask(edit(&format!("del {}/32\n", std::net::Ipv4Addr::from_bits(0x0A80_0000 + bits))), true);
    }
    assert!(recorder.answers.iter().all(|(_, answer)| answer.is_ok()));
}

#[test]
fn what_is_replaced_is_counted_however_short_ids_are() {
    let mut recorder = many_peers();
    recorder.ask(Request::Replace(batch(&sets(0..50_000))), true);
    recorder.ask(Request::Replace(batch(&sets(20_000..80_000))), true);
    let count = |range: std::ops::Range<u32>| range.filter(|bits| bits.count_ones() > 1).count();
    let changed = Changed { added: count(50_000..80_000), deleted: count(0..20_000) };
    let expected = Reply::Routes(changed, recorder.engine.state.rib.len());
    assert_eq!(recorder.answers.pop().unwrap().1, Ok(expected));
}

#[test]
fn a_peer_that_goes_takes_no_route_of_others_however_full_it_is() {
    let mut recorder = many_peers();
    let mut text = sets(65_536..131_072);
    text.push_str("10.1.0.0/16 via p0,p1,p2,p3,p4,p5,p6,p7,p8\n");
    text.push_str("10.2.0.0/16 via p8\n10.3.0.0/16 via p8,p9\n");
    // All but a few ids are taken; every set has p16.
    let cut = text.lines().skip(20).fold(String::new(), |all, line| all + line + "\n");
    recorder.ask(edit(&cut), true);
    assert!(recorder.answers.last().unwrap().1.is_ok(), "{:?}", recorder.answers.last());
    let before = recorder.engine.state.rib.len();
    recorder.ask(Request::DeletePeer("p8".to_owned()), true);
    assert_eq!(recorder.answers.pop().unwrap().1, Ok(Reply::PeerDeleted));
    let state = &recorder.engine.state;
    let owners = |prefix: &str| {
        let route = state.rib.get(prefix.parse().unwrap(), Source::Control)?;
        Some(state.rib.peers(&route.target).len())
    };
    assert_eq!(
        (owners("10.1.0.0/16"), owners("10.2.0.0/16"), owners("10.3.0.0/16")),
        (Some(8), None, Some(1))
    );
    assert_eq!(state.rib.len(), before - 1);
    assert!(recorder.has_way("10.1.0.1") && recorder.has_way("10.3.0.1"));
    recorder.ask(edit(&sets(3..1000)), true);
    assert!(recorder.answers.pop().unwrap().1.is_err(), "p8 is not known");
    recorder.ask(edit(&sets(3..256)), true);
    assert!(recorder.answers.pop().unwrap().1.is_ok(), "half of the sets have become one with others");
}
