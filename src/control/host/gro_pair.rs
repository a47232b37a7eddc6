//! Two interfaces behind each other (veth) at whose far end the kernel joins segments of TCP (GRO), as its own tunnel
//! devices do with what they have unpacked (`gro_cells`).
//!
//! There is a queue for each processor, as there. One that others fill, too, is full before it is looked at.
//!
//! Nothing is sent by it but what programs redirect there: it has no addresses, not even those of IPv6 that the kernel
//! makes.

use std::io;
use std::time::Duration;

use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL, Parseable};
use rtnetlink::packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags,
    LinkInfo, LinkMessage,
};

use super::link::name_beside;
use super::raw_netlink::{RawNetlink, bytes};
use super::sys::{self, Offload};

/// How long the kernel may take to answer.
const PATIENCE: Duration = Duration::from_secs(1);
/// What is behind the name of the TUN.
const NEAR: &str = "-gro";
const FAR: &str = "-grx";
/// The largest that there is: what is larger than its interface is dropped.
const MTU: u32 = 65_535;
/// The most queues of a veth interface (`veth_validate`, drivers/net/veth.c).
const MOST_QUEUES: u32 = 4096;

/// The pair; dropping it removes both ends.
#[derive(Debug)]
pub struct GroPair {
    /// The name of the near end.
    name: String,
    near: u32,
    far: u32,
}

impl GroPair {
    /// That of the TUN called `device`. What an earlier daemon has left of it is removed.
    ///
    /// # Errors
    /// The kernel's: EPERM without CAP_NET_ADMIN, EOPNOTSUPP without veth; [`io::ErrorKind::AlreadyExists`] where
    /// somebody else has interfaces with these names.
    pub fn new(device: &str) -> io::Result<Self> {
        let [near, far] = [NEAR, FAR].map(|end| name_beside(device, end));
        let alias = LinkAttribute::IfAlias(format!("underpass:{device}"));
        let mut netlink = RawNetlink::connect(libc::NETLINK_ROUTE, PATIENCE)?;
        let create = |netlink: &mut RawNetlink| {
            netlink.order(libc::RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &pair(&near, &far))
        };
        match create(&mut netlink) {
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {
                for name in [&near, &far] {
                    remove(&mut netlink, name, &alias)?;
                }
                create(&mut netlink)?;
            }
            other => other?,
        }
        let index = |name: &str| link(&named(name)).map(|found| found.header.index);
        let made = Self { near: index(&near)?, far: index(&far)?, name: near.clone() };
        for index in [made.near, made.far] {
            netlink.order(libc::RTM_SETLINK, 0, &with(&indexed(index), [alias.clone()]))?;
            match netlink.order(libc::RTM_SETLINK, 0, &without_addresses(index)) {
                // A host without IPv6 makes none.
                Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => {}
                other => other?,
            }
        }
        // The kernel looks for what it can join where the sender has no segmentation of its own (`veth_xmit`,
        // drivers/net/veth.c).
        sys::switch_offload(&near, Offload::TcpSegmentation, false)?;
        sys::switch_offload(&far, Offload::Gro, true)?;
        for index in [made.far, made.near] {
            netlink.order(libc::RTM_SETLINK, 0, &up(index))?;
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

    /// How many packets it had no room for so far; `None` where it carries nothing any more, because somebody has removed
    /// it or taken it down.
    pub fn look(&self) -> Option<u64> {
        let wanted = LinkFlags::Up | LinkFlags::Running;
        let [near, far] = [self.near, self.far].map(|index| link(&indexed(index)).ok());
        let near = near.filter(|near| near.header.flags.contains(wanted))?;
        far.filter(|far| far.header.flags.contains(wanted))?;
        near.attributes.iter().find_map(|attribute| match attribute {
            LinkAttribute::Stats64(stats) => Some(stats.tx_dropped),
            _ => None,
        })
    }
}

impl Drop for GroPair {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = RawNetlink::connect(libc::NETLINK_ROUTE, PATIENCE)
            .and_then(|mut netlink| netlink.order(libc::RTM_DELLINK, 0, &indexed(self.near)));
    }
}

/// The kernel has as many queues in use at both ends as the near end is asked for (`veth_newlink`, drivers/net/veth.c).
fn pair(near: &str, far: &str) -> LinkMessage {
    let queues = sys::processors().min(MOST_QUEUES);
    let common =
        [LinkAttribute::Mtu(MTU), LinkAttribute::NumTxQueues(queues), LinkAttribute::NumRxQueues(queues)];
    let peer = with(&named(far), common.clone());
    let data = InfoData::Veth(InfoVeth::Peer(peer));
    let info = vec![LinkInfo::Kind(InfoKind::Veth), LinkInfo::Data(data)];
    with(&with(&named(near), common), [LinkAttribute::LinkInfo(info)])
}

/// Removes what an earlier daemon has left. `alias` says that it is the daemon's.
fn remove(netlink: &mut RawNetlink, name: &str, alias: &LinkAttribute) -> io::Result<()> {
    let found = match link(&named(name)) {
        Ok(found) => found,
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return Ok(()),
        Err(error) => return Err(error),
    };
    if !found.attributes.contains(alias) {
        let what = format!("interface {name} exists, and is not the daemon's; rename or remove it");
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, what));
    }
    netlink.order(libc::RTM_DELLINK, 0, &indexed(found.header.index))
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

/// The link that a message names.
fn link(which: &LinkMessage) -> io::Result<LinkMessage> {
    let mut found = None;
    let mut netlink = RawNetlink::connect(libc::NETLINK_ROUTE, PATIENCE)?;
    netlink.ask(libc::RTM_GETLINK, 0, &bytes(which), |_, body| {
        found = LinkMessage::parse(body).ok();
        true
    })?;
    found.ok_or_else(|| io::ErrorKind::NotFound.into())
}

#[cfg(test)]
mod tests {
    use std::io;

    use rtnetlink::packet_route::link::LinkAttribute;

    use super::{GroPair, PATIENCE, RawNetlink, indexed, with};

    #[test]
    #[ignore = "needs root"]
    fn a_pair_is_up_until_it_goes() {
        let pair = GroPair::new("lib-test").unwrap();
        assert!(pair.look() == Some(0) && pair.near() != pair.far());
        // One that was left behind makes room.
        std::mem::forget(pair);
        let pair = GroPair::new("lib-test").unwrap();
        assert_eq!(pair.look(), Some(0));
        // What is not the daemon's is let alone.
        let foreign = with(&indexed(pair.near()), [LinkAttribute::IfAlias("another's".to_owned())]);
        let mut netlink = RawNetlink::connect(libc::NETLINK_ROUTE, PATIENCE).unwrap();
        netlink.order(libc::RTM_SETLINK, 0, &foreign).unwrap();
        assert_eq!(GroPair::new("lib-test").unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(pair.look(), Some(0));
        let gone = std::mem::ManuallyDrop::new(GroPair { name: String::new(), ..pair });
        drop(GroPair { name: String::new(), ..*gone });
        assert_eq!(gone.look(), None);
    }
}
