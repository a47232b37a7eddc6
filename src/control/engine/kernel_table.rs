//! The kernel's routes as given, for a daemon that may not change them.

use std::sync::Arc;

use super::port::Table;
use crate::net::Prefix;

/// The kernel's routes, for a daemon that cannot change them.
pub(super) struct KernelTable {
    /// The routes.
    pub(super) table: Arc<Table>,
    /// Index of the TUN.
    pub(super) device: u32,
}

impl KernelTable {
    /// Whether packets for `prefix`, which is to be another node's, come to the TUN `name`, or can be made to, as
    /// those for `pools` can.
    ///
    /// # Errors
    /// Why they do not, and what an administrator can do.
    pub(super) fn reaches(&self, prefix: Prefix, pools: &[Prefix], name: &str) -> Result<(), String> {
        if self.table.leads(prefix, self.device) || pools.iter().any(|pool| pool.covers(prefix)) {
            return Ok(());
        }
        Err(format!(
            "no kernel route leads {prefix} into {name}, and without CAP_NET_ADMIN the daemon cannot add it; \
             have an administrator run `ip route add {prefix} dev {name}`, then try again"
        ))
    }
}
