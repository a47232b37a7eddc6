//! The kernel path of one run: made at the start where the host has what it takes, then kept by a thread that counts,
//! frees what is not used any more and follows the uplink.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::bail;
use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded};

use crate::api::KernelPathStatus;
use crate::config::{self, Config, Switch};
use crate::control::engine::port::Uplink;
use crate::dataplane::forward::Forwarding;
use crate::dataplane::kernel_path::{Addresses, Attached, FlowKey, KernelPath, Setup};
use crate::dataplane::observe::Counters;
use crate::dataplane::packet::{Direction, Offloaded};
use crate::dataplane::policy::Tuple;
use crate::dataplane::pump::{KernelCarrier, Lane};
use crate::dataplane::underlay::MetadataGroup;
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
    after: u16,
    state: Arc<Mutex<Offloaded>>,
    forwarding: Arc<Published<Forwarding>>,
    counters: Counters,
    begun: Instant,
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
        let made = match (switch, config.node.address) {
            (Switch::Off, _) => Err("configured".to_owned()),
            (Switch::Auto, _) if config.tunnel.uplink != config::Uplink::Auto => {
                Err("`uplink` says how packets leave".to_owned())
            }
            (Switch::Auto, _) if config.tunnel.offload.packet_socket == Switch::Off => {
                Err("`packet_socket` is off".to_owned())
            }
            (_, None) => Err("no IPv4 underlay".to_owned()),
            _ if uplink.mac.is_none() => Err("the uplink has no Ethernet frames".to_owned()),
            (_, Some(own)) => {
                let addresses =
                    Addresses { own: own.addr(), vxlan_port: config.vxlan.port, vni: config.vxlan.vni };
                let source_ports = source_ports.to_vec();
                let capture = counters.capture().map(Arc::clone);
                let always = switch == Switch::On;
                let workers = u16::try_from(lanes.len()).unwrap_or(u16::MAX);
                let setup = Setup { flows: FLOWS, addresses, device, always, workers, source_ports, capture };
                try_attach(setup, uplink.index, lanes).map_err(|error| reason(&error))
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
        Ok(Self { path, after, ..Self::off(state, Arc::clone(forwarding), counters.clone()) })
    }

    /// One that carries nothing.
    pub fn off(state: Offloaded, forwarding: Arc<Published<Forwarding>>, counters: Counters) -> Self {
        let state = Arc::new(Mutex::new(state));
        Self { path: None, after: 1, state, forwarding, counters, begun: Instant::now() }
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
        KernelPathStatus {
            state: self.state().to_string(),
            flows: carried.flows,
            handed_over: carried.handed_over,
            without_pause: carried.without_pause,
            returned: carried.returned,
            packets: kernel.device.rx_packets.get() + kernel.device.tx_packets.get(),
        }
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
        let thread = std::thread::Builder::new()
            .name("kernel-path".to_owned())
            .spawn(move || Watch { carrier, path, device: None, uplink: None }.run(&stopped))?;
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
    device: Option<Attached>,
    uplink: Option<(u32, Attached)>,
}

impl Watch {
    fn run(mut self, stopped: &Receiver<()>) {
        loop {
            self.attach();
            let carrier = &self.carrier;
            let used = self.path.count(&carrier.counters, carrier.second());
            self.path.tidy(&carrier.counters, carrier.second());
            let pause = if used > 0 { LOOK } else { IDLE_LOOK };
            if stopped.recv_timeout(pause) != Err(RecvTimeoutError::Timeout) {
                break;
            }
        }
        // The pump carries everything from here on.
        self.path.void_all();
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
                Ok(()) => tracing::info!("kernel path: active"),
                Err(error) => tracing::warn!("kernel path: {}; the pump carries everything", reason(error)),
            }
        }
        *said = state;
    }

    fn try_attach(&mut self, uplink: u32) -> io::Result<()> {
        if self.device.is_none() {
            self.device = Some(self.path.attach_device()?);
        }
        self.path.leave_uplink();
        self.uplink = None;
        self.uplink = Some((uplink, self.path.attach_uplink(uplink)?));
        Ok(())
    }
}

/// Whether the kernel takes the programs where they are to be, and leaves out what they take where `lanes` hear of
/// packets first.
fn try_attach(setup: Setup, uplink: u32, lanes: &mut [Lane]) -> io::Result<KernelPath> {
    let path = KernelPath::new(setup)?;
    let attached = (path.attach_device()?, path.attach_uplink(uplink)?);
    path.leave_uplink();
    drop(attached);
    let group = Arc::new(MetadataGroup::new(path.share())?);
    for lane in lanes {
        lane.sockets.join(&group)?;
    }
    Ok(path)
}

/// What an error of the kernel means here.
fn reason(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EPERM) => "it needs CAP_BPF and CAP_NET_ADMIN outside of user namespaces".to_owned(),
        Some(libc::EINVAL) => format!("it needs Linux 6.6 ({error})"),
        _ => error.to_string(),
    }
}
