//! The self-test of the TAP: does what is written to it leave the uplink, unchanged?
//!
//! Two probes. The first is a tunnel super-packet addressed to nobody's link address: the kernel
//! parses it and throws it away, so an error means that it does not know the format. The second is
//! a plain UDP packet to a peer's discard port (RFC 863), which must be forwarded to the uplink; a
//! packet socket there watches for it. Missing: forwarding is off, a firewall forbids it, or the
//! reverse path filter does.

use std::io::{self, Read};
use std::net::Ipv4Addr;
use std::time::Duration;

use socket2::Socket;
use tokio::task::spawn_blocking;

use crate::device::{PushHeader, Tap};
use crate::encap::ipip_gso::UNMARKED;
use crate::encap::{OUTER_TTL, tunnel_gso, vxlan};
use crate::forward::TapLink;
use crate::net::{Mac, Vni};
use crate::underlay::packet;
use crate::wire::{Ipv4, VnetHdr, ethernet, ipv4, protocol, put16, tcp, udp, vnet_hdr};

/// How long a probe may take to the uplink.
const PATIENCE: Duration = Duration::from_millis(500);
/// The discard port.
const DISCARD: u16 = 9;
const PAYLOAD: &[u8; 16] = b"underpass probe ";

/// A queue of the TAP and what to test it with.
pub struct TapTest {
    tap: Tap,
    link: TapLink,
    /// Pushes outer headers; detached with this.
    _push: Option<PushHeader>,
    uplink: u32,
    source: Ipv4Addr,
    source_port: u16,
    id: u16,
}

impl TapTest {
    /// Tests `tap`, whose link address is `mac` and which pushes outer headers by `push`, against
    /// the uplink with index `uplink`.
    pub fn new(tap: Tap, mac: Mac, push: Option<PushHeader>, uplink: u32, source: Ipv4Addr) -> Self {
        Self {
            tap,
            link: TapLink { mac, ipip: push.is_some() },
            _push: push,
            uplink,
            source,
            source_port: vxlan::FIRST_SOURCE_PORT,
            id: std::process::id() as u16,
        }
    }

    /// The TAP as the packet path needs to know it.
    pub fn link(&self) -> TapLink {
        self.link
    }

    /// Runs both probes, the second towards `peer`.
    ///
    /// # Errors
    /// What failed, in words.
    pub async fn run(&mut self, peer: Ipv4Addr) -> Result<(), String> {
        self.parse_probe(peer)
            .map_err(|error| format!("the kernel does not take tunnel super-packets: {error}"))?;
        // Identification tells this probe from all earlier ones.
        self.id = self.id.wrapping_add(1).max(1);
        let failed = |error: io::Error| format!("cannot watch the uplink: {error}");
        let observer = packet::observe(self.uplink, self.source, self.id).map_err(failed)?;
        observer.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
        self.forward_probe(peer).map_err(|error| format!("cannot write to the TAP: {error}"))?;
        match spawn_blocking(move || seen(observer)).await.map_err(|error| error.to_string())? {
            Ok(packet) => self.compare(&packet, peer),
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(failed(error)),
            Err(_) => Err("a probe did not reach the uplink; check forwarding, rp_filter and the forward rules of the firewall".to_owned()),
        }
    }

    /// A super-packet of two segments for a link address that nobody has.
    fn parse_probe(&self, peer: Ipv4Addr) -> io::Result<()> {
        const SEGMENT: usize = 1000;
        let nobody = Mac([0x02, 0, 0, 0, 0, 0]);
        let inner = vxlan::template(Vni::CALICO, nobody, nobody, ethernet::IPV4);
        let mut head = tunnel_gso::template(nobody, self.source, peer, DISCARD, &inner);
        let header_len = ipv4::LEN + tcp::LEN;
        let mut body = vec![0; header_len + 2 * SEGMENT];
        let total = body.len();
        body[..ipv4::LEN].copy_from_slice(&self.header(protocol::TCP, total as u16, peer));
        body[ipv4::LEN + tcp::FIELD_DATA_OFFSET] = 5 << 4;
        body[ipv4::LEN + tcp::FIELD_FLAGS] = tcp::ACK;
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

    fn forward_probe(&self, peer: Ipv4Addr) -> io::Result<()> {
        let mut head = [0; vnet_hdr::TUNNEL_LEN + ethernet::LEN];
        head[vnet_hdr::TUNNEL_LEN..].copy_from_slice(&ethernet::header(
            self.link.mac,
            UNMARKED,
            ethernet::IPV4,
        ));
        let total = ipv4::LEN + udp::LEN + PAYLOAD.len();
        let mut packet = self.header(protocol::UDP, total as u16, peer).to_vec();
        packet.resize(ipv4::LEN + udp::LEN, 0);
        put16(&mut packet, ipv4::LEN, self.source_port);
        put16(&mut packet, ipv4::LEN + 2, DISCARD);
        put16(&mut packet, ipv4::LEN + udp::FIELD_LENGTH, (udp::LEN + PAYLOAD.len()) as u16);
        packet.extend_from_slice(PAYLOAD);
        self.tap.write(&head, &packet)
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

    fn compare(&self, packet: &[u8], peer: Ipv4Addr) -> Result<(), String> {
        let unchanged = Ipv4::parse(packet).is_ok_and(|ip| {
            (ip.ttl(), ip.source(), ip.destination()) == (OUTER_TTL, self.source, peer)
                && ip.payload().get(..2) == Some(&self.source_port.to_be_bytes()[..])
                && ip.payload().get(udp::LEN..) == Some(&PAYLOAD[..])
        });
        if unchanged { Ok(()) } else { Err("a probe was changed on its way to the uplink (NAT?)".to_owned()) }
    }
}

/// The first packet that `observer` sees; `WouldBlock` when none comes in time.
fn seen(mut observer: Socket) -> io::Result<Vec<u8>> {
    let mut buffer = [0; 128];
    let read = observer.read(&mut buffer)?;
    Ok(buffer[..read].to_vec())
}
