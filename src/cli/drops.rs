//! `underpass drops`: packets not delivered, by reason.

use clap::Args;
use comfy_table::Table;

use super::connection::ClientArgs;
use super::text::{self, table};
use crate::api;
use crate::client::Target;
use crate::net::DropReason;

/// Show how many packets were not delivered, and why
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  underpass drops
  underpass drops -o json | jq .spoofed_source")]
pub(super) struct Drops {
    #[command(flatten)]
    client: ClientArgs,
}

impl Drops {
    pub(super) fn execute(self) -> anyhow::Result<()> {
        let drops: api::Drops = self.client.get(&Target::new(api::DROPS))?;
        self.client.print(&drops, |drops| text::lines(&counts(drops)))
    }
}

fn counts(drops: &api::Drops) -> Table {
    let mut counts = table(&["REASON", "PACKETS", "MEANING"]);
    text::align_right(&mut counts, 1..2);
    for reason in DropReason::ALL {
        let count = drops.0.get(reason.name()).map_or_else(|| "-".to_owned(), u64::to_string);
        counts.add_row([reason.name(), &count, reason.help()]);
    }
    for (name, count) in drops.0.iter().filter(|(name, _)| !is_known(name)) {
        counts.add_row([name, &count.to_string(), "a reason of another version of the daemon"]);
    }
    counts.add_row(["total", &drops.total().to_string(), ""]);
    counts
}

fn is_known(name: &str) -> bool {
    DropReason::ALL.iter().any(|reason| reason.name() == name)
}
