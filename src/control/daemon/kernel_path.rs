//! The kernel path of one run: made at the start where the host has what it takes, then kept by a thread that counts,
//! frees what is not used any more and follows the uplink.

mod attaching;

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::bail;
use attaching::{Attaching, Program, reason};
use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded};

use crate::api::KernelPathStatus;
use crate::config::{self, Config, Switch};
use crate::control::engine::port::Uplink;
use crate::control::host::GroPair;
use crate::dataplane::forward::Forwarding;
use crate::dataplane::kernel_path::{Addresses, Detour, FlowKey, KernelPath, Place, Rates, Setup};
use crate::dataplane::observe::Counters;
use crate::dataplane::packet::{Direction, Offloaded};
use crate::dataplane::policy::Tuple;
use crate::dataplane::pump::{KernelCarrier, Lane};
use crate::sync::Published;

/// Entries, one for each direction of a flow.
const FLOWS: usize = 8192;
/// From one look to the next while flows are carried, and while none are.
const LOOK: Duration = Duration::from_millis(100);
const IDLE_LOOK: Duration = Duration::from_secs(1);

/// The kernel path as the rest of the daemon knows it. One that is off carries nothing.
#[derive(Clone, Debug)]
pub struct Carrier {
    path: Option<Arc<KernelPath>>,
    attaching: Attaching,
    after: u16,
    state: Arc<Mutex<Offloaded>>,
    receive: Arc<Mutex<Receive>>,
    forwarding: Arc<Published<Forwarding>>,
    counters: Counters,
    begun: Instant,
}

/// What `status` says of how packets come in.
#[derive(Clone, Debug, Default)]
struct Receive {
    how: String,
    /// Packets for which there was no room where they were to be joined, by pairs that are gone, and by this one.
    lost: (u64, u64),
}

/// The thread that keeps it; dropping it ends the thread and takes the programs away.
pub(super) struct Keeper {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Carrier {
    /// Makes what `config` wants and the host has.
    ///
    /// # Errors
    /// When the configuration insists and the host does not have it.
    pub(super) fn open(
        config: &Config,
        device: u32,
        uplink: &Uplink,
        source_ports: &[u16],
        (lanes, forwarding, counters): (&mut [Lane], &Arc<Published<Forwarding>>, &Counters),
    ) -> anyhow::Result<Self> {
        let switch = config.tunnel.kernel_path;
        let mut attaching = Attaching::from(config);
        let made = match switch {
            Switch::Off => Err("configured".to_owned()),
            Switch::Auto if config.tunnel.uplink != config::Uplink::Auto => {
                Err("`uplink` says how packets leave".to_owned())
            }
            Switch::Auto if config.tunnel.offload.packet_socket == Switch::Off => {
                Err("`packet_socket` is off".to_owned())
            }
            _ if uplink.mac.is_none() => Err("the uplink has no Ethernet frames".to_owned()),
            Switch::Auto | Switch::On => {
                let addresses = Addresses {
                    own: config.node.address.map(|own| own.addr()),
                    own6: config.node.address6.map(|own| own.addr()),
                    vxlan_port: config.vxlan.port,
                    vni: config.vxlan.vni,
                    zero_checksum6: config.vxlan.udp6_zero_checksum,
                };
                let source_ports = source_ports.to_vec();
                let capture = counters.capture().map(Arc::clone);
                let always = switch == Switch::On;
                let workers = u16::try_from(lanes.len()).unwrap_or(u16::MAX);
                let zero_checksum6 = config.vxlan.udp6_zero_checksum_tx;
                let setup = Setup {
                    flows: FLOWS,
                    addresses,
                    device,
                    always,
                    zero_checksum6,
                    workers,
                    source_ports,
                    capture,
                };
                attaching.open(setup, uplink.index, lanes).map_err(|error| reason(&error))
            }
        };
        let (path, state) = match made {
            Ok(path) => (Some(Arc::new(path)), Offloaded::Active),
            Err(why) if switch == Switch::On => {
                bail!(
                    "kernel_path is \"on\", but this host does not have it: {why}; write \"auto\" to do without"
                )
            }
            Err(why) => (None, Offloaded::off(why)),
        };
        let after = config.tunnel.kernel_path_after;
        Ok(Self { path, attaching, after, ..Self::off(state, Arc::clone(forwarding), counters.clone()) })
    }

    /// One that carries nothing.
    pub fn off(state: Offloaded, forwarding: Arc<Published<Forwarding>>, counters: Counters) -> Self {
        let state = Arc::new(Mutex::new(state));
        let attaching = Attaching::default();
        let receive = Arc::default();
        Self { path: None, attaching, after: 1, state, receive, forwarding, counters, begun: Instant::now() }
    }

    /// For the workers.
    pub(super) fn for_workers(&self) -> Option<KernelCarrier> {
        Some(KernelCarrier { path: Arc::clone(self.path.as_ref()?), after: self.after })
    }

    /// Whether it works.
    pub(super) fn state(&self) -> Offloaded {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Follows a table that was just published: no packet goes by an older one after this, but for those that a
    /// program has in hand.
    pub(super) fn follow(&self) {
        if let Some(path) = &self.path {
            self.forwarding.pin().review(path);
        }
    }

    /// Gives all flows back to the pump.
    pub(super) fn give_back(&self) {
        if let Some(path) = &self.path {
            path.void_all();
        }
    }

    /// Whether programs carry packets of a connection, in any direction.
    pub(super) fn carries(&self, tuple: &Tuple) -> bool {
        let Some(path) = &self.path else { return false };
        let Some((from, to)) = tuple.ports else { return false };
        let Tuple { source, destination, protocol, .. } = *tuple;
        let ports = u32::from(from) << 16 | u32::from(to);
        [Direction::Outbound, Direction::Inbound].into_iter().any(|direction| {
            let key = FlowKey { source, destination, ports, protocol, direction };
            path.carries(&key) || path.carries(&key.reversed())
        })
    }

    /// Brings the counters up to date.
    pub(super) fn count(&self) {
        if let Some(path) = &self.path {
            path.count(&self.counters, self.second());
        }
    }

    /// What `status` says.
    pub(super) fn status(&self) -> KernelPathStatus {
        let carried = self.path.as_ref().map(|path| path.carried()).unwrap_or_default();
        let kernel = self.counters.kernel();
        let Receive { how, lost } = self.receive().clone();
        KernelPathStatus {
            state: self.state().to_string(),
            hooks: self.path.as_ref().map(|_| self.attaching.hooks.name().to_owned()).unwrap_or_default(),
            flows: carried.flows,
            handed_over: carried.handed_over,
            without_pause: carried.without_pause,
            returned: carried.returned,
            packets: kernel.device.rx_packets.get() + kernel.device.tx_packets.get(),
            joined: self.counters.joined_datagrams(),
            receive: how,
            lost: lost.0 + lost.1,
            refused: self.path.iter().flat_map(|path| path.refused()).map(|way| way.to_string()).collect(),
        }
    }

    fn receive(&self) -> MutexGuard<'_, Receive> {
        self.receive.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn second(&self) -> u32 {
        // Never 0, which a slot has that was not looked at yet.
        u32::try_from(self.begun.elapsed().as_secs()).unwrap_or(u32::MAX).saturating_add(1)
    }

    /// Attaches the programs and starts the thread.
    ///
    /// # Errors
    /// The kernel's, when there can be no thread.
    pub(super) fn keep(&self) -> io::Result<Keeper> {
        let Some(path) = self.path.clone() else { return Ok(Keeper { stop: None, thread: None }) };
        let (stop, stopped) = bounded(0);
        let carrier = self.clone();
        let thread = std::thread::Builder::new().name("kernel-path".to_owned()).spawn(move || {
            let looked = Instant::now();
            let rates = Rates::new(path.capacity());
            let detour = match carrier.attaching.joins {
                true => Pair::Unmade,
                false => Pair::Impossible(io::Error::other("`gro` is off")),
            };
            Watch { carrier, path, device: None, uplink: None, detour, rates, looked }.run(&stopped);
        })?;
        Ok(Keeper { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It has nothing to say.
            let _ = thread.join();
        }
    }
}

/// What the thread has.
struct Watch {
    carrier: Carrier,
    path: Arc<KernelPath>,
    device: Option<Program>,
    uplink: Option<(u32, Program)>,
    detour: Pair,
    rates: Rates,
    /// When the programs were last seen where they are to be.
    looked: Instant,
}

/// The detour on which the kernel joins packets.
enum Pair {
    /// Nobody has needed it.
    Unmade,
    /// The program goes first.
    Made(#[expect(dead_code, reason = "held until it is dropped")] Program, GroPair),
    /// This host has none, and why.
    Impossible(io::Error),
}

impl Watch {
    fn run(mut self, stopped: &Receiver<()>) {
        loop {
            self.miss();
            self.attach();
            let carrier = &self.carrier;
            let used = self.path.count(&carrier.counters, carrier.second());
            for way in self.path.tidy(&carrier.counters, carrier.second()) {
                tracing::warn!("kernel path: this kernel does not do {way}; the pump carries it");
            }
            self.join();
            let pause = if used > 0 { LOOK } else { IDLE_LOOK };
            if stopped.recv_timeout(pause) != Err(RecvTimeoutError::Timeout) {
                break;
            }
        }
        // The pump carries everything from here on.
        self.path.void_all();
    }

    /// Looks once a second whether somebody has removed a program.
    fn miss(&mut self) {
        if self.looked.elapsed() < IDLE_LOOK {
            return;
        }
        self.looked = Instant::now();
        let programs = self.device.iter().chain(self.uplink.as_ref().map(|(_, program)| program));
        if !programs.into_iter().all(Program::is_there) {
            tracing::warn!("kernel path: a filter of the daemon was removed; it is made again");
            // Both are attached again, after flows that come in were given back.
            self.device = None;
        }
        if let Pair::Made(_, pair) = &self.detour {
            let found = pair.look();
            let mut receive = self.carrier.receive();
            if let Some(lost) = found {
                receive.lost.1 = lost;
            } else {
                tracing::warn!("kernel path: the interfaces on whose way packets are joined are gone");
                receive.lost = (receive.lost.0 + receive.lost.1, 0);
                drop(receive);
                self.path.leave_detour();
                self.detour = Pair::Unmade;
            }
        }
    }

    /// Has bulk that comes in packet by packet take the detour.
    fn join(&mut self) {
        let pair = match &self.detour {
            Pair::Made(_, pair) => Some(pair.near()),
            Pair::Unmade | Pair::Impossible(_) => None,
        };
        let found = self.path.detour(&mut self.rates, pair, Instant::now());
        match (found, &self.detour) {
            (Detour::Wanted, Pair::Unmade) => self.detour = self.make_pair(),
            (Detour::Whole, Pair::Made(..)) => self.path.leave_detour(),
            _ => {}
        }
        let now = match (found, &self.detour) {
            (Detour::Whole, _) => "super-packets, as they come".to_owned(),
            (_, Pair::Unmade) => "as it comes".to_owned(),
            (_, Pair::Made(_, pair)) => format!("bulk TCP is joined on its way through {}", pair.name()),
            (_, Pair::Impossible(why)) => format!("as it comes: {why}"),
        };
        self.carrier.receive().how = now;
    }

    fn make_pair(&self) -> Pair {
        let attaching = &self.carrier.attaching;
        let made = GroPair::new(&attaching.device).and_then(|pair| {
            attaching.attach(&self.path, Place::Pair, pair.far()).map(|program| Pair::Made(program, pair))
        });
        made.unwrap_or_else(|error| {
            tracing::warn!(
                "kernel path: packets that come in are not joined, for want of a veth pair: {error}"
            );
            Pair::Impossible(error)
        })
    }

    /// Has the programs where the packets are.
    fn attach(&mut self) {
        let wanted = self.carrier.forwarding.pin().underlay().uplink;
        if self.uplink.as_ref().is_some_and(|(index, _)| *index == wanted) && self.device.is_some() {
            return;
        }
        let attached = self.try_attach(wanted);
        let state = match &attached {
            Ok(()) => Offloaded::Active,
            Err(error) => Offloaded::off(reason(error)),
        };
        let mut said = self.carrier.state.lock().unwrap_or_else(PoisonError::into_inner);
        if *said != state {
            match &attached {
                Ok(()) => tracing::info!("kernel path: active by {}", self.carrier.attaching.hooks.name()),
                Err(error) => tracing::warn!("kernel path: {}; the pump carries everything", reason(error)),
            }
        }
        *said = state;
    }

    fn try_attach(&mut self, uplink: u32) -> io::Result<()> {
        let attaching = &self.carrier.attaching;
        if self.device.is_none() {
            self.device = Some(attaching.attach(&self.path, Place::Device, self.path.device())?);
        }
        self.path.leave_uplink();
        self.uplink = None;
        self.uplink = Some((uplink, attaching.attach(&self.path, Place::Uplink, uplink)?));
        self.path.enter_uplink(uplink);
        Ok(())
    }
}
