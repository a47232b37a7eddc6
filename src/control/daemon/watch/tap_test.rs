//! The self-test of the TAP: does what is written to it leave the uplink, unchanged?
//!
//! First a tunnel super-packet addressed to nobody's link address: the kernel parses it and throws it
//! away, so an error means that it does not know the format. Then a probe (`encap::probe`) in the
//! format that is to be used, towards a peer; a packet socket on the uplink watches for it. Missing:
//! forwarding is off, a firewall forbids it, or the reverse path filter does.
#![expect(clippy::cast_possible_truncation, reason = "lengths of probes and a part of the process id")]

use std::io::{self, Read};
use std::net::Ipv4Addr;
use std::time::Duration;

use socket2::Socket;
use tokio::task::spawn_blocking;

use crate::dataplane::encap::ipip_gso::{self, UNMARKED};
use crate::dataplane::encap::{OUTER_TTL, probe, tunnel_gso, vxlan};
use crate::dataplane::forward::TapLink;
use crate::dataplane::underlay::observe::{self, Mark};
use crate::dataplane::underlay::tap::{PushHeader, Tap};
use crate::net::{Mac, Mode, Vni};
use crate::wire::{Ipv4, VnetHdr, ethernet, ipv4, protocol, put16, tcp, udp, vnet_hdr};

/// How long a probe may take to the uplink.
const PATIENCE: Duration = Duration::from_millis(500);

/// What came of a test.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// A probe left the uplink.
    Passed,
    /// It did not, for this reason.
    Failed(String),
    /// This process or the kernel is short of something, which says nothing about the way.
    Short(io::Error),
}

/// A queue of the TAP and what to test it with.
pub(crate) struct TapTest {
    tap: Tap,
    link: TapLink,
    /// Pushes outer headers; detached with this.
    _push: Option<PushHeader>,
    source: Ipv4Addr,
    source_port: u16,
    id: u16,
}

impl TapTest {
    /// Tests `tap`, whose link address is `mac` and which pushes outer headers by `push`; `source` is
    /// our underlay address.
    pub(crate) fn new(tap: Tap, mac: Mac, push: Option<PushHeader>, source: Ipv4Addr) -> Self {
        Self {
            tap,
            link: TapLink { mac, ipip: push.is_some() },
            _push: push,
            source,
            source_port: vxlan::FIRST_SOURCE_PORT,
            id: std::process::id() as u16,
        }
    }

    /// The TAP as the packet path needs to know it.
    pub(crate) fn link(&self) -> TapLink {
        self.link
    }

    /// Tests whether super-packets of `mode` for the peer with this address and VXLAN port leave by the
    /// interface with index `uplink`.
    pub(crate) async fn run(&mut self, mode: Mode, uplink: u32, peer: (Ipv4Addr, u16)) -> Outcome {
        match self.probe(mode, uplink, peer).await {
            Ok(()) => Outcome::Passed,
            Err(Fault::Way(reason)) => Outcome::Failed(reason),
            Err(Fault::Call(_, error)) if is_shortage(&error) => Outcome::Short(error),
            Err(Fault::Call(what, error)) => Outcome::Failed(format!("{what}: {error}")),
        }
    }

    async fn probe(&mut self, mode: Mode, uplink: u32, (peer, port): (Ipv4Addr, u16)) -> Result<(), Fault> {
        self.parse_probe(peer, port).map_err(Fault::call("the kernel does not take tunnel super-packets"))?;
        // The id tells this probe from all earlier ones.
        self.id = self.id.wrapping_add(1).max(1);
        let probe = if mode == Mode::Ipip { self.ipip_probe(peer) } else { self.vxlan_probe(peer, port) };
        const WATCH: &str = "cannot watch the uplink";
        let observer = observe::observe(uplink, &probe.mark).map_err(Fault::call(WATCH))?;
        observer.set_read_timeout(Some(PATIENCE)).map_err(Fault::call(WATCH))?;
        self.tap.write(&probe.head, &probe.body).map_err(Fault::call("cannot write to the TAP"))?;
        let read = spawn_blocking(move || seen(observer)).await.map_err(|e| Fault::Way(e.to_string()))?;
        match read {
            Ok(packet) if self.unchanged(&packet, peer, &probe.payload) => Ok(()),
            Ok(_) => Err(Fault::Way("a probe was changed on its way to the uplink (NAT?)".to_owned())),
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(Fault::Call(WATCH, error)),
            Err(_) => Err(Fault::Way(format!(
                "a {mode} probe to {peer} did not reach the uplink; check the forward rules of the firewall and net.ipv4.conf.all.rp_filter"
            ))),
        }
    }

    /// A super-packet of two segments for a link address that nobody has.
    fn parse_probe(&self, peer: Ipv4Addr, port: u16) -> io::Result<()> {
        const SEGMENT: usize = 1000;
        let nobody = Mac([0x02, 0, 0, 0, 0, 0]);
        let inner = vxlan::template(Vni::CALICO, nobody, nobody, ethernet::IPV4);
        let mut head = tunnel_gso::template(nobody, self.source, peer, port, &inner);
        let header_len = ipv4::LEN + tcp::LEN;
        let segments = etherparse::PacketBuilder::ipv4(self.source.octets(), peer.octets(), OUTER_TTL)
            .tcp(self.source_port, port, 0, u16::MAX)
            .ack(0);
        let mut body = Vec::with_capacity(header_len + 2 * SEGMENT);
        segments.write(&mut body, &[0; 2 * SEGMENT]).map_err(io::Error::other)?;
        let total = body.len();
        let vnet = VnetHdr {
            flags: vnet_hdr::NEEDS_CSUM,
            gso_type: vnet_hdr::GSO_TCPV4,
            hdr_len: header_len as u16,
            gso_size: SEGMENT as u16,
            csum_start: ipv4::LEN as u16,
            csum_offset: tcp::FIELD_CHECKSUM as u16,
        };
        let source_port = self.source_port;
        let packet = tunnel_gso::Super { vnet, header_len, inner_len: total, tos: 0, source_port };
        tunnel_gso::patch(&mut head, &packet);
        self.tap.write(&head, &body)
    }

    /// A UDP packet to the VXLAN port.
    fn vxlan_probe(&self, peer: Ipv4Addr, port: u16) -> Probe {
        let mut payload = vec![0; udp::LEN];
        put16(&mut payload, 0, self.source_port);
        put16(&mut payload, 2, port);
        put16(&mut payload, udp::FIELD_LENGTH, (udp::LEN + probe::VXLAN.len()) as u16);
        payload.extend_from_slice(probe::VXLAN);
        let total = ipv4::LEN + payload.len();
        let body = [&self.header(protocol::UDP, total as u16, peer)[..], &payload].concat();
        let mut head = vec![0; vnet_hdr::TUNNEL_LEN];
        head.extend(ethernet::header(self.link.mac, UNMARKED, ethernet::IPV4));
        let mark = Mark { source: self.source, protocol: protocol::UDP, id: self.id, id_at: 4 };
        Probe { head, body, payload, mark }
    }

    /// A bare inner header, for the TAP to push the outer one.
    fn ipip_probe(&self, peer: Ipv4Addr) -> Probe {
        let head = ipip_gso::template(self.link.mac, peer).to_vec();
        let payload = probe::ipip(self.source, peer, self.id).to_vec();
        let id_at = ipv4::LEN as u32 + 4;
        let mark = Mark { source: self.source, protocol: protocol::IPIP, id: self.id, id_at };
        Probe { head, body: payload.clone(), payload, mark }
    }

    /// As sent into the TAP: one hop more to live than what must leave the uplink.
    fn header(&self, protocol: u8, total_len: u16, destination: Ipv4Addr) -> [u8; ipv4::LEN] {
        ipv4::Repr {
            tos: 0,
            total_len,
            id: self.id,
            flags: ipv4::DF,
            ttl: OUTER_TTL + 1,
            protocol,
            source: self.source,
            destination,
        }
        .emit()
    }

    fn unchanged(&self, packet: &[u8], peer: Ipv4Addr, payload: &[u8]) -> bool {
        Ipv4::parse(packet).is_ok_and(|ip| {
            (ip.ttl(), ip.source(), ip.destination()) == (OUTER_TTL, self.source, peer)
                && ip.payload() == payload
        })
    }
}

/// Why a probe did not leave the uplink.
enum Fault {
    /// Something on the way, in words.
    Way(String),
    /// A call to the kernel: what for, and its error.
    Call(&'static str, io::Error),
}

impl Fault {
    fn call(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |error| Self::Call(what, error)
    }
}

/// Whether descriptors or memory are short just now.
fn is_shortage(error: &io::Error) -> bool {
    let short = [libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::ENOBUFS, libc::EAGAIN];
    error.raw_os_error().is_some_and(|errno| short.contains(&errno))
}

/// A probe as it is written to the TAP, and what must leave the uplink.
struct Probe {
    head: Vec<u8>,
    body: Vec<u8>,
    /// What follows the outer IP header.
    payload: Vec<u8>,
    mark: Mark,
}

/// The first packet that `observer` sees; `WouldBlock` when none comes in time.
fn seen(mut observer: Socket) -> io::Result<Vec<u8>> {
    let mut buffer = [0; 128];
    let read = observer.read(&mut buffer)?;
    Ok(buffer[..read].to_vec())
}
