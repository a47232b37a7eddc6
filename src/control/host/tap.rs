//! Configuring the TAP that injects super-packets: the kernel must forward from it, from our own
//! address, without a reverse path check.

use std::fs;

use rtnetlink::LinkUnspec;

use super::{Host, HostError};

impl Host {
    /// Sets the sysctls of the TAP `name`, brings it up and returns its index.
    ///
    /// # Errors
    /// [`HostError::Sysctl`] where /proc/sys is read-only, [`HostError::NoDevice`],
    /// [`HostError::Netlink`].
    pub async fn configure_tap(&self, name: &str) -> Result<u32, HostError> {
        let link = self.link_by_name(name).await?.ok_or_else(|| HostError::NoDevice(name.to_owned()))?;
        // It carries outer packets only; this keeps router solicitations out of it.
        let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "1");
        for (key, value) in [("forwarding", "1"), ("accept_local", "1"), ("rp_filter", "0")] {
            let path = format!("/proc/sys/net/ipv4/conf/{name}/{key}");
            fs::write(&path, value).map_err(|error| HostError::Sysctl {
                path,
                value,
                error: error.to_string(),
            })?;
        }
        let change = LinkUnspec::new_with_index(link.index).up().build();
        let done = self.handle.link().change(change).execute().await;
        done.map_err(|e| HostError::netlink(format!("set {name} up"), &e))?;
        Ok(link.index)
    }
}
