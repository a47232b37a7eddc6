//! Two interfaces behind each other (veth) at whose far end the kernel joins segments of TCP (GRO), as its own tunnel
//! devices do with what they have unpacked (`gro_cells`).
//!
//! Nothing is sent by it but what programs redirect there: it has no addresses, not even those of IPv6 that the kernel
//! makes.

use std::io;
use std::time::Duration;

use rtnetlink::packet_core::{Emitable, NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL};
use rtnetlink::packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags,
    LinkInfo, LinkMessage,
};

use super::raw_netlink::RawNetlink;
use super::sys::{self, Offload};

/// How long the kernel may take to answer.
const PATIENCE: Duration = Duration::from_secs(1);
/// Bytes of the name of an interface, without the 0 at its end, and of what is behind that of the TUN.
const NAME: usize = 15;
const NEAR: &str = "-gro";
const FAR: &str = "-grx";
/// The largest that there is: what is larger than its interface is dropped.
const MTU: u32 = 65_535;

/// The pair; dropping it removes both ends.
#[derive(Debug)]
pub struct GroPair {
    name: String,
    near: u32,
    far: u32,
}

impl GroPair {
    /// That of the TUN called `device`. What an earlier daemon has left of it is removed.
    ///
    /// # Errors
    /// The kernel's: EPERM without CAP_NET_ADMIN, EOPNOTSUPP without veth.
    pub fn new(device: &str) -> io::Result<Self> {
        let [near, far] = [NEAR, FAR].map(|end| name(device, end));
        let mut netlink = RawNetlink::connect(libc::NETLINK_ROUTE, PATIENCE)?;
        let create = |netlink: &mut RawNetlink| {
            send(netlink, libc::RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &pair(&near, &far))
        };
        match create(&mut netlink) {
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {
                send(&mut netlink, libc::RTM_DELLINK, 0, &named(&near))?;
                create(&mut netlink)?;
            }
            other => other?,
        }
        let made = Self { near: index_of(&near)?, far: index_of(&far)?, name: near.clone() };
        for index in [made.near, made.far] {
            send(&mut netlink, libc::RTM_SETLINK, 0, &without_addresses(index))?;
        }
        // The kernel looks for what it can join where the sender has no segmentation of its own (`veth_xmit`,
        // drivers/net/veth.c).
        sys::switch_offload(&near, Offload::TcpSegmentation, false)?;
        sys::switch_offload(&far, Offload::Gro, true)?;
        for index in [made.far, made.near] {
            send(&mut netlink, libc::RTM_SETLINK, 0, &up(index))?;
        }
        Ok(made)
    }

    /// The name of the interface that packets are redirected to.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The index of that interface.
    pub fn near(&self) -> u32 {
        self.near
    }

    /// The one where they arrive, joined.
    pub fn far(&self) -> u32 {
        self.far
    }

    /// Whether it carries packets; somebody may have removed it or taken it down.
    pub fn is_up(&self) -> bool {
        let wanted = LinkFlags::Up | LinkFlags::Running;
        [self.near, self.far]
            .into_iter()
            .all(|index| link(&indexed(index)).is_ok_and(|(_, flags)| flags.contains(wanted)))
    }
}

impl Drop for GroPair {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = RawNetlink::connect(libc::NETLINK_ROUTE, PATIENCE)
            .and_then(|mut netlink| send(&mut netlink, libc::RTM_DELLINK, 0, &indexed(self.near)));
    }
}

/// The name of one end. That of the TUN is cut where it leaves no room.
fn name(device: &str, end: &str) -> String {
    let mut name = device.to_owned();
    while name.len() > NAME - end.len() {
        name.pop();
    }
    name + end
}

fn pair(near: &str, far: &str) -> LinkMessage {
    let peer = with(&named(far), [LinkAttribute::Mtu(MTU)]);
    let data = InfoData::Veth(InfoVeth::Peer(peer));
    let info = vec![LinkInfo::Kind(InfoKind::Veth), LinkInfo::Data(data)];
    with(&named(near), [LinkAttribute::Mtu(MTU), LinkAttribute::LinkInfo(info)])
}

fn without_addresses(index: u32) -> LinkMessage {
    let ipv6 = AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)]);
    with(&indexed(index), [LinkAttribute::AfSpecUnspec(vec![ipv6])])
}

fn up(index: u32) -> LinkMessage {
    let mut message = indexed(index);
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    message
}

fn named(name: &str) -> LinkMessage {
    with(&LinkMessage::default(), [LinkAttribute::IfName(name.to_owned())])
}

fn indexed(index: u32) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message
}

fn with(message: &LinkMessage, attributes: impl IntoIterator<Item = LinkAttribute>) -> LinkMessage {
    let mut message = message.clone();
    message.attributes.extend(attributes);
    message
}

fn index_of(name: &str) -> io::Result<u32> {
    Ok(link(&named(name))?.0)
}

/// Index and flags of the link that a message names (`struct ifinfomsg`, rtnetlink(7)).
fn link(which: &LinkMessage) -> io::Result<(u32, LinkFlags)> {
    let mut found = None;
    let mut netlink = RawNetlink::connect(libc::NETLINK_ROUTE, PATIENCE)?;
    netlink.ask(libc::RTM_GETLINK, 0, &bytes(which), |_, body| {
        let word = |at: usize| body.get(at..)?.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes));
        found = word(4).zip(word(8).map(LinkFlags::from_bits_retain));
        true
    })?;
    found.ok_or_else(|| io::ErrorKind::NotFound.into())
}

fn send(netlink: &mut RawNetlink, kind: u16, flags: u16, message: &LinkMessage) -> io::Result<()> {
    netlink.ask(kind, NLM_F_ACK | flags, &bytes(message), |_, _| false)
}

fn bytes(message: &LinkMessage) -> Vec<u8> {
    let mut bytes = vec![0; message.buffer_len()];
    message.emit(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use super::{GroPair, NAME, name};

    #[test]
    fn names_have_room() {
        assert_eq!(name("up0", "-gro"), "up0-gro");
        assert_eq!(name("a-tunnel-of-15b", "-grx"), "a-tunnel-of-grx");
        assert_eq!(name("a-tunnel-of-15b", "-grx").len(), NAME);
    }

    #[test]
    #[ignore = "needs root"]
    fn a_pair_is_up_until_it_goes() {
        let pair = GroPair::new("lib-test").unwrap();
        assert!(pair.is_up() && pair.near() != pair.far());
        // One that was left behind makes room.
        std::mem::forget(pair);
        let pair = GroPair::new("lib-test").unwrap();
        assert!(pair.is_up());
        let gone = std::mem::ManuallyDrop::new(GroPair { name: String::new(), ..pair });
        drop(GroPair { name: String::new(), ..*gone });
        assert!(!gone.is_up());
    }
}
