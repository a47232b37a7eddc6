//! Opening the edges: the TUN's queues and each worker's sockets, with what the host allows.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use anyhow::{Context, bail};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::tap_test::TapTest;
use crate::config::{self, Backend, Config, Switch};
use crate::control::engine::Failure;
use crate::control::engine::judge::Facts;
use crate::control::engine::port::{
    HostError, HostRequest, LinkChange, TAP_QUIET, TAP_SYSCTLS, TunBackend, Uplink,
};
use crate::control::host::{Answer, Guarded, Host, OpenTun};
use crate::dataplane::device::Origin;
use crate::dataplane::packet::Offloaded;
use crate::dataplane::pump::Lane;
use crate::dataplane::underlay::tap::{PushHeader, Tap};
use crate::dataplane::underlay::{SOURCE_PORTS, Setup, Supported};
use crate::net::{Mac, Mode};

/// Most workers chosen automatically.
const MAX_AUTO_WORKERS: u16 = 8;
/// Descriptors beside the workers' own: control socket, clients, netlink, logs.
const OTHER_DESCRIPTORS: u64 = 128;

/// The opened edges and what was chosen on the way.
pub struct Lanes {
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
    /// What tests the TAP, if there is one.
    pub tap: Option<TapTest>,
    /// Name of the TAP, if there is one.
    pub tap_name: Option<String>,
    /// The TAP's state so far.
    pub tap_state: Offloaded,
    /// The devices that are to stay ours alone.
    pub guarded: Vec<Guarded>,
}

/// Opens everything.
///
/// # Errors
/// What the kernel refuses, with the next step.
pub async fn lanes(host: &Host, config: &Config, facts: &Facts, uplink: &Uplink) -> anyhow::Result<Lanes> {
    let (workers, workers_reason) = workers(config);
    let families = config.node.addresses().count() as u64;
    allow_descriptors(u64::from(workers) * families * (u64::from(SOURCE_PORTS) + 8) + OTHER_DESCRIPTORS)?;
    let switches = config.tunnel.offload;
    // Preflight has refused what is no TUN for us. A device that is not persistent goes with who made it.
    let origin = if facts.device.is_some() { Origin::Prepared } else { Origin::New };
    let (queues, backend, backend_reason) = open_tun(host, config, workers, origin).await?;
    let guarded = Guarded::new(&config.tunnel.device, queues.ownership, queues.devices.len());
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
        workers: queues.devices.len() as u16,
        raw: facts.capabilities().net_raw,
        udp_gso: choose("udp_gso", switches.udp_gso, supported.udp_gso)?,
        udp_gro: choose("udp_gro", switches.udp_gro, supported.udp_gro)?,
        segment_sizes: choose("segment_sizes", switches.segment_sizes, supported.segment_sizes)?,
        packet: choose("packet_socket", switches.packet_socket, supported.packet)?.then_some(uplink.index),
    };
    let mut tap = open_tap(host, config, queues.devices.len()).await?;
    let shared = Arc::new(setup);
    let mut lanes = Vec::new();
    for (index, device) in queues.devices.into_iter().enumerate() {
        let request = HostRequest::OpenSockets { setup: Arc::clone(&shared), worker: index as u16 };
        let pick = |answer| if let Answer::Sockets(sockets) = answer { Some(*sockets) } else { None };
        let sockets = opened(host.execute(request).await, pick)?.with_tap(tap.queues.pop());
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
    let workers_reason =
        if lanes.len() == usize::from(workers) { workers_reason } else { "one queue".to_owned() };
    Ok(Lanes {
        lanes,
        backend,
        backend_reason,
        workers_reason,
        offloads,
        merge_tcp: gro,
        merge_udp,
        tap: tap.test,
        tap_name: tap.guarded.as_ref().map(|guarded| guarded.name().to_owned()),
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
struct TapQueues {
    queues: Vec<Tap>,
    test: Option<TapTest>,
    state: Offloaded,
    guarded: Option<Guarded>,
}

impl TapQueues {
    /// No TAP, for this reason.
    fn off(why: impl Into<String>) -> Self {
        Self { queues: Vec::new(), test: None, state: Offloaded::off(why), guarded: None }
    }
}

/// Opens one queue of the TAP for each worker and one for its test, where the configuration has a
/// use for it.
async fn open_tap(host: &Host, config: &Config, workers: usize) -> anyhow::Result<TapQueues> {
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
            return Ok(TapQueues::off(why));
        }
    };
    let name = tap_name(&config.tunnel.device);
    // The kernel would share the TAP of another daemon with us.
    if host.link_by_name(&name).await?.is_some() {
        let reason = format!("a device {name} exists already");
        if wanted == config::Uplink::Tap {
            bail!("uplink is \"tap\", but {reason}; remove it or choose another `device`");
        }
        return Ok(TapQueues::off(reason));
    }
    match own_tap(host, &name, workers + 1).await {
        Ok((mut queues, guarded, mac, index)) => {
            let push = PushHeader::attach(index, source);
            let state = match &push {
                Ok(_) => "not tested yet".to_owned(),
                Err(error) => format!("not tested yet; never for ipip, eBPF is not available: {error}"),
            };
            let test = queues.pop().map(|tap| TapTest::new(tap, mac, push.ok(), source));
            Ok(TapQueues { queues, test, state: Offloaded::Off(state), guarded: Some(guarded) })
        }
        Err(error) if wanted == config::Uplink::Tap => Err(error.context("uplink is \"tap\"")),
        Err(error) => Ok(TapQueues::off(format!("{error:#}"))),
    }
}

/// Makes the TAP and brings it up, once it is certain that nobody else is at it. Returns its queues, link
/// address and index.
async fn own_tap(host: &Host, name: &str, queues: usize) -> anyhow::Result<(Vec<Tap>, Guarded, Mac, u32)> {
    let request = HostRequest::OpenTap { name: name.to_owned(), queues: u16::try_from(queues)? };
    let pick = |answer| if let Answer::Tap(tap) = answer { Some(tap) } else { None };
    let opened = opened(host.execute(request).await, pick)?;
    let guarded = Guarded::new(name, opened.ownership, opened.queues.len());
    guarded.check(host).await?;
    let link = host.link_by_name(name).await?.ok_or_else(|| HostError::NoDevice(name.to_owned()))?;
    let set = |sysctl, value| HostRequest::Sysctl { name: name.to_owned(), sysctl, value };
    // Where there is no IPv6 at all there is nothing to quiet.
    let _ = host.execute(set(TAP_QUIET.0, TAP_QUIET.1)).await;
    let needed = TAP_SYSCTLS.map(|(sysctl, value)| set(sysctl, value));
    let up = HostRequest::Link { index: link.index, name: name.to_owned(), change: LinkChange::Up };
    for request in needed.into_iter().chain([up]) {
        host.execute(request).await.map_err(first)?;
    }
    Ok((opened.queues, guarded, opened.mac, link.index))
}

/// Name of the TAP beside the TUN `device`, with room for the suffix in the kernel's 15 bytes.
fn tap_name(device: &str) -> String {
    let end = device.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|end| *end <= 13).last();
    format!("{}-x", &device[..end.unwrap_or(0)])
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

/// Raises the soft limit of open descriptors to what is needed.
fn allow_descriptors(needed: u64) -> anyhow::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= needed) {
        return Ok(());
    }
    if limit.maximum.is_some_and(|maximum| maximum < needed) {
        bail!(
            "the limit of open files is {}, and {needed} are needed; raise it (`ulimit -n`, LimitNOFILE=) or set fewer `workers`",
            limit.maximum.unwrap_or_default()
        );
    }
    setrlimit(Resource::Nofile, Rlimit { current: Some(needed), maximum: limit.maximum })
        .context("cannot raise the limit of open files")
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

/// The first thing that the kernel refused.
fn first(failures: Vec<Failure>) -> HostError {
    let unknown = || HostError::Open { error: "the kernel refused without a reason".to_owned(), errno: None };
    failures.into_iter().next().map_or_else(unknown, |failure| failure.error)
}

/// What was opened; `pick` takes it out of its answer.
fn opened<T>(
    answer: Result<Answer, Vec<Failure>>,
    pick: impl FnOnce(Answer) -> Option<T>,
) -> Result<T, HostError> {
    answer.and_then(|answer| pick(answer).ok_or_else(Vec::new)).map_err(first)
}

#[cfg(test)]
mod tests {
    use super::tap_name;

    #[test]
    fn the_taps_name_fits_the_kernel() {
        assert_eq!(tap_name("up0"), "up0-x");
        assert_eq!(tap_name("a23456789012345"), "a234567890123-x");
        assert_eq!(tap_name("ééééééé"), "éééééé-x");
    }
}
