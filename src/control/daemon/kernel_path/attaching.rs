//! Attaching the programs of the kernel path by the hooks that a kernel has.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use crate::config::{Config, Hooks, Switch};
use crate::control::host::Filter;
use crate::dataplane::kernel_path::{Attached, Gate, Hook, KernelPath, Place, Setup};
use crate::dataplane::pump::Lane;
use crate::dataplane::underlay::MetadataGroup;

/// How programs are attached.
#[derive(Clone, Debug, Default)]
pub(super) struct Attaching {
    pub(super) hooks: Hooks,
    /// The name of the filters of clsact.
    name: String,
    /// The name of the TUN.
    pub(super) device: String,
    /// Whether what comes in may be joined.
    pub(super) joins: bool,
}

/// A program that is attached; dropping it takes it away.
#[derive(Debug)]
pub(super) enum Program {
    Tcx(#[expect(dead_code, reason = "held until it is dropped")] Attached),
    /// The filter goes first.
    Clsact(Filter, #[expect(dead_code, reason = "held until it is dropped")] Gate),
}

impl Program {
    /// Whether it is attached. A link of TCX is for as long as its descriptor is open.
    pub(super) fn is_there(&self) -> bool {
        match self {
            Self::Tcx(_) => true,
            Self::Clsact(filter, _) => filter.is_there(),
        }
    }
}

impl Attaching {
    /// As the configuration says.
    pub(super) fn from(config: &Config) -> Self {
        let device = config.tunnel.device.clone();
        let name = format!("underpass:{device}");
        let joins = config.tunnel.offload.gro != Switch::Off;
        Self { hooks: config.tunnel.kernel_path_hooks, name, device, joins }
    }

    /// Whether the kernel takes the programs where they are to be, and leaves out what they take where `lanes` hear of
    /// packets first. The hooks are from then on those that it has.
    pub(super) fn open(&mut self, setup: Setup, uplink: u32, lanes: &mut [Lane]) -> io::Result<KernelPath> {
        let path = KernelPath::new(setup)?;
        let is_auto = self.hooks == Hooks::Auto;
        if is_auto {
            self.hooks = Hooks::Tcx;
        }
        match self.try_hooks(&path, uplink) {
            Err(error) if is_auto && error.raw_os_error() == Some(libc::EINVAL) => {
                self.hooks = Hooks::Clsact;
                self.try_hooks(&path, uplink)?;
            }
            other => other?,
        }
        let group = Arc::new(MetadataGroup::new(path.share())?);
        for lane in lanes {
            lane.sockets.join(&group)?;
        }
        Ok(path)
    }

    /// No flow has been handed over yet, so nothing comes of it.
    fn try_hooks(&self, path: &KernelPath, uplink: u32) -> io::Result<()> {
        self.attach(path, Place::Device, path.device())?;
        self.attach(path, Place::Uplink, uplink)?;
        Ok(())
    }

    /// Attaches a program to an interface.
    ///
    /// # Errors
    /// The kernel's: ENODEV, EPERM.
    pub(super) fn attach(&self, path: &KernelPath, place: Place, interface: u32) -> io::Result<Program> {
        if self.hooks != Hooks::Clsact {
            return path.attach(place, interface).map(Program::Tcx);
        }
        let gate = path.gate(place)?;
        let filter = match place.hook() {
            Hook::Egress => Filter::of_sent(interface, &self.name, gate.as_fd()),
            Hook::Ingress => Filter::of_received(interface, &self.name, gate.as_fd()),
        };
        Ok(Program::Clsact(filter?, gate))
    }
}

/// What an error of the kernel means here.
pub(super) fn reason(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EPERM) => "it needs CAP_BPF and CAP_NET_ADMIN outside of user namespaces".to_owned(),
        Some(libc::EINVAL) => format!("it needs a newer kernel ({error})"),
        _ => error.to_string(),
    }
}
