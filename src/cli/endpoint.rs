//! `underpass endpoint`: the pods of this node.

use clap::{Args, Subcommand};

use super::connection::ClientArgs;
use super::text::{self, table};
use crate::api::{self, Endpoint as Known};
use crate::client::Target;

/// Show the pods of this node, as the CNI plugin has told of them
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  underpass endpoint list
  underpass endpoint list -o json | jq -r '.[].addresses[]'")]
pub(super) struct Endpoint {
    #[command(subcommand)]
    command: EndpointCommand,
}

#[derive(Debug, Subcommand)]
enum EndpointCommand {
    /// List all pods with their addresses
    #[command(after_help = "Examples:
  underpass endpoint list
  underpass endpoint list -o json | jq -r '.[] | select(.pod == \"web-0\")'")]
    List {
        #[command(flatten)]
        client: ClientArgs,
    },
}

impl Endpoint {
    pub(super) fn execute(self) -> anyhow::Result<()> {
        let EndpointCommand::List { client } = self.command;
        let endpoints: Vec<Known> = client.get(&Target::new(api::ENDPOINTS))?;
        client.print(&endpoints, |endpoints| {
            let mut list = table(&["NAMESPACE", "POD", "ADDRESSES", "INTERFACE", "CONTAINER", "NETNS"]);
            for one in endpoints {
                let addresses: Vec<String> = one.addresses.iter().map(ToString::to_string).collect();
                let or_dash = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
                list.add_row([
                    or_dash(&one.namespace),
                    or_dash(&one.pod),
                    or_dash(&addresses.join(",")),
                    one.ifname.clone(),
                    one.container_id.chars().take(12).collect(),
                    or_dash(&one.netns),
                ]);
            }
            text::lines(&list)
        })
    }
}
