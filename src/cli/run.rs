//! `underpass run`: the configuration, then the daemon.

use std::path::PathBuf;

use clap::Args;

/// Run the daemon in the foreground until SIGTERM or SIGINT
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  underpass run --config /etc/underpass/config.toml
  RUST_LOG=debug underpass run --config node-a.toml")]
pub(super) struct Run {
    /// The configuration file (TOML)
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

impl Run {
    pub(super) fn execute(self) -> anyhow::Result<()> {
        crate::control::daemon::run(self.config)
    }
}
