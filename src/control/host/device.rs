//! Changing network devices and their addresses.

use std::net::IpAddr;

use futures_util::StreamExt;
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::AddressHeaderFlags;
use rtnetlink::packet_route::tc::{TcAttribute, TcHandle, TcMessage};
use rtnetlink::{AddressMessageBuilder, LinkUnspec};

use super::Host;
use super::netlink::{errno, failed, tolerate_gone};
use crate::control::engine::port::{HostError, LinkChange};

impl Host {
    pub(super) async fn change_link(
        &self,
        index: u32,
        name: &str,
        change: LinkChange,
    ) -> Result<(), HostError> {
        let link = LinkUnspec::new_with_index(index);
        let (link, action) = match change {
            LinkChange::Up => (link.up(), format!("set {name} up")),
            LinkChange::Down => (link.down(), format!("set {name} down")),
            LinkChange::Mtu(mtu) => (link.mtu(mtu.into()), format!("set the MTU of {name} to {mtu}")),
            LinkChange::Group(group) => {
                (link.link_group(group), format!("set the group of {name} to {group}"))
            }
            LinkChange::QueueLength(len) => {
                (link.txqueuelen(len), format!("set the queue length of {name} to {len}"))
            }
            LinkChange::NoQueue => {
                self.keep_qdisc_away(index, name).await;
                return Ok(());
            }
        };
        let done = self.handle.link().change(link.build()).execute().await;
        if change == LinkChange::Down {
            return tolerate_gone(done, &action);
        }
        done.map_err(|error| failed(action, &error))
    }

    /// Removes a device of ours; one that is gone is no error.
    pub(super) async fn remove_link(&self, index: u32, name: &str) -> Result<(), HostError> {
        tolerate_gone(self.handle.link().del(index).execute().await, &format!("remove the device {name}"))
    }

    /// Gives a TUN that is down the queueing discipline `noqueue`, before the kernel gives it its own:
    /// a pfifo_fast of the whole queue length for each of the 256 queues it may have, 100 MB in all.
    /// Nothing ever waits in them, because a TUN takes every packet: into its ring, or to drop it.
    /// Best effort: without it there is less memory and nothing else.
    async fn keep_qdisc_away(&self, index: u32, name: &str) {
        let Ok(index) = i32::try_from(index) else { return };
        let mut message = TcMessage::with_index(index);
        message.header.parent = TcHandle::ROOT;
        message.attributes.push(TcAttribute::Kind("noqueue".to_owned()));
        let mut request = NetlinkMessage::from(RouteNetlinkMessage::NewQueueDiscipline(message));
        request.header.flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
        let Ok(mut answers) = self.handle.clone().request(request) else { return };
        while let Some(answer) = answers.next().await {
            if let NetlinkPayload::Error(error) = answer.payload {
                tracing::debug!("cannot give {name} the qdisc noqueue: {error}");
            }
        }
    }

    /// Adds an address to the interface `index`; one that is there already is no error.
    pub(super) async fn add_address(&self, index: u32, address: IpAddr) -> Result<(), HostError> {
        let mut request = self.handle.address().add(index, address, width(address));
        // Nobody else can have it on a TUN, and a route cannot name a source whose duplicate
        // address detection (RFC 4862) has not ended.
        if address.is_ipv6() {
            request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
        }
        match request.execute().await {
            Err(error) if errno(&error) != Some(libc::EEXIST) => {
                Err(failed(format!("add the address {address}/{}", width(address)), &error))
            }
            _ => Ok(()),
        }
    }

    /// Removes an address of the interface `index`; one that is gone is no error.
    pub(super) async fn remove_address(&self, index: u32, address: IpAddr) -> Result<(), HostError> {
        let message = match address {
            IpAddr::V4(v4) => AddressMessageBuilder::<std::net::Ipv4Addr>::new()
                .index(index)
                .address(v4, width(address))
                .build(),
            IpAddr::V6(v6) => AddressMessageBuilder::<std::net::Ipv6Addr>::new()
                .index(index)
                .address(v6, width(address))
                .build(),
        };
        let removed = self.handle.address().del(message).execute().await;
        tolerate_gone(removed, &format!("remove the address {address}/{}", width(address)))
    }
}

/// The length of the prefix that is one address.
fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}
