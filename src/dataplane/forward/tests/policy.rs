//! Both flows under a network policy: what is denied is dropped by name, in its whole weight.

use std::sync::Arc;

use super::{Node, address, plain};
use crate::dataplane::device::memory::Memory;
use crate::dataplane::observe::capture::{Point, Wanted};
use crate::dataplane::policy::testing::{LOCAL, REMOTE, WEB, policy, web};
use crate::dataplane::policy::{Action, ActivePolicy};
use crate::net::{DropReason, Mode};
use crate::wire::protocol;
use crate::wire::testing::{Spec, Transport};

/// A UDP datagram of so many bytes from the pod of node 1 to that of node 2.
fn there(port: u16, len: usize) -> Spec {
    let transport = Transport::Udp(5000, port);
    Spec { source: LOCAL.into(), destination: REMOTE.into(), transport, ..Spec::udp4(&vec![7; len]) }
}

fn node(number: u8, policy: ActivePolicy) -> Node {
    let mut node = Node::new(number, Mode::Vxlan);
    node.forwarding = node.forwarding.with_policy(Some(Arc::new(policy)));
    node
}

#[test]
fn what_may_not_leave_is_dropped_segment_by_segment() {
    let mut node = node(1, policy(None, Some(vec![web(Action::Allow, protocol::UDP)]), 1));
    assert_eq!(node.send(&[there(WEB, 3000).build_gso(1000)]).len(), 3);
    assert_eq!(node.drops(), []);
    assert_eq!(node.send(&[there(81, 3000).build_gso(1000), plain(there(82, 10).build())]), []);
    assert_eq!(node.drops(), [(DropReason::PolicyEgress, 4)]);
    assert_eq!(node.replies(), Vec::<Vec<u8>>::new(), "nobody is told");
    assert_eq!(node.worker.counters.device.rx_packets.get(), 7);
}

#[test]
fn what_may_not_come_in_is_dropped_and_answers_are_not() {
    let back = |port: u16| {
        let mut spec = there(port, 10);
        std::mem::swap(&mut spec.source, &mut spec.destination);
        spec.transport = Transport::Udp(port, 5000);
        plain(spec.build())
    };
    let mut sender = Node::new(2, Mode::Vxlan);
    let mut node = node(1, policy(Some(Vec::new()), None, 1));
    let capture = node.worker.capture.start(Wanted {
        points: vec![Point::Drop],
        filter: None,
        snaplen: 2000,
        vxlan_ports: vec![4789],
    });
    let capture = capture.unwrap();
    let mut device = Memory::default();
    node.receive(address(2), &sender.send(&[back(53)]), false, &mut device);
    assert_eq!((device.output.len(), node.drops()), (0, vec![(DropReason::PolicyIngress, 1)]));
    let mut policies = Vec::new();
    capture.drain(10, |record| policies.push((record.seen.reason, record.seen.policy.clone())));
    assert_eq!(policies, [(Some(DropReason::PolicyIngress), Some("default/web".into()))]);
    assert_eq!(node.send(&[plain(there(53, 10).build())]).len(), 1);
    node.receive(address(2), &sender.send(&[back(53), back(54)]), false, &mut device);
    assert_eq!((device.output.len(), node.drops()), (1, vec![(DropReason::PolicyIngress, 2)]));
}
