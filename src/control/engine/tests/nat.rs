//! Masquerading follows the pools, what others do to the table, and the rights of the daemon.

use std::time::Duration;

use super::model::{Model, Recorder};
use super::{C, NODE, POOL, reload};
use crate::control::engine::port::{Blind, HostRequest, NatRules, NatView};

const NAT: &str = "vxlan_mode = \"Always\"\nnat_outgoing = true";

fn config() -> String {
    [NODE, &POOL.replace("vxlan_mode = \"Always\"", NAT), C].concat()
}

fn started() -> Recorder {
    Recorder::start(&config(), Model::new(), true).unwrap()
}

fn rules(recorder: &Recorder) -> &NatRules {
    match &recorder.model.nat {
        NatView::Rules(rules) => rules,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_start_makes_the_table_and_an_end_takes_it_back() {
    let mut recorder = started();
    assert_eq!(rules(&recorder).pods, ["10.244.0.0/16".parse().unwrap()].into());
    assert_eq!((rules(&recorder).device.as_str(), recorder.open()), ("up0", vec![]));
    let requests = recorder.engine.take_down();
    let [HostRequest::FlushRoutes { .. }, HostRequest::Nat { table, rules: None }, ..] = &requests[..] else {
        panic!("{requests:?}");
    };
    assert_eq!(table, "underpass-up0");
    // Also where the TUN has gone.
    let mut recorder = started();
    recorder.change(|model| model.tun = None);
    assert!(matches!(&recorder.engine.take_down()[..], [HostRequest::Nat { rules: None, .. }]));
    // A node that masquerades nothing has nothing to take back.
    let mut recorder = super::started();
    assert_eq!(recorder.model.nat, NatView::Absent);
    assert!(!recorder.engine.take_down().iter().any(|request| matches!(request, HostRequest::Nat { .. })));
}

#[test]
fn what_others_do_to_the_table_is_mended() {
    let mut recorder = started();
    let good = recorder.model.nat.clone();
    for bad in [NatView::Absent, NatView::Other, NatView::Rules(NatRules::default())] {
        recorder.change(|model| model.nat = bad.clone());
        assert_eq!((&recorder.model.nat, recorder.open()), (&good, vec![]), "{bad:?}");
    }
    recorder.wanted.clear();
    recorder.pass(Duration::from_secs(60));
    assert!(!recorder.wanted.contains(&"write underpass-up0".to_owned()), "{:?}", recorder.wanted);
    // The TUN under another name is still the one that leads into the cluster.
    recorder.change(|model| model.tun().link.name = "other0".to_owned());
    assert_eq!(rules(&recorder).device, "other0");
}

#[test]
fn a_reload_turns_it_on_and_off() {
    let mut recorder = super::started();
    for (generation, text, expected) in
        [(1, config(), true), (2, [NODE, POOL, C].concat(), false), (3, config(), true)]
    {
        reload(&mut recorder, generation, &text).unwrap();
        recorder.pass(Duration::from_secs(2));
        assert_eq!(recorder.model.nat.is_there(), expected, "{generation}");
        assert_eq!(recorder.open(), [""; 0]);
    }
    // And one that a former run has left is removed.
    let mut model = Model::new();
    model.nat = NatView::Other;
    let recorder = Recorder::start(&[NODE, POOL].concat(), model, true).unwrap();
    assert_eq!(recorder.model.nat, NatView::Absent);
}

#[test]
fn ports_of_peers_that_come_are_kept_from_pods() {
    let mut recorder = started();
    assert_eq!(rules(&recorder).tunnel_ports, [4789].into());
    let d = "[[peer]]\nname = \"d\"\naddress = \"192.0.2.4\"\nport = 8472\nsubnets = [\"10.244.4.0/24\"]\n";
    reload(&mut recorder, 1, &[&config(), d].concat()).unwrap();
    recorder.pass(Duration::from_secs(2));
    assert_eq!(rules(&recorder).tunnel_ports, [4789, 8472].into());
}

#[test]
fn without_right_or_nftables_it_is_off_and_shown() {
    let recorder = Recorder::start(&config(), Model::new(), false).unwrap();
    assert_eq!(recorder.model.nat, NatView::Absent);
    assert!(recorder.open().iter().any(|command| command.starts_with("nft 'table inet underpass-up0 {")));

    let mut model = Model::new();
    model.nat = NatView::Unseen(Blind::NoNftables);
    let mut recorder = Recorder::start(&config(), model, true).unwrap();
    assert!(!recorder.wanted.contains(&"write underpass-up0".to_owned()));
    let [command] = &recorder.open()[..] else { panic!("{:?}", recorder.open()) };
    assert!(command.starts_with("iptables -t nat"), "{command}");
    recorder.change(|model| model.nat = NatView::Absent);
    assert!(recorder.model.nat.is_there() && recorder.open().is_empty());
}

#[test]
fn a_refusal_is_explained_and_tried_again_and_costs_no_other_right() {
    let mut model = Model::new();
    model.refuses = |request| matches!(request, HostRequest::Nat { .. }).then_some(libc::EOPNOTSUPP);
    let mut recorder = Recorder::start(&config(), model, true).unwrap();
    let shown = recorder.engine.snapshot().requirements.clone();
    let [shown] = &shown[..] else { panic!("{shown:?}") };
    assert!(shown.what.contains("(nat_outgoing) (cannot do that: no"), "{}", shown.what);
    recorder.change(|model| model.tun().link.mtu = 1300);
    assert_eq!(recorder.model.tun().link.mtu, 1450, "everything else is mended");
    recorder.model.refuses = |_| None;
    recorder.pass(Duration::from_secs(31));
    assert!(recorder.model.nat.is_there() && recorder.open().is_empty());
}
