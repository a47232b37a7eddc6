//! Everything that runs between start and end, and the order in which it ends.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use tokio::sync::{Notify, broadcast, mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::sleep;

use super::configuration::{self, Anew, Follower, Sources};
use super::fallbacks::Fallbacks;
use super::gate::{self, Gate};
use super::handle::{Choices, Handle, Links};
use super::housekeeping;
use super::kernel_path::{Carrier, Keeper};
use super::pods::Endpoints;
use super::runner::{self, Inbox, Ports, ProbeWish};
use super::start::{Ready, take_down};
use super::watch::address_watch;
use super::watch::cni;
use super::watch::direct_paths;
use super::watch::icmp::{Around, IcmpListener, Ours};
use super::watch::kernel_routes;
use super::watch::peer_ways::PeerWays;
use super::watch::policy_watch::PolicyWatch;
use super::watch::strays;
use super::watch::tap_watch::TapWatch;
use super::watch::uplink_watch::UplinkWatch;
use super::watchdog;
use crate::config::{self, Config};
use crate::control::engine::port::{HostError, HostRequest, Notice};
use crate::control::engine::{EffectId, Event, tun_addresses};
use crate::control::host::{self, Guarded, Host, NeighbourTable, Notices};
use crate::control::server::render::Exporter;
use crate::control::server::{self, metrics_http};
use crate::dataplane::observe::Counters;
use crate::dataplane::pump::{self, Pump};
use crate::dataplane::segment::merge::Rules;

/// How long clients may hold up the end.
const LAST_ANSWERS: Duration = Duration::from_millis(500);
/// Notifications that wait until the ways to peers are looked at; if they are more, all ways are looked at.
const NEWS: usize = 64;
/// Events that wait for the engine, from which on notifications are gathered.
const NOTICES: usize = 64;
/// From a notification that was gathered to the one that stands for all of them.
const NOTICES_PAUSE: Duration = Duration::from_millis(20);
/// From the end of a connection for notifications to the next one.
const RECONNECT: Duration = Duration::from_millis(100);
/// Wishes to have the configuration read again that wait.
const RELOADS: usize = 16;

/// The running daemon.
pub(super) struct Running {
    host: Host,
    handle: Handle,
    inbox: Inbox,
    counters: Counters,
    fallbacks: Arc<Mutex<Fallbacks>>,
    pump: Pump,
    /// Ended before the pump, which carries what is left.
    keeper: Keeper,
    /// Ended first, because they only ask for changes.
    watchers: JoinSet<()>,
    /// Ended last: the watch holds the program that pushes outer headers on the TAP, without which
    /// inner packets would leave bare.
    uplink_watch: JoinHandle<()>,
    services: Vec<JoinHandle<()>>,
    stop: watch::Sender<()>,
    /// A worker that makes no progress.
    pub(super) stuck: mpsc::Receiver<pump::Failure>,
    /// Why everything has to begin anew.
    pub(super) restarted: mpsc::Receiver<Anew>,
}

impl Running {
    /// Starts workers, the engine's thread, watchers and services.
    ///
    /// # Errors
    /// When threads or listeners cannot be started. What was changed has been taken back.
    pub(super) async fn begin(
        host: Host,
        config: &Config,
        sources: Sources,
        mut ready: Ready,
    ) -> anyhow::Result<Self> {
        let mut lanes = std::mem::take(&mut ready.lanes.lanes);
        let doors = lanes.iter_mut().flat_map(|lane| lane.sockets.take_doors()).collect();
        let gate = Arc::new(Gate::new(doors, Arc::clone(&ready.forwarding)));
        let counters = Counters::new(lanes.len());
        let rules = Rules { tcp: ready.lanes.merge_tcp, udp: ready.lanes.merge_udp };
        let ports = lanes.first().map_or(&[][..], |lane| lane.sockets.source_ports()).to_vec();
        let shared = (&mut lanes[..], &ready.forwarding, &counters);
        let threads = Carrier::open(config, ready.engine.tun_index(), &ready.uplink, &ports, shared)
            .and_then(|carrier| {
                let keeper = carrier.keep().context("cannot keep the kernel path")?;
                let engine = runner::start().context("cannot start the engine")?;
                let kernel = carrier.for_workers();
                let pump = Pump::start(
                    lanes,
                    rules,
                    kernel.as_ref(),
                    config.tunnel.busy_poll,
                    &ready.forwarding,
                    &counters,
                );
                Ok((engine, pump.context("cannot start workers")?, carrier, keeper))
            });
        let (thread, pump, carrier, keeper) = match threads {
            Ok(threads) => threads,
            Err(error) => {
                take_down(&host, ready.engine.take_down()).await;
                return Err(error);
            }
        };
        let address = tun_addresses(config).first().copied();
        let choices = Choices {
            backend: ready.lanes.backend,
            offloads: std::mem::take(&mut ready.lanes.offloads),
            address: address.ok_or_else(|| anyhow!("the TUN has no address"))?,
        };
        let (snapshots, seen) = watch::channel(Arc::new(ready.engine.snapshot()));
        let (requests, asked) = mpsc::unbounded_channel();
        let ((probes, probed), (probes6, probed6)) = (mpsc::unbounded_channel(), mpsc::unbounded_channel());
        let shrunk = Arc::new(Notify::new());
        let forwarding = Arc::clone(&ready.forwarding);
        let inbox = thread.begin(
            ready.engine,
            Ports {
                forwarding,
                gate: Arc::clone(&gate),
                carrier: carrier.clone(),
                snapshots,
                host: requests,
                probes: [probes, probes6],
                shrunk: Arc::clone(&shrunk),
            },
        );
        let (failed, stuck) = mpsc::channel(1);
        let (reloads, wishes) = mpsc::channel(RELOADS);
        let files = cni::Files::new(config);
        let endpoints = Endpoints::default();
        files.read(&endpoints);
        let parts = Links {
            inbox: inbox.clone(),
            snapshots: seen.clone(),
            reloads,
            gate: Arc::clone(&gate),
            endpoints: endpoints.clone(),
            queries: pump.queries(),
            carrier,
        };
        let handle = Handle::new(parts, counters.clone(), choices);
        let fallbacks = Arc::<Mutex<Fallbacks>>::default();
        let (news, changed) = broadcast::channel(NEWS);
        let mut watchers = JoinSet::new();
        watchers.spawn(execute(host.clone(), asked, inbox.clone()));
        watchers.spawn(address_watch::run(host.clone(), inbox.clone(), news.subscribe()));
        let (guarded, more) = mpsc::unbounded_channel();
        watchers.spawn(guard(host.clone(), std::mem::take(&mut ready.lanes.guarded), more, inbox.clone()));
        let (restart, restarted) = mpsc::channel(1);
        let around = configuration::Around {
            host: host.clone(),
            inbox: inbox.clone(),
            snapshots: seen.clone(),
            wishes,
            news: news.subscribe(),
            restart,
        };
        watchers.spawn(Follower::new(sources, around).run());
        watchers.spawn(notice(Notices::connect, inbox.clone(), news));
        watchers.spawn(kernel_routes::follow(inbox.clone(), seen.clone()));
        watchers.spawn(gate::watch(gate, counters.clone()));
        watchers.spawn(direct_paths::watch(host.clone(), inbox.clone(), seen.clone()));
        watchers.spawn(strays::watch(host.clone(), inbox.clone(), seen.clone()));
        watchers.spawn(watchdog::watch(counters.clone(), pump.wakers(), failed));
        watchers.spawn(housekeeping::give_memory_back(shrunk));
        watchers.spawn(housekeeping::tidy(ready.forwarding, Arc::clone(&fallbacks), counters.clone()));
        let around = || Around { inbox: inbox.clone(), snapshots: seen.clone(), counters: counters.clone() };
        listen_to_routers(&mut watchers, config, &ports, [probed, probed6], around);
        let forced = config.tunnel.uplink == config::Uplink::Tap;
        let own = config.node.addresses().next().context("this node has no underlay address")?.addr();
        let snapshots_of_pods = seen.clone();
        let uplink_watch = UplinkWatch {
            host: host.clone(),
            inbox: inbox.clone(),
            snapshots: seen,
            counters: counters.clone(),
            own,
            uplink: ready.uplink,
            tap: ready.lanes.tap.take().map(|tap| TapWatch::new(tap, forced, counters.clone(), guarded)),
            news: changed,
            refused: 0,
            ways: PeerWays::default(),
            neighbours: NeighbourTable::default(),
            kept: HashMap::new(),
            policies: PolicyWatch::default(),
        };
        let uplink_watch = tokio::spawn(uplink_watch.run(std::mem::take(&mut ready.ways)));
        let (stop, stopped) = watch::channel(());
        let mut running = Self {
            host,
            handle,
            inbox,
            counters,
            fallbacks,
            pump,
            keeper,
            watchers,
            uplink_watch,
            services: Vec::new(),
            stop,
            stuck,
            restarted,
        };
        match running.serve(config, ready.socket, stopped).await {
            Ok(()) => {
                // Last: it says that pods can start.
                let follow = cni::watch(files, endpoints, running.inbox.clone(), snapshots_of_pods);
                running.watchers.spawn(follow);
                Ok(running)
            }
            Err(error) => {
                running.end().await;
                Err(error)
            }
        }
    }

    /// Starts the API and the metrics endpoint.
    async fn serve(
        &mut self,
        config: &Config,
        socket: server::socket::ControlSocket,
        stopped: watch::Receiver<()>,
    ) -> anyhow::Result<()> {
        if let Some(address) = config.metrics {
            let listener = metrics_http::bind(address).await?;
            let handle = self.handle.clone();
            let exporter = Exporter::new(self.counters.clone(), move || handle.now());
            let serving = metrics_http::serve(listener, exporter, until(stopped.clone()));
            self.services.push(tokio::spawn(serving));
        }
        let api = server::serve(socket, Arc::new(self.handle.clone()), until(stopped));
        self.services.push(tokio::spawn(async move {
            if let Err(error) = api.await {
                tracing::error!("the control socket failed: {error}");
            }
        }));
        Ok(())
    }

    /// Workers that ended by themselves.
    pub(super) fn failures(&self) -> crossbeam::channel::Receiver<pump::Failure> {
        self.pump.failures()
    }

    /// The way to everything that the API shows and changes.
    pub(super) fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Ends everything. Routes go first, so that the kernel hands over nothing new; then the workers drain.
    pub(super) async fn end(self) {
        drop(self.stop);
        let _ = tokio::time::timeout(LAST_ANSWERS, futures_util::future::join_all(self.services)).await;
        let changes = self.inbox.stop().await;
        // What was asked before is done before.
        drop(self.watchers);
        take_down(&self.host, changes).await;
        drop(self.keeper);
        self.pump.stop();
        if let Ok(mut fallbacks) = self.fallbacks.lock() {
            fallbacks.tell(&self.counters, Instant::now());
        }
        self.uplink_watch.abort();
    }
}

/// Executes the engine's requests in their order.
async fn execute(host: Host, mut requests: mpsc::UnboundedReceiver<(EffectId, HostRequest)>, inbox: Inbox) {
    while let Some((id, request)) = requests.recv().await {
        inbox.send(host.answer(id, request).await);
    }
}

/// Passes on what the kernel tells of, also that a buffer overflowed ([`Notice::Overrun`]). A connection that
/// ends is followed by another one, which begins with a look at everything.
async fn notice(
    connect: impl Fn() -> Result<Notices, HostError>,
    inbox: Inbox,
    news: broadcast::Sender<Notice>,
) {
    let (mut told, mut missed) = (false, false);
    loop {
        match connect() {
            Ok(notices) => {
                if missed {
                    let _ = news.send(Notice::Overrun);
                    inbox.send(Event::Noticed(Notice::Overrun));
                }
                pass_on(notices, &inbox, &news).await;
            }
            // There are still the looks now and then.
            Err(error) if !told => {
                told = true;
                tracing::warn!("changes of the host are noticed late: {error}");
            }
            Err(_) => {}
        }
        missed = true;
        sleep(RECONNECT).await;
    }
}

/// Passes on notifications for as long as there are any.
async fn pass_on(mut notices: Notices, inbox: &Inbox, news: &broadcast::Sender<Notice>) {
    let mut gathered = false;
    loop {
        let notice = tokio::select! {
            notice = notices.next() => match notice {
                Some(notice) => notice,
                None => return,
            },
            () = sleep(NOTICES_PAUSE), if gathered => Notice::Overrun,
        };
        // Whoever listens may have gone.
        let _ = news.send(notice);
        // A hundred thousand routes that come and go are one thing to look at.
        gathered = inbox.waiting() > NOTICES;
        if !gathered && !matches!(notice, Notice::Elsewhere(_)) {
            inbox.send(Event::Noticed(notice));
        }
    }
}

/// Looks for others at our devices, and at those made later.
async fn guard(
    host: Host,
    mut devices: Vec<Guarded>,
    mut more: mpsc::UnboundedReceiver<Guarded>,
    inbox: Inbox,
) {
    let mut before = Vec::new();
    loop {
        while let Ok(made) = more.try_recv() {
            host::guard_too(&mut devices, made);
        }
        let found = host::look_for_strangers(&mut devices, &host).await;
        if found != before {
            before.clone_from(&found);
            inbox.send(Event::Strangers(found));
        }
        sleep(host::GUARD_INTERVAL).await;
    }
}

/// Listens to the routers of the underlay about each kind of packet of ours; `wishes` are for IPv4 and for IPv6.
fn listen_to_routers(
    watchers: &mut JoinSet<()>,
    config: &Config,
    source_ports: &[u16],
    wishes: [mpsc::UnboundedReceiver<ProbeWish>; 2],
    around: impl Fn() -> Around,
) {
    let own =
        [config.node.address.map(|own| own.addr().into()), config.node.address6.map(|own| own.addr().into())];
    for (own, wishes) in own.into_iter().zip(wishes) {
        let Some(address) = own else { continue };
        let ours = Ours { address, source_ports: source_ports.to_vec() };
        match IcmpListener::new(around(), ours, wishes) {
            Ok(listener) => drop(watchers.spawn(listener.run())),
            Err(error) => tracing::warn!(
                "path MTUs are not learned, and pods do not hear of peers that are down: {error}; this needs CAP_NET_RAW"
            ),
        }
    }
}

/// Completes when the sender is dropped.
async fn until(mut stopped: watch::Receiver<()>) {
    while stopped.changed().await.is_ok() {}
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::time::Duration;

    use tokio::sync::broadcast;

    use super::{NEWS, NOTICES, Notice, Notices, notice};
    use crate::control::daemon::runner::Inbox;
    use crate::control::engine::port::HostError;

    #[tokio::test]
    async fn what_was_missed_is_told_once_there_is_a_connection() {
        tokio::time::pause();
        let (inbox, _kept) = Inbox::unheard();
        let (news, mut heard) = broadcast::channel(NEWS);
        let tries = Cell::new(0);
        let connect = || {
            tries.set(tries.get() + 1);
            assert_eq!(inbox.waiting(), 0, "try {}", tries.get());
            if tries.get() <= NOTICES {
                Err(HostError::Connect("no memory".to_owned()))
            } else {
                Notices::connect()
            }
        };
        let told = async {
            let told = heard.recv().await;
            assert_eq!(inbox.waiting(), 1);
            told
        };
        tokio::select! {
            () = notice(connect, inbox.clone(), news) => {}
            told = told => assert_eq!(told, Ok(Notice::Overrun)),
            () = tokio::time::sleep(Duration::from_secs(60)) => panic!("nothing was told"),
        }
        assert_eq!(tries.get(), NOTICES + 1);
    }
}
