//! Where everything of local pods is judged, the kernel leads it into the TUN.

use std::time::Duration;

use super::model::{Model, Recorder, persistent};
use super::{C, NODE, POOL, reload};
use crate::control::engine::port::{HostRequest, LinkChange, PodRouting};

fn config(scope: &str) -> String {
    [NODE, POOL, C, "[policy]\nscope = \"", scope, "\"\n"].concat()
}

fn started() -> Recorder {
    Recorder::start(&config("all"), Model::new(), true).unwrap()
}

/// Whether everything is there, or nothing; whether the workers know is said beside.
fn is_led(recorder: &Recorder) -> (bool, bool) {
    let PodRouting { rules, routes, .. } = &recorder.model.pods;
    let led = match (rules.len(), routes.len()) {
        (0, 0) => false,
        (7, 2) => true,
        other => panic!("{other:?} of {rules:?} {routes:?}"),
    };
    (led, recorder.published.pin().underlay().tun.hairpin)
}

fn place(recorder: &Recorder, words: &str) -> usize {
    let found = recorder.wanted.iter().position(|one| one.contains(words));
    found.unwrap_or_else(|| panic!("{words} in {:?}", recorder.wanted))
}

#[test]
fn it_comes_with_the_start_and_goes_with_the_end() {
    let mut recorder = started();
    recorder.pass(Duration::from_secs(2));
    assert_eq!((is_led(&recorder), recorder.open()), ((true, true), vec![]));
    let lead = place(&recorder, "from 10.244.1.0/24 lookup 117");
    for guard in [
        "up0 Group(117)",
        "iif up0 goto",
        "suppress_ifgroup",
        "iif up0 unreachable",
        "route add default dev up0",
    ] {
        assert!(place(&recorder, guard) < lead, "{guard}: {:?}", recorder.wanted);
    }
    let requests = recorder.engine.take_down();
    let first = |request: &HostRequest| matches!(request, HostRequest::PodRule { add: false, .. });
    assert!(requests[..7].iter().all(first), "{requests:?}");
    // Where the TUN has gone there is still something to take back.
    let mut recorder = started();
    recorder.pass(Duration::from_secs(2));
    recorder.change(|model| model.tun = None);
    assert_eq!(recorder.engine.take_down().iter().filter(|request| first(request)).count(), 7);
    // A device that stays is in its own group again.
    let mut model = Model::new();
    persistent(&mut model);
    let mut recorder = Recorder::start(&config("all"), model, true).unwrap();
    recorder.pass(Duration::from_secs(2));
    let back =
        |request: &HostRequest| matches!(request, HostRequest::Link { change: LinkChange::Group(0), .. });
    assert!(recorder.engine.take_down().iter().any(back));
}

#[test]
fn a_reload_turns_it_on_and_off() {
    let mut recorder = Recorder::start(&config("overlay"), Model::new(), true).unwrap();
    recorder.pass(Duration::from_secs(2));
    assert_eq!(is_led(&recorder), (false, false));
    for (generation, (scope, led)) in (1..).zip([("all", true), ("overlay", false), ("all", true)]) {
        recorder.wanted.clear();
        reload(&mut recorder, generation, &config(scope)).unwrap();
        recorder.pass(Duration::from_secs(4));
        assert_eq!((is_led(&recorder), recorder.open()), ((led, led), vec![]), "{scope}");
        // The workers give packets back before the first comes, and until none comes any more.
        let published = recorder.wanted.iter().position(|one| one == "publish").unwrap();
        if led {
            assert!(published < place(&recorder, "rule add"), "{:?}", recorder.wanted);
        } else {
            let last = recorder.wanted.iter().rposition(|one| one == "publish").unwrap();
            assert!(place(&recorder, "rule del") < last, "{:?}", recorder.wanted);
        }
    }
}

#[test]
fn what_others_or_a_crash_left_is_mended() {
    let mut recorder = started();
    recorder.pass(Duration::from_secs(2));
    let good = recorder.model.pods.clone();
    recorder.change(|model| model.pods = PodRouting::default());
    assert_eq!((is_led(&recorder), recorder.open()), ((true, true), vec![]));
    // A start that does not want it removes what the run before left.
    let mut left = Model::new();
    left.pods = good;
    let mut recorder = Recorder::start(&config("overlay"), left, true).unwrap();
    recorder.pass(Duration::from_secs(2));
    assert_eq!((is_led(&recorder), recorder.open()), ((false, false), vec![]));
}

#[test]
fn without_the_right_it_is_listed() {
    let mut recorder = Recorder::start(&config("all"), Model::new(), false).unwrap();
    recorder.pass(Duration::from_secs(2));
    let listed = |recorder: &Recorder| recorder.open().iter().filter(|one| one.contains("117")).count();
    assert_eq!(listed(&recorder), 1 + 2 + 7, "{:?}", recorder.open());
    assert!(recorder.model.pods == PodRouting::default());
    let mut with = started();
    with.pass(Duration::from_secs(2));
    recorder.change(|model| {
        model.pods = with.model.pods.clone();
        model.tun().link.group = 117;
    });
    assert_eq!(listed(&recorder), 0, "{:?}", recorder.open());
}
