//! A state without a host follows other configurations.

use std::net::IpAddr;

use crate::api::NewPeer;
use crate::config::{self, Config};
use crate::control::engine::refusal::{Kind, Refusal};
use crate::control::engine::sample::Node;
use crate::net::Mode;
use crate::route::{PeerId, Source};

const HEAD: &str = r#"
[node]
name = "node-a"
address = "192.0.2.1/24"
[local]
subnets = ["10.244.1.0/24"]
"#;
const POOL: &str = "[[pool]]\ncidr = \"10.244.0.0/16\"\nipip_mode = \"CrossSubnet\"\n";
const B: &str = "[[peer]]\nname = \"node-b\"\naddress = \"192.0.2.2\"\nsubnets = [\"10.244.2.0/24\"]\n";
const C: &str = "[[peer]]\nname = \"node-c\"\naddress = \"198.51.100.3\"\nsubnets = [\"10.244.3.0/24\"]\n";

fn config(parts: &[&str]) -> Config {
    config::parse(&format!("{HEAD}{}", parts.concat()), "test.toml").unwrap()
}

fn state() -> Node {
    Node::new(config(&[POOL, B, C]))
}

fn reload(state: &mut Node, config: Config) -> Result<(), Refusal> {
    let gone = state.reload(config, std::iter::empty(), 9)?;
    state.publish().unwrap();
    gone.into_iter().for_each(|id| std::sync::Arc::make_mut(&mut state.roster).release(id));
    Ok(())
}

/// Name, mode and underlay address that packets to `address` go by.
fn way(state: &Node, address: &str) -> Option<(String, Mode, IpAddr)> {
    let tables = state.forwarding().pin();
    let via = tables.choose(tables.lookup(address.parse().unwrap())?, 0)?;
    let peer = &state.peers[usize::from(via.peer.0)];
    Some((peer.name.to_string(), via.mode, peer.address))
}

fn by(name: &str, mode: Mode, address: &str) -> Option<(String, Mode, IpAddr)> {
    Some((name.to_owned(), mode, address.parse().unwrap()))
}

fn added(name: &str, address: &str) -> NewPeer {
    NewPeer {
        name: name.to_owned(),
        address: address.parse().unwrap(),
        address6: None,
        also_from: Vec::new(),
        sends_for: Vec::new(),
        subnets: vec!["10.244.9.0/24".to_owned()],
        vtep_mac: None,
        port: None,
    }
}

#[test]
fn modes_follow_the_pools_and_the_mtu_too() {
    let mut state = state();
    assert_eq!(way(&state, "10.244.2.1"), by("node-b", Mode::Direct, "192.0.2.2"));
    assert_eq!((way(&state, "10.244.3.1").unwrap().1, state.underlay.tun.mtu), (Mode::Ipip, 1480));
    for (pool, near, far, mtu) in [
        (POOL.replace("CrossSubnet", "Always"), Mode::Ipip, Mode::Ipip, 1480),
        (POOL.replace("CrossSubnet", "Never"), Mode::Direct, Mode::Direct, 1500),
        (
            POOL.replace("ipip_mode = \"CrossSubnet\"", "vxlan_mode = \"Always\""),
            Mode::Vxlan,
            Mode::Vxlan,
            1450,
        ),
    ] {
        reload(&mut state, config(&[&pool, B, C])).unwrap();
        let modes = ["10.244.2.1", "10.244.3.1"].map(|to| way(&state, to).unwrap().1);
        assert_eq!((modes, state.underlay.tun.mtu), ([near, far], mtu));
    }
    let kept = state.rib.get("10.244.2.0/24".parse().unwrap(), Source::Static).unwrap();
    assert_eq!(kept.since, 0, "a route that stays keeps its age");
    assert_eq!(state.new_pools, Some(vec!["10.244.0.0/16".parse().unwrap()]));
}

#[test]
fn peers_come_go_and_move_and_keep_their_numbers() {
    let mut state = state();
    state.add_peer(&added("node-x", "192.0.2.9"), 1).unwrap();
    state.peers[1].counters.worker(0).unwrap().tx_packets.add(5);
    // c moves next door and swaps its subnet for another, b goes, d comes.
    let moved = C.replace("198.51.100.3", "192.0.2.2").replace("10.244.3.0", "10.244.33.0");
    let d =
        B.replace("node-b", "node-d").replace("192.0.2.2", "198.51.100.3").replace("10.244.2.", "10.244.4.");
    reload(&mut state, config(&[POOL, &moved, &d])).unwrap();
    assert_eq!(way(&state, "10.244.2.1"), None);
    assert_eq!(way(&state, "10.244.3.1"), None);
    assert_eq!(way(&state, "10.244.33.1"), by("node-c", Mode::Direct, "192.0.2.2"));
    assert_eq!(way(&state, "10.244.4.1"), by("node-d", Mode::Ipip, "198.51.100.3"));
    assert_eq!(way(&state, "10.244.9.1"), by("node-x", Mode::Direct, "192.0.2.9"), "stays");
    assert_eq!(state.roster.id("node-c"), Some(PeerId(1)));
    assert_eq!(state.peers[1].counters.totals().tx_packets, 5);
    let senders = ["192.0.2.2", "198.51.100.3", "192.0.2.9"];
    let senders = senders.map(|address| state.forwarding().pin().sender(address.parse().unwrap()));
    assert_eq!(senders, [Some(PeerId(1)), state.roster.id("node-d"), Some(PeerId(2))]);
    // And all the way back, with the two addresses swapped.
    let b = B.replace("192.0.2.2", "198.51.100.3");
    let c = C.replace("198.51.100.3", "192.0.2.2");
    reload(&mut state, config(&[POOL, &b, &c])).unwrap();
    assert_eq!(way(&state, "10.244.2.1"), by("node-b", Mode::Ipip, "198.51.100.3"));
    reload(&mut state, config(&[POOL, B, C])).unwrap();
    assert_eq!(way(&state, "10.244.2.1"), by("node-b", Mode::Direct, "192.0.2.2"));
    assert_eq!(way(&state, "10.244.3.1"), by("node-c", Mode::Ipip, "198.51.100.3"));
    assert_eq!((way(&state, "10.244.4.1"), state.roster.len()), (None, 3));
}

#[test]
fn what_takes_a_restart_is_refused_as_a_whole() {
    let mut state = state();
    let other = format!("{HEAD}{POOL}{B}")
        .replace("node-a", "node-z")
        .replace("192.0.2.1/24", "192.0.2.1/25")
        .replace("10.244.1.0/24", "10.244.1.128/25")
        + "[tunnel]\ndevice = \"up9\"\nworkers = 3\n[vxlan]\nport = 8472\n";
    let refusal = reload(&mut state, config::parse(&other, "f").unwrap()).unwrap_err();
    assert_eq!(refusal.kind, Kind::Conflict);
    let keys: Vec<&str> = refusal
        .culprits
        .iter()
        .filter_map(|text| text.strip_suffix(" has changed, which takes a restart"))
        .collect();
    let expected = [
        "`name` under [node]",
        "`address` under [node]",
        "`device` under [tunnel]",
        "`workers` under [tunnel]",
        "a key under [vxlan]",
        "the first of `subnets` under [local], the TUN's address,",
    ];
    assert_eq!(keys, expected);
    assert_eq!(way(&state, "10.244.3.1"), by("node-c", Mode::Ipip, "198.51.100.3"));
    assert_eq!(state.roster.len(), 2);
}

#[test]
fn what_the_api_added_must_fit() {
    let mut state = state();
    state.add_peer(&added("node-x", "192.0.2.9"), 1).unwrap();
    let b = B.replace("192.0.2.2", "192.0.2.9");
    let wide = C.replace("10.244.3.0/24", "192.0.2.8/29");
    let mac = crate::net::Mac::of_vtep("node-x");
    let twin = format!("{B}vtep_mac = \"{mac}\"\n");
    for (parts, part) in [
        ([POOL, &b, C], "which is that of peer node-b"),
        ([POOL, B, &wide], "which lies in subnet 192.0.2.8/29"),
        ([POOL, &twin, C], "have one vtep_mac"),
    ] {
        let refusal = reload(&mut state, config(&parts)).unwrap_err();
        assert!(refusal.text.contains(part), "{part}: {refusal}");
        assert_eq!(way(&state, "10.244.2.1"), by("node-b", Mode::Direct, "192.0.2.2"));
    }
    // A peer that the file has now, too, is the file's from now on.
    let x =
        B.replace("node-b", "node-x").replace("192.0.2.2", "192.0.2.9").replace("10.244.2.0", "10.244.8.0");
    reload(&mut state, config(&[POOL, &x])).unwrap();
    assert_eq!(way(&state, "10.244.8.1"), by("node-x", Mode::Direct, "192.0.2.9"));
    reload(&mut state, config(&[POOL, C])).unwrap();
    assert_eq!((way(&state, "10.244.9.1"), state.roster.len()), (None, 1));
}

#[test]
fn without_raw_sockets_only_vxlan_can_be_reloaded() {
    let vxlan = POOL.replace("ipip_mode = \"CrossSubnet\"", "vxlan_mode = \"Always\"");
    let mut state = Node::with(config(&[&vxlan, B]), false);
    let refusal = reload(&mut state, config(&[POOL, B, C])).unwrap_err();
    assert!(
        refusal.culprits[0].contains("10.244.2.0/24 of peer node-b would travel by direct"),
        "{refusal:?}"
    );
    assert!(refusal.culprits[1].contains("10.244.3.0/24 of peer node-c would travel by ipip"), "{refusal:?}");
    reload(&mut state, config(&[&vxlan, B, C])).unwrap();
    assert_eq!(way(&state, "10.244.3.1").unwrap().1, Mode::Vxlan);
}

#[test]
fn an_address_moves_between_nodes_and_no_other_route_is_touched() {
    let mut state = state();
    let here = |list: &str| {
        config::parse(&format!("{HEAD}{POOL}{B}{C}").replacen("\"10.244.1.0/24\"", list, 1), "f").unwrap()
    };
    let there = |list: &str| {
        config::parse(&format!("{HEAD}{POOL}{B}{C}").replacen("\"10.244.2.0/24\"", list, 1), "f").unwrap()
    };
    let lookup = |state: &Node, address: &str| state.forwarding().pin().lookup(address.parse().unwrap());
    let before = ["10.244.1.9", "10.244.2.9", "10.244.3.9"].map(|address| lookup(&state, address));
    for _ in 0..3 {
        reload(&mut state, here("\"10.244.1.0/24\", \"10.9.9.9/32\"")).unwrap();
        assert_eq!(lookup(&state, "10.9.9.9"), Some(crate::route::NextHop::Local));
        reload(&mut state, there("\"10.244.2.0/24\", \"10.9.9.9/32\"")).unwrap();
        assert_eq!(way(&state, "10.9.9.9").unwrap().0, "node-b");
        assert_eq!(["10.244.1.9", "10.244.2.9", "10.244.3.9"].map(|address| lookup(&state, address)), before);
    }
    reload(&mut state, config(&[POOL, B, C])).unwrap();
    assert_eq!(lookup(&state, "10.9.9.9"), None);
    let kept = state.rib.get("10.244.1.0/24".parse().unwrap(), Source::Local).unwrap();
    assert_eq!(kept.since, 0, "a route that stays keeps its age");
}

#[test]
fn a_pool_with_nodes_in_it_is_no_kernel_route() {
    let wide = POOL.replace("10.244.0.0/16", "192.0.0.0/8");
    let mut state = state();
    reload(&mut state, config(&[POOL, &wide, B, C])).unwrap();
    let pods: Vec<crate::net::Prefix> = vec!["10.244.0.0/16".parse().unwrap()];
    assert_eq!(state.new_pools.take(), Some(pods.clone()));
    // Nodes come and go by the API, too.
    state.add_peer(&NewPeer { subnets: Vec::new(), ..added("node-x", "10.244.99.9") }, 1).unwrap();
    assert_eq!(state.new_pools.take(), Some(vec![]));
    state.publish().unwrap();
    state.delete_peer("node-x").unwrap();
    assert_eq!(state.new_pools.take(), Some(pods));
}

#[test]
fn policies_are_followed_but_for_what_was_made_of_them() {
    let with = |policy: &str| config(&[POOL, B, C, policy]);
    let refused = |from: &str, to: &str| -> Vec<String> {
        let Err(refusal) = reload(&mut Node::new(with(from)), with(to)) else { return Vec::new() };
        // A single culprit is the text itself.
        let all = if refusal.culprits.is_empty() { vec![refusal.text] } else { refusal.culprits };
        all.iter().map(|text| text.split(" has changed").next().unwrap().to_owned()).collect()
    };
    let endpoint = "[[endpoint]]\nname = \"a\"\naddresses = [\"10.244.1.5\"]\n";
    for (from, to, expected) in [
        (
            "[policy]\n",
            "[policy]\nfail_open = true\nfragments = \"pass\"\n[policy.timeouts]\nudp = 5\n",
            vec![],
        ),
        ("[policy]\n", &format!("[policy]\n{endpoint}"), vec![]),
        ("", "[policy]\nscope = \"all\"\n", vec!["whether there is [policy]"]),
        ("[policy]\n", "", vec!["whether there is [policy]"]),
        (
            "[policy]\n",
            "[policy]\nscope = \"all\"\nconnections = 1024\n",
            vec!["`connections` under [policy]"],
        ),
    ] {
        assert_eq!(refused(from, to), expected, "{from} {to}");
    }
}
