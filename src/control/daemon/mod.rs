//! The daemon's life: give up rights, look, refuse or choose, bring up, run until a signal, take down.
//!
//! ```text
//! start ──▶ engine's thread ◀──events── watchers: uplink, ICMP, strangers, notices
//!                │ effects        ◀──requests── handle ◀── server
//!                ▼
//!          workers, host executor
//! ```
//!
//! Everything that was changed is taken back, in reverse order, whatever ended the run.

mod backoff;
mod bring_up;
mod configuration;
mod connections;
mod descriptors;
mod fallbacks;
pub mod gate;
pub mod handle;
mod housekeeping;
pub mod kernel_path;
pub mod log;
pub mod pods;
mod policy_log;
mod rights;
pub mod runner;
mod start;
mod supervise;
mod sys;
mod watch;
mod watchdog;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::sleep;

use super::engine::port::HostError;
use super::host::Host;
use super::source::file::FileSource;
use crate::config::{Config, Pool};
use crate::dataplane::pump;
use configuration::{Anew, Sources};
use handle::Handle;
use start::Ready;
use supervise::Running;

/// From a start that failed to the next try, where the process is not to end because of it.
const RETRY: Duration = Duration::from_secs(2);
/// How long threads that wait for something may take to their end.
const LAST_THREADS: Duration = Duration::from_millis(500);

/// Runs the daemon with the configuration in `file`, and with `pool` beside those of the file, until SIGTERM or
/// SIGINT.
///
/// # Errors
/// What is wrong with the configuration, what cannot work on this host, in words; or the failure that
/// ended the run.
pub fn run(file: PathBuf, pool: Option<Pool>) -> anyhow::Result<()> {
    let mut source = FileSource::new(file, pool);
    let base = source.read()?;
    sys::map_large();
    // Before there is another thread.
    let refused = rights::give_up(&base, source.path());
    // Ends last: whatever is dropped before may still log.
    let _log = log::start().context("cannot start the log")?;
    for refused in refused {
        tracing::warn!("{refused}");
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the control plane")?;
    let ended = runtime.block_on(async {
        // From here on a signal no longer kills us half-way through a start: it waits for its end.
        let mut signals = Signals::catch()?;
        let mut sources = Sources::new(source, base);
        let mut again = false;
        loop {
            let Some(begun) = begin(&mut sources, &mut signals, again).await? else { return Ok(()) };
            match live(begun, sources, &mut signals).await? {
                Ended::Asked => return Ok(()),
                Ended::Anew(anew) => {
                    tracing::warn!("beginning anew: {}", anew.why);
                    sources = anew.sources;
                    again = true;
                }
            }
        }
    });
    // A thread that waits for a worker which is stuck would wait for ever.
    runtime.shutdown_timeout(LAST_THREADS);
    ended
}

/// How a run ended that did not fail.
enum Ended {
    /// By a signal.
    Asked,
    /// Because this node is another one by now, and everything has to begin anew.
    Anew(Box<Anew>),
}

/// A host that is ready for a configuration.
struct Begun {
    host: Host,
    config: Config,
    ready: Ready,
}

/// Makes everything ready for what `sources` say first; `None` when a signal asks for an end. A start that is not the
/// process's first is tried until it succeeds, because the host changes under it; so is one whose address went while
/// it began, where a rule will find another.
async fn begin(sources: &mut Sources, signals: &mut Signals, again: bool) -> anyhow::Result<Option<Begun>> {
    let mut last = String::new();
    loop {
        let error = match try_begin(sources, signals).await {
            Ok(begun) => return Ok(begun),
            Err(error) => error,
        };
        let is_away = matches!(error.downcast_ref(), Some(HostError::NoUplink { .. }));
        if !(again || is_away && sources.has_rules()) {
            return Err(error);
        }
        let text = format!("{error:#}");
        if text != last {
            tracing::error!("cannot begin, trying again every {} s: {text}", RETRY.as_secs());
            last = text;
        }
        tokio::select! {
            () = sleep(RETRY) => {}
            () = signals.end() => return Ok(None),
        }
    }
}

async fn try_begin(sources: &mut Sources, signals: &mut Signals) -> anyhow::Result<Option<Begun>> {
    let host = Host::connect()?;
    let config = tokio::select! {
        config = sources.first(&host) => config?,
        () = signals.end() => return Ok(None),
    };
    // A signal waits for its end: what it makes is not left half made.
    let ready = start::ready(&host, &config, sources).await?;
    Ok(Some(Begun { host, config, ready }))
}

/// One run, from the first packet to the end of the last thread.
async fn live(begun: Begun, sources: Sources, signals: &mut Signals) -> anyhow::Result<Ended> {
    let Begun { host, config, ready } = begun;
    let mut running = Running::begin(host, &config, sources, ready).await?;
    tracing::info!("ready; control socket {}", config.control.socket.display());
    let (failures, handle) = (running.failures(), running.handle().clone());
    let ended = wait(failures, &mut running, signals, &handle).await;
    running.end().await;
    ended
}

/// The signals that ask for an end, and the one that asks for a reload.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn catch() -> anyhow::Result<Self> {
        let catch = |kind| signal(kind).context("cannot catch signals");
        Ok(Self {
            terminate: catch(SignalKind::terminate())?,
            interrupt: catch(SignalKind::interrupt())?,
            hangup: catch(SignalKind::hangup())?,
        })
    }
}

impl Signals {
    /// Waits for one that asks for an end.
    async fn end(&mut self) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => tracing::info!("SIGTERM: stopping"),
                _ = self.interrupt.recv() => tracing::info!("SIGINT: stopping"),
                // There is nothing to reload before the start.
                _ = self.hangup.recv() => continue,
            }
            return;
        }
    }
}

/// Waits for a signal to end, following the configuration file at each SIGHUP, or for a worker that ended by itself.
async fn wait(
    failures: crossbeam::channel::Receiver<pump::Failure>,
    running: &mut Running,
    signals: &mut Signals,
    handle: &Handle,
) -> anyhow::Result<Ended> {
    let mut failed = tokio::task::spawn_blocking(move || failures.recv());
    loop {
        tokio::select! {
            _ = signals.terminate.recv() => tracing::info!("SIGTERM: stopping"),
            _ = signals.interrupt.recv() => tracing::info!("SIGINT: stopping"),
            _ = signals.hangup.recv() => {
                // What speaks against it is in the log. A second signal meanwhile waits for this one.
                let handle = handle.clone();
                tokio::spawn(async move { handle.reload(false).await });
                continue;
            }
            Some(failure) = running.stuck.recv() => return Err(failure.into()),
            Some(anew) = running.restarted.recv() => return Ok(Ended::Anew(Box::new(anew))),
            failure = &mut failed => match failure {
                Ok(Ok(failure)) => return Err(failure.into()),
                _ => bail!("all workers stopped"),
            },
        }
        return Ok(Ended::Asked);
    }
}
