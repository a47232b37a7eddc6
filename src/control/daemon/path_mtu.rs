//! Listening to routers: ICMP errors about the size of our outer packets (RFC 1191; RFC 2003 §5.1; RFC 8201).
//!
//! ```text
//! pod ─▶ n1 ─▶ outer packet, DF ─▶ router: 1300 at most
//!         ◀── ICMP 3/4, quotes the outer packet ──┘
//! pod ◀── n1: ICMP 3/4 about the next packet that is too large, with the inner MTU
//! ```
//!
//! Over IPv6 the router says "packet too big". A report that quotes one of our own packets as far as a router
//! quotes them goes to the engine, which decides whether it is believed.

mod report;

use std::io;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time::sleep;

pub use self::report::Ours;
use super::runner::Inbox;
use crate::control::engine::Event;
use crate::dataplane::underlay::icmp;

/// Pause behind each report, so that forged ones cannot keep the control plane busy.
const PAUSE: Duration = Duration::from_millis(1);

/// The listener.
pub struct PathMtuListener {
    socket: UdpSocket,
    inbox: Inbox,
    ours: Ours,
}

impl PathMtuListener {
    /// Listens for reports about packets like `ours`, of one family.
    ///
    /// # Errors
    /// The kernel's: EPERM without CAP_NET_RAW.
    pub fn new(inbox: Inbox, ours: Ours) -> io::Result<Self> {
        // tokio's name for a datagram socket; the address family is no matter to it.
        let socket = UdpSocket::from_std(icmp::listen(ours.address)?.into())?;
        Ok(Self { socket, inbox, ours })
    }

    /// Listens for ever.
    pub async fn run(self) {
        let mut buffer = [0; 2048];
        loop {
            match self.socket.recv(&mut buffer).await {
                Ok(len) => {
                    if let Some(report) = report::read(&buffer[..len], &self.ours) {
                        self.inbox.send(Event::PathMtu(report));
                    }
                    sleep(PAUSE).await;
                }
                Err(error) => {
                    tracing::warn!("path MTUs are not learned any more: {error}");
                    return;
                }
            }
        }
    }
}
