//! One node in memory, and what its packets are compared with.
//!
//! ```text
//! node 1  192.0.2.1  2001:db8::1  10.244.1.0/24  fd00:10:244:1::/64   the node under test
//! node 2  192.0.2.2  2001:db8::2  10.244.2.0/24  fd00:10:244:2::/64   its peers: no processes
//! node 3  192.0.2.3  2001:db8::3  10.244.3.0/24  fd00:10:244:3::/64
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

use underpass::dataplane::encap::ecn::Marking;
use underpass::dataplane::encap::frame::Hop;
use underpass::dataplane::forward::{Choice, Forwarding, Peer, TapLink, TunLink, Underlay, Way};
use underpass::dataplane::observe::{PeerCounters, WorkerCounters};
use underpass::dataplane::segment::Split;
use underpass::dataplane::segment::split::finish_checksum;
use underpass::net::{DropReason, EncapMode, Mac, Mode, Prefix, Vni};
use underpass::route::{EncapPolicy, PeerId, Pool, Rib, Source, Target};
use underpass::wire::{Ipv4, Ipv6, Tcp, Udp, VnetHdr, checksum, protocol};

/// Bytes of the largest packet on the uplink.
pub const MTU: u16 = 1500;

/// Underlay address of node `number` over one family.
pub fn address(number: u8, ipv6: bool) -> IpAddr {
    if ipv6 { address6(number).into() } else { address4(number).into() }
}

fn address4(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, number)
}

fn address6(number: u8) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, number.into())
}

/// Whether `inner` is an address of the pods of node `number`.
pub fn is_pod_of(number: u8, inner: IpAddr) -> bool {
    prefixes(number).iter().any(|prefix| prefix.contains(inner))
}

fn prefixes(number: u8) -> [Prefix; 2] {
    let texts = [format!("10.244.{number}.0/24"), format!("fd00:10:244:{number}::/64")];
    texts.map(|text| text.parse().expect("a prefix"))
}

/// Mode, whether over IPv6, whether fast, whether packets of local pods go back.
type Built = (Mode, bool, bool, bool);

/// The tables of node 1, whose packets all travel by `mode` and over one family; `fast` with packet
/// socket and TAP, `hairpin` where what local pods send one another and to the outside goes back. Each is built once: an empty table is large beside the packets of one input.
pub fn forwarding(mode: Mode, ipv6: bool, fast: bool, hairpin: bool) -> Forwarding {
    static BUILT: Mutex<Vec<(Built, Forwarding)>> = Mutex::new(Vec::new());
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    let key = (mode, ipv6, fast, hairpin);
    if let Some((_, found)) = built.iter().find(|(known, _)| *known == key) {
        return found.clone();
    }
    let made = build(mode, ipv6, fast, hairpin);
    built.push((key, made.clone()));
    made
}

fn build(mode: Mode, ipv6: bool, fast: bool, hairpin: bool) -> Forwarding {
    let mac = |last| Mac([0x66, 0, 0, 0, 0, last]);
    let hop = fast.then(|| Hop { destination: mac(0xd), source: mac(0x5) });
    let peers = [2, 3].map(|number| Peer {
        name: format!("node-{number}").parse().expect("a name"),
        address: address(number, ipv6),
        port: 4789,
        vtep_mac: mac(number),
        hop,
        second: Some((address(number, !ipv6), hop)),
        also_from: std::sync::Arc::default(),
        sends_for: std::sync::Arc::default(),
        link_mtus: [None; 2],
        path_mtu: None,
        rumoured: false,
        policed: false,
        way: fast.then(|| {
            Arc::new(Way { interface: "u0".to_owned(), vxlan: Choice::tap("all"), ipip: Choice::tap("all") })
        }),
        counters: PeerCounters::new(1),
    });
    let mut rib = Rib::default();
    for prefix in prefixes(1) {
        rib.insert(prefix, Source::Local, Target::Local).expect("one owner");
    }
    for (index, number) in [2, 3].into_iter().enumerate() {
        for prefix in prefixes(number) {
            rib.insert(prefix, Source::Static, Target::Peer(PeerId(index as u16))).expect("one owner");
        }
    }
    let when = |this| if mode == this { EncapMode::Always } else { EncapMode::Never };
    let pools = ["10.244.0.0/16", "fd00:10:244::/48"].map(|cidr| Pool {
        cidr: cidr.parse().expect("a prefix"),
        ipip_mode: when(Mode::Ipip),
        vxlan_mode: when(Mode::Vxlan),
        nat_outgoing: false,
        verify: false,
    });
    let policy = EncapPolicy::new(&pools, "192.0.2.1/24".parse().ok(), "2001:db8::1/64".parse().ok());
    let underlay = Underlay {
        address: Some(address4(1)),
        address6: Some(address6(1)),
        vtep_mac: mac(1),
        vni: Vni::CALICO,
        vxlan_port: 4789,
        mtu: MTU,
        marking: Marking::fixed(0),
        uplink: 0,
        tun: TunLink {
            mtu: MTU,
            address: Some(Ipv4Addr::new(10, 244, 1, 0)),
            address6: Some(Ipv6Addr::new(0xfd00, 0x10, 0x244, 1, 0, 0, 0, 0)),
            answers_as_target: false,
            hairpin,
        },
        tap: fast.then_some(TapLink { mac: mac(0xa), ipip: true }),
    };
    Forwarding::build(underlay, &peers, &policy, &rib).expect("few next hops")
}

/// Packets dropped for any reason.
pub fn dropped(counters: &WorkerCounters) -> u64 {
    DropReason::ALL.iter().map(|reason| counters.drops(*reason)).sum()
}

/// The packets that a receiver sees of one that was written with `vnet`. Panics where the kernel
/// would refuse it.
pub fn expand(vnet: &VnetHdr, packet: &[u8]) -> Vec<Vec<u8>> {
    let mut packet = packet.to_vec();
    if !vnet.is_gso() {
        if vnet.needs_csum() {
            finish_checksum(&mut packet, vnet).expect("a checksum field inside the packet");
        }
        return vec![packet];
    }
    let mut split = Split::new(&packet, vnet).expect("a super-packet that can be cut");
    let (mut head, mut packets) = (vec![0xa5; split.header_len()], Vec::new());
    while let Some(payload) = split.next_segment(&mut head) {
        packets.push([&head[..], &packet[payload]].concat());
    }
    packets
}

/// Where the transport checksum of an unfragmented TCP or UDP packet lies, with the sum of its
/// pseudo-header and the bytes that it covers.
pub struct Transport {
    /// Offset of the checksum field.
    pub field: usize,
    /// Sum of the pseudo-header.
    pub pseudo: u32,
    /// From the transport header to the end of the packet.
    pub covered: std::ops::Range<usize>,
}

impl Transport {
    /// Of the IP packet at the start of `packet`.
    pub fn of(packet: &[u8]) -> Option<Self> {
        let (at, total, number, pseudo) = match packet.first()? >> 4 {
            4 => {
                let ip = Ipv4::parse(packet).ok().filter(|ip| !ip.is_fragment())?;
                let len = (ip.total_len() - ip.header_len()) as u32;
                let pseudo = checksum::pseudo_v4(ip.source(), ip.destination(), ip.protocol(), len);
                (ip.header_len(), ip.total_len(), ip.protocol(), pseudo)
            }
            6 => {
                let ip = Ipv6::parse(packet).ok()?;
                let len = (ip.total_len() - 40) as u32;
                let pseudo = checksum::pseudo_v6(ip.source(), ip.destination(), ip.next_header(), len);
                (40, ip.total_len(), ip.next_header(), pseudo)
            }
            _ => return None,
        };
        let l4 = &packet[at..total];
        let field = match number {
            protocol::TCP => Tcp::parse(l4).ok().map(|_| at + 16)?,
            protocol::UDP => Udp::parse(l4).ok().map(|_| at + 6)?,
            _ => return None,
        };
        Some(Self { field, pseudo, covered: at..total })
    }

    /// Whether the field holds the pseudo-header's sum alone.
    pub fn is_partial(&self, packet: &[u8]) -> bool {
        packet[self.field..self.field + 2] == checksum::fold(self.pseudo).to_be_bytes()
    }
}

/// Puts the right checksums into the packet, where it is whole enough to have any: noise does not
/// find them by itself.
pub fn repair(packet: &mut [u8]) {
    if let Some(transport) = Transport::of(packet) {
        packet[transport.field..transport.field + 2].fill(0);
        let sum = checksum::sum(&packet[transport.covered.clone()]) + transport.pseudo;
        let value = !checksum::fold(sum);
        packet[transport.field..transport.field + 2].copy_from_slice(&value.to_be_bytes());
    }
    repair_ip(packet);
}

/// The same for the IPv4 header alone.
pub fn repair_ip(packet: &mut [u8]) {
    let Ok(header) = Ipv4::parse(packet).map(|ip| ip.header_len()) else { return };
    packet[10..12].fill(0);
    let value = !checksum::fold(checksum::sum(&packet[..header]));
    packet[10..12].copy_from_slice(&value.to_be_bytes());
}

/// A packet without what decapsulation and merging may change: its ECN bits, its identification
/// where DF makes that meaningless (RFC 6864 §4.1), and so the IPv4 header checksum. `transport`:
/// without the transport checksum, too.
pub fn comparable(packet: &[u8], transport: bool) -> Vec<u8> {
    let mut packet = packet.to_vec();
    if transport && let Some(transport) = Transport::of(&packet) {
        packet[transport.field..transport.field + 2].fill(0);
    }
    if packet[0] >> 4 == 4 {
        packet[1] &= !3;
        forget_id(&mut packet);
        packet[10..12].fill(0);
    } else {
        packet[1] &= !0x30;
    }
    packet
}

/// Blanks the identification of an IPv4 packet with DF.
pub fn forget_id(packet: &mut [u8]) {
    if packet[0] >> 4 == 4 && packet[6] & 0x40 != 0 {
        packet[4..6].fill(0);
    }
}
