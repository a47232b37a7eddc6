//! Manifests of network policy: any text gets an answer, and what is accepted becomes rules that say the same
//! as their trace.

use underpass::dataplane::packet::Direction;
use underpass::dataplane::policy::Tuple;
use underpass::policy::{Decided, Document, Known, Object, World, compile, read_documents};

/// The text of a manifest.
pub fn policy(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let lines = text.split('\n').count();
    let (documents, errors) = read_documents(text);
    for error in &errors {
        assert!((1..=lines + 1).contains(&error.at.line), "line {} of {lines}", error.at.line);
        assert!(!error.message.is_empty());
    }
    let mut world = World::default();
    for document in documents.into_iter().flat_map(Document::unfolded) {
        match Object::read_where(&document.value, Known::Cluster) {
            Ok(object) => {
                assert_eq!(Object::identify(&document.value), Some(object.id()));
                world.set(object);
            }
            Err(faults) => {
                assert!(!faults.is_empty(), "refused without a reason");
                for fault in faults {
                    let at = document.position(&fault.path);
                    assert!((1..=lines).contains(&at.line) && at.column >= 1, "{at:?} of {lines} lines");
                }
            }
        }
    }
    let kept = serde_json::to_string(&world).expect("a world can be kept");
    assert_eq!(serde_json::from_str::<World>(&kept).expect("what was kept can be read"), world);
    let Ok(compiled) = compile(&world, 1, None) else { return };
    let addresses = world.endpoints().values().flat_map(|endpoint| endpoint.addresses.iter().copied());
    let outside = ["192.0.2.1", "2001:db8::1"].map(|address| address.parse().expect("an address"));
    let addresses: Vec<_> = addresses.take(6).chain(outside).collect();
    for source in &addresses {
        for destination in addresses.iter().filter(|address| address.is_ipv4() == source.is_ipv4()) {
            for (protocol, ports) in [(6, Some((40_000, 80))), (17, None), (47, None)] {
                let tuple = Tuple { source: *source, destination: *destination, protocol, ports, icmp: None };
                let trace = compiled.trace(&tuple);
                for (side, direction) in
                    [(&trace.egress, Direction::Outbound), (&trace.ingress, Direction::Inbound)]
                {
                    let decision = compiled.ruleset.decide(direction, &tuple, |_| {});
                    assert!(side.decided == Decided::Itself || side.allowed == decision.allowed, "{side:?}");
                }
            }
        }
    }
}
