//! Opening devices and sockets, with errors that say what to do.

use std::io;

use super::{Host, facts};
use crate::control::engine::port::{HostError, TunBackend};
use crate::dataplane::device::{Offloads, Origin, Ownership, PlainTun, VnetTun};
use crate::dataplane::packet::{Device, Offloaded};
use crate::dataplane::underlay::{OpenError, tap};
use crate::net::Mac;

/// Why nothing chooses a queue.
const ONE_QUEUE: &str = "one queue";

/// The TUN's queues.
pub struct Tun {
    /// One for each worker.
    pub devices: Vec<Box<dyn Device>>,
    /// The right to say whose it is.
    pub ownership: Ownership,
    /// What the kernel hands us in one piece.
    pub granted: Offloads,
    /// Whether a program chooses the queue of each flow, or why not.
    pub steering: Offloaded,
}

/// The TAP.
pub struct Tap {
    /// The right to say whose it is.
    pub ownership: Ownership,
    /// Its link address.
    pub mac: Mac,
}

impl Tun {
    pub(super) fn open(
        name: &str,
        origin: Origin,
        queues: u16,
        backend: TunBackend,
    ) -> Result<Self, HostError> {
        let opened = match backend {
            TunBackend::Offload { tso, uso } => {
                VnetTun::open(name, origin, usize::from(queues), Offloads { tso, uso }).map(
                    |(queues, ownership, granted)| Self {
                        steering: steer(&queues),
                        devices: queues.into_iter().map(|queue| Box::new(queue) as Box<dyn Device>).collect(),
                        ownership,
                        granted,
                    },
                )
            }
            TunBackend::Plain => PlainTun::open(name).map(|(device, ownership)| Self {
                devices: vec![Box::new(device)],
                ownership,
                granted: Offloads::default(),
                steering: Offloaded::off(ONE_QUEUE),
            }),
        };
        opened.map_err(|error| tun_error(name, &error))
    }
}

/// Sets the program that gives each flow its queue, where there is a choice of queues.
fn steer(queues: &[VnetTun]) -> Offloaded {
    match queues {
        [] | [_] => Offloaded::off(ONE_QUEUE),
        [first, ..] => match first.steer() {
            Ok(()) => Offloaded::Active,
            Err(error) => Offloaded::Off(format!("eBPF is not available: {error}")),
        },
    }
}

fn tun_error(name: &str, error: &io::Error) -> HostError {
    let errno = error.raw_os_error();
    let next = match errno {
        Some(libc::EBUSY) => {
            "another process holds it, or it is no TUN; stop that one or choose another `device`"
        }
        Some(libc::EINVAL) => "it exists and is of another kind; choose another `device` or `backend`",
        Some(libc::EPERM) => "CAP_NET_ADMIN is missing, or the device belongs to another user",
        Some(_) => "see the kernel log",
        // In words of our own.
        None => return HostError::Open { error: format!("cannot open TUN device {name}: {error}"), errno },
    };
    HostError::Open { error: format!("cannot open TUN device {name}: {next}: {error}"), errno }
}

impl Tap {
    pub(super) fn open(name: &str, queues: &[tap::Tap]) -> Result<Self, HostError> {
        let (ownership, mac) = tap::Tap::attach(queues, name).map_err(|error| HostError::Open {
            error: format!("cannot open the TAP {name}: {error}"),
            errno: error.raw_os_error(),
        })?;
        Ok(Self { ownership, mac })
    }
}

impl Host {
    /// A socket error in words; a taken port names its owner where it can be found.
    pub(super) async fn explain_open(&self, vxlan_port: u16, error: OpenError) -> HostError {
        let errno = error.error.raw_os_error();
        let error = match facts::udp_bind_error(self, vxlan_port, &error.error).await {
            Some(explained) => explained.to_string(),
            None => error.to_string(),
        };
        HostError::Open { error, errno }
    }
}
