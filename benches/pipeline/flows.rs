//! One node's side of a network of two, and a batch of packets through it in each direction.

use std::hint::black_box;
use std::net::Ipv4Addr;
use std::ops::Range;
use std::sync::Arc;

use underpass::dataplane::encap::ecn::Marking;
use underpass::dataplane::encap::frame::Hop;
use underpass::dataplane::encap::vxlan;
use underpass::dataplane::forward::{
    Choice, Forwarding, Inbound, InboundCx, Outbound, OutboundCx, Peer, TapLink, TunLink, Underlay, Way,
};
use underpass::dataplane::observe::{Counters, PeerCounters, PolicyCounters};
use underpass::dataplane::packet::{Delivery, Format, Outbox, Paths, Received, Sink};
use underpass::dataplane::policy::{
    Action, ActivePolicy, ClassId, Judge, Origin, PolicyEntry, PortRange, Role, Rule, Ruleset, RulesetParts,
    Settings, Side,
};
use underpass::dataplane::segment::merge::Rules;
use underpass::dataplane::segment::metadata::NoMetadata;
use underpass::net::{EncapMode, Mac, Mode, NodeName, Prefix, Vni};
use underpass::route::{EncapPolicy, PeerId, Pool, Rib, Source, Target};
use underpass::wire::{VnetHdr, ethernet, protocol};

const THIS_NODE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const OTHER_NODE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const UPLINK_MTU: u16 = 1500;
const SOURCE_PORTS: Range<u16> = 50_000..50_256;
const VXLAN_PORT: u16 = 4789;
/// Link addresses of the other node, of this one's uplink and of its TAP.
const OTHER_LINK: Mac = Mac([2, 0, 0, 0, 0, 2]);
const UPLINK: Mac = Mac([2, 0, 0, 0, 0, 1]);
const TAP: Mac = Mac([2, 0, 0, 0, 0, 3]);
/// Every packet starts at a multiple of this, as in a worker.
const ALIGN: usize = 64;

fn prefix(text: &str) -> Prefix {
    text.parse().expect("a prefix")
}

/// Everything in one pool that travels in `mode`.
fn forwarding(mode: Mode) -> Forwarding {
    let always = |this| if mode == this { EncapMode::Always } else { EncapMode::Never };
    let pool = Pool {
        cidr: prefix("10.244.0.0/16"),
        ipip_mode: always(Mode::Ipip),
        vxlan_mode: always(Mode::Vxlan),
        nat_outgoing: false,
        verify: false,
    };
    let mut rib = Rib::default();
    rib.insert(prefix("10.244.1.0/24"), Source::Local, Target::Local).expect("the first route");
    rib.insert(prefix("10.244.2.0/24"), Source::Static, Target::Peer(PeerId(0))).expect("another prefix");
    let name: NodeName = "node-b".parse().expect("a name");
    let vtep_mac = Mac::of_vtep("node-b");
    let hop = Some(Hop { destination: OTHER_LINK, source: UPLINK });
    let peers = [Peer {
        name,
        address: OTHER_NODE.into(),
        port: VXLAN_PORT,
        vtep_mac,
        hop,
        second: None,
        also_from: Arc::default(),
        sends_for: Arc::default(),
        link_mtus: [None; 2],
        path_mtu: None,
        rumoured: false,
        policed: false,
        way: Some(Arc::new(Way {
            interface: "u0".to_owned(),
            vxlan: Choice::tap("all"),
            ipip: Choice::tap("all"),
        })),
        counters: PeerCounters::new(1),
    }];
    let underlay = Underlay {
        address: Some(THIS_NODE),
        address6: None,
        vtep_mac: Mac::of_vtep("node-a"),
        vni: Vni::CALICO,
        vxlan_port: VXLAN_PORT,
        mtu: UPLINK_MTU,
        marking: Marking::fixed(0),
        uplink: 0,
        tun: TunLink::default(),
        tap: Some(TapLink { mac: TAP, ipip: false }),
    };
    Forwarding::build(underlay, &peers, &EncapPolicy::new(&[pool], None, None), &rib).unwrap()
}

/// So many rules that match no packet of the benches in front of one that allows all, for every address.
fn policy(rules: u16) -> ActivePolicy {
    let origin = Origin { policy: 0, rule: Some(0) };
    let all = Rule {
        action: Action::Allow,
        family: None,
        protocol: None,
        not_protocol: None,
        icmp: None,
        not_icmp: None,
        source: Side::default(),
        destination: Side::default(),
        origin,
    };
    let ports = (0..rules).map(|number| {
        [PortRange { first: number, last: number, protocol: Some(protocol::SCTP), at: None }].into()
    });
    let denied = (0..u32::from(rules)).map(|list| {
        let destination = Side { ports: Some(list), ..Side::default() };
        Rule { action: Action::Deny, destination, ..all }
    });
    let role = Role { is_endpoint: true, egress: Some(0), ingress: Some(0) };
    let parts = RulesetParts {
        classes: vec![(prefix("10.244.0.0/16"), ClassId(1))],
        roles: vec![Role::default(), role],
        ports: ports.collect(),
        chains: vec![denied.chain([all]).collect()],
        policies: vec![PolicyEntry { name: "bench".into(), counters: PolicyCounters::new(1) }],
        ..RulesetParts::default()
    };
    let rules = Arc::new(Ruleset::new(parts).expect("few classes"));
    ActivePolicy { rules, generation: 1, settings: Settings::default() }
}

/// Packets read from the device, on their way to an outbox.
pub struct OutboundFlow {
    forwarding: Forwarding,
    outbound: Outbound,
    paths: Paths,
    outbox: Outbox,
    counters: Counters,
    judge: Judge,
    arena: Vec<u8>,
    packets: Vec<(VnetHdr, Range<usize>)>,
}

impl OutboundFlow {
    /// A batch of `packets` that travel in `mode` by the best of `paths`.
    pub fn new(mode: Mode, paths: Paths, packets: &[(VnetHdr, Vec<u8>)]) -> Self {
        let mut arena = Vec::new();
        let mut placed = Vec::new();
        for (vnet, packet) in packets {
            arena.resize(arena.len().next_multiple_of(ALIGN), 0);
            placed.push((*vnet, arena.len()..arena.len() + packet.len()));
            arena.extend_from_slice(packet);
        }
        Self {
            forwarding: forwarding(mode),
            outbound: Outbound::new(SOURCE_PORTS.collect()),
            paths,
            outbox: Outbox::default(),
            counters: Counters::new(1),
            judge: Judge::default(),
            arena,
            packets: placed,
        }
    }

    /// The same under a policy with so many rules.
    pub fn judged(mut self, rules: u16) -> Self {
        self.forwarding = self.forwarding.with_policy(Some(Arc::new(policy(rules))));
        self
    }

    /// One batch; the number of packets on the wire that the outbox stands for.
    pub fn batch(&mut self) -> usize {
        self.judge.begin(self.forwarding.policy(), self.counters.handle(0));
        let mut cx = OutboundCx {
            tables: &self.forwarding,
            paths: self.paths,
            arena: &mut self.arena,
            out: &mut self.outbox,
            worker: self.counters.handle(0),
            judge: &mut self.judge,
            proofs: None,
        };
        for (vnet, range) in &self.packets {
            self.outbound.packet(&mut cx, vnet, range.clone()).expect("an empty outbox holds the batch");
        }
        let outbox = black_box(&self.outbox);
        let datagrams = outbox.messages().iter().flat_map(|message| outbox.datagrams(message));
        let packets = datagrams.map(|datagram| usize::from(datagram.packets)).sum();
        self.outbox.clear();
        packets
    }
}

/// Outer packets as received, on their way to the device.
pub struct InboundFlow {
    forwarding: Forwarding,
    inbound: Inbound,
    counters: Counters,
    judge: Judge,
    format: Format,
    arena: Vec<u8>,
    received: Vec<Received>,
}

impl InboundFlow {
    /// A batch of the inner `packets` in `format`, received one by one or `coalesced` into one.
    pub fn new(format: Format, packets: &[Vec<u8>], coalesced: bool) -> Self {
        let mut arena = Vec::new();
        let mut received = Vec::new();
        for packet in packets {
            let outer = encapsulate(format, packet);
            received.push(Received {
                at: arena.len(),
                len: outer.len(),
                segment: 0,
                source: OTHER_NODE.into(),
                tos: 0,
            });
            arena.extend_from_slice(&outer);
        }
        if coalesced {
            received = vec![Received { at: 0, len: arena.len(), segment: received[0].len, ..received[0] }];
        }
        let rules = Rules { tcp: true, udp: true };
        Self {
            forwarding: forwarding(Mode::Vxlan),
            inbound: Inbound::new(rules),
            counters: Counters::new(1),
            judge: Judge::default(),
            format,
            arena,
            received,
        }
    }

    /// The same under a policy with so many rules.
    pub fn judged(mut self, rules: u16) -> Self {
        self.forwarding = self.forwarding.with_policy(Some(Arc::new(policy(rules))));
        self
    }

    /// One batch; the number of writes to the device and of packets in them.
    pub fn batch(&mut self) -> (usize, usize) {
        let mut device = Device::default();
        self.judge.begin(self.forwarding.policy(), self.counters.handle(0));
        let mut cx = InboundCx {
            tables: &self.forwarding,
            format: self.format,
            arena: &mut self.arena,
            metadata: &mut NoMetadata,
            sink: &mut device,
            worker: self.counters.handle(0),
            judge: &mut self.judge,
            proofs: None,
        };
        for received in &self.received {
            self.inbound.receive(&mut cx, *received);
        }
        self.inbound.finish(&mut cx);
        (device.writes, device.packets)
    }
}

fn encapsulate(format: Format, packet: &[u8]) -> Vec<u8> {
    match format {
        Format::Vxlan => {
            let (to, from) = (Mac::of_vtep("node-a"), Mac::of_vtep("node-b"));
            [&vxlan::template(Vni::CALICO, to, from, ethernet::IPV4), packet].concat()
        }
        Format::Ipip => {
            let mut outer =
                underpass::dataplane::encap::ipip::template(OTHER_NODE, THIS_NODE, protocol::IPIP);
            underpass::dataplane::encap::ipip::patch(&mut outer, 0, packet.len());
            [&outer, packet].concat()
        }
        Format::Ipip6V4 | Format::Ipip6V6 => packet.to_vec(),
    }
}

/// A device that takes everything and keeps nothing.
#[derive(Default)]
struct Device {
    writes: usize,
    packets: usize,
}

impl Sink for Device {
    fn deliver(&mut self, delivery: &Delivery<'_>) {
        self.writes += 1;
        self.packets += black_box(delivery).packets as usize;
    }
}
