//! MTUs at run time.

use futures_util::TryStreamExt;

use super::link::Link;
use super::{Host, HostError};

impl Host {
    /// The MTU of the interface `index` in bytes; `None` when there is no such interface.
    pub async fn mtu_of(&self, index: u32) -> Option<u32> {
        let mut stream = std::pin::pin!(self.handle.link().get().match_index(index).execute());
        let message = stream.try_next().await.ok().flatten()?;
        Some(Link::from(&message).mtu)
    }

    /// Sets the MTU of the device called `name`, in bytes.
    ///
    /// # Errors
    /// [`HostError::NoDevice`], [`HostError::Netlink`].
    pub async fn set_mtu_of(&self, name: &str, mtu: u32) -> Result<(), HostError> {
        let link = self.link_by_name(name).await?.ok_or_else(|| HostError::NoDevice(name.to_owned()))?;
        self.set_mtu(&link, mtu).await
    }
}
