//! `underpass run`: the configuration, then the daemon.

use std::path::PathBuf;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};

use crate::config::{Pool, for_pods};
use crate::net::{EncapMode, Prefix};

/// Run the daemon in the foreground until SIGTERM or SIGINT
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  underpass run --config /etc/underpass/config.toml
  underpass run --config a.toml --pool 10.244.0.0/16 --ipip-mode Always
  RUST_LOG=debug underpass run --config node-a.toml")]
pub(super) struct Run {
    /// The configuration file (TOML)
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    #[command(flatten)]
    pool: OnePool,
}

/// A pool beside those of the file, for manifests that set environment variables. The help texts name these: clap's
/// own words would be broken within their brackets.
#[derive(Args, Debug)]
struct OnePool {
    /// One pool more than the file has, or UNDERPASS_POOL_CIDR
    #[arg(long = "pool", id = "pool", value_name = "CIDR", env = "UNDERPASS_POOL_CIDR", hide_env = true)]
    #[arg(value_parser = cidr)]
    cidr: Option<Prefix>,
    /// Its ipip_mode (Never, CrossSubnet, Always), or UNDERPASS_POOL_IPIP
    #[arg(long, value_name = "MODE", env = "UNDERPASS_POOL_IPIP", hide_env = true)]
    #[arg(requires = "pool", value_parser = modes(), hide_possible_values = true)]
    ipip_mode: Option<EncapMode>,
    /// Its vxlan_mode (the same words), or UNDERPASS_POOL_VXLAN
    #[arg(long, value_name = "MODE", env = "UNDERPASS_POOL_VXLAN", hide_env = true)]
    #[arg(requires = "pool", value_parser = modes(), hide_possible_values = true)]
    vxlan_mode: Option<EncapMode>,
    /// Its nat_outgoing, true or false, or UNDERPASS_POOL_NAT_OUTGOING
    #[arg(long, value_name = "BOOL", env = "UNDERPASS_POOL_NAT_OUTGOING", hide_env = true)]
    #[arg(requires = "pool", hide_possible_values = true)]
    nat_outgoing: Option<bool>,
}

impl Run {
    pub(super) fn execute(self) -> anyhow::Result<()> {
        crate::control::daemon::run(self.config, self.pool.given())
    }
}

impl OnePool {
    fn given(self) -> Option<Pool> {
        Some(Pool {
            cidr: self.cidr?,
            ipip_mode: self.ipip_mode.unwrap_or_default(),
            vxlan_mode: self.vxlan_mode.unwrap_or_default(),
            nat_outgoing: self.nat_outgoing.unwrap_or_default(),
            verify: false,
        })
    }
}

fn cidr(text: &str) -> Result<Prefix, String> {
    let prefix: Prefix = text.parse().map_err(|error: crate::net::PrefixError| error.to_string())?;
    if prefix.is_default() {
        return Err(format!(
            "{prefix} is every address, not only those of pods; give the prefix of the pods"
        ));
    }
    for_pods(prefix)
}

/// Calico's words.
fn modes() -> impl TypedValueParser<Value = EncapMode> {
    let all = [EncapMode::Never, EncapMode::CrossSubnet, EncapMode::Always];
    PossibleValuesParser::new(all.map(EncapMode::name))
        .map(move |word| all.into_iter().find(|mode| mode.name() == word).unwrap_or_default())
}
