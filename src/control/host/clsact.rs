//! Programs at an interface by filters of the queueing discipline `clsact` (Linux 4.5), for kernels without TCX.
//!
//! A filter is the kernel's: it stays when the process that made it is killed. The next one of the same name takes its
//! place, and the programs that are attached here let everything pass by then.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use rtnetlink::packet_route::tc::{
    TcAttribute, TcBpfFlags, TcFilterBpf, TcFilterBpfOption, TcHandle, TcMessage, TcOption,
};

use super::raw_netlink::{RawNetlink, bytes};

/// How long the kernel may take to answer.
const PATIENCE: Duration = Duration::from_secs(1);
/// Behind filters of others for which the kernel has chosen a place (from 49152 on downwards), as programs of TCX are
/// behind those that were there before.
const PRIORITY: u16 = 50_000;
/// What the discipline is called.
const CLSACT: &str = "clsact";
/// Bits of a filter's handle.
const HANDLE: u32 = 0x7fff_ffff;

/// A program at an interface; dropping it takes it away. The discipline stays: others may count on it.
#[derive(Debug)]
pub struct Filter(TcMessage);

impl Filter {
    /// Has what the interface with index `interface` receives pass `program`. There is one filter of each `name`.
    ///
    /// # Errors
    /// The kernel's: EPERM without CAP_NET_ADMIN, ENOENT where it has no such discipline or filter.
    pub fn of_received(interface: u32, name: &str, program: BorrowedFd<'_>) -> io::Result<Self> {
        Self::new((interface, TcHandle::MIN_INGRESS), name, program)
    }

    /// Has what it is to send pass `program`.
    ///
    /// # Errors
    /// As [`Self::of_received`].
    pub fn of_sent(interface: u32, name: &str, program: BorrowedFd<'_>) -> io::Result<Self> {
        Self::new((interface, TcHandle::MIN_EGRESS), name, program)
    }

    fn new((interface, hook): (u32, u16), name: &str, program: BorrowedFd<'_>) -> io::Result<Self> {
        let interface = i32::try_from(interface).map_err(io::Error::other)?;
        let mut netlink = RawNetlink::connect(libc::NETLINK_ROUTE, PATIENCE)?;
        match netlink.order(libc::RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL, &discipline(interface)) {
            Err(error) if error.raw_os_error() != Some(libc::EEXIST) => return Err(error),
            _ => {}
        }
        let filter = Self(place(interface, hook, name));
        let mut message = filter.0.clone();
        message.attributes.push(TcAttribute::Options(vec![
            TcOption::Bpf(TcFilterBpfOption::ProgFd(program.as_raw_fd().unsigned_abs())),
            TcOption::Bpf(TcFilterBpfOption::ProgName(name.to_owned())),
            TcOption::Bpf(TcFilterBpfOption::Flags(TcBpfFlags::DirectAction)),
        ]));
        // One that is there already is exchanged.
        netlink.order(libc::RTM_NEWTFILTER, NLM_F_CREATE, &message)?;
        Ok(filter)
    }

    /// Whether it is there; somebody may have removed it, or the whole discipline.
    pub fn is_there(&self) -> bool {
        RawNetlink::connect(libc::NETLINK_ROUTE, PATIENCE)
            .and_then(|mut netlink| netlink.ask(libc::RTM_GETTFILTER, 0, &bytes(&self.0), |_, _| true))
            .is_ok()
    }
}

impl Drop for Filter {
    fn drop(&mut self) {
        // It is gone where its interface is.
        let _ = RawNetlink::connect(libc::NETLINK_ROUTE, PATIENCE)
            .and_then(|mut netlink| netlink.order(libc::RTM_DELTFILTER, 0, &self.0));
    }
}

fn discipline(interface: i32) -> TcMessage {
    let mut message = TcMessage::with_index(interface);
    message.header.parent = TcHandle::CLSACT;
    message.header.handle = TcHandle { major: u16::MAX, minor: 0 };
    message.attributes.push(TcAttribute::Kind(CLSACT.to_owned()));
    message
}

/// Where the filter `name` is.
fn place(interface: i32, hook: u16, name: &str) -> TcMessage {
    let mut message = TcMessage::with_index(interface);
    message.header.parent = TcHandle { major: u16::MAX, minor: hook };
    message.header.handle = TcHandle::from(handle(name));
    // The protocol, in network order, is the lower half.
    let all = u16::try_from(libc::ETH_P_ALL).unwrap_or_default().to_be();
    message.header.info = u32::from(TcHandle { major: PRIORITY, minor: all });
    message.attributes.push(TcAttribute::Kind(TcFilterBpf::KIND.to_owned()));
    message
}

/// The number of the filter `name` (FNV-1a), the same in every release; never 0, for which the kernel would choose one.
fn handle(name: &str) -> u32 {
    let hash =
        name.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    (hash & HANDLE).max(1)
}

#[cfg(test)]
mod tests {
    use super::handle;

    #[test]
    fn names_have_numbers_of_their_own() {
        assert_ne!(handle("up0"), handle("up1"));
        assert!(
            ["", "up0", "tunnel-of-15-by"].iter().all(|name| (1..=super::HANDLE).contains(&handle(name)))
        );
    }
}
