//! Which notifications cause a look, and what ends one.

use std::time::Duration;

use super::model::{ETH, Recorder, TAP, TUN};
use super::started;
use crate::control::engine::port::Notice;
use crate::control::engine::{EffectId, Event};

/// Whether a look at everything follows `notice`.
fn is_looked_at(recorder: &mut Recorder, notice: Notice) -> bool {
    recorder.pass(Duration::from_millis(200));
    recorder.wanted.clear();
    recorder.follow(Event::Noticed(notice));
    recorder.pass(Duration::from_millis(60));
    recorder.wanted.contains(&"look".to_owned())
}

fn route(prefix: &str, device: Option<u32>) -> Notice {
    Notice::Route { prefix: prefix.parse().unwrap(), device }
}

#[test]
fn only_notices_about_the_tunnel_cause_a_look() {
    let mut recorder = started();
    recorder.pass(Duration::from_secs(2));
    let cases = [
        (Notice::Link(99), true),
        (Notice::Overrun, true),
        (Notice::Address(TUN), true),
        (Notice::Address(TAP), true),
        (Notice::Address(ETH), false),
        (route("10.244.9.0/24", Some(ETH)), true),
        (route("10.0.0.0/8", Some(ETH)), true),
        (route("10.244.0.0/16", None), true),
        (route("198.51.100.0/24", Some(TUN)), true),
        (route("198.51.100.0/24", Some(ETH)), false),
        (route("2001:db8::/32", None), false),
    ];
    for (notice, expected) in cases {
        assert_eq!(is_looked_at(&mut recorder, notice), expected, "{notice:?}");
    }
}

#[test]
fn without_the_right_every_route_matters() {
    let mut recorder = Recorder::start(super::NODE, super::Model::new(), false).unwrap();
    recorder.pass(Duration::from_secs(2));
    assert!(is_looked_at(&mut recorder, route("198.51.100.0/24", Some(ETH))));
    assert!(!is_looked_at(&mut recorder, Notice::Address(ETH)));
}

#[test]
fn a_look_that_only_ends_makes_way_for_the_next() {
    let mut recorder = started();
    assert!(recorder.engine.is_idle());
    recorder.follow(Event::Noticed(Notice::Overrun));
    recorder.now += Duration::from_millis(50);
    let effects = recorder.engine.handle(Event::Tick, recorder.now);
    let asked: Vec<_> = effects.into_iter().filter_map(|effect| recorder.record(effect)).collect();
    let [(id, _)] = asked[..] else { panic!("{asked:?}") };
    assert!(!recorder.engine.is_idle());
    // One at a time, whatever is noticed.
    recorder.wanted.clear();
    recorder.follow(Event::Noticed(Notice::Overrun));
    recorder.now += Duration::from_secs(5);
    recorder.follow(Event::Tick);
    assert_eq!(recorder.wanted, [""; 0]);
    recorder.follow(Event::Ended(EffectId(id.0), Vec::new()));
    assert_eq!(recorder.wanted, ["look"]);
    assert!(recorder.engine.is_idle());
}
