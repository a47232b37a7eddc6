//! The start, step by step: everything that can fail is tried before the kernel is changed.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, bail};
use futures_util::{StreamExt, stream};

use super::bring_up::{self, Lanes};
use super::configuration::Sources;
use super::runner;
use super::watch::peer_ways::Ways;
use super::watch::tap_device::TapDevice;
use super::watch::uplink_watch::stand_in;
use crate::config::Config;
use crate::control::engine::judge::{self, Facts};
use crate::control::engine::port::{HostError, HostRequest, LinkChange, OwnRoute, Uplink};
use crate::control::engine::{
    Effect, Engine, Event, Failure, Setup, Start, StartError, is_peer, look, needs, tun_addresses,
};
use crate::control::host::{self, Host, Interfaces};
use crate::control::server::socket::ControlSocket;
use crate::dataplane::forward::Forwarding;
use crate::dataplane::underlay::RECEIVE_BUFFER;
use crate::net::Prefix;
use crate::sync::Published;

/// Ways that are looked up together.
const AT_ONCE: usize = 16;

/// A host that is ready: devices made and configured, sockets open, nothing running yet.
pub(super) struct Ready {
    /// The engine, which has brought the host to what it should be.
    pub engine: Engine,
    /// The first table.
    pub forwarding: Arc<Published<Forwarding>>,
    /// The edges.
    pub lanes: Lanes,
    /// The control socket.
    pub socket: ControlSocket,
    /// The interface with our first underlay address.
    pub uplink: Uplink,
    /// The ways to the peers of the configuration.
    pub ways: Ways,
}

/// Makes everything ready for `config`.
///
/// # Errors
/// What cannot work on this host, in words. What was changed has been taken back.
pub(super) async fn ready(host: &Host, config: &Config, sources: &mut Sources) -> anyhow::Result<Ready> {
    if tun_addresses(config).is_empty() {
        bail!("there is no local subnet to take the TUN address from");
    }
    let ways = find_ways(host, config).await;
    let (uplink, uplink_mtu) = find_uplink(host, config, &ways).await?;
    let facts = preflight(host, config, &uplink).await?;
    let socket = ControlSocket::bind(&config.control.socket)?;
    let lanes = bring_up::lanes(host, config, &facts, &uplink).await?;
    let tap = lanes.tap.as_ref().and_then(TapDevice::own_index);
    let view = host.observe(&look(config, &uplink.name, tap)).await?;
    sources.policies.begin(lanes.lanes.len());
    let start = Start {
        setup: Setup {
            capabilities: facts.capabilities(),
            workers: lanes.lanes.len(),
            uplink_mtu,
            uplink: uplink.index,
        },
        uplink: uplink.clone(),
        ways: ways.iter().copied().collect(),
        tap,
        tap_state: lanes.tap_state.clone(),
        view,
        addresses: host.all_addresses().await?,
        network_policy: sources.network_policy(config).await.map_err(anyhow::Error::msg)?,
        now: Instant::now(),
    };
    let (mut engine, first) = Engine::new(config.clone(), start).map_err(explain)?;
    let forwarding = Arc::new(Published::new(first));
    if let Err(error) = settle(host, &mut engine, &forwarding).await {
        take_down(host, engine.take_down()).await;
        return Err(error.into());
    }
    say_choices(config, engine.snapshot().underlay.tun.mtu, &uplink, &lanes);
    Ok(Ready { engine, forwarding, lanes, socket, uplink, ways })
}

/// Has the host brought to what it should be, before anything runs.
async fn settle(
    host: &Host,
    engine: &mut Engine,
    forwarding: &Published<Forwarding>,
) -> Result<(), HostError> {
    let mut effects = VecDeque::from(engine.handle(Event::Tick, Instant::now()));
    while let Some(effect) = effects.pop_front() {
        match effect {
            Effect::Host(id, request) => {
                let needed = is_needed(&request);
                let spared = to_nodes(&request);
                let event = host.answer(id, request).await;
                let refused = |failure: &&Failure| {
                    let spared = failure.route.is_some_and(|route| spared.contains(&route));
                    needed && !spared && !failure.error.is_denied()
                };
                if let Event::Ended(_, failures) = &event
                    && let Some(Failure { error, .. }) = failures.iter().find(refused)
                {
                    return Err(error.clone());
                }
                effects.extend(engine.handle(event, Instant::now()));
            }
            Effect::Publish(table) => forwarding.publish(*table),
            Effect::Require(requirement) => runner::require(&requirement),
            Effect::Resolved(requirement) => runner::resolved(&requirement),
            // Nobody can have asked or heard of anything yet.
            Effect::Answer(..) | Effect::Shrunk | Effect::ProbePath { .. } => {}
        }
    }
    Ok(())
}

/// Whether a start is refused where this is. A short queue, a sysctl or masquerading costs something, but packets
/// between pods flow.
fn is_needed(request: &HostRequest) -> bool {
    match request {
        HostRequest::Link { change, .. } => matches!(change, LinkChange::Up | LinkChange::Mtu(_)),
        HostRequest::Sysctl { .. } | HostRequest::Nat { .. } => false,
        _ => true,
    }
}

/// The destinations of routes to other nodes in `request`: where the kernel will not have one, the pump sends there.
fn to_nodes(request: &HostRequest) -> HashSet<Prefix> {
    let HostRequest::Routes { add, .. } = request else { return HashSet::new() };
    let direct = add.iter().filter(|route| matches!(route, OwnRoute::Direct(_)));
    direct.map(OwnRoute::prefix).collect()
}

/// Takes back what was changed on the host. Everything is tried.
pub(super) async fn take_down(host: &Host, requests: Vec<HostRequest>) {
    for request in requests {
        if let Err(failures) = host.execute(request).await {
            for failure in failures.iter().filter(|failure| !failure.error.is_denied()) {
                tracing::warn!("clean-up is incomplete: {}", failure.error);
            }
        }
    }
}

/// The kernel's ways to the peers' addresses.
async fn find_ways(host: &Host, config: &Config) -> Ways {
    let interfaces = &Interfaces::default();
    let peers = config.peers.iter().flat_map(|peer| peer.addresses(&config.node));
    let looks = peers.map(|peer| async move {
        let mut own = config.node.addresses().map(|own| own.addr());
        let own = own.find(|own| own.is_ipv4() == peer.is_ipv4())?;
        host.way(peer, own, interfaces).await.map(|way| (peer, way))
    });
    stream::iter(looks).buffered(AT_ONCE).filter_map(std::future::ready).collect().await
}

/// The interface with this node's first underlay address, and the smallest MTU where it has one.
async fn find_uplink(host: &Host, config: &Config, ways: &Ways) -> anyhow::Result<(Uplink, u16)> {
    let mut uplinks = Vec::new();
    for own in config.node.addresses() {
        let uplink = host.uplink_of(own.addr()).await?;
        if let Some(warning) = uplink.prefix_warning(own.prefix_len()) {
            tracing::warn!("{warning}");
        }
        let rule =
            config.node.rule(own.addr().is_ipv4()).map_or("configured".to_owned(), ToString::to_string);
        tracing::info!("node {} at {own} on {} ({rule})", config.node.name, uplink.name);
        uplinks.push(stand_in(host, uplink, ways, 0).await);
    }
    let mtu = uplinks.iter().map(Uplink::packet_mtu).min().unwrap_or_default();
    let first = uplinks.into_iter().next().context("this node has no underlay address")?;
    Ok((first, mtu))
}

/// Refuses, with every reason at once, what cannot work on this host.
async fn preflight(host: &Host, config: &Config, uplink: &Uplink) -> anyhow::Result<Facts> {
    let needs = needs(config, &uplink.name);
    let facts = host::gather(host, &needs).await?;
    let verdict = judge::judge(&needs, &facts, |address| is_peer(config, address));
    for warning in &verdict.warnings {
        tracing::warn!("{warning}");
    }
    if !verdict.errors.is_empty() {
        let lines: Vec<String> = verdict.errors.iter().map(ToString::to_string).collect();
        bail!("this host cannot run the tunnel:\n  {}", lines.join("\n  "));
    }
    Ok(facts)
}

fn explain(error: StartError) -> anyhow::Error {
    match error {
        StartError::Conflicts(conflicts) if conflicts.len() > 1 => {
            let lines: Vec<String> = conflicts.iter().map(ToString::to_string).collect();
            anyhow::anyhow!("this host cannot run the tunnel:\n  {}", lines.join("\n  "))
        }
        other => other.into(),
    }
}

/// One line for each choice, and why.
fn say_choices(config: &Config, mtu: u16, uplink: &Uplink, lanes: &Lanes) {
    let why = if config.tunnel.mtu.is_some() { "configured" } else { "the largest overhead of the pools" };
    tracing::info!("mtu {mtu}: uplink {} has {}, {why}", uplink.name, uplink.mtu);
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
