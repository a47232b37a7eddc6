//! A state without a host: edits, refusals, peers, and what is published.

use std::net::IpAddr;

use super::{Batch, Changed};
use crate::api::NewPeer;
use crate::config;
use crate::control::engine::edits::batch::Places;
use crate::control::engine::edits::lines::{Kinds, Reader};
use crate::control::engine::refusal::Kind;
use crate::control::engine::sample::Node;
use crate::route::{NextHop, Source};

const CONFIG: &str = r#"
[node]
name = "node-a"
address = "192.0.2.1/24"
[[pool]]
cidr = "10.244.0.0/16"
ipip_mode = "CrossSubnet"
[local]
subnets = ["10.244.1.0/24"]
[[peer]]
name = "node-b"
address = "192.0.2.2"
subnets = ["10.244.2.0/24"]
[[peer]]
name = "node-c"
address = "198.51.100.3"
subnets = ["10.244.3.0/24"]
"#;

fn state() -> Node {
    let config = config::parse(CONFIG, "test.toml").unwrap();
    Node::new(config)
}

fn batch(text: &str) -> Batch {
    let mut reader = Reader::new(Kinds::All);
    assert!(reader.push(text.as_bytes()));
    reader.finish().unwrap()
}

fn edit(state: &mut Node, text: &str) -> Result<Changed, (Kind, Vec<String>)> {
    let done = state.edit(Source::Control, &mut batch(text), 1);
    done.map_err(|refusal| {
        let all = if refusal.culprits.is_empty() { vec![refusal.text] } else { refusal.culprits };
        (refusal.kind, all)
    })
}

/// The peer and MTU that packets to `address` go by, once everything is published.
fn way(state: &mut Node, address: &str) -> Option<(String, u16)> {
    state.publish().unwrap();
    let address: IpAddr = address.parse().unwrap();
    let tables = state.forwarding().pin();
    let via = tables.choose(tables.lookup(address)?, 0)?;
    Some((state.peers[usize::from(via.peer.0)].name.to_string(), via.mtu))
}

#[test]
fn edits_reach_the_packets() {
    let mut state = state();
    let changed = edit(&mut state, "10.9.0.0/24 via node-b\n10.9.1.0/24 via node-c mtu 1300\n").unwrap();
    assert_eq!(changed, Changed { added: 2, deleted: 0 });
    assert_eq!(way(&mut state, "10.9.0.1"), Some(("node-b".into(), 1500)));
    assert_eq!(way(&mut state, "10.9.1.1"), Some(("node-c".into(), 1300)));
    let changed = edit(&mut state, "10.9.0.0/24 via node-c\ndel 10.9.1.0/24\n").unwrap();
    assert_eq!(changed, Changed { added: 1, deleted: 1 });
    assert_eq!(way(&mut state, "10.9.0.1"), Some(("node-c".into(), 1500)));
    assert_eq!(way(&mut state, "10.9.1.1"), None);
}

#[test]
fn a_group_is_a_group() {
    let mut state = state();
    edit(&mut state, "10.9.0.0/24 via node-c,node-b\n10.9.1.0/24 via node-b,node-b\n").unwrap();
    state.publish().unwrap();
    let forwarding = state.forwarding().pin();
    assert!(matches!(forwarding.lookup("10.9.0.1".parse().unwrap()), Some(NextHop::Group(_))));
    assert!(matches!(forwarding.lookup("10.9.1.1".parse().unwrap()), Some(NextHop::Peer(_))));
}

#[test]
fn refusals_name_everything_and_change_nothing() {
    let mut state = state();
    edit(&mut state, "10.9.0.0/24 via node-b\n").unwrap();
    let (kind, culprits) = edit(
        &mut state,
        "10.9.7.0/24 via node-b\n10.9.1.0/24 via node-x\n10.244.1.0/24 via node-b\n192.0.2.0/24 via node-b\n\
         198.51.0.0/16 via node-b\n224.0.0.0/8 via node-b\ndel 10.9.2.0/24\ndel 10.244.2.0/24\n\
         10.9.3.0/24 via node-b mtu 500\nfd00::/64 via node-b mtu 1200\n10.9.0.0/24 via node-b\ndel 10.9.0.0/24\n",
    )
    .unwrap_err();
    assert_eq!(kind, Kind::Conflict);
    let expected = [
        "line 2: no peer is called \"node-x\"; `underpass peer list` shows all",
        "line 12: 10.9.0.0/24 is given twice, first in line 11; remove one",
        "line 7: there is no control route 10.9.2.0/24; `underpass route list --source control` shows all",
        "line 9: mtu 500 is too small for 10.9.3.0/24; use 576 to 65535",
        "line 3: 10.244.1.0/24 is this node's own subnet; its pods are here",
        "line 8: 10.244.2.0/24 has a static route, but no control route; only those can be deleted",
        "line 4: 192.0.2.0/24 contains 192.0.2.1, the address of this node, and packets to that node would be \
         routed into the tunnel; use prefixes without node addresses",
        "line 5: 198.51.0.0/16 contains 198.51.100.3, the address of peer node-c, and packets to that node would \
         be routed into the tunnel; use prefixes without node addresses",
        "line 6: 224.0.0.0/8 is multicast, which is never routed to pods; use a unicast prefix",
        "line 10: mtu 1200 is too small for fd00::/64; use 1280 to 65535",
    ];
    assert_eq!(culprits, expected);
    assert_eq!(way(&mut state, "10.9.7.1"), None);
    assert_eq!(state.rib.len(), 4);
    assert_eq!(edit(&mut state, "del 10.99.0.0/16\n").unwrap_err().0, Kind::Missing);
    let mut alone = Batch::new(Places::Alone);
    alone.add("10.9.0.0/24".parse().unwrap(), "nobody", None, 0).unwrap();
    let refusal = state.edit(Source::Control, &mut alone, 0).unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "no peer is called \"nobody\"; `underpass peer list` shows all; nothing has changed"
    );
}

#[test]
fn replacing_keeps_other_sources() {
    let mut state = state();
    edit(&mut state, "10.9.0.0/24 via node-b\n10.244.2.0/24 via node-c\n").unwrap();
    assert_eq!(way(&mut state, "10.244.2.1").unwrap().0, "node-b", "the configuration comes first");
    let done = state.replace(Source::Control, &mut batch("10.10.0.0/16 via node-c\n"), 2).unwrap();
    assert_eq!(done, Changed { added: 1, deleted: 2 });
    let same = "10.10.0.0/16 via node-c\n10.11.0.0/16 via node-c\n";
    let done = state.replace(Source::Control, &mut batch(same), 2).unwrap();
    assert_eq!(done, Changed { added: 1, deleted: 0 });
    let other = "10.10.0.0/16 via node-b\n";
    let done = state.replace(Source::Control, &mut batch(other), 2).unwrap();
    assert_eq!(done, Changed { added: 1, deleted: 1 });
    state.replace(Source::Control, &mut batch("10.10.0.0/16 via node-c\n"), 2).unwrap();
    assert_eq!(way(&mut state, "10.9.0.1"), None);
    assert_eq!(way(&mut state, "10.10.0.1").unwrap().0, "node-c");
    assert_eq!(way(&mut state, "10.244.2.1").unwrap().0, "node-b");
    state.replace(Source::Control, &mut batch("10.10.0.0/16 via nobody\n"), 2).unwrap_err();
    assert_eq!(way(&mut state, "10.10.0.1").unwrap().0, "node-c");
}

fn peer(name: &str, address: &str, subnets: &[&str]) -> NewPeer {
    NewPeer {
        name: name.into(),
        address: address.parse().unwrap(),
        address6: None,
        also_from: Vec::new(),
        sends_for: Vec::new(),
        subnets: subnets.iter().map(|subnet| (*subnet).into()).collect(),
        port: None,
        vtep_mac: None,
    }
}

#[test]
fn of_peers_that_come_together_each_is_judged_by_itself() {
    let mut state = state();
    let known = state.peer_list().len();
    let new = [
        peer("node-x", "192.0.2.31", &["10.244.31.0/24"]),
        peer("node-y", "192.0.2.31", &[]),
        peer("node-z", "192.0.2.33", &["10.244.33.0/24"]),
    ];
    let refused = state.add_peers(&new, 3);
    let [(address, refusal)] = &refused[..] else { panic!("{refused:?}") };
    assert_eq!(*address, new[1].address);
    assert!(refusal.to_string().contains("192.0.2.31"), "{refusal:?}");
    assert_eq!(state.peer_list().len(), known + 2);
    assert_eq!(way(&mut state, "10.244.33.1").unwrap().0, "node-z");
}

#[test]
fn a_new_peer_takes_the_place_of_one_that_went() {
    let mut state = state();
    edit(&mut state, "10.9.0.0/24 via node-b\n10.9.1.0/24 via node-b,node-c\n").unwrap();
    let id = state.delete_peer("node-b").unwrap();
    assert_eq!(way(&mut state, "10.9.0.1"), None);
    assert_eq!(way(&mut state, "10.244.2.1"), None, "routes of the configuration go too");
    assert_eq!(way(&mut state, "10.9.1.1").unwrap().0, "node-c", "what is shared stays");
    assert_eq!(state.forwarding().pin().sender("192.0.2.2".parse().unwrap()), None);
    assert_eq!(state.forwarding().pin().sender("0.0.0.0".parse().unwrap()), None);
    std::sync::Arc::make_mut(&mut state.roster).release(id);
    state.add_peer(&peer("node-d", "192.0.2.4", &["10.244.4.0/24"]), 5).unwrap();
    assert_eq!(state.roster.id("node-d"), Some(id));
    assert_eq!(way(&mut state, "10.244.4.1").unwrap().0, "node-d");
    assert_eq!(state.forwarding().pin().sender("192.0.2.4".parse().unwrap()), Some(id));
    let names: Vec<_> = state.peer_list().into_iter().map(|peer| peer.name).collect();
    assert_eq!(names, ["node-d", "node-c"]);
    assert_eq!(state.delete_peer("node-b").unwrap_err().kind, Kind::Missing);
}

#[test]
fn a_replaced_peer_is_what_was_given_and_keeps_what_was_counted() {
    let mut state = state();
    state.replace_peer(&peer("node-d", "192.0.2.4", &["10.244.4.0/24", "10.244.5.0/24"]), 5).unwrap();
    edit(&mut state, "10.9.0.0/24 via node-d\n").unwrap();
    assert_eq!(way(&mut state, "10.244.4.1"), Some(("node-d".into(), 1500)));
    let id = state.roster.id("node-d").unwrap();
    let counters = |state: &Node| state.peers[usize::from(id.0)].counters.clone();
    let before = counters(&state);

    // Given again: nothing to publish, and no route is younger.
    state.replace_peer(&peer("node-d", "192.0.2.4", &["10.244.4.0/24", "10.244.5.0/24"]), 6).unwrap();
    assert!(!state.has_pending());
    let since = |state: &Node, prefix: &str| {
        state.rib.get(prefix.parse().unwrap(), Source::Control).map(|route| route.since)
    };
    assert_eq!(since(&state, "10.244.4.0/24"), Some(5));

    // Another address in another subnet: what travelled bare is encapsulated, also what it was not given.
    state.replace_peer(&peer("node-d", "198.51.100.4", &["10.244.5.0/24", "10.244.6.0/24"]), 7).unwrap();
    assert_eq!(way(&mut state, "10.244.4.1"), None);
    assert_eq!(way(&mut state, "10.244.5.1"), Some(("node-d".into(), 1480)));
    assert_eq!(way(&mut state, "10.244.6.1"), Some(("node-d".into(), 1480)));
    assert_eq!(way(&mut state, "10.9.0.1").unwrap().0, "node-d");
    assert_eq!((since(&state, "10.244.5.0/24"), since(&state, "10.244.6.0/24")), (Some(5), Some(7)));
    assert_eq!(state.roster.id("node-d"), Some(id));
    assert_eq!(counters(&state), before);
    let table = state.forwarding().pin();
    let senders = ["192.0.2.4", "198.51.100.4"].map(|address| table.sender(address.parse().unwrap()));
    assert_eq!(senders, [None, Some(id)]);
    drop(table);
    assert_eq!(state.peer_list().pop().unwrap().subnets, ["10.244.5.0/24", "10.244.6.0/24"]);

    // What cannot be leaves everything as it was.
    for (address, subnets, part) in [
        ("192.0.2.2", &["10.244.6.0/24"][..], "is that of peer node-b"),
        ("10.9.0.7", &[], "lies inside the route 10.9.0.0/24"),
        ("10.244.5.7", &["10.244.5.0/24"], "contains the peer's own address"),
        ("192.0.2.9", &["10.9.0.0/24"], "there is a control route 10.9.0.0/24 already"),
    ] {
        let refusal = state.replace_peer(&peer("node-d", address, subnets), 8).unwrap_err();
        assert!(refusal.text.contains(part), "{part}: {refusal}");
        assert!(!state.has_pending(), "{part}");
        assert_eq!(way(&mut state, "10.244.5.1").unwrap().0, "node-d");
        assert_eq!(state.peer_list().pop().unwrap().subnets, ["10.244.5.0/24", "10.244.6.0/24"]);
    }
    // Into what was its own subnet it may move.
    state.replace_peer(&peer("node-d", "10.244.5.7", &[]), 8).unwrap();
    assert_eq!(way(&mut state, "10.244.5.1"), None);
}

#[test]
fn a_replaced_peer_of_the_configuration_keeps_its_routes() {
    let mut state = state();
    edit(&mut state, "10.244.2.0/24 via node-c\n10.9.0.0/24 via node-b,node-c\n").unwrap();
    state.publish().unwrap();
    state.replace_peer(&peer("node-b", "192.0.2.2", &["10.244.2.0/24"]), 3).unwrap_err();
    edit(&mut state, "del 10.244.2.0/24\n").unwrap();
    state.publish().unwrap();
    state.replace_peer(&peer("node-b", "192.0.2.2", &["10.244.2.0/24"]), 3).unwrap();
    assert!(!state.has_pending());
    state.replace_peer(&peer("node-b", "192.0.2.7", &["10.244.2.0/24"]), 3).unwrap();
    let route = state.rib.exact("10.244.2.0/24".parse().unwrap()).unwrap();
    assert_eq!((route.source, route.since), (Source::Static, 0));
    state.replace_peer(&peer("node-b", "192.0.2.7", &[]), 3).unwrap();
    assert_eq!(way(&mut state, "10.244.2.1"), None);
    let shared = state.rib.exact("10.9.0.0/24".parse().unwrap()).unwrap();
    assert_eq!(state.rib.peers(&shared.target).len(), 2, "what is shared stays");
}

#[test]
fn a_peer_is_listed_with_the_subnets_that_lead_to_it() {
    let mut state = state();
    state.add_peer(&peer("node-d", "192.0.2.4", &["10.244.4.0/24", "10.244.5.0/24"]), 5).unwrap();
    let listed = |state: &Node| state.peer_list().pop().unwrap().subnets;
    assert_eq!(listed(&state), ["10.244.4.0/24", "10.244.5.0/24"]);
    edit(&mut state, "del 10.244.4.0/24\n").unwrap();
    assert_eq!(listed(&state), ["10.244.5.0/24"]);
    edit(&mut state, "10.244.5.0/24 via node-b,node-d\n").unwrap();
    assert_eq!(listed(&state), ["10.244.5.0/24"]);
    state.replace(Source::Control, &mut batch("10.244.4.0/24 via node-b\n"), 6).unwrap();
    assert!(listed(&state).is_empty());
}

#[test]
fn peers_that_cannot_be_are_refused() {
    let mut state = state();
    edit(&mut state, "10.9.0.0/24 via node-b\n").unwrap();
    for (name, address, subnets, part) in [
        ("node-a", "192.0.2.9", &[][..], "this node's own name"),
        ("node-b", "192.0.2.9", &[], "there is a peer \"node-b\" already"),
        ("a b", "192.0.2.9", &[], "is not a node name"),
        ("node-d", "192.0.2.1", &[], "is this node's own"),
        ("node-d", "192.0.2.2", &[], "is that of peer node-b"),
        ("node-d", "192.0.2.255", &[], "broadcast"),
        ("node-d", "224.0.0.1", &[], "multicast"),
        ("node-d", "10.244.2.9", &[], "lies inside the route 10.244.2.0/24"),
        ("node-d", "10.9.0.9", &[], "lies inside the route 10.9.0.0/24"),
        ("node-d", "192.0.2.9", &["192.0.2.8/29"], "contains the peer's own address"),
        ("node-d", "192.0.2.9", &["10.9.0.0/24"], "there is a control route"),
        ("node-d", "192.0.2.9", &["10.10.0.0/24", "10.10.0.0/24"], "given twice"),
        ("node-d", "192.0.2.9", &["10.244.1.0/24"], "this node's own subnet"),
    ] {
        let refusal = state.add_peer(&peer(name, address, subnets), 0).unwrap_err();
        assert!(refusal.text.contains(part), "{part}: {refusal}");
    }
    let mut same = peer("node-d", "192.0.2.9", &[]);
    same.vtep_mac = Some(crate::net::Mac::of_vtep("node-b").to_string());
    assert!(state.add_peer(&same, 0).unwrap_err().text.contains("is that of peer node-b"));
    assert_eq!(state.peer_list().len(), 2);
    let mut another_port = peer("node-d", "192.0.2.9", &[]);
    another_port.port = std::num::NonZeroU16::new(8472);
    state.add_peer(&another_port, 0).unwrap();
    assert_eq!(state.peer_list().iter().map(|peer| peer.port).collect::<Vec<_>>(), [4789, 4789, 8472]);
}

/// What the TUN's MTU is with peers that are reached over IPv4 alone, and with one over IPv6.
#[test]
fn a_peer_has_two_addresses_and_the_mtu_follows() {
    const CONFIG: &str = r#"
        [node]
        name = "node-a"
        address = "192.0.2.1/24"
        address6 = "2001:db8::1/64"
        [local]
        subnets = ["10.244.1.0/24"]
        [[pool]]
        cidr = "10.244.0.0/16"
        vxlan_mode = "Always"
    "#;
    let mut state = Node::new(config::parse(CONFIG, "f").unwrap());
    assert_eq!(state.underlay.tun.mtu, 1450);
    let mut both = peer("node-b", "192.0.2.2", &["10.244.2.0/24"]);
    both.address6 = Some("2001:db8::2".parse().unwrap());
    state.add_peer(&both, 0).unwrap();
    assert_eq!(state.underlay.tun.mtu, 1450, "outer headers have its first address");
    assert_eq!(way(&mut state, "10.244.2.1").unwrap().0, "node-b");
    let table = state.forwarding().pin();
    let senders = ["192.0.2.2", "2001:db8::2"].map(|address| table.sender(address.parse().unwrap()));
    assert!(senders[0].is_some() && senders[0] == senders[1], "{senders:?}");
    drop(table);
    assert_eq!(state.peer_list()[0].address6, both.address6);

    state.add_peer(&peer("node-c", "2001:db8::3", &["10.244.3.0/24"]), 0).unwrap();
    assert_eq!(state.underlay.tun.mtu, 1430);
    state.delete_peer("node-c").unwrap();
    assert_eq!(state.underlay.tun.mtu, 1450);

    for (address, address6, part) in [
        ("192.0.2.9", "2001:db8::2", "address6: 2001:db8::2 is that of peer node-b"),
        ("192.0.2.9", "2001:db8::1", "address6: 2001:db8::1 is this node's own"),
        ("192.0.2.9", "ff02::1", "address6: "),
        ("2001:db8::8", "2001:db8::9", "address6: the address is an IPv6 one already"),
    ] {
        let mut new = peer("node-d", address, &[]);
        new.address6 = Some(address6.parse().unwrap());
        let refusal = state.add_peer(&new, 0).unwrap_err();
        assert!(refusal.text.contains(part), "{part}: {refusal}");
    }
}

#[test]
fn who_may_send_for_whom_is_judged_and_shown() {
    let mut state = state();
    let new = |also_from: &[&str], sends_for: &[&str]| NewPeer {
        also_from: also_from.iter().map(|text| text.parse().unwrap()).collect(),
        sends_for: sends_for.iter().map(|text| (*text).to_owned()).collect(),
        ..peer("node-d", "192.0.2.9", &[])
    };
    for (also_from, sends_for, part) in [
        (&["192.0.2.1"][..], &[][..], "also_from: 192.0.2.1 is this node's own"),
        (&["192.0.2.2"], &[], "also_from: 192.0.2.2 is that of peer node-b"),
        (&["192.0.2.9"], &[], "also_from: 192.0.2.9 is given twice"),
        (&["192.0.2.10", "192.0.2.10"], &[], "also_from: 192.0.2.10 is given twice"),
        (&["224.0.0.1"], &[], "also_from: 224.0.0.1 is multicast"),
        (&[], &["0.0.0.0/0"], "sends_for: 0.0.0.0/0 would let the node speak for everybody"),
        (&[], &["10.244.1.0/25"], "sends_for: 10.244.1.0/25 lies inside the route 10.244.1.0/24"),
        (&[], &["10.8.0.1/24"], "sends_for: "),
    ] {
        let refusal = state.add_peer(&new(also_from, sends_for), 0).unwrap_err();
        assert!(refusal.text.contains(part), "{part}: {refusal}");
    }
    state.add_peer(&new(&["192.0.2.10"], &["10.8.0.0/24"]), 0).unwrap();
    state.publish().unwrap();
    let id = state.roster.id("node-d");
    assert_eq!(state.forwarding().pin().sender("192.0.2.10".parse().unwrap()), id);
    let shown = state.peer_list().pop().unwrap();
    assert_eq!((shown.also_from.len(), shown.sends_for), (1, vec!["10.8.0.0/24".to_owned()]));
    let twin = NewPeer { name: "node-e".into(), ..peer("", "192.0.2.10", &[]) };
    assert!(state.add_peer(&twin, 0).unwrap_err().text.contains("is that of peer node-d"));
    state.delete_peer("node-d").unwrap();
    state.publish().unwrap();
    assert_eq!(state.forwarding().pin().sender("192.0.2.10".parse().unwrap()), None);
}
