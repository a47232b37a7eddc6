//! Errors about our outer packets that concern their destination, passed on to the pods whose packets were inside
//! (RFC 2003 §4, RFC 2473 §8): to a pod the tunnel is one hop, and the host behind it is unreachable.
//!
//! The kernel reports so a peer that does not answer on our own link, routers report those further away. An
//! error must quote enough of the inner packet to tell whose it is; the pod's own kernel then compares ports and
//! sequence numbers with its connections, as it does without a tunnel.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use socket2::Socket;

use super::report::{Ours, Quote};
use crate::control::engine::Snapshot;
use crate::dataplane::encap::vxlan;
use crate::dataplane::underlay::icmp as sockets;
use crate::net::Mode;
use crate::wire::icmp::{self, Problem};
use crate::wire::{Ipv4, Ipv6, udp};

/// Errors a second that are passed on, and at once.
const RATE: u32 = 100;

/// The way back to the pods.
pub(super) struct Relay {
    v4: Socket,
    v6: Socket,
    /// What may be passed on before more time has passed.
    left: u32,
    since: Instant,
}

impl Relay {
    /// Opens the sockets.
    ///
    /// # Errors
    /// The kernel's: EPERM without CAP_NET_RAW.
    pub(super) fn new() -> io::Result<Self> {
        let open = |any: IpAddr| sockets::to_pods(any);
        let (v4, v6) = (open(Ipv4Addr::UNSPECIFIED.into())?, open(Ipv6Addr::UNSPECIFIED.into())?);
        Ok(Self { v4, v6, left: RATE, since: Instant::now() })
    }

    /// Tells the sender of the packet in `quote`, where it is a pod's for a peer.
    pub(super) fn relay(&mut self, snapshot: &Snapshot, ours: &Ours, quote: &Quote<'_>) {
        let Some((mode, _)) = ours.mode(quote) else { return };
        let mut error = [0; icmp::MAX_V6];
        let Some((pod, len)) = answer(&mut error, snapshot, mode, quote) else { return };
        if !self.may_send() {
            return;
        }
        let socket = if pod.is_ipv4() { &self.v4 } else { &self.v6 };
        // Who does not hear of it tries again.
        let _ = socket.send_to(&error[..len], &SocketAddr::new(pod, 0).into());
    }

    fn may_send(&mut self) -> bool {
        if self.since.elapsed() >= Duration::from_secs(1) {
            (self.left, self.since) = (RATE, Instant::now());
        }
        let may = self.left > 0;
        self.left = self.left.saturating_sub(1);
        may
    }
}

/// Writes the error for the sender of the inner packet; returns who that is, and the bytes of the error.
fn answer(out: &mut [u8], snapshot: &Snapshot, mode: Mode, quote: &Quote<'_>) -> Option<(IpAddr, usize)> {
    let inner = match mode {
        Mode::Vxlan => quote.rest.get(udp::LEN + vxlan::TEMPLATE..)?,
        Mode::Ipip => quote.rest,
        Mode::Direct => return None,
    };
    let (source, destination) = ends(inner)?;
    let own = match source {
        IpAddr::V4(_) => snapshot.underlay.tun.address.map(IpAddr::V4),
        IpAddr::V6(_) => snapshot.underlay.tun.address6.map(IpAddr::V6),
    };
    let known = snapshot.carries(source, destination, (mode, quote.to));
    let own = own.filter(|_| known && icmp::may_answer(inner))?;
    let len = icmp::write(out, own, inner, Problem::NoHost).ok()?;
    Some((source, len))
}

/// Source and destination of the beginning of a packet.
fn ends(packet: &[u8]) -> Option<(IpAddr, IpAddr)> {
    match packet.first()? >> 4 {
        4 => Ipv4::parse_quote(packet).ok().map(|ip| (ip.source().into(), ip.destination().into())),
        6 => Ipv6::parse_quote(packet).ok().map(|ip| (ip.source().into(), ip.destination().into())),
        _ => None,
    }
}
