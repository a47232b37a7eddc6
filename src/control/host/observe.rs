//! Looking at the host: the devices, what administrators set, and the main table.

use std::sync::Arc;
use std::time::Instant;

use super::Host;
use super::{facts, sysctl};
use crate::control::engine::port::{Device, DeviceView, HostError, HostView, Link, Look, PodLook, Sysctl};

/// The sysctls of the TUN and the TAP that matter.
const SYSCTLS: [Sysctl; 6] = [
    Sysctl::AcceptLocal,
    Sysctl::Forwarding,
    Sysctl::ReversePath,
    Sysctl::AddressGeneration,
    Sysctl::RouterAdvertisements,
    Sysctl::DisableIpv6,
];

impl Host {
    /// Looks at what `look` says.
    ///
    /// # Errors
    /// [`HostError::Netlink`]. A device that is not there is none, nor is a sysctl that cannot be read.
    pub async fn observe(&self, look: &Look) -> Result<HostView, HostError> {
        let begun = Instant::now();
        let tun = self.device(&look.tun).await?;
        let tap = match look.tap {
            Some(index) => self.device(&Device::Index(index)).await?,
            None => None,
        };
        let links = match look.routes {
            Some(_) => Some(self.links().await?),
            None => None,
        };
        let mut settings = facts::settings(self, &look.uplink, links.as_deref()).await?;
        if let (Some(tun), Some(_)) = (&tun, &look.routes) {
            settings.ruled = Some(self.ruled_away(&look.led, tun.link.index).await);
        }
        let nat = match &look.nat {
            Some(table) => Some(self.nat(table, look.routes.is_some()).await),
            None => None,
        };
        let routes = match (&look.routes, links) {
            (Some(interest), Some(links)) => Some(Arc::new(self.table(interest, links).await?)),
            _ => None,
        };
        let pods = match look.pods {
            PodLook::Away => None,
            pods => Some(self.pod_routing(pods).await?),
        };
        Ok(HostView { tun, tap, settings, routes, nat, pods, took: begun.elapsed() })
    }

    async fn device(&self, device: &Device) -> Result<Option<DeviceView>, HostError> {
        let link = match device {
            Device::Named(name) => self.link_by_name(name).await?,
            Device::Index(index) => self.link_by_index(*index).await,
        };
        match link {
            Some(link) => Ok(Some(self.view_of(link).await?)),
            None => Ok(None),
        }
    }

    async fn view_of(&self, link: Link) -> Result<DeviceView, HostError> {
        let addresses = self.addresses_of(link.index).await?;
        let value = |sysctl: Sysctl| Some((sysctl, sysctl::effective(sysctl, &link.name)?));
        let sysctls = SYSCTLS.into_iter().filter_map(value).collect();
        Ok(DeviceView { link, addresses, sysctls })
    }
}
