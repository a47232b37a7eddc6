//! The MTU of the path to each peer, as routers report it (RFC 1191; RFC 2003 §5.1).
//!
//! ```text
//! pod ─▶ n1 ─▶ outer packet, DF ─▶ router: 1300 at most
//!         ◀── ICMP 3/4, quotes the outer packet ──┘
//! pod ◀── n1: ICMP 3/4 about the next packet that is too large, with the inner MTU
//! ```
//!
//! Anybody can forge such an error, so it must quote one of our own packets as far as a router
//! quotes them, and can only lower the MTU, never below a floor. It is
//! forgotten after a while, as the path may have changed (RFC 1191 §6.3).

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time::{Instant, sleep, sleep_until};

use super::state::Daemon;
use crate::net::Mode;
use crate::underlay::icmp;
use crate::wire::icmp::{FRAGMENTATION_NEEDED, LEN, UNREACHABLE};
use crate::wire::{Ipv4, be16, checksum, ipv4, protocol};

/// How long a report holds.
const EXPIRY: Duration = Duration::from_secs(600);
/// The smallest MTU that IPv4 allows (RFC 791); less, or 0 from routers older than RFC 1191, says
/// nothing.
const LEAST_MTU: u16 = 68;
/// Pause behind each report, so that forged ones cannot keep the control plane busy.
const PAUSE: Duration = Duration::from_millis(1);

/// What our outer packets look like.
#[derive(Clone, Debug)]
pub struct Ours {
    /// Their source.
    pub address: Ipv4Addr,
    /// UDP destination port of VXLAN.
    pub vxlan_port: u16,
    /// UDP source ports of VXLAN.
    pub source_ports: Vec<u16>,
}

/// The listener and what it has learned.
pub struct PathMtu {
    socket: UdpSocket,
    daemon: Arc<Daemon>,
    ours: Ours,
    /// When to forget about which peer.
    deadlines: HashMap<Ipv4Addr, Instant>,
}

impl PathMtu {
    /// Learns for `daemon` about packets like `ours`.
    ///
    /// # Errors
    /// The kernel's: EPERM without CAP_NET_RAW.
    pub fn new(daemon: Arc<Daemon>, ours: Ours) -> io::Result<Self> {
        // tokio's name for a datagram socket; the address family is no matter to it.
        let socket = UdpSocket::from_std(icmp::listen(ours.address)?.into())?;
        Ok(Self { socket, daemon, ours, deadlines: HashMap::new() })
    }

    /// Learns for ever.
    pub async fn run(mut self) {
        let mut buffer = [0; 2048];
        loop {
            let next = self.deadlines.values().min().copied();
            tokio::select! {
                received = self.socket.recv(&mut buffer) => match received {
                    Ok(len) => {
                        self.learn(&buffer[..len], Instant::now());
                        sleep(PAUSE).await;
                    }
                    Err(error) => {
                        tracing::warn!("path MTUs are not learned any more: {error}");
                        return;
                    }
                },
                () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {
                    self.expire(Instant::now());
                }
            }
        }
    }

    fn learn(&mut self, packet: &[u8], now: Instant) {
        let Some(report) = Report::read(packet, &self.ours) else { return };
        let peer = report.peer;
        // Whether it would change anything is the cheaper question.
        if report.mtu < self.daemon.outer_mtu(peer.into())
            && self.daemon.peers_by(report.mode).contains(&IpAddr::V4(peer))
            && self.daemon.lower_path_mtu(peer.into(), report.mtu)
        {
            tracing::info!("path to {peer}: outer packets of {} bytes at most, says a router", report.mtu);
            self.deadlines.insert(peer, now + EXPIRY);
        }
    }

    fn expire(&mut self, now: Instant) {
        let daemon = &self.daemon;
        self.deadlines.retain(|peer, deadline| {
            let keep = *deadline > now;
            if !keep && daemon.forget_path_mtu((*peer).into()) {
                tracing::info!("path to {peer}: trying the uplink's MTU again");
            }
            keep
        });
    }
}

/// One believable report.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Report {
    /// The peer that the quoted packet was for, if there is such a peer.
    peer: Ipv4Addr,
    /// How it was encapsulated.
    mode: Mode,
    /// Bytes of the largest outer packet that passes.
    mtu: u16,
}

impl Report {
    /// Reads an ICMP packet, IP header included.
    fn read(packet: &[u8], ours: &Ours) -> Option<Self> {
        let ip = Ipv4::parse(packet).ok()?;
        let error = ip.payload();
        let whole = ip.protocol() == protocol::ICMP
            && error.len() >= LEN + ipv4::LEN
            && error[..2] == [UNREACHABLE, FRAGMENTATION_NEEDED]
            && checksum::fold(checksum::sum(error)) == 0xffff;
        if !whole {
            return None;
        }
        let (mtu, quote) = (be16(error, 6), &error[LEN..]);
        let (peer, mode) = quoted(quote, ours)?;
        // The quoted packet was larger than that and must not have been cut.
        let consistent = mtu >= LEAST_MTU && be16(quote, 2) > mtu && be16(quote, 6) & ipv4::DF != 0;
        consistent.then_some(Self { peer, mode, mtu })
    }
}

/// Destination and mode of the outer packet that `quote`, at least an IPv4 header, begins; `None`
/// when it is none of ours.
fn quoted(quote: &[u8], ours: &Ours) -> Option<(Ipv4Addr, Mode)> {
    let address = |at: usize| Ipv4Addr::new(quote[at], quote[at + 1], quote[at + 2], quote[at + 3]);
    // Our outer headers have no options. A router quotes at least eight bytes more (RFC 792).
    let transport = quote.get(ipv4::LEN..ipv4::LEN + 8)?;
    if quote[0] != 0x45 || address(12) != ours.address {
        return None;
    }
    let mode = match quote[9] {
        protocol::IPIP | protocol::IPV6 => Mode::Ipip,
        protocol::UDP => {
            let (source, destination) = (be16(transport, 0), be16(transport, 2));
            let known = destination == ours.vxlan_port && ours.source_ports.contains(&source);
            known.then_some(Mode::Vxlan)?
        }
        _ => return None,
    };
    Some((address(16), mode))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::net::Ipv4Addr;
    use std::sync::Arc;
    use std::time::Duration;

    use etherparse::icmpv4::DestUnreachableHeader;
    use etherparse::{Icmpv4Type, PacketBuilder};
    use tokio::net::UdpSocket;
    use tokio::time::Instant;

    use super::{EXPIRY, Ours, PathMtu, Report};
    use crate::control::state::{Choices, Daemon, State};
    use crate::metrics::Counters;
    use crate::net::Mode;
    use crate::wire::{checksum, put16};

    const US: [u8; 4] = [192, 0, 2, 1];
    const PEER: [u8; 4] = [198, 51, 100, 3];

    fn ours() -> Ours {
        Ours { address: US.into(), vxlan_port: 4789, source_ports: vec![49152, 49160] }
    }

    /// An outer packet of ours as etherparse makes it: UDP from these ports, or protocol 4.
    fn outer(ports: Option<(u16, u16)>) -> Vec<u8> {
        let builder = PacketBuilder::ipv4(US, PEER, 60);
        let mut packet = Vec::new();
        match ports {
            Some((from, to)) => builder.udp(from, to).write(&mut packet, &[0; 1440]).unwrap(),
            None => builder.udp(9, 9).write(&mut packet, &[0; 1450]).unwrap(),
        }
        if ports.is_none() {
            packet[9] = 4;
        }
        packet[6] = 0x40;
        packet
    }

    fn report_of(kind: Icmpv4Type, quote: &[u8]) -> Vec<u8> {
        let mut packet = Vec::new();
        PacketBuilder::ipv4([203, 0, 113, 1], US, 60).icmpv4(kind).write(&mut packet, quote).unwrap();
        packet
    }

    fn too_big(mtu: u16, quote: &[u8]) -> Vec<u8> {
        let what = DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: mtu };
        report_of(Icmpv4Type::DestinationUnreachable(what), quote)
    }

    fn read(packet: &[u8]) -> Option<(Ipv4Addr, Mode, u16)> {
        Report::read(packet, &ours()).map(|report| (report.peer, report.mode, report.mtu))
    }

    #[test]
    fn reports_about_our_own_packets_are_read() {
        for quoted in [28, 548, 1400] {
            let vxlan = too_big(1300, &outer(Some((49160, 4789)))[..quoted]);
            assert_eq!(read(&vxlan), Some((PEER.into(), Mode::Vxlan, 1300)), "{quoted}");
            let ipip = too_big(68, &outer(None)[..quoted]);
            assert_eq!(read(&ipip), Some((PEER.into(), Mode::Ipip, 68)), "{quoted}");
        }
    }

    #[test]
    fn everything_else_is_not() {
        let vxlan = outer(Some((49160, 4789)));
        let changed = |at: usize, value: u8| {
            let mut packet = vxlan.clone();
            packet[at] = value;
            packet
        };
        for (what, packet) in [
            ("an unknown source port", too_big(1300, &outer(Some((49161, 4789)))[..100])),
            ("another destination port", too_big(1300, &outer(Some((49160, 8472)))[..100])),
            ("another source", too_big(1300, &changed(15, 2)[..100])),
            ("another protocol", too_big(1300, &changed(9, 6)[..100])),
            ("options", too_big(1300, &changed(0, 0x46)[..100])),
            ("DF clear", too_big(1300, &changed(6, 0)[..100])),
            ("not larger than that", too_big(1468, &vxlan[..100])),
            ("no MTU", too_big(0, &vxlan[..100])),
            ("an impossible MTU", too_big(67, &vxlan[..100])),
            ("too short a quote", too_big(1300, &vxlan[..27])),
            (
                "another error",
                report_of(Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::Host), &vxlan[..100]),
            ),
        ] {
            assert_eq!(read(&packet), None, "{what}");
        }
        let mut packet = too_big(1300, &vxlan[..100]);
        packet[27] ^= 1;
        assert_eq!(read(&packet), None, "a wrong checksum");
    }

    const CONFIG: &str = r#"
        [node]
        name = "a"
        address = "192.0.2.1/24"
        [local]
        subnets = ["10.1.0.0/24"]
        [[pool]]
        cidr = "10.0.0.0/8"
        ipip_mode = "Always"
        [[peer]]
        name = "b"
        address = "198.51.100.3"
        subnets = ["10.2.0.0/24"]
    "#;

    #[tokio::test]
    async fn a_report_lowers_and_holds_for_a_while() {
        let state = State::new(crate::config::parse(CONFIG, "f").unwrap(), 1500).unwrap();
        let choices =
            Choices { backend: "", offloads: Vec::new(), uplink: String::new(), address: US.into() };
        let daemon = Arc::new(Daemon::new(state, Counters::new(1), choices));
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let mut listener =
            PathMtu { socket, daemon: Arc::clone(&daemon), ours: ours(), deadlines: HashMap::new() };
        let (mut now, peer) = (Instant::now(), PEER.into());
        let ipip = |mtu| too_big(mtu, &outer(None)[..60]);
        // No route to the peer uses VXLAN.
        listener.learn(&too_big(1300, &outer(Some((49160, 4789)))[..60]), now);
        assert_eq!(daemon.outer_mtu(peer), 1500);
        for (mtu, known) in [(1300, 1300), (1400, 1300), (1300, 1300), (1200, 1200), (68, 646), (600, 646)] {
            listener.learn(&ipip(mtu), now);
            assert_eq!(daemon.outer_mtu(peer), known, "{mtu}");
        }
        now += EXPIRY - Duration::from_secs(1);
        listener.expire(now);
        assert_eq!(daemon.outer_mtu(peer), 646);
        now += Duration::from_secs(1);
        listener.expire(now);
        assert_eq!((daemon.outer_mtu(peer), listener.deadlines.len()), (1500, 0));
        // Another uplink, another start.
        listener.learn(&ipip(1300), now);
        assert_eq!(daemon.set_uplink_mtu(1400), Some(1380));
        assert_eq!((daemon.outer_mtu(peer), daemon.set_uplink_mtu(1400)), (1400, None));
    }

    #[test]
    fn every_truncation_is_refused_or_read_alike() {
        let whole = too_big(1300, &outer(None)[..60]);
        for len in 0..whole.len() {
            let mut packet = whole[..len].to_vec();
            assert_eq!(read(&packet), None, "{len}");
            if len >= 28 {
                // As if it had been sent like this.
                put16(&mut packet, 2, len as u16);
                put16(&mut packet, 22, 0);
                let sum = checksum::finish(checksum::sum(&packet[20..]));
                put16(&mut packet, 22, sum);
                assert_eq!(read(&packet).is_some(), len >= 56, "{len}");
            }
        }
    }
}
