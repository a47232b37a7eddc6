//! Opening the edges: the TUN's queues and each worker's sockets, with what the host allows.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use anyhow::bail;

use super::descriptors;
use super::watch::tap_device::{TapDevice, first, tap_name};
use crate::config::{self, Backend, Config, Switch};
use crate::control::engine::Failure;
use crate::control::engine::judge::Facts;
use crate::control::engine::port::{HostError, HostRequest, TunBackend, Uplink};
use crate::control::host::{Answer, Guarded, Host, OpenTun};
use crate::dataplane::device::Origin;
use crate::dataplane::packet::Offloaded;
use crate::dataplane::pump::Lane;
use crate::dataplane::underlay::{Setup, Supported};
use crate::net::Mode;

/// Most workers chosen automatically.
const MAX_AUTO_WORKERS: u16 = 8;

/// The opened edges and what was chosen on the way.
pub(super) struct Lanes {
    /// One for each worker.
    pub lanes: Vec<Lane>,
    /// `offload` or `plain`.
    pub backend: &'static str,
    /// Why this backend.
    pub backend_reason: String,
    /// Why this many workers.
    pub workers_reason: String,
    /// Each offload by name.
    pub offloads: Vec<(&'static str, Offloaded)>,
    /// Whether received TCP segments are merged.
    pub merge_tcp: bool,
    /// Whether received UDP datagrams are merged.
    pub merge_udp: bool,
    /// The TAP, where the configuration has a use for one.
    pub tap: Option<TapDevice>,
    /// The TAP's state so far.
    pub tap_state: Offloaded,
    /// The devices that are to stay ours alone.
    pub guarded: Vec<Guarded>,
}

/// Opens everything.
///
/// # Errors
/// What the kernel refuses, with the next step.
pub(super) async fn lanes(
    host: &Host,
    config: &Config,
    facts: &Facts,
    uplink: &Uplink,
) -> anyhow::Result<Lanes> {
    let (workers, workers_reason) = workers(config);
    descriptors::allow(workers, config.node.addresses().count())?;
    let switches = config.tunnel.offload;
    // Preflight has refused what is no TUN for us. A device that is not persistent goes with who made it.
    let origin = if facts.device.is_some() { Origin::Prepared } else { Origin::New };
    let (mut queues, backend, backend_reason) = open_tun(host, config, workers, origin).await?;
    let is_split = queues.devices.len() > 1 && !queues.steering.is_active();
    if is_split && config.policy.is_some() {
        // The kernel has the packets of a closed queue come out of those that are left.
        queues.devices.truncate(1);
    }
    let mut guarded = Guarded::new(&config.tunnel.device, queues.ownership, queues.devices.len());
    guarded.check(host).await?;
    choose("tso", switches.tso, queues.granted.tso)?;
    choose("uso", switches.uso, queues.granted.uso)?;
    // A packet socket needs an Ethernet uplink, whose frames we can build.
    let supported = Supported::probe(uplink.mac.map(|_| uplink.index));
    let setup = Setup {
        address: config.node.address.map(|net| net.addr()),
        address6: config.node.address6.map(|net| net.addr()),
        zero_checksum6: config.vxlan.udp6_zero_checksum,
        vxlan_port: config.vxlan.port,
        // The keys of a hash table come from the kernel's random numbers.
        port_seed: RandomState::new().hash_one(0_u8),
        workers: u16::try_from(queues.devices.len())?,
        raw: facts.capabilities().net_raw,
        udp_gso: choose("udp_gso", switches.udp_gso, supported.udp_gso)?,
        udp_gro: choose("udp_gro", switches.udp_gro, supported.udp_gro)?,
        segment_sizes: choose("segment_sizes", switches.segment_sizes, supported.segment_sizes)?,
        packet: choose("packet_socket", switches.packet_socket, supported.packet)?.then_some(uplink.index),
    };
    let tap = open_tap(host, config, queues.devices.len()).await?;
    let shared = Arc::new(setup);
    let mut lanes = Vec::new();
    for (worker, device) in (0..).zip(queues.devices) {
        let request = HostRequest::OpenSockets { setup: Arc::clone(&shared), worker };
        let pick = |answer| if let Answer::Sockets(sockets) = answer { Some(*sockets) } else { None };
        let queue = tap.device.as_ref().and_then(|tap| tap.queue(usize::from(worker)));
        let sockets = opened(host.execute(request).await, pick)?.with_tap(queue);
        lanes.push(Lane { device, sockets });
    }
    let gro = choose("gro", switches.gro, backend == "offload")?;
    let merge_udp = gro && queues.granted.uso;
    let offloads = vec![
        ("tso", describe(switches.tso, queues.granted.tso)),
        ("uso", describe(switches.uso, queues.granted.uso)),
        ("gro", describe(switches.gro, gro)),
        ("udp_gso", describe(switches.udp_gso, setup.udp_gso)),
        ("udp_gro", describe(switches.udp_gro, setup.udp_gro)),
        ("segment_sizes", describe(switches.segment_sizes, setup.segment_sizes)),
        ("packet_socket", describe(switches.packet_socket, setup.packet.is_some())),
        ("steering", queues.steering),
    ];
    let workers_reason = match lanes.len() == usize::from(workers) {
        true => workers_reason,
        false if is_split => {
            "policies need both ways of a connection in one worker, which takes CAP_BPF with several"
                .to_owned()
        }
        false => "one queue".to_owned(),
    };
    Ok(Lanes {
        lanes,
        backend,
        backend_reason,
        workers_reason,
        offloads,
        merge_tcp: gro,
        merge_udp,
        tap: tap.device,
        tap_state: tap.state,
        guarded: [guarded].into_iter().chain(tap.guarded).collect(),
    })
}

/// Whether to use an offload: where `switch` says so and the kernel has it.
fn choose(name: &str, switch: Switch, supported: bool) -> anyhow::Result<bool> {
    if switch == Switch::On && !supported {
        bail!(
            "{name} is \"on\", but this host does not have it; write \"auto\" to do without where it is missing"
        );
    }
    Ok(switch != Switch::Off && supported)
}

/// The TAP for super-packets.
struct TapChoice {
    device: Option<TapDevice>,
    state: Offloaded,
    guarded: Option<Guarded>,
}

/// Makes the TAP with one queue for each worker and one for its test, where the configuration has a
/// use for it.
async fn open_tap(host: &Host, config: &Config, workers: usize) -> anyhow::Result<TapChoice> {
    let wanted = config.tunnel.uplink;
    let encapsulates = config.pools.iter().any(|pool| pool.encapsulation().0 != Mode::Direct);
    let source = match config.node.address {
        Some(net) if wanted != config::Uplink::Socket && encapsulates => net.addr(),
        None if wanted == config::Uplink::Tap => {
            bail!("uplink is \"tap\", but the TAP needs an IPv4 underlay; give `address` under [node]");
        }
        own => {
            let why = match own {
                _ if wanted == config::Uplink::Socket => "configured",
                None => "no IPv4 underlay",
                Some(_) => "no pool encapsulates",
            };
            return Ok(TapChoice { device: None, state: Offloaded::off(why), guarded: None });
        }
    };
    let mut device = TapDevice::new(tap_name(&config.tunnel.device), workers, source)?;
    match device.make(host).await {
        Ok(guarded) => {
            let state = Offloaded::off("not tested yet");
            Ok(TapChoice { device: Some(device), state, guarded: Some(guarded) })
        }
        Err(error) if wanted == config::Uplink::Tap => Err(error.context("uplink is \"tap\"")),
        Err(error) => {
            let state = Offloaded::off(format!("{error:#}"));
            Ok(TapChoice { device: Some(device), state, guarded: None })
        }
    }
}

fn describe(switch: Switch, active: bool) -> Offloaded {
    match (active, switch) {
        (true, _) => Offloaded::Active,
        (false, Switch::Off) => Offloaded::off("configured"),
        (false, _) => Offloaded::off("not available"),
    }
}

fn workers(config: &Config) -> (u16, String) {
    if let Some(workers) = config.tunnel.workers {
        return (workers, "configured".to_owned());
    }
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let workers = u16::try_from(cpus).unwrap_or(MAX_AUTO_WORKERS).clamp(1, MAX_AUTO_WORKERS);
    (workers, format!("one for each of {cpus} CPUs, at most {MAX_AUTO_WORKERS}"))
}

/// Opens the TUN by the configured backend, or by the one that the device allows.
async fn open_tun(
    host: &Host,
    config: &Config,
    workers: u16,
    origin: Origin,
) -> anyhow::Result<(OpenTun, &'static str, String)> {
    let name = config.tunnel.device.clone();
    let open = async |queues, backend| {
        let request = HostRequest::OpenTun { name: name.clone(), origin, queues, backend };
        opened(
            host.execute(request).await,
            |answer| if let Answer::Tun(tun) = answer { Some(tun) } else { None },
        )
    };
    let why = match config.tunnel.backend {
        Backend::Plain => return Ok((open(1, TunBackend::Plain).await?, "plain", "configured".to_owned())),
        Backend::Offload => "configured",
        Backend::Auto => "multi-queue and vnet_hdr are available",
    };
    let switches = config.tunnel.offload;
    let offload = TunBackend::Offload { tso: switches.tso != Switch::Off, uso: switches.uso != Switch::Off };
    match open(workers, offload).await {
        Ok(tun) => Ok((tun, "offload", why.to_owned())),
        // EINVAL: the device exists with other flags, made without multi-queue or vnet_hdr.
        Err(error) if config.tunnel.backend == Backend::Auto && error.errno() == Some(libc::EINVAL) => {
            let reason = format!("{name} exists without multi-queue or vnet_hdr");
            Ok((open(1, TunBackend::Plain).await?, "plain", reason))
        }
        Err(error) => Err(error.into()),
    }
}

/// What was opened; `pick` takes it out of its answer.
fn opened<T>(
    answer: Result<Answer, Vec<Failure>>,
    pick: impl FnOnce(Answer) -> Option<T>,
) -> Result<T, HostError> {
    answer.and_then(|answer| pick(answer).ok_or_else(Vec::new)).map_err(first)
}
