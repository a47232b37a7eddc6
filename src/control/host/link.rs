//! Reading links and addresses: who owns the node address, what a device is, who holds a port.

use std::net::IpAddr;

use futures_util::TryStreamExt;
use rtnetlink::packet_core::Nla;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{
    InfoData, InfoTun, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};

use super::Host;
use super::ip_tunnel::tunnel;
use super::netlink::{errno, failed};
use crate::control::engine::port::{HostError, Link, TunDetails, Uplink};
use crate::net::Mac;

/// Bytes of the name of an interface, without the 0 at its end (IFNAMSIZ).
const NAME: usize = 15;

/// The name of a device beside the TUN `device`, whose own name is cut where it leaves no room for the suffix.
pub fn name_beside(device: &str, suffix: &str) -> String {
    let mut name = device.to_owned();
    while name.len() > NAME.saturating_sub(suffix.len()) {
        name.pop();
    }
    name + suffix
}

impl Host {
    /// The interface that owns the address of this node.
    ///
    /// # Errors
    /// [`HostError::NoUplink`] when no interface has it; [`HostError::Netlink`].
    pub async fn uplink_of(&self, node: IpAddr) -> Result<Uplink, HostError> {
        let addresses = self.addresses().await?;
        let links = self.links().await?;
        let name_of = |index| links.iter().find(|l| l.index == index);
        let owner = addresses.iter().find(|a| a.address == node).and_then(|a| Some((a, name_of(a.index)?)));
        let Some((address, link)) = owner else {
            let candidates = addresses
                .iter()
                .filter(|a| a.address.is_ipv4() == node.is_ipv4() && !a.address.is_loopback())
                .filter_map(|a| Some(format!("{} {}/{}", name_of(a.index)?.name, a.address, a.prefix_len)))
                .collect();
            return Err(HostError::NoUplink { address: node, candidates });
        };
        Ok(Uplink {
            name: link.name.clone(),
            index: link.index,
            // That of lo says nothing about a network.
            mtu: if link.dead_end { USUAL_MTU } else { link.mtu },
            prefix_len: address.prefix_len,
            mac: link.mac.filter(|_| !link.dead_end),
            dead_end: link.dead_end,
        })
    }

    /// The interface `index` as the uplink of a node whose address is on `owner`, which no packet leaves by.
    pub async fn stand_in(&self, owner: &Uplink, index: u32) -> Option<Uplink> {
        let Link { name, index, mtu, mac, .. } = self.link_by_index(index).await?;
        Some(Uplink { name, index, mtu, mac, ..owner.clone() })
    }

    /// Whether the interface with this index has `address`; yes when the kernel does not say.
    pub async fn has_address(&self, index: u32, address: IpAddr) -> bool {
        let filtered = self.handle.address().get().set_link_index_filter(index).set_address_filter(address);
        let mut stream = std::pin::pin!(filtered.execute());
        match stream.try_next().await {
            Ok(found) => found.is_some(),
            // An interface that is gone has none.
            Err(error) => errno(&error) != Some(libc::ENODEV),
        }
    }

    /// The device called `name`; `None` when there is none.
    ///
    /// # Errors
    /// [`HostError::Netlink`].
    pub async fn link_by_name(&self, name: &str) -> Result<Option<Link>, HostError> {
        if name.is_empty() || name.len() >= libc::IFNAMSIZ {
            return Ok(None);
        }
        let mut stream = std::pin::pin!(self.handle.link().get().match_name(name).execute());
        match stream.try_next().await {
            Ok(message) => Ok(message.as_ref().map(link)),
            Err(error) if errno(&error) == Some(libc::ENODEV) => Ok(None),
            Err(error) => Err(failed(format!("look up the device {name}"), &error)),
        }
    }

    /// The interface with this index; `None` when there is none.
    pub async fn link_by_index(&self, index: u32) -> Option<Link> {
        let mut stream = std::pin::pin!(self.handle.link().get().match_index(index).execute());
        let message = stream.try_next().await.ok().flatten()?;
        Some(link(&message))
    }

    /// All devices of the namespace.
    pub(super) async fn links(&self) -> Result<Vec<Link>, HostError> {
        let links = self.handle.link().get().execute().map_ok(|m| link(&m));
        links.try_collect().await.map_err(|e| failed("list the network devices", &e))
    }

    /// The addresses of the interface `index`.
    pub(super) async fn addresses_of(&self, index: u32) -> Result<Vec<IpAddr>, HostError> {
        let filtered = self.handle.address().get().set_link_index_filter(index);
        let messages: Vec<AddressMessage> = match filtered.execute().try_collect().await {
            Ok(messages) => messages,
            // It is gone by now.
            Err(error) if errno(&error) == Some(libc::ENODEV) => Vec::new(),
            Err(error) => return Err(failed("list the addresses", &error)),
        };
        let own = messages.iter().filter_map(Address::from_message);
        Ok(own.filter(|own| own.index == index).map(|own| own.address).collect())
    }

    /// The addresses of this host, of all interfaces, in order.
    ///
    /// # Errors
    /// [`HostError::Netlink`].
    pub async fn all_addresses(&self) -> Result<Vec<IpAddr>, HostError> {
        let mut all: Vec<IpAddr> = self.addresses().await?.into_iter().map(|own| own.address).collect();
        all.sort_unstable();
        all.dedup();
        Ok(all)
    }

    /// All addresses of the namespace.
    async fn addresses(&self) -> Result<Vec<Address>, HostError> {
        Ok(self.address_messages().await?.iter().filter_map(Address::from_message).collect())
    }

    /// The same as the kernel describes them.
    pub(super) async fn address_messages(&self) -> Result<Vec<AddressMessage>, HostError> {
        let messages = self.handle.address().get().execute().try_collect().await;
        messages.map_err(|error| failed("list the addresses", &error))
    }
}

/// One address of one interface.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Address {
    pub index: u32,
    pub address: IpAddr,
    pub prefix_len: u8,
}

impl Address {
    /// IFA_LOCAL is our own address and IFA_ADDRESS the far end on a point-to-point link; IPv6
    /// usually carries only the latter, then it is our own.
    pub(super) fn from_message(message: &AddressMessage) -> Option<Self> {
        let known = matches!(message.header.family, AddressFamily::Inet | AddressFamily::Inet6);
        let mut address = None;
        for attribute in &message.attributes {
            match attribute {
                AddressAttribute::Local(local) => address = Some(*local),
                AddressAttribute::Address(own) => address = address.or(Some(*own)),
                _ => {}
            }
        }
        let address = address.filter(|_| known)?;
        Some(Self { index: message.header.index, address, prefix_len: message.header.prefix_len })
    }
}

/// A network device as the kernel describes it.
fn link(message: &LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        up: message.header.flags.contains(LinkFlags::Up),
        ip_tunnel: tunnel(message),
        dead_end: message.header.flags.contains(LinkFlags::Loopback),
        ..Link::default()
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Address(bytes) => {
                link.mac = bytes.as_slice().try_into().ok().map(Mac).filter(|mac| mac.is_unicast());
            }
            LinkAttribute::Group(group) => link.group = *group,
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::TxQueueLen(len) => link.txqueuelen = *len,
            LinkAttribute::LinkInfo(infos) => read_infos(&mut link, infos),
            _ => {}
        }
    }
    link
}

fn read_infos(link: &mut Link, infos: &[LinkInfo]) {
    for info in infos {
        match info {
            LinkInfo::Kind(kind) => {
                let kind = kind.to_string();
                link.dead_end |= kind == "dummy";
                link.kind = Some(kind);
            }
            LinkInfo::Data(InfoData::Tun(data)) => link.tun = Some(tun_details(data)),
            LinkInfo::Data(InfoData::Vxlan(data)) => {
                link.vxlan_port = data.iter().find_map(|d| match d {
                    InfoVxlan::Port(port) => Some(*port),
                    _ => None,
                });
            }
            _ => {}
        }
    }
}

/// The library leaves the attributes of `IFLA_INFO_DATA` of a TUN raw; their numbers are those
/// of `linux/if_link.h`, their values u32 or u8 in host order.
fn tun_details(data: &[InfoTun]) -> TunDetails {
    let mut details = TunDetails::default();
    for info in data {
        let InfoTun::Other(attribute) = info else { continue };
        let mut value = vec![0; attribute.value_len()];
        attribute.emit_value(&mut value);
        let word = || Some(u32::from_ne_bytes(value.get(..4)?.try_into().ok()?));
        let flag = value.first().is_some_and(|byte| *byte != 0);
        match attribute.kind() {
            IFLA_TUN_OWNER => details.owner = word(),
            IFLA_TUN_GROUP => details.group = word(),
            IFLA_TUN_PERSIST => details.persistent = flag,
            IFLA_TUN_MULTI_QUEUE => details.multi_queue = flag,
            IFLA_TUN_NUM_QUEUES | IFLA_TUN_NUM_DISABLED_QUEUES => {
                details.queues = details.queues.saturating_add(word().unwrap_or(0));
            }
            _ => {}
        }
    }
    details
}

/// The MTU of Ethernet, where an interface tells of none.
const USUAL_MTU: u32 = 1500;
const IFLA_TUN_OWNER: u16 = 1;
const IFLA_TUN_GROUP: u16 = 2;
const IFLA_TUN_PERSIST: u16 = 6;
const IFLA_TUN_MULTI_QUEUE: u16 = 7;
const IFLA_TUN_NUM_QUEUES: u16 = 8;
const IFLA_TUN_NUM_DISABLED_QUEUES: u16 = 9;

#[cfg(test)]
mod tests {
    use rtnetlink::packet_core::DefaultNla;
    use rtnetlink::packet_route::AddressFamily;
    use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
    use rtnetlink::packet_route::link::InfoTun;

    use super::{Address, NAME, name_beside, tun_details};
    use crate::control::engine::port::TunDetails;

    #[test]
    fn names_have_room() {
        assert_eq!(name_beside("up0", "-gro"), "up0-gro");
        assert_eq!(name_beside("a-tunnel-of-15b", "-grx"), "a-tunnel-of-grx");
        assert_eq!(name_beside("a-tunnel-of-15b", "-grx").len(), NAME);
    }

    #[test]
    fn own_end_of_a_point_to_point_address() {
        let mut message = AddressMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.prefix_len = 32;
        message.header.index = 7;
        message.attributes = vec![
            AddressAttribute::Address("192.0.2.2".parse().unwrap()),
            AddressAttribute::Local("192.0.2.1".parse().unwrap()),
        ];
        let own = Address { index: 7, address: "192.0.2.1".parse().unwrap(), prefix_len: 32 };
        assert_eq!(Address::from_message(&message), Some(own));
        message.attributes.reverse();
        assert_eq!(Address::from_message(&message), Some(own));
        message.attributes.clear();
        assert_eq!(Address::from_message(&message), None);
    }

    #[test]
    fn tun_details_from_raw_attributes_of_any_length() {
        let raw = |kind, value: &[u8]| InfoTun::Other(DefaultNla::new(kind, value.to_vec()));
        let data = [
            raw(1, &1000_u32.to_ne_bytes()),
            raw(6, &[1]),
            raw(7, &[0]),
            raw(8, &2_u32.to_ne_bytes()),
            raw(9, &1_u32.to_ne_bytes()),
        ];
        let details = tun_details(&data);
        assert_eq!(
            details,
            TunDetails { owner: Some(1000), group: None, persistent: true, multi_queue: false, queues: 3 }
        );
        let broken = [raw(1, &[1, 2]), raw(6, &[]), raw(8, &[1]), raw(9, &[1]), raw(99, &[1])];
        assert_eq!(tun_details(&broken), TunDetails::default());
    }
}
