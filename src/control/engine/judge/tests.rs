//! Judgements by made-up facts, and their texts.

use std::net::IpAddr;

use super::{Facts, Needs, PreflightError, TunNode, Verdict, Warning, judge_settings};
use crate::control::engine::port::{KernelTunnel, Settings, TunDetails};

const ALL: u64 = 1 << 12 | 1 << 13;

fn needs() -> Needs {
    Needs {
        device: "up0".to_owned(),
        uplink: "eth0".to_owned(),
        ipip: true,
        direct: true,
        direct_by_pump: true,
        ipv6: true,
        ipv6_underlay: true,
        own: vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()],
    }
}

fn good() -> Facts {
    Facts {
        tun_node: TunNode::Ready,
        capabilities: ALL,
        uid: 1000,
        groups: vec![1000, 27],
        device: None,
        settings: Settings { rp_filter_uplink: 2, ..Settings::default() },
    }
}

fn is_peer(address: IpAddr) -> bool {
    address == IpAddr::from([192, 0, 2, 2])
}

fn judge(needs: &Needs, facts: &Facts) -> Verdict {
    super::judge(needs, facts, is_peer)
}

fn errors(facts: &Facts) -> Vec<PreflightError> {
    judge(&needs(), facts).errors
}

#[test]
fn a_good_host_passes() {
    assert_eq!(judge(&needs(), &good()), Verdict::default());
}

#[test]
fn every_obstacle_is_reported_at_once() {
    let facts = Facts {
        tun_node: TunNode::Missing,
        capabilities: 0,
        settings: Settings {
            tunl0_up: true,
            ip6tnl0_up: true,
            rp_filter_all: 1,
            rp_filter_uplink: 0,
            ip_forward: false,
            ip6_forward: false,
            ..Settings::default()
        },
        ..good()
    };
    let verdict = judge(&needs(), &facts);
    let expected = [
        PreflightError::TunMissing,
        PreflightError::NoNetAdmin { device: "up0".to_owned(), uid: 1000 },
        PreflightError::NoNetRaw { modes: "ipip and direct" },
        PreflightError::KernelIpip,
        PreflightError::KernelIp6Tunnel,
        PreflightError::StrictReversePath { uplink: "eth0".to_owned() },
    ];
    assert_eq!(verdict.errors, expected);
    assert_eq!(verdict.warnings, [Warning::ForwardingOff, Warning::Ipv6ForwardingOff]);
}

#[test]
fn what_ipv6_needs_matters_only_where_it_is_used() {
    let settings = Settings { ip6tnl0_up: true, ip6_forward: false, ..Settings::default() };
    let facts = Facts { settings, ..good() };
    let needs = Needs { ipv6: false, ipv6_underlay: false, ..needs() };
    assert_eq!(judge(&needs, &facts), Verdict::default());
}

#[test]
fn a_tun_of_our_own_replaces_net_admin() {
    let with = |owner, group| Facts {
        capabilities: 1 << 13,
        device: Some(TunDetails { owner, group, persistent: true, ..TunDetails::default() }),
        ..good()
    };
    for (owner, group) in [(None, None), (Some(1000), None), (None, Some(27)), (Some(1000), Some(27))] {
        assert_eq!(errors(&with(owner, group)), [], "{owner:?} {group:?}");
    }
    for (owner, group) in [(Some(0), None), (None, Some(5)), (Some(1000), Some(5)), (Some(0), Some(27))] {
        let expected = PreflightError::NotOurTun { device: "up0".to_owned(), owner, group, uid: 1000 };
        assert_eq!(errors(&with(owner, group)), [expected]);
    }
}

#[test]
fn with_net_admin_a_tun_of_another_user_is_not_taken() {
    let with = |owner| {
        let tun = TunDetails { owner, persistent: true, ..TunDetails::default() };
        errors(&Facts { device: Some(tun), ..good() })
    };
    assert_eq!(with(None), []);
    assert_eq!(with(Some(1000)), []);
    for owner in [0, 65534] {
        let expected = PreflightError::TunOfOther { device: "up0".to_owned(), owner, uid: 1000 };
        assert!(expected.to_string().contains("`ip tuntap add dev up0 mode tun user 1000 multi_queue`"));
        assert_eq!(with(Some(owner)), [expected]);
    }
    assert!(super::user(65534).contains("without a number"));
}

#[test]
fn a_tun_that_another_process_holds_is_not_shared() {
    let with = |persistent, queues| {
        let tun = TunDetails { persistent, queues, multi_queue: true, ..TunDetails::default() };
        errors(&Facts { device: Some(tun), ..good() })
    };
    assert_eq!(with(true, 0), []);
    for (persistent, queues) in [(false, 0), (false, 2), (true, 1)] {
        let expected = PreflightError::TunInUse { device: "up0".to_owned() };
        assert_eq!(with(persistent, queues), [expected], "{persistent} {queues}");
    }
}

#[test]
fn raw_sockets_only_for_modes_that_use_them() {
    let facts = Facts { capabilities: 1 << 12, ..good() };
    let with = |ipip, direct| judge(&Needs { ipip, direct, ..needs() }, &facts).errors;
    assert_eq!(with(false, false), []);
    assert_eq!(with(true, false), [PreflightError::NoNetRaw { modes: "ipip" }]);
    assert_eq!(with(false, true), [PreflightError::NoNetRaw { modes: "direct" }]);
}

#[test]
fn the_larger_rp_filter_counts_and_only_for_direct() {
    let with = |all, uplink| {
        let settings = Settings { rp_filter_all: all, rp_filter_uplink: uplink, ..Settings::default() };
        Facts { settings, ..good() }
    };
    let strict = |all, uplink| !errors(&with(all, uplink)).is_empty();
    assert!(strict(1, 0) && strict(0, 1) && strict(1, 1));
    assert!(!strict(0, 0) && !strict(2, 1) && !strict(1, 2));
    assert_eq!(
        judge(&Needs { direct: false, direct_by_pump: false, ..needs() }, &with(1, 1)),
        Verdict::default()
    );
}

#[test]
fn texts_name_culprit_reason_and_next_step() {
    let denied = PreflightError::TunDenied { mode: 0o600, uid: 0, gid: 0 }.to_string();
    assert!(denied.contains("mode 0600, owner 0:0"), "{denied}");
    let owned = PreflightError::PortInUse { port: 4789, owner: Some("flannel.1".to_owned()) }.to_string();
    assert!(owned.starts_with("UDP port 4789 is in use by the kernel's VXLAN device flannel.1; remove it with `ip link del flannel.1`"), "{owned}");
    let unknown = PreflightError::PortInUse { port: 4789, owner: None }.to_string();
    assert!(unknown.contains("`ss -ulpn 'sport = :4789'`"), "{unknown}");
    let strict = PreflightError::StrictReversePath { uplink: "eth0.7".to_owned() }.to_string();
    assert!(strict.contains("`sysctl -w net/ipv4/conf/eth0.7/rp_filter=2`"), "{strict}");
    let foreign =
        PreflightError::NotOurTun { device: "up0".to_owned(), owner: Some(5), group: None, uid: 1000 };
    assert!(foreign.to_string().contains("(owner user 5, group any; we are user 1000)"), "{foreign}");
}

#[test]
fn what_appears_later_becomes_a_requirement() {
    let settings = Settings {
        tunl0_up: true,
        ip6tnl0_up: true,
        rp_filter_all: 1,
        rp_filter_uplink: 0,
        ip_forward: false,
        ip6_forward: false,
        ..Settings::default()
    };
    let commands: Vec<String> =
        judge_settings(&needs(), &settings, is_peer).requirements().map(|open| open.command).collect();
    let expected = [
        "ip link set tunl0 down",
        "ip link set ip6tnl0 down",
        "sysctl -w net/ipv4/conf/eth0/rp_filter=2",
        "sysctl -w net.ipv4.ip_forward=1",
        "sysctl -w net.ipv6.conf.all.forwarding=1",
    ];
    assert_eq!(commands, expected);
    assert_eq!(judge_settings(&needs(), &Settings::default(), is_peer).requirements().count(), 0);
}

#[test]
fn devices_that_would_deliver_twice() {
    let tunnel = |name: &str, local: Option<&str>, remote: Option<&str>| KernelTunnel {
        name: name.to_owned(),
        ipv6: false,
        local: local.map(|text| text.parse().unwrap()),
        remote: remote.map(|text| text.parse().unwrap()),
    };
    let of = |needs: &Needs, tunnel: KernelTunnel| {
        let settings = Settings { tunnels: Some(vec![tunnel]), tunl0_up: true, ..Settings::default() };
        let found = judge_settings(needs, &settings, is_peer).errors;
        found.iter().any(|error| matches!(error, PreflightError::KernelTunnel { .. }))
    };
    assert!(of(&needs(), tunnel("any", None, None)));
    assert!(of(&needs(), tunnel("t1", Some("192.0.2.1"), Some("192.0.2.2"))));
    assert!(!of(&needs(), tunnel("t1", None, Some("192.0.2.3"))), "somebody else");
    assert!(!of(&needs(), tunnel("t1", Some("198.51.100.1"), None)), "another address of this host");
    assert!(!of(&needs(), tunnel("tunl0", None, None)), "it is judged by its name");
    let vxlan = Needs { ipip: false, ..needs() };
    assert!(!of(&vxlan, tunnel("any", None, None)));
    let settings = Settings { tunl0_up: true, ip6tnl0_up: true, ..Settings::default() };
    assert_eq!(judge_settings(&vxlan, &settings, is_peer), Verdict::default());
    let over6 = KernelTunnel { ipv6: true, ..tunnel("six", None, None) };
    assert!(of(&needs(), over6.clone()));
    let only4 = Needs { own: vec!["192.0.2.1".parse().unwrap()], ..needs() };
    assert!(!of(&only4, over6));
}

#[test]
fn what_keeps_forwarded_packets_out_is_told() {
    let settings = Settings {
        forward_uplink: false,
        drop_forwarded: vec!["ip filter FORWARD".to_owned()],
        ..Settings::default()
    };
    let verdict = judge_settings(&needs(), &settings, is_peer);
    let commands: Vec<String> = verdict.requirements().map(|open| open.command).collect();
    assert_eq!(
        commands,
        ["sysctl -w net/ipv4/conf/eth0/forwarding=1", "nft chain ip filter FORWARD '{ policy accept; }'"]
    );
    // Tunnels come in by the TUN.
    let tunnels = Needs { direct: false, direct_by_pump: false, ..needs() };
    assert_eq!(judge_settings(&tunnels, &settings, is_peer).warnings.len(), 1);
}
