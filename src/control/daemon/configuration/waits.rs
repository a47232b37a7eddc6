//! What the follower waits for.

use tokio::sync::broadcast::{self, error::RecvError};
use tokio::sync::watch;

use crate::control::engine::port::Notice;

/// Completes when something new is said; never where nothing will be.
pub(super) async fn changed<T>(said: &mut Option<watch::Receiver<T>>) {
    let ended = match said {
        Some(said) => said.changed().await.is_err(),
        None => true,
    };
    if ended {
        std::future::pending::<()>().await;
    }
}

/// Completes when this node's address may be another one; `by_routes` says whether routes have a part in it.
pub(super) async fn moved(news: &mut broadcast::Receiver<Notice>, by_routes: bool) {
    loop {
        match news.recv().await {
            Ok(Notice::Address(_) | Notice::Link(_) | Notice::Overrun) | Err(RecvError::Lagged(_)) => return,
            Ok(_) if by_routes => return,
            Ok(_) => {}
            // Who passes it on is gone, and soon so are we.
            Err(RecvError::Closed) => std::future::pending().await,
        }
    }
}
