//! The daemon: everything wired together and run until a signal.

use crate::config::Config;

/// Runs the daemon until SIGTERM or SIGINT.
pub fn run(_: Config) -> anyhow::Result<()> {
    anyhow::bail!("this build has no dataplane")
}
