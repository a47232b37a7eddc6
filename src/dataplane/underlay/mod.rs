//! The network edge: the sockets of one worker.
//!
//! Outbound there is one UDP socket for each VXLAN source port and one raw socket that takes whole
//! packets (IP-in-IP and direct); two more send what leaves in fragments. Inbound there is one UDP socket for VXLAN and a raw socket
//! each for protocols 4 and 41, and a packet socket that learns the segment sizes of what these receive.
//! All of these exist for each family in which this node has an address.
//! A worker owns all of its sockets.

pub mod bfd;
mod capture_tap;
mod door;
mod filter;
pub mod icmp;
mod metadata;
mod metadata_filter;
#[cfg(test)]
mod metadata_tests;
pub mod observe;
mod packet;
mod probe;
mod raw;
mod receive;
mod send;
mod setup;
mod sys;
pub mod tap;
mod udp;

use std::io;
use std::net::IpAddr;
use std::os::fd::RawFd;
use std::sync::Arc;

use socket2::Socket;

use door::Share;
pub use door::{Door, Range};
pub use metadata::{MetadataGroup, MetadataSocket};
pub use probe::Supported;
pub use receive::Receiver;
use send::{Fragmenting, SendSockets, Sender};
pub use setup::{OpenError, RECEIVE_BUFFER, SOURCE_PORTS, Setup};

use crate::dataplane::observe::Worker;
use crate::dataplane::observe::capture::Point;
use crate::dataplane::packet::{Batch, Family, Format, Outbox, Paths};
use tap::Tap;

/// All sockets of one worker.
pub struct Sockets {
    sender: Sender,
    receivers: Vec<Receiver>,
    metadata: MetadataSocket,
    doors: Vec<Door>,
}

impl Sockets {
    /// Opens the sockets of worker `index`. Worker 0 goes first.
    ///
    /// # Errors
    /// When the VXLAN port is taken, a right is missing or descriptors run out.
    pub fn open(setup: &Setup, index: u16) -> Result<Self, OpenError> {
        if index == 0 {
            udp::ensure_free(setup)?;
        }
        // Before any socket whose packets it knows about.
        let metadata = MetadataSocket::open(setup, index)?;
        let (mut receivers, mut doors) = (Vec::new(), Vec::new());
        let mut sockets =
            SendSockets { packet: setup.packet.map(packet::send).transpose()?, ..SendSockets::default() };
        for address in setup.addresses() {
            let socket = udp::receive(setup, address)?;
            doors.push(door(&socket, address, None)?);
            receivers.push(Receiver::new(socket, Format::Vxlan));
            let family = Family::of(address);
            let (ports, fragmenting) = udp::send_all(setup, address)?;
            *sockets.udp_of(family) = ports;
            sockets.fragmenting[family] = Fragmenting { udp: Some(fragmenting), raw: None };
            if setup.raw {
                for protocol in raw::PROTOCOLS {
                    let format = raw::format(address, protocol);
                    let share = raw::share(setup, format, index);
                    let socket = raw::receive(address, protocol, share)?;
                    doors.push(door(&socket, address, share)?);
                    receivers.push(Receiver::new(socket, format));
                }
                *sockets.raw_of(family) = Some(raw::send(address)?);
                sockets.fragmenting[family].raw = Some(raw::fragmenting(address)?);
            }
        }
        Ok(Self { sender: Sender::new(setup, sockets), receivers, metadata, doors })
    }

    /// Has `group` choose what the metadata socket hears of; the first worker's joins first.
    ///
    /// # Errors
    /// The kernel's.
    pub fn join(&mut self, group: &Arc<MetadataGroup>) -> io::Result<()> {
        self.metadata.join(group)
    }

    /// The same with a queue of the TAP.
    #[must_use]
    pub fn with_tap(mut self, tap: Option<Tap>) -> Self {
        self.sender.set_tap(tap);
        self
    }

    /// Sends every message of `outbox`, whose payload lies in `arena`, and empties it. Counts what
    /// left and what was dropped.
    pub fn send(&mut self, outbox: &mut Outbox, arena: &[u8], worker: &Worker) {
        let batch = Batch { outbox, arena };
        if worker.capture.wants(Point::Underlay) {
            self.sender.framing().show_all(&worker.capture, batch);
        }
        self.sender.send(batch, worker);
        outbox.clear();
    }

    /// Follows the uplink to the interface with index `uplink`.
    #[inline]
    pub fn follow(&mut self, uplink: u32, worker: &Worker) {
        self.sender.follow(uplink, worker);
    }

    /// Takes up again the ways out that were given up and that the control plane offers.
    #[inline]
    pub fn take_up(&mut self, worker: &Worker) {
        self.sender.take_up(worker);
    }

    /// Receiving socket `index`, and what the kernel knows of its packets besides their bytes.
    pub fn receiver(&mut self, index: usize) -> (&mut Receiver, &mut MetadataSocket) {
        (&mut self.receivers[index], &mut self.metadata)
    }

    /// The receiving sockets, to say whom the kernel lets through; the first call has them.
    pub fn take_doors(&mut self) -> Vec<Door> {
        std::mem::take(&mut self.doors)
    }

    /// Bytes of the smallest receive buffer, as asked of the kernel.
    pub fn receive_buffer(&self) -> usize {
        self.receivers.iter().map(Receiver::buffer).min().unwrap_or(0)
    }

    /// Descriptors to poll for reading, in the order of their numbers.
    pub fn fds(&self) -> impl Iterator<Item = RawFd> + '_ {
        self.receivers.iter().map(Receiver::fd)
    }

    /// UDP source ports, by number of the sending socket.
    pub fn source_ports(&self) -> &[u16] {
        self.sender.ports()
    }

    /// The optional ways out that are still open: the kernel may have refused one.
    pub fn paths(&self) -> Paths {
        self.sender.paths()
    }
}

/// The door that a receiving socket on this node's `address` is.
fn door(socket: &Socket, address: IpAddr, share: Option<Share>) -> Result<Door, OpenError> {
    let made = Door::new(socket, Family::of(address), share);
    made.map_err(|error| OpenError { what: "one more descriptor of a receiving socket".to_owned(), error })
}
