//! `underpass reload`: have the daemon follow its configuration file.

use clap::Args;

use super::connection::ClientArgs;
use super::text;
use crate::api::{self, Reloaded};
use crate::client::Target;

/// Have the daemon read its configuration file again
#[derive(Args, Debug)]
#[command(after_help = "Pools, peers, `subnets` and `sends_for` of [local] (but for the first subnet
where it gives the TUN its address), `mtu`, `dscp`, `allow_nested`,
`external_nodes` and `max_routes` can change; everything else takes a restart,
and a file that changes it is refused as a whole. So is one with an error.
Returns when packets see the change. SIGHUP does the same; its outcome is in
the log.

Examples:
  underpass check /etc/underpass/config.toml && underpass reload")]
pub(super) struct Reload {
    #[command(flatten)]
    client: ClientArgs,
}

impl Reload {
    pub(super) fn execute(self) -> anyhow::Result<()> {
        let target = Target::new(api::RELOAD).with("wait", "true");
        let reloaded: Reloaded = self.client.client().order(&target)?;
        self.client.print(&reloaded, |reloaded| {
            let (peers, routes) =
                (text::plural(reloaded.peers, "peer"), text::plural(reloaded.routes, "route"));
            format!("reloaded: {peers}, {routes}\n")
        })
    }
}
