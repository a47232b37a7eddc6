//! Opening the edges: the TUN's queues and each worker's sockets, with what the host allows.

use std::io;

use anyhow::{Context, bail};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::guard::Guarded;
use super::tap_test::TapTest;
use crate::config::{self, Backend, Config, Switch};
use crate::control::host::{self, Facts, Host, Uplink};
use crate::dataplane::device::{Offloads, Origin, Ownership, PlainTun, VnetTun};
use crate::dataplane::packet::Device;
use crate::dataplane::pump::Lane;
use crate::dataplane::underlay::tap::{PushHeader, Tap};
use crate::dataplane::underlay::{OpenError, SOURCE_PORTS, Setup, Sockets, Supported};
use crate::net::{Mac, Mode};

/// Packets the kernel queues towards us on each TUN queue. The default of 500 overflows in one
/// scheduling delay at full rate, and an overflow is a lost packet.
pub const TX_QUEUE_LEN: u32 = 10_000;
/// Most workers chosen automatically.
const MAX_AUTO_WORKERS: u16 = 8;
/// Descriptors beside the workers' own: control socket, clients, netlink, logs.
const OTHER_DESCRIPTORS: u64 = 128;
/// Why nothing chooses a queue.
const ONE_QUEUE: &str = "off: one queue";

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
    /// Each offload by name: `active`, or `off: ` and why.
    pub offloads: Vec<(&'static str, String)>,
    /// Whether received TCP segments are merged.
    pub merge_tcp: bool,
    /// Whether received UDP datagrams are merged.
    pub merge_udp: bool,
    /// What tests the TAP, if there is one.
    pub tap: Option<TapTest>,
    /// The TAP's state so far.
    pub tap_state: String,
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
    let queues = open_device(config, workers, origin)?;
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
        workers: queues.devices.len() as u16,
        raw: facts.has_net_raw(),
        udp_gso: choose("udp_gso", switches.udp_gso, supported.udp_gso)?,
        udp_gro: choose("udp_gro", switches.udp_gro, supported.udp_gro)?,
        segment_sizes: choose("segment_sizes", switches.segment_sizes, supported.segment_sizes)?,
        packet: choose("packet_socket", switches.packet_socket, supported.packet)?.then_some(uplink.index),
    };
    let mut tap = open_tap(host, config, queues.devices.len()).await?;
    let mut lanes = Vec::new();
    for (index, device) in queues.devices.into_iter().enumerate() {
        match Sockets::open(&setup, index as u16, tap.queues.pop()) {
            Ok(sockets) => lanes.push(Lane { device, sockets }),
            Err(error) => return Err(explain(host, config, error).await),
        }
    }
    let gro = choose("gro", switches.gro, queues.backend == "offload")?;
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
    let (backend, backend_reason) = (queues.backend, queues.reason);
    Ok(Lanes {
        lanes,
        backend,
        backend_reason,
        workers_reason,
        offloads,
        merge_tcp: gro,
        merge_udp,
        tap: tap.test,
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
#[derive(Default)]
struct TapQueues {
    queues: Vec<Tap>,
    test: Option<TapTest>,
    state: String,
    guarded: Option<Guarded>,
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
            return Ok(TapQueues { state: format!("off: {why}"), ..TapQueues::default() });
        }
    };
    let name = tap_name(&config.tunnel.device);
    // The kernel would share the TAP of another daemon with us.
    if host.link_by_name(&name).await?.is_some() {
        let reason = format!("a device {name} exists already");
        if wanted == config::Uplink::Tap {
            bail!("uplink is \"tap\", but {reason}; remove it or choose another `device`");
        }
        return Ok(TapQueues { state: format!("off: {reason}"), ..TapQueues::default() });
    }
    match own_tap(host, &name, workers + 1).await {
        Ok((mut queues, guarded, mac, index)) => {
            let push = PushHeader::attach(index, source);
            let state = match &push {
                Ok(_) => "off: not tested yet".to_owned(),
                Err(error) => format!("off: not tested yet; never for ipip, eBPF is not available: {error}"),
            };
            let test = queues.pop().map(|tap| TapTest::new(tap, mac, push.ok(), source));
            Ok(TapQueues { queues, test, state, guarded: Some(guarded) })
        }
        Err(error) if wanted == config::Uplink::Tap => Err(error.context("uplink is \"tap\"")),
        Err(error) => Ok(TapQueues { state: format!("off: {error:#}"), ..TapQueues::default() }),
    }
}

/// Makes the TAP and brings it up, once it is certain that nobody else is at it. Returns its queues, link
/// address and index.
async fn own_tap(host: &Host, name: &str, queues: usize) -> anyhow::Result<(Vec<Tap>, Guarded, Mac, u32)> {
    let opened = Tap::open(name, queues).with_context(|| format!("cannot open the TAP {name}"));
    let (queues, ownership, mac) = opened?;
    let guarded = Guarded::new(name, ownership, queues.len());
    guarded.check(host).await?;
    let index = host.configure_tap(name).await?;
    Ok((queues, guarded, mac, index))
}

/// Name of the TAP beside the TUN `device`, with room for the suffix in the kernel's 15 bytes.
fn tap_name(device: &str) -> String {
    let end = device.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|end| *end <= 13).last();
    format!("{}-x", &device[..end.unwrap_or(0)])
}

fn describe(switch: Switch, active: bool) -> String {
    match (active, switch) {
        (true, _) => "active".to_owned(),
        (false, Switch::Off) => "off: configured".to_owned(),
        (false, _) => "off: not available".to_owned(),
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

/// The TUN's queues.
struct Queues {
    devices: Vec<Box<dyn Device>>,
    ownership: Ownership,
    granted: Offloads,
    steering: String,
    backend: &'static str,
    reason: String,
}

fn open_device(config: &Config, workers: u16, origin: Origin) -> anyhow::Result<Queues> {
    let name = &config.tunnel.device;
    let why = match config.tunnel.backend {
        Backend::Plain => return open_plain(name, "configured".to_owned()),
        Backend::Offload => "configured",
        Backend::Auto => "multi-queue and vnet_hdr are available",
    };
    let switches = config.tunnel.offload;
    let wanted = Offloads { tso: switches.tso != Switch::Off, uso: switches.uso != Switch::Off };
    match VnetTun::open(name, origin, usize::from(workers), wanted) {
        Ok((queues, ownership, granted)) => {
            let steering = steer(&queues);
            let devices = queues.into_iter().map(|queue| Box::new(queue) as Box<dyn Device>).collect();
            Ok(Queues { devices, ownership, granted, steering, backend: "offload", reason: why.to_owned() })
        }
        // EINVAL: the device exists with other flags, made without multi-queue or vnet_hdr.
        Err(error)
            if config.tunnel.backend == Backend::Auto && error.raw_os_error() == Some(libc::EINVAL) =>
        {
            open_plain(name, format!("{name} exists without multi-queue or vnet_hdr"))
        }
        Err(error) => Err(device_error(name, error)),
    }
}

fn open_plain(name: &str, reason: String) -> anyhow::Result<Queues> {
    let (device, ownership) = PlainTun::open(name).map_err(|error| device_error(name, error))?;
    Ok(Queues {
        devices: vec![Box::new(device)],
        ownership,
        granted: Offloads::default(),
        steering: ONE_QUEUE.to_owned(),
        backend: "plain",
        reason,
    })
}

/// Sets the program that gives each flow its queue, where there is a choice of queues.
fn steer(queues: &[VnetTun]) -> String {
    match queues {
        [] | [_] => ONE_QUEUE.to_owned(),
        [first, ..] => match first.steer() {
            Ok(()) => "active".to_owned(),
            Err(error) => format!("off: eBPF is not available: {error}"),
        },
    }
}

fn device_error(name: &str, error: io::Error) -> anyhow::Error {
    let next = match error.raw_os_error() {
        Some(libc::EBUSY) => {
            "another process holds it, or it is no TUN; stop that one or choose another `device`"
        }
        Some(libc::EINVAL) => "it exists and is of another kind; choose another `device` or `backend`",
        Some(libc::EPERM) => "CAP_NET_ADMIN is missing, or the device belongs to another user",
        Some(_) => "see the kernel log",
        // In words of our own.
        None => return anyhow::anyhow!("cannot open TUN device {name}: {error}"),
    };
    anyhow::Error::new(error).context(format!("cannot open TUN device {name}: {next}"))
}

/// A socket error in words; a taken port names its owner where it can be found.
async fn explain(host: &Host, config: &Config, error: OpenError) -> anyhow::Error {
    match host::udp_bind_error(host, config.vxlan.port, &error.error).await {
        Some(explained) => explained.into(),
        None => error.into(),
    }
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
