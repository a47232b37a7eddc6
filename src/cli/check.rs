//! `underpass check`: all errors of a configuration file, without a daemon, without privileges.

use std::path::PathBuf;

use clap::Args;

use super::{out, text};
use crate::config::{self, Config};

/// Check a configuration file and print all its errors at once
#[derive(Args, Debug)]
#[command(after_help = "Works offline and without privileges.

Examples:
  underpass check /etc/underpass/config.toml
  underpass check node-a.toml && systemctl restart underpass")]
pub(super) struct Check {
    /// The configuration file (TOML)
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

impl Check {
    pub(super) fn execute(self) -> anyhow::Result<()> {
        let config = config::load(&self.file)?;
        out::write(&format!("{}: ok ({})\n", self.file.display(), summary(&config)))
    }
}

fn summary(config: &Config) -> String {
    let peers = config.peers.iter().map(|peer| peer.subnets.len());
    let of_peers: Vec<usize> =
        peers.chain(config.named_peers.iter().map(|peer| peer.subnets.len())).collect();
    let subnets = config.local_subnets.len() + of_peers.iter().sum::<usize>();
    format!(
        "node {}, {}, {}, {}",
        config.node.name,
        text::plural(of_peers.len(), "peer"),
        text::plural(subnets, "subnet"),
        text::plural(config.pools.len(), "pool"),
    )
}
