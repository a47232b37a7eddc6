//! `underpass policy`: what is enforced, and why a packet passes or does not.

mod check;
mod packet;
mod trace;

use clap::{Args, Subcommand};

use super::connection::ClientArgs;
use super::text::{self, table};
use crate::api::{self, PolicyEntry};
use crate::client::Target;
use check::Check;
use trace::Trace;

/// Show network policies, check them, and explain what they say of a packet
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  underpass policy list
  underpass policy check /etc/underpass/policy.d
  underpass policy trace shop/web-0 10.244.2.7 tcp/5432")]
pub(super) struct Policy {
    #[command(subcommand)]
    command: PolicyCommand,
}

#[derive(Debug, Subcommand)]
enum PolicyCommand {
    /// List the policies in the order in which they are looked at
    #[command(after_help = "ENDPOINTS and RULES are for ingress and for egress.

Examples:
  underpass policy list
  underpass policy list -o json | jq '.[] | select(.packets_denied > 0)'")]
    List {
        #[command(flatten)]
        client: ClientArgs,
    },
    Check(Check),
    Trace(Trace),
}

impl Policy {
    pub(super) fn execute(self) -> anyhow::Result<()> {
        match self.command {
            PolicyCommand::List { client } => {
                let policies: Vec<PolicyEntry> = client.get(&Target::new(api::POLICIES))?;
                client.print(&policies, |policies| list(policies))
            }
            PolicyCommand::Check(check) => check.execute(),
            PolicyCommand::Trace(trace) => trace.execute(),
        }
    }
}

fn list(policies: &[PolicyEntry]) -> String {
    let mut list =
        table(&["TIER", "ORDER", "KIND", "NAMESPACE", "NAME", "ENDPOINTS", "RULES", "ALLOWED", "DENIED"]);
    text::align_right(&mut list, 5..9);
    for policy in policies {
        let both = |ingress: usize, egress: usize| format!("{ingress}/{egress}");
        list.add_row([
            policy.tier.clone(),
            policy.order.map_or_else(|| "-".to_owned(), |order| order.to_string()),
            policy.kind.clone(),
            policy.namespace.clone().unwrap_or_else(|| "-".to_owned()),
            policy.name.clone(),
            both(policy.ingress_endpoints, policy.egress_endpoints),
            both(policy.ingress_rules, policy.egress_rules),
            policy.connections_allowed.to_string(),
            policy.packets_denied.to_string(),
        ]);
    }
    text::lines(&list)
}
