//! The daemon's life: look, refuse or choose, bring up, run until a signal, take down.
//!
//! Everything that can fail is tried before the kernel is changed, and everything that was changed
//! is taken back, in reverse order, whatever ended the run.

mod api_backend;
mod bring_up;
pub(in crate::control) mod fallbacks;
mod guard;
mod kernel_routes;
pub(in crate::control) mod log;
mod path_mtu;
pub(in crate::control) mod publisher;
mod reload;
pub(in crate::control) mod requirements;
mod sys;
mod tap_test;
mod tap_watch;
mod uplink_watch;
mod ways;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::engine::kernel_cover::Leads;
use super::engine::state::{Choices, Daemon, State, tun_addresses};
use super::host::{self, Facts, Host, Needs, TunRoute, Uplink};
use super::server::socket::ControlSocket;
use super::server::{self, metrics_http};
use crate::config::Config;
use crate::control::server::render::Exporter;
use crate::dataplane::observe::Counters;
use crate::dataplane::pump::Pump;
use crate::dataplane::segment::merge::Rules;
use crate::dataplane::underlay::RECEIVE_BUFFER;
use crate::net::Mode;
use bring_up::Lanes;
use kernel_routes::KernelRoutes;
use path_mtu::{Ours, PathMtu};
use reload::foreign_pools;
use uplink_watch::Watch;

/// How long clients may hold up the end.
const LAST_ANSWERS: Duration = Duration::from_millis(500);

/// Runs the daemon with `config`, which `file` holds, until SIGTERM or SIGINT.
///
/// # Errors
/// What cannot work on this host, in words; or the failure that ended the run.
pub fn run(config: Config, file: PathBuf) -> anyhow::Result<()> {
    sys::map_large();
    // Ends last: whatever is dropped before may still log.
    let _log = log::start().context("cannot start the log")?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the control plane")?;
    runtime.block_on(live(config, file))
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

async fn live(config: Config, file: PathBuf) -> anyhow::Result<()> {
    // From here on a signal no longer kills us half-way through a start: it waits for its end.
    let mut signals = Signals::catch()?;
    let mut host = Host::connect()?;
    let (uplink, uplink_mtu) = find_uplink(&host, &config).await?;
    let mut state = State::new(config.clone(), uplink_mtu)?;
    let facts = preflight(&host, &config, &state, &uplink).await?;
    let socket = ControlSocket::bind(&config.control.socket)?;
    let lanes = bring_up::lanes(&host, &config, &facts, &uplink).await?;
    say_choices(&config, &state, &uplink, &lanes);
    if !facts.has_net_admin() {
        host.expect_denials();
    }
    if !facts.has_net_raw() {
        state.forgo_raw();
    }
    let result = run_on(&mut host, (&config, file), state, lanes, socket, uplink, &mut signals).await;
    // The devices are closed by now; this removes what a persistent one would keep.
    if let Err(error) = host.teardown().await {
        tracing::warn!("clean-up is incomplete: {error}");
    }
    result
}

/// The interface with this node's first underlay address, and the smallest MTU where it has one.
async fn find_uplink(host: &Host, config: &Config) -> anyhow::Result<(Uplink, u16)> {
    let mut uplinks = Vec::new();
    for own in config.node.addresses() {
        let uplink = host.uplink_of(own.addr()).await?;
        if let Some(warning) = uplink.prefix_warning(own.prefix_len()) {
            tracing::warn!("{warning}");
        }
        tracing::info!("node {} at {own} on {} (configured)", config.node.name, uplink.name);
        uplinks.push(uplink);
    }
    let mtu = uplinks.iter().map(|uplink| uplink.mtu).min().unwrap_or_default();
    let first = uplinks.into_iter().next().context("this node has no underlay address")?;
    Ok((first, mtu.min(u32::from(u16::MAX)) as u16))
}

/// Refuses, with every reason at once, what cannot work on this host.
async fn preflight(host: &Host, config: &Config, state: &State, uplink: &Uplink) -> anyhow::Result<Facts> {
    let needs = Needs {
        device: config.tunnel.device.clone(),
        uplink: uplink.name.clone(),
        ipip: state.uses(Mode::Ipip),
        direct: state.uses(Mode::Direct),
        ipv6: config.local_subnets.iter().any(|subnet| !subnet.is_ipv4()),
        ipv6_underlay: config.node.address6.is_some(),
    };
    let facts = host::gather(host, &needs).await?;
    let verdict = host::judge(&needs, &facts);
    for warning in &verdict.warnings {
        tracing::warn!("{warning}");
    }
    if !verdict.errors.is_empty() {
        let lines: Vec<String> = verdict.errors.iter().map(ToString::to_string).collect();
        bail!("this host cannot run the tunnel:\n  {}", lines.join("\n  "));
    }
    Ok(facts)
}

/// One line for each choice, and why.
fn say_choices(config: &Config, state: &State, uplink: &Uplink, lanes: &Lanes) {
    let why = if config.tunnel.mtu.is_some() { "configured" } else { "the largest overhead of the pools" };
    tracing::info!("mtu {}: uplink {} has {}, {why}", state.mtu(), uplink.name, uplink.mtu);
    tracing::info!("backend {}: {}", lanes.backend, lanes.backend_reason);
    tracing::info!("workers {}: {}", lanes.lanes.len(), lanes.workers_reason);
    for pool in &config.pools {
        let (mode, when) = pool.encapsulation();
        tracing::info!("pool {}: {mode} {when}", pool.cidr);
    }
    for (name, state) in &lanes.offloads {
        tracing::info!("offload {name}: {state}");
    }
    tracing::info!("uplink tap: {}", lanes.tap_state);
    let buffer = lanes.lanes.first().map_or(RECEIVE_BUFFER, |lane| lane.sockets.receive_buffer());
    if buffer < RECEIVE_BUFFER {
        tracing::info!(
            "receive buffers of {buffer} bytes, bursts may be lost: the kernel allows no more without CAP_NET_ADMIN; \
             `sysctl -w net.core.rmem_max={RECEIVE_BUFFER}` before the start does"
        );
    }
}

/// Listens to the routers of the underlay about each kind of packet of ours.
fn learn_path_mtus(daemon: &Arc<Daemon>, ours: Vec<Ours>) -> Vec<JoinHandle<()>> {
    let warn = |error| tracing::warn!("path MTUs are not learned: {error}; this needs CAP_NET_RAW");
    let listeners = ours.into_iter().map(|ours| PathMtu::new(Arc::clone(daemon), ours));
    listeners.filter_map(|listener| Some(tokio::spawn(listener.map_err(warn).ok()?.run()))).collect()
}

/// From a working set of edges to the end of the run.
async fn run_on(
    host: &mut Host,
    (config, file): (&Config, PathBuf),
    mut state: State,
    lanes: Lanes,
    socket: ControlSocket,
    uplink: Uplink,
    signals: &mut Signals,
) -> anyhow::Result<()> {
    let address = tun_addresses(config).first().copied();
    let address = address.ok_or_else(|| anyhow!("there is no local subnet to take the TUN address from"))?;
    let mut leads = Leads::new(foreign_pools(config));
    leads.renew(&state.rib);
    let (device, sources) = configure_kernel(host, config, &state, address, &leads).await?;
    if host.was_denied() {
        state.hold_mtu(requirements::given_mtu(host, &state).await?);
    }
    let counters = Counters::new(lanes.lanes.len());
    state.set_workers(lanes.lanes.len());
    let rules = Rules { tcp: lanes.merge_tcp, udp: lanes.merge_udp };
    let source_ports = lanes.lanes.first().map_or(&[][..], |lane| lane.sockets.source_ports()).to_vec();
    let ours = config
        .node
        .addresses()
        .map(|address| Ours { address: address.addr(), source_ports: source_ports.clone() });
    let ours = ours.collect();
    let pump =
        Pump::start(lanes.lanes, rules, state.forwarding(), &counters).context("cannot start workers")?;
    let failures = pump.failures();
    let choices =
        Choices { backend: lanes.backend, offloads: lanes.offloads, uplink: lanes.tap_state, address };
    let daemon = Arc::new(Daemon::new(state, counters.clone(), choices, file));
    if host.was_denied() {
        daemon.leave_chores(Host::connect()?, device, sources.clone());
    }
    let own = config.node.addresses().next().context("this node has no underlay address")?.addr();
    let watch = Watch::new(Host::connect()?, Arc::clone(&daemon), own, uplink, lanes.tap);
    let watching = tokio::spawn(watch.run());
    let learning = learn_path_mtus(&daemon, ours);
    let following = follow(&daemon, leads, KernelRoutes::new(Host::connect()?, device, sources));
    let chores = tokio::spawn(Arc::clone(&daemon).watch_chores());
    let guarding = tokio::spawn(Arc::clone(&daemon).watch_strangers(lanes.guarded, Host::connect()?));
    let writing = tokio::spawn({
        let daemon = Arc::clone(&daemon);
        async move { daemon.write().await }
    });
    let (stop, stopped) = watch::channel(());
    let services = services(config, &daemon, counters, socket, stopped).await;
    let result = match services {
        Ok(services) => {
            tracing::info!("ready; control socket {}", config.control.socket.display());
            let result = wait(failures, signals, &daemon).await;
            drop(stop);
            let _ = tokio::time::timeout(LAST_ANSWERS, futures_util::future::join_all(services)).await;
            result
        }
        Err(error) => Err(error),
    };
    writing.abort();
    following.abort();
    chores.abort();
    guarding.abort();
    // Routes go first, so that the kernel hands over nothing new; then the workers drain. The watch
    // holds the program that pushes outer headers on the TAP, so it outlives whoever writes there:
    // without it inner packets would leave bare.
    let cleaned = host.teardown().await;
    pump.stop();
    daemon.tell_fallbacks();
    watching.abort();
    learning.iter().for_each(JoinHandle::abort);
    cleaned?;
    result
}

/// MTU, addresses and routes of the TUN. Returns its index, and its addresses that are sources.
async fn configure_kernel(
    host: &mut Host,
    config: &Config,
    state: &State,
    address: IpAddr,
    leads: &Leads,
) -> anyhow::Result<(u32, Vec<IpAddr>)> {
    let width = |address: IpAddr| if address.is_ipv4() { 32 } else { 128 };
    let index = host
        .configure_tun(
            &config.tunnel.device,
            u32::from(state.mtu()),
            address,
            width(address),
            Some(bring_up::TX_QUEUE_LEN),
        )
        .await?;
    let sources = tun_addresses(config);
    for other in sources.iter().filter(|source| **source != address) {
        host.add_tun_address(*other, width(*other)).await?;
    }
    host.remove_stale_routes(index).await?;
    let routes: Vec<TunRoute> =
        leads.all().into_iter().map(|prefix| kernel_routes::route(prefix, &sources)).collect();
    host.add_routes(index, &routes).await?;
    Ok((index, sources))
}

/// Has the kernel's routes follow what is edited.
fn follow(daemon: &Arc<Daemon>, leads: Leads, routes: KernelRoutes) -> JoinHandle<()> {
    let (steps, changes) = mpsc::unbounded_channel();
    daemon.lead(leads, steps);
    tokio::spawn(routes.follow(changes, Arc::clone(daemon)))
}

/// Starts the API and the metrics endpoint.
async fn services(
    config: &Config,
    daemon: &Arc<Daemon>,
    counters: Counters,
    socket: ControlSocket,
    stopped: watch::Receiver<()>,
) -> anyhow::Result<Vec<JoinHandle<()>>> {
    let mut services = Vec::new();
    if let Some(address) = config.metrics {
        let listener = metrics_http::bind(address).await?;
        let now = Arc::clone(daemon);
        let exporter = Exporter::new(counters, move || now.now());
        services.push(tokio::spawn(metrics_http::serve(listener, exporter, until(stopped.clone()))));
    }
    let api = server::serve(socket, Arc::clone(daemon), until(stopped));
    services.push(tokio::spawn(async move {
        if let Err(error) = api.await {
            tracing::error!("the control socket failed: {error}");
        }
    }));
    Ok(services)
}

/// Completes when the sender is dropped.
async fn until(mut stopped: watch::Receiver<()>) {
    while stopped.changed().await.is_ok() {}
}

/// Waits for a signal to end, following the configuration file at each SIGHUP, or for a worker that ended by itself.
async fn wait(
    failures: crossbeam::channel::Receiver<crate::dataplane::pump::Failure>,
    signals: &mut Signals,
    daemon: &Daemon,
) -> anyhow::Result<()> {
    let mut failed = tokio::task::spawn_blocking(move || failures.recv());
    loop {
        tokio::select! {
            _ = signals.terminate.recv() => tracing::info!("SIGTERM: stopping"),
            _ = signals.interrupt.recv() => tracing::info!("SIGINT: stopping"),
            _ = signals.hangup.recv() => {
                // What speaks against it is in the log.
                let _ = daemon.reload();
                continue;
            }
            failure = &mut failed => match failure {
                Ok(Ok(failure)) => return Err(failure.into()),
                _ => bail!("all workers stopped"),
            },
        }
        return Ok(());
    }
}
