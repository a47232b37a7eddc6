//! Which rules follow from a configuration, and what is done about those that are missing or left.

use super::{differences, done, removal};
use crate::config::Config;
use crate::control::engine::port::{
    DeviceView, Found, HostRequest, Link, LinkChange, PodRoute, PodRouting, TUN_GROUP,
};
use crate::control::engine::reconcile::devices::Difference;

fn config(scope: &str) -> Config {
    let text = format!(
        r#"
            [node]
            name = "a"
            address = "192.0.2.1/24"
            [local]
            subnets = ["10.244.1.0/24", "172.16.1.0/24", "fd00:1::/64"]
            [policy]
            scope = "{scope}"
        "#
    );
    crate::config::parse(&text, "test.toml").unwrap()
}

fn tun() -> DeviceView {
    let link = Link { name: "up0".to_owned(), index: 7, up: true, group: TUN_GROUP, ..Link::default() };
    DeviceView { link, ..DeviceView::default() }
}

/// The commands of differences that an administrator would run.
fn commands(found: &[Difference]) -> Vec<&str> {
    found.iter().map(|one| one.requirement.as_ref().unwrap().command.as_str()).collect()
}

/// Executes everything until nothing is left to do; returns what was asked, round by round.
fn mended(config: &Config, tun: &mut DeviceView, seen: &mut PodRouting) -> Vec<Vec<HostRequest>> {
    let mut rounds = Vec::new();
    loop {
        let found = differences(config, tun, seen, true);
        let requests: Vec<HostRequest> = found.into_iter().flat_map(|one| one.requests).collect();
        if requests.is_empty() {
            return rounds;
        }
        for request in &requests {
            if let HostRequest::Link { change: LinkChange::Group(group), .. } = request {
                tun.link.group = *group;
            }
            done(seen, request);
        }
        rounds.push(requests);
    }
}

/// As everything is once it is there.
fn complete() -> PodRouting {
    let mut seen = PodRouting::default();
    mended(&config("all"), &mut tun(), &mut seen);
    seen
}

fn leads(request: &HostRequest) -> bool {
    let HostRequest::PodRule { rule, .. } = request else { return false };
    rule.command("add").contains(" lookup 117 ")
}

#[test]
fn an_administrator_is_told_everything_in_its_order() {
    let mut found = differences(&config("all"), &tun(), &PodRouting::default(), false);
    found.sort_by_key(|one| one.key);
    let said = commands(&found);
    assert_eq!(said.len(), 2 * 2 + 2 * 5 + 3 * 2);
    assert_eq!(
        said[..4],
        [
            "ip -6 route add default dev up0 table 117 protocol 117",
            "ip -6 route add unreachable default metric 4294967295 table 117 protocol 117",
            "ip route add default dev up0 table 117 protocol 117",
            "ip route add unreachable default metric 4294967295 table 117 protocol 117",
        ]
    );
    let v4: Vec<_> = said.iter().filter(|one| one.starts_with("ip rule")).collect();
    assert_eq!(
        v4,
        [
            &"ip rule add pref 5170 iif up0 goto 5180 protocol 117",
            &"ip rule add pref 5171 iif lo goto 5180 protocol 117",
            &"ip rule add pref 5180 nop protocol 117",
            &"ip rule add pref 32764 iif up0 lookup main suppress_ifgroup 117 protocol 117",
            &"ip rule add pref 32765 iif up0 unreachable protocol 117",
            &"ip rule add pref 5172 from 10.244.1.0/24 lookup 117 protocol 117",
            &"ip rule add pref 5172 from 172.16.1.0/24 lookup 117 protocol 117",
            &"ip rule add pref 5173 to 10.244.1.0/24 lookup 117 protocol 117",
            &"ip rule add pref 5173 to 172.16.1.0/24 lookup 117 protocol 117",
        ]
    );
    assert!(said.iter().any(|one| one == &"ip -6 rule add pref 5173 to fd00:1::/64 lookup 117 protocol 117"));
}

#[test]
fn nothing_is_led_before_it_could_not_go_round() {
    let (mut tun, mut seen) = (tun(), PodRouting::default());
    tun.link.group = 0;
    let rounds = mended(&config("all"), &mut tun, &mut seen);
    assert_eq!(rounds.len(), 2);
    assert!(!rounds[0].iter().any(leads) && rounds[1].iter().all(leads));
    assert!(matches!(rounds[0][0], HostRequest::Link { change: LinkChange::Group(TUN_GROUP), .. }));
    assert!(differences(&config("all"), &tun, &seen, true).is_empty());
    // What others removed comes back, and what is not missing stays.
    let good = complete();
    for gone in 0..good.rules.len() {
        let mut seen = good.clone();
        let rule = seen.rules.remove(gone);
        let rounds = mended(&config("all"), &mut tun, &mut seen);
        assert!(
            matches!(&rounds[..], [one] if matches!(&one[..], [HostRequest::PodRule { rule: added, add: true }] if *added == rule))
        );
    }
}

#[test]
fn a_tun_that_is_down_has_no_route_and_nothing_passes_unjudged() {
    let mut down = tun();
    down.link.up = false;
    let mut seen = PodRouting::default();
    mended(&config("all"), &mut down, &mut seen);
    assert_eq!(seen.routes.len(), 2);
    assert!(seen.routes.iter().all(|route| route.kind == libc::RTN_UNREACHABLE));
    let rounds = mended(&config("all"), &mut tun(), &mut seen);
    assert_eq!((rounds.len(), rounds[0].len(), seen.routes.len()), (1, 2, 4));
}

#[test]
fn a_policy_that_fails_open_refuses_nothing() {
    let mut open = config("all");
    open.policy.as_mut().unwrap().fail_open = true;
    let mut seen = PodRouting::default();
    mended(&open, &mut tun(), &mut seen);
    assert!(seen.routes.len() == 2 && seen.routes.iter().all(|route| route.device == Some(7)));
    // A reload adds what refuses, and takes it away.
    for (config, routes) in [(&config("all"), 4), (&open, 2)] {
        mended(config, &mut tun(), &mut seen);
        assert_eq!(seen.routes.len(), routes);
    }
}

#[test]
fn what_nobody_wants_any_more_goes_and_packets_go_first() {
    for requests in [mended(&config("overlay"), &mut tun(), &mut complete()).concat(), removal(&complete())] {
        assert_eq!(requests.len(), 2 * 5 + 3 * 2 + 2 * 2);
        let last_lead = requests.iter().rposition(leads).unwrap();
        assert_eq!(last_lead, 5, "what leads packets to the TUN comes first");
        assert!(matches!(requests.last(), Some(HostRequest::PodRoute { add: false, .. })));
    }
    assert!(differences(&config("overlay"), &tun(), &PodRouting::default(), true).is_empty());
    let mut fewer = config("all");
    fewer.local_subnets.truncate(1);
    let mut seen = complete();
    let rounds = mended(&fewer, &mut tun(), &mut seen);
    assert_eq!((rounds.len(), seen.rules.len(), seen.routes.len()), (1, 7, 2));
    // The name of the TUN may be another one.
    let mut renamed = tun();
    renamed.link.name = "up9".to_owned();
    let mut seen = complete();
    mended(&config("all"), &mut renamed, &mut seen);
    assert!(differences(&config("all"), &renamed, &seen, true).is_empty());
    let by_name = |name: &str| seen.rules.iter().filter(|rule| rule.command("add").contains(name)).count();
    assert_eq!((by_name("up0"), by_name("up9")), (0, 6));
}

#[test]
fn a_table_or_rules_of_others_are_left_alone() {
    let strange = Found {
        prefix: "203.0.113.0/24".parse().unwrap(),
        metric: 0,
        protocol: 3,
        device: Some(2),
        source: None,
        kind: libc::RTN_UNICAST,
    };
    let mut seen = PodRouting { routes: vec![strange], ..PodRouting::default() };
    let rounds = mended(&config("all"), &mut tun(), &mut seen);
    assert!(!rounds.concat().iter().any(leads) && seen.routes.contains(&strange));
    let left = differences(&config("all"), &tun(), &seen, true);
    assert_eq!(commands(&left), ["ip route del 203.0.113.0/24 table 117 metric 0"]);
    assert!(mended(&config("overlay"), &mut tun(), &mut seen).concat().len() > 4 && seen.routes == [strange]);
    // Those of another daemon, whose TUN there is.
    let other = PodRouting { devices: vec!["up1".to_owned()], ..complete() };
    assert!(differences(&config("overlay"), &tun(), &other, true).is_empty());
    let left = differences(&config("all"), &tun(), &other, true);
    assert!(matches!(&left[..], [one] if one.requests.is_empty()));
    assert!(left[0].requirement.as_ref().unwrap().what.contains("up1, the TUN of another daemon"));
}

#[test]
fn routes_are_known_by_what_they_do() {
    let own = PodRoute { ipv4: true, device: Some(7) };
    for wrong in [
        Found { protocol: 3, ..own.as_found() },
        Found { device: Some(8), ..own.as_found() },
        Found { metric: 5, ..own.as_found() },
        Found { kind: libc::RTN_UNREACHABLE, ..own.as_found() },
    ] {
        assert!(own.is(&own.as_found()) && !own.is(&wrong), "{wrong:?}");
    }
}
