//! Packets that a peer sends without encapsulation although this node encapsulates towards it: pools or prefix
//! lengths differ. Strict reverse path filtering drops them before any socket of ours could count them, because the
//! way back to their source is the TUN.
//!
//! The kernel counts what it drops. While that grows, a packet socket looks for a moment at whose packets they are.

use std::collections::BTreeSet;
use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::control::daemon::runner::Inbox;
use crate::control::engine::port::Requirement;
use crate::control::engine::{Event, Snapshot};
use crate::control::host::Host;
use crate::dataplane::underlay::observe;
use crate::wire::Ipv4;

/// From one look at the counter to the next.
const TICK: Duration = Duration::from_secs(1);
/// How long packets are looked at, and how many at most.
const LOOK: Duration = Duration::from_millis(300);
const MOST: usize = 4096;
/// How long a peer is shown after the last of its packets.
const SHOWN: Duration = Duration::from_secs(30);

/// Watches the filter of the uplink for ever.
pub(crate) async fn watch(host: Host, inbox: Inbox, snapshots: watch::Receiver<Arc<Snapshot>>) {
    let mut before = host.reverse_path(&snapshots.borrow().uplink).dropped;
    let mut shown: (Vec<Requirement>, Instant) = (Vec::new(), Instant::now());
    loop {
        sleep(TICK).await;
        let snapshot = Arc::clone(&snapshots.borrow());
        let filter = host.reverse_path(&snapshot.uplink);
        let more = filter.strict && filter.dropped > before;
        before = filter.dropped;
        let found = if more { strays(&host, &snapshot).await } else { Vec::new() };
        let over = !filter.strict || shown.1.elapsed() > SHOWN;
        if found.is_empty() && !over {
            continue;
        }
        if found != shown.0 {
            inbox.send(Event::Strays(found.clone()));
        }
        shown = (found, Instant::now());
    }
}

/// What to do about each peer whose bare packets arrive at the uplink just now.
async fn strays(host: &Host, snapshot: &Snapshot) -> Vec<Requirement> {
    let uplink = &snapshot.uplink;
    let Ok(Some(link)) = host.link_by_name(uplink).await else { return Vec::new() };
    let Ok(socket) = observe::arrivals(link.index) else { return Vec::new() };
    sleep(LOOK).await;
    let (mut peers, mut buffer) = (BTreeSet::new(), [0; 64]);
    for _ in 0..MOST {
        let Ok(len) = (&socket).read(&mut buffer) else { break };
        let Ok(ip) = Ipv4::parse_quote(&buffer[..len]) else { continue };
        peers.extend(snapshot.stray(ip.source().into(), ip.destination().into()));
    }
    let requirement = |peer: String| Requirement {
        what: format!(
            "strict reverse path filtering on {uplink} drops packets that peer {peer} sends without encapsulation, \
             while this node encapsulates: do pools and prefix lengths differ?"
        ),
        command: format!("sysctl -w net/ipv4/conf/{uplink}/rp_filter=2"),
    };
    peers.into_iter().map(requirement).collect()
}
