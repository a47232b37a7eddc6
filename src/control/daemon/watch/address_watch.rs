//! Watching the addresses of this host, all interfaces together: nothing from the underlay may speak for them.

use std::time::Duration;

use tokio::sync::broadcast::{self, error::RecvError};
use tokio::time::{sleep, timeout};

use crate::control::daemon::runner::Inbox;
use crate::control::engine::Event;
use crate::control::engine::port::Notice;
use crate::control::host::Host;

/// From a notification to the look that it causes: one change comes in several.
const PAUSE: Duration = Duration::from_millis(20);
/// From one look to the next where no notification comes.
const SLOW: Duration = Duration::from_secs(30);

/// Tells of the addresses for ever, whenever `news` says that they may be others.
pub(crate) async fn run(host: Host, inbox: Inbox, mut news: broadcast::Receiver<Notice>) {
    let mut told = None;
    loop {
        // What cannot be read stays as it was known.
        if let Ok(addresses) = host.all_addresses().await
            && told.as_ref() != Some(&addresses)
        {
            told = Some(addresses.clone());
            inbox.send(Event::Addresses(addresses));
        }
        let _ = timeout(SLOW, changed(&mut news)).await;
        sleep(PAUSE).await;
    }
}

/// Completes when an address may have come or gone; an interface takes its own with it.
async fn changed(news: &mut broadcast::Receiver<Notice>) {
    loop {
        match news.recv().await {
            Ok(Notice::Address(_) | Notice::Link(_) | Notice::Overrun) | Err(RecvError::Lagged(_)) => return,
            Ok(_) => {}
            Err(RecvError::Closed) => std::future::pending().await,
        }
    }
}
