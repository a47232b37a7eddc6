//! Listening to routers and to the kernel's own neighbour code: ICMP errors about our outer packets.
//!
//! ```text
//! pod ─▶ n1 ─▶ outer packet, DF ─▶ router: 1300 at most
//!         ◀── ICMP 3/4, quotes the outer packet ──┘
//!        n1 ─▶ echo request, DF, as large as before ─▶ router
//!         ◀── ICMP 3/4, quotes the echo request ──┘
//! pod ◀── n1: ICMP 3/4 about the next packet that is too large, with the inner MTU
//! ```
//!
//! Size (RFC 1191; RFC 2003 §5.1; RFC 8201): a report goes to the engine, which has the path probed before it
//! believes it. Only those who are on the path can quote a probe. Unreachable (RFC 2003 §4, RFC 2473 §8): the
//! sender of the inner packet is told.

mod probe;
mod relay;
mod report;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;

use self::probe::Probes;
use self::relay::Relay;
pub(crate) use self::report::Ours;
use self::report::{Message, Quote, What};
use crate::control::daemon::runner::{Inbox, ProbeWish};
use crate::control::engine::{Event, PathMtu, Probed, Snapshot};
use crate::dataplane::observe::Counters;
use crate::dataplane::underlay::icmp;

/// Pause behind each message, so that forged ones cannot keep the control plane busy.
const PAUSE: Duration = Duration::from_millis(1);
/// Bytes of the largest IP packet.
const LARGEST: usize = 65535;

/// What the listener needs to know of the daemon.
pub(crate) struct Around {
    /// Where reports go.
    pub inbox: Inbox,
    /// Who is known.
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
    /// What was sent of late.
    pub counters: Counters,
}

/// The listener for one family.
pub(crate) struct IcmpListener {
    socket: UdpSocket,
    around: Around,
    ours: Ours,
    wishes: mpsc::UnboundedReceiver<ProbeWish>,
    probes: Probes,
    relay: Relay,
}

impl IcmpListener {
    /// Listens for errors about packets like `ours`, of one family, and probes what `wishes` says.
    ///
    /// # Errors
    /// The kernel's: EPERM without CAP_NET_RAW.
    pub(crate) fn new(
        around: Around,
        ours: Ours,
        wishes: mpsc::UnboundedReceiver<ProbeWish>,
    ) -> io::Result<Self> {
        let probes = Probes::new(ours.address)?;
        // tokio's name for a datagram socket; the address family is no matter to it.
        let socket = UdpSocket::from_std(icmp::listen(ours.address, probes.id())?.into())?;
        Ok(Self { socket, around, ours, wishes, probes, relay: Relay::new()? })
    }

    /// Listens for ever.
    pub(crate) async fn run(mut self) {
        let mut buffer = vec![0; LARGEST];
        loop {
            tokio::select! {
                received = self.socket.recv(&mut buffer) => match received {
                    Ok(len) => {
                        if let Some(message) = report::read(&buffer[..len], self.ours.address) {
                            self.follow(message);
                        }
                        sleep(PAUSE).await;
                    }
                    Err(error) => {
                        tracing::warn!("ICMP errors are not heard any more: {error}");
                        return;
                    }
                },
                // The engine ends only with the daemon.
                Some((peer, size)) = self.wishes.recv() => self.probes.send(peer, size),
            }
        }
    }

    fn follow(&mut self, message: Message<'_>) {
        match message {
            Message::Echo { size, body } => {
                if let Some(peer) = self.probes.answered(size, body) {
                    self.around.inbox.send(Event::Probed(peer, Probed::Passed(size)));
                }
            }
            Message::Error { what: What::TooBig(mtu), quote } => {
                if let Some(peer) = self.probes.quoted(&quote) {
                    self.around.inbox.send(Event::Probed(peer, Probed::TooBig(mtu)));
                } else if let Some(report) = self.report(mtu, &quote) {
                    self.around.inbox.send(Event::PathMtu(report));
                }
            }
            Message::Error { what: What::Unreachable, quote } => {
                let snapshot = Arc::clone(&self.around.snapshots.borrow());
                self.relay.relay(&snapshot, &self.ours, &quote);
            }
        }
    }

    /// A report about a packet like those that we send to a known peer.
    fn report(&self, mtu: u16, quote: &Quote<'_>) -> Option<PathMtu> {
        let (mode, port) = self.ours.mode(quote)?;
        let snapshot = Arc::clone(&self.around.snapshots.borrow());
        let peer = snapshot.known().find(|peer| peer.address == quote.to)?;
        let clock = self.around.counters.clock()?.now();
        let sent = match peer.counters.largest_lately(clock) {
            0 => 0,
            inner => inner.saturating_add(mode.overhead(peer.address)),
        };
        Some(PathMtu { peer: peer.address, mode, port, mtu, quoted: quote.len, sent })
    }
}
