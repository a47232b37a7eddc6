//! `underpass policy check`: all errors of manifests, without a daemon, without privileges.

use std::path::PathBuf;

use clap::Args;

use crate::cli::out;
use crate::cli::text::plural;
use crate::config;
use crate::policy::{Compiled, Known, compile};

/// Check manifests of policies and print all their errors at once
#[derive(Args, Debug)]
#[command(after_help = "Works offline and without privileges. All files are taken together, as those of
`directory` in [policy] are.

Examples:
  underpass policy check /etc/underpass/policy.d
  underpass policy check new.yaml && cp new.yaml /etc/underpass/policy.d/")]
pub(super) struct Check {
    /// Files, or directories of .yaml, .yml and .json
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<PathBuf>,
    /// As beside a cluster: tiers and service accounts may come from there
    #[arg(long)]
    cluster: bool,
}

impl Check {
    pub(super) fn execute(self) -> anyhow::Result<()> {
        let known = if self.cluster { Known::Cluster } else { Known::Directory };
        out::write(&summary(&compiled(&self.paths, known)?))
    }
}

/// What manifests are compiled to.
pub(super) fn compiled(paths: &[PathBuf], known: Known) -> anyhow::Result<Compiled> {
    let world = config::load_manifests(paths, known)?;
    Ok(compile(&world, 1, None)?)
}

fn summary(compiled: &Compiled) -> String {
    let world = &compiled.world;
    let policies = match world.policies().len() {
        1 => "1 policy".to_owned(),
        count => format!("{count} policies"),
    };
    let mut text = format!(
        "ok ({policies}, {}, {}, {}, {})\n",
        plural(world.tiers().len(), "tier"),
        plural(world.endpoints().len(), "endpoint"),
        plural(world.network_sets().len(), "network set"),
        plural(world.namespaces().len(), "namespace"),
    );
    for sentence in &compiled.left_out {
        text.push_str(&format!("left out: {sentence}\n"));
    }
    text
}
