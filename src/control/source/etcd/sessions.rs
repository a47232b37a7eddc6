//! The thread of the source: sessions with etcd, one after the other, with its members in turn.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::follower::Follower;
use super::session::Session;
use super::store::Store;

/// From the end of a session to the next, growing from the first to the second.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));
/// A session that lasted so long was a good one.
const GOOD: Duration = Duration::from_secs(30);

/// Follows etcd until nobody wants to know.
pub(super) async fn run(mut follower: Follower) {
    follower.recall();
    let mut pause = PAUSES.0;
    let mut member = 0;
    let tell = follower.teller.tell.clone();
    loop {
        let begun = Instant::now();
        let why = tokio::select! {
            why = session(&mut follower, member) => why,
            () = tell.closed() => return,
        };
        let Some(why) = why else { return };
        follower.teller.lose(why);
        member += 1;
        let is_round = member % follower.settings.endpoints.len().max(1) == 0;
        pause = match begun.elapsed() > GOOD {
            true => PAUSES.0,
            // The next member is asked before the wait grows.
            false if !is_round => pause,
            false => (pause * 2).min(PAUSES.1),
        };
        // What others on the host want to know does not wait for etcd.
        follower.write_subnets();
        let mut announced = follower.announced.clone();
        tokio::select! {
            () = sleep(pause) => {}
            changed = announced.changed() => match changed {
                Ok(()) => follower.write_subnets(),
                Err(_) => return,
            },
            () = tell.closed() => return,
        }
    }
}

/// One session with a member of etcd. Returns why it ended; `None` when nobody wants to know any more.
async fn session(follower: &mut Follower, member: usize) -> Option<String> {
    let endpoints = &follower.settings.endpoints;
    let endpoint = endpoints.get(member % endpoints.len().max(1))?;
    let store = match Store::connect(&follower.settings, endpoint).await {
        Ok(store) => store,
        Err(why) => return Some(why),
    };
    match Session::begin(follower, store).await {
        Ok(session) => session.run().await,
        Err(why) => Some(why),
    }
}
