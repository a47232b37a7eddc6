//! Configuring the TUN, and taking back what was configured.
//!
//! Every step first looks whether there is anything to do, so that we know what is ours to take back.
//! What we may not do is left to an administrator ([`Host::look`]).

use std::io;
use std::net::IpAddr;
use std::sync::atomic::Ordering::Relaxed;

use futures_util::StreamExt;
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::AddressHeaderFlags;
use rtnetlink::packet_route::tc::{TcAttribute, TcHandle, TcMessage};
use rtnetlink::{AddressMessageBuilder, LinkUnspec};

use super::error::{errno, tolerate_gone};
use super::link::{Address, Link};
use super::requirements::accepts_local;
use super::{Host, HostError};

/// What we changed on the TUN.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(in crate::control) struct TunState {
    name: String,
    index: u32,
    /// It outlives our descriptor, so that its up flag matters after us.
    persistent: bool,
    added: Vec<Address>,
    brought_up: bool,
}

impl TunState {
    fn untouched(link: &Link) -> Self {
        Self {
            name: link.name.clone(),
            index: link.index,
            persistent: link.tun.as_ref().is_some_and(|tun| tun.persistent),
            added: Vec::new(),
            brought_up: false,
        }
    }
}

impl Host {
    /// Gives the TUN `name` its MTU in bytes, queue length in packets (`None`: as it is) and
    /// address, and sets it up; returns its index. Works on a device that already exists: an
    /// address or up flag found there is not ours and stays at [`Host::teardown`]. Call
    /// [`Host::add_tun_address`] for a second address.
    ///
    /// # Errors
    /// [`HostError::NoDevice`], [`HostError::Netlink`]. What was done before the error is taken
    /// back by [`Host::teardown`].
    pub async fn configure_tun(
        &mut self,
        name: &str,
        mtu: u32,
        address: IpAddr,
        address_len: u8,
        txqueuelen: Option<u32>,
    ) -> Result<u32, HostError> {
        let link = self.link_by_name(name).await?.ok_or_else(|| HostError::NoDevice(name.to_owned()))?;
        // A repeated call, as to change the MTU, must not forget what the first one added.
        let known = self.tun.take().filter(|tun| tun.index == link.index);
        self.tun = Some(known.unwrap_or_else(|| TunState::untouched(&link)));
        silence_ipv6(&link.name);
        self.accept_own_errors(&link.name);
        self.set_mtu(&link, mtu).await?;
        self.set_queue_length(&link, txqueuelen).await;
        self.keep_qdisc_away(&link).await;
        self.add_tun_address(address, address_len).await?;
        self.bring_up(&link).await?;
        Ok(link.index)
    }

    /// Gives the configured TUN a further address, as one of the other family.
    ///
    /// # Errors
    /// [`HostError::NoDevice`] before [`Host::configure_tun`]; [`HostError::Netlink`].
    pub async fn add_tun_address(&mut self, address: IpAddr, prefix_len: u8) -> Result<(), HostError> {
        let Some(index) = self.tun.as_ref().map(|tun| tun.index) else {
            return Err(HostError::NoDevice("the TUN".to_owned()));
        };
        let present = self.addresses().await?.iter().any(|a| a.index == index && a.address == address);
        if present {
            return Ok(());
        }
        let mut request = self.handle.address().add(index, address, prefix_len);
        // Nobody else can have it on a TUN, and a route cannot name a source whose duplicate
        // address detection (RFC 4862) has not ended.
        if address.is_ipv6() {
            request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
        }
        match request.execute().await {
            Ok(()) => {
                let added = Address { index, address, prefix_len };
                self.tun.iter_mut().for_each(|tun| tun.added.push(added));
                Ok(())
            }
            Err(error) if errno(&error) == Some(libc::EEXIST) => Ok(()),
            Err(error) => {
                let error = HostError::netlink(format!("add the address {address}/{prefix_len}"), &error);
                self.unless_denied(Err(error))
            }
        }
    }

    /// Removes what this `Host` added: its routes, its addresses, and the up flag if the device
    /// is persistent and was down before. A device that vanished is no error, nor is a second call.
    ///
    /// # Errors
    /// The first [`HostError::Netlink`]; the remaining steps are still tried.
    pub async fn teardown(&mut self) -> Result<(), HostError> {
        let Some(tun) = self.tun.take() else { return Ok(()) };
        // The name may belong to another device by now, and so may the index.
        let link = self.link_by_name(&tun.name).await?;
        if link.is_none_or(|link| link.index != tun.index) {
            return Ok(());
        }
        let mut outcome = self.remove_stale_routes(tun.index).await.map(drop);
        for address in &tun.added {
            outcome = outcome.and(self.remove_address(address).await);
        }
        if tun.persistent && tun.brought_up {
            outcome = outcome.and(self.set_down(&tun).await);
        }
        outcome
    }

    pub(in crate::control) async fn set_mtu(&self, link: &Link, mtu: u32) -> Result<(), HostError> {
        if link.mtu == mtu {
            return Ok(());
        }
        let change = LinkUnspec::new_with_index(link.index).mtu(mtu).build();
        let done = self.handle.link().change(change).execute().await;
        let done = done.map_err(|e| HostError::netlink(format!("set the MTU of {} to {mtu}", link.name), &e));
        self.unless_denied(done)
    }

    /// A short queue costs throughput, not correctness, hence only a warning.
    async fn set_queue_length(&self, link: &Link, wanted: Option<u32>) {
        let Some(wanted) = wanted.filter(|len| *len != link.txqueuelen) else { return };
        let change = LinkUnspec::new_with_index(link.index).txqueuelen(wanted).build();
        if let Err(error) = self.handle.link().change(change).execute().await {
            let error =
                HostError::netlink(format!("set the queue length of {} to {wanted}", link.name), &error);
            if let Err(error) = self.unless_denied(Err(error)) {
                tracing::warn!("{error}");
            }
        }
    }

    /// Lets in the ICMP errors that we write to the TUN: their source is the TUN's own address. Whatever
    /// else comes from there has the source of another node's pod. Best effort: with a read-only /proc
    /// the kernel drops these errors, and pods learn of a small path MTU no more.
    fn accept_own_errors(&self, name: &str) {
        if accepts_local(name) {
            return;
        }
        let path = format!("/proc/sys/net/ipv4/conf/{name}/accept_local");
        match std::fs::write(&path, "1") {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => self.denied.store(true, Relaxed),
            Err(error) => {
                tracing::warn!(
                    "cannot write 1 to {path}: {error}; pods will not get ICMP errors from the tunnel"
                );
            }
            Ok(()) => {}
        }
    }

    /// Gives a TUN that is down the queueing discipline `noqueue`, before the kernel gives it its own:
    /// a pfifo_fast of the whole queue length for each of the 256 queues it may have, 100 MB in all.
    /// Nothing ever waits in them, because a TUN takes every packet: into its ring, or to drop it.
    /// Best effort: without it there is less memory and nothing else.
    async fn keep_qdisc_away(&self, link: &Link) {
        let Ok(index) = i32::try_from(link.index) else { return };
        if link.up {
            return;
        }
        let mut message = TcMessage::with_index(index);
        message.header.parent = TcHandle::ROOT;
        message.attributes.push(TcAttribute::Kind("noqueue".to_owned()));
        let mut request = NetlinkMessage::from(RouteNetlinkMessage::NewQueueDiscipline(message));
        request.header.flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
        let Ok(mut answers) = self.handle.clone().request(request) else { return };
        while let Some(answer) = answers.next().await {
            if let NetlinkPayload::Error(error) = answer.payload {
                tracing::debug!("cannot give {} the qdisc noqueue: {error}", link.name);
            }
        }
    }

    async fn bring_up(&mut self, link: &Link) -> Result<(), HostError> {
        if link.up {
            return Ok(());
        }
        let change = LinkUnspec::new_with_index(link.index).up().build();
        let done = self.handle.link().change(change).execute().await;
        let done = done.map_err(|e| HostError::netlink(format!("set {} up", link.name), &e));
        let brought_up = done.is_ok();
        self.tun.iter_mut().for_each(|tun| tun.brought_up |= brought_up);
        self.unless_denied(done)
    }

    async fn set_down(&self, tun: &TunState) -> Result<(), HostError> {
        let change = LinkUnspec::new_with_index(tun.index).down().build();
        let done = self.handle.link().change(change).execute().await;
        tolerate_gone(done, &format!("set {} down", tun.name))
    }

    async fn remove_address(&self, own: &Address) -> Result<(), HostError> {
        let message = match own.address {
            IpAddr::V4(address) => AddressMessageBuilder::<std::net::Ipv4Addr>::new()
                .index(own.index)
                .address(address, own.prefix_len)
                .build(),
            IpAddr::V6(address) => AddressMessageBuilder::<std::net::Ipv6Addr>::new()
                .index(own.index)
                .address(address, own.prefix_len)
                .build(),
        };
        let removed = self.handle.address().del(message).execute().await;
        tolerate_gone(removed, &format!("remove the address {}/{}", own.address, own.prefix_len))
    }
}

/// Keeps router solicitations and link-local addresses off the tunnel. Best effort: without IPv6 in
/// the kernel, or with a read-only /proc, there is only some noise to drop.
fn silence_ipv6(name: &str) {
    for (key, value) in [("addr_gen_mode", "1"), ("accept_ra", "0")] {
        let path = format!("/proc/sys/net/ipv6/conf/{name}/{key}");
        if let Err(error) = std::fs::write(&path, value) {
            tracing::debug!("cannot write {value} to {path}: {error}");
        }
    }
}
