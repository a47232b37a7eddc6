//! More different next hops than the packet path can number.

use std::fmt::Write;
use std::time::Duration;

use super::model::{Model, Recorder};
use super::{C, NODE, POOL, batch, edit};
use crate::control::engine::refusal::Kind;
use crate::control::engine::{Event, Request};

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
fn too_many_next_hops_are_refused_and_packets_keep_their_table() {
    let config = [NODE, POOL, C].concat().replace("10.244.0.0/16", "10.0.0.0/8");
    let mut recorder = Recorder::start(&config, Model::new(), true).unwrap();
    recorder.pass(Duration::from_secs(1));
    recorder.wanted.clear();
    recorder.ask(edit(&too_many()), true);
    let refusal = recorder.answers.pop().unwrap().1.unwrap_err();
    assert_eq!(refusal.kind, Kind::Full);
    assert!(refusal.text.starts_with("the routes are known, but not in use: more than 65535"), "{refusal:?}");
    assert!(!recorder.wanted.contains(&"publish".to_owned()), "{:?}", recorder.wanted);
    assert!(recorder.has_way("10.244.2.1") && !recorder.has_way("172.30.0.1"));
    // It is not tried again before something has changed, and the kernel's routes wait with the table.
    recorder.change(|_| ());
    recorder.pass(Duration::from_secs(31));
    assert!(!recorder.wanted.iter().any(|one| one.starts_with("routes")), "{:?}", recorder.wanted);
    assert_eq!(recorder.model.ours(), ["10.0.0.0/8", "172.16.3.0/24"]);
    let (begin, mut ticks) = (recorder.now, 0);
    while recorder.engine.deadline() <= begin + Duration::from_millis(200) {
        recorder.now = recorder.engine.deadline().max(recorder.now);
        recorder.follow(Event::Tick);
        ticks += 1;
    }
    assert!(ticks <= 1, "only the look of each second: {ticks}");
    // Fewer are taken, and the kernel follows before the answer.
    recorder.wanted.clear();
    let id = recorder.ask(Request::Replace(batch("172.30.0.0/16 via b\n")), true);
    assert_eq!(recorder.wanted, ["shrunk", "publish", "routes +1 -0", &format!("answer {id}")]);
    assert!(recorder.has_way("172.30.0.1"));
    assert_eq!(recorder.model.ours(), ["10.0.0.0/8", "172.16.3.0/24", "172.30.0.0/16"]);
}
