//! `underpass run`: logging, the configuration, then the daemon.

use std::io::{IsTerminal, stderr};
use std::path::PathBuf;

use clap::Args;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

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
        start_logging();
        let config = crate::config::load(&self.config)?;
        crate::control::daemon::run(config, self.config)
    }
}

/// Logs to stderr: level `info`, or as RUST_LOG says.
fn start_logging() {
    let filter = EnvFilter::builder().with_default_directive(LevelFilter::INFO.into()).from_env_lossy();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(stderr)
        .with_ansi(stderr().is_terminal())
        .with_target(false)
        .init();
}
