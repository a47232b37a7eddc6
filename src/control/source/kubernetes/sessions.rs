//! The thread of the source: sessions with the API server, one after the other.

use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tokio::time::{Instant, sleep};

use super::follower::Follower;
use super::session::{Ended, Session};
use crate::config::Kubernetes;

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(5);
/// Longer than a watch is asked for: one that says nothing for so long is dead.
const READ: Duration = Duration::from_secs(300);
/// From the end of a session to the next, growing from the first to the second.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));
/// A session that lasted so long was a good one.
const GOOD: Duration = Duration::from_secs(30);

/// Follows the cluster until nobody wants to know.
pub(super) async fn run(mut follower: Follower) {
    follower.recall();
    let mut pause = PAUSES.0;
    let tell = follower.teller.tell.clone();
    let mut wanted = follower.policies.wanted();
    loop {
        wanted.mark_unchanged();
        follower.policies.recall();
        let begun = Instant::now();
        let ended = tokio::select! {
            ended = session(&mut follower) => ended,
            () = tell.closed() => return,
        };
        let why = match ended {
            Ended::Unwanted => return,
            Ended::Anew => continue,
            Ended::Lost(why) => why,
        };
        follower.teller.lose(why);
        pause = if begun.elapsed() > GOOD { PAUSES.0 } else { (pause * 2).min(PAUSES.1) };
        tokio::select! {
            () = sleep(pause) => {}
            changed = wanted.changed() => match changed {
                Ok(()) => {}
                Err(_) => return,
            },
            () = tell.closed() => return,
        }
    }
}

/// One session with the API server. Returns why it ended.
async fn session(follower: &mut Follower) -> Ended {
    let client = match connect(&follower.settings).await {
        Ok(client) => client,
        Err(why) => return Ended::Lost(why),
    };
    match Session::begin(follower, client).await {
        Ok(session) => session.run().await,
        Err(why) => Ended::Lost(why),
    }
}

/// A client of the API server that `settings` name.
async fn connect(settings: &Kubernetes) -> Result<Client, String> {
    let mut config = match &settings.kubeconfig {
        Some(path) => {
            let about = |error: &dyn std::fmt::Display| format!("kubeconfig {}: {error}", path.display());
            let file = Kubeconfig::read_from(path).map_err(|error| about(&error))?;
            let options = KubeConfigOptions::default();
            Config::from_custom_kubeconfig(file, &options).await.map_err(|error| about(&error))?
        }
        None => Config::incluster().map_err(|error| {
            format!("no service account of a pod here ({error}); give `kubeconfig` under [source.kubernetes]")
        })?,
    };
    config.connect_timeout = Some(CONNECT);
    config.read_timeout = Some(READ);
    Client::try_from(config).map_err(|error| format!("cannot make a client: {error}"))
}
