//! The interfaces of this host with their addresses, and which of these packets to somewhere have as their source.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use ipnet::IpNet;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteFlags};
use tokio::time::sleep;

use super::Host;
use super::link::Address;
use crate::control::engine::port::{HostError, Interface, InterfaceAddress, Link};

/// How often a list is asked for that the kernel is too busy to make.
const MOST_TRIES: u32 = 50;
const TRY_PAUSE: Duration = Duration::from_millis(10);

impl Host {
    /// All interfaces in the order of their indices, with their addresses in the kernel's order.
    ///
    /// # Errors
    /// [`HostError::Netlink`].
    pub async fn interfaces(&self) -> Result<Vec<Interface>, HostError> {
        let mut tries = 0;
        loop {
            match self.list_interfaces().await {
                // The kernel makes one list at a time for each socket, and another one is under way.
                Err(error) if error.errno() == Some(libc::EBUSY) && tries < MOST_TRIES => {
                    tries += 1;
                    sleep(TRY_PAUSE).await;
                }
                done => return done,
            }
        }
    }

    async fn list_interfaces(&self) -> Result<Vec<Interface>, HostError> {
        let messages = self.address_messages().await?;
        let addresses: Vec<(u32, InterfaceAddress)> = messages.iter().filter_map(address).collect();
        let mut links = self.links().await?;
        links.sort_unstable_by_key(|link| link.index);
        let interface = |link: Link| Interface {
            addresses: addresses.iter().filter(|(on, _)| *on == link.index).map(|(_, own)| *own).collect(),
            index: link.index,
            name: link.name,
            up: link.up,
            // A dummy is the other one that no packet leaves by.
            loopback: link.dead_end && link.kind.is_none(),
        };
        Ok(links.into_iter().map(interface).collect())
    }

    /// The source of packets to `destination` that have none yet; `None` where the kernel has no way there.
    pub async fn source_towards(&self, destination: IpAddr) -> Option<IpAddr> {
        let any = match destination {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        let route = self.ask(destination, any, RouteFlags::empty()).await?;
        route.attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::PrefSource(RouteAddress::Inet(source)) => Some((*source).into()),
            RouteAttribute::PrefSource(RouteAddress::Inet6(source)) => Some((*source).into()),
            _ => None,
        })
    }
}

/// The interface that a message is about, and its address there.
fn address(message: &AddressMessage) -> Option<(u32, InterfaceAddress)> {
    let own = Address::from_message(message)?;
    let net = IpNet::new(own.address, own.prefix_len).ok()?;
    let mut flags = AddressFlags::from_bits_retain(message.header.flags.bits().into());
    for attribute in &message.attributes {
        if let AddressAttribute::Flags(all) = attribute {
            flags = *all;
        }
    }
    Some((own.index, InterfaceAddress { net, unfit: unfit(flags, own.address.is_ipv6()) }))
}

/// What speaks against an address with these flags (`IFA_F_…`).
fn unfit(flags: AddressFlags, is_ipv6: bool) -> Option<&'static str> {
    let says = |flag| flags.contains(flag);
    match () {
        () if says(AddressFlags::Dadfailed) => Some("is in use elsewhere on its link, too"),
        () if says(AddressFlags::Tentative) && !says(AddressFlags::Optimistic) => {
            Some("is not yet known to be free on its link")
        }
        () if says(AddressFlags::Deprecated) => Some("is deprecated"),
        // For IPv4 this bit says that it is a secondary one of its subnet.
        () if is_ipv6 && says(AddressFlags::Secondary) => Some("is temporary"),
        () => None,
    }
}

#[cfg(test)]
mod tests {
    use rtnetlink::packet_route::address::AddressFlags;

    use super::unfit;

    #[test]
    fn what_the_kernel_says_against_an_address() {
        assert_eq!(unfit(AddressFlags::Permanent, true), None);
        assert_eq!(unfit(AddressFlags::Secondary, false), None);
        assert_eq!(unfit(AddressFlags::Secondary, true), Some("is temporary"));
        assert_eq!(unfit(AddressFlags::Tentative | AddressFlags::Optimistic, true), None);
        for flag in [AddressFlags::Tentative, AddressFlags::Dadfailed, AddressFlags::Deprecated] {
            assert!(unfit(flag | AddressFlags::Permanent, true).is_some());
        }
    }
}
