//! `underpass connections`: what policies follow, and its end.

use std::net::{IpAddr, SocketAddr};

use clap::{Args, Subcommand};

use super::connection::ClientArgs;
use super::listing;
use super::text::{self, Columns};
use crate::api::{self, ConnectionEntry, ConnectionsFlushed};
use crate::client::Target;

/// Show the connections that policies follow, or forget them
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  underpass connections list --address 10.244.1.2
  underpass connections flush --destination 10.244.2.0/24 --port 5432")]
pub(super) struct Connections {
    #[command(subcommand)]
    command: ConnectionsCommand,
}

#[derive(Debug, Subcommand)]
enum ConnectionsCommand {
    /// List connections, of all workers
    #[command(after_help = "Examples:
  underpass connections list
  underpass connections list --protocol tcp --state established --limit 100
  underpass connections list -o json | jq -r '.[].source' | sort | uniq -c")]
    List {
        #[command(flatten)]
        filter: FilterArgs,
        /// So many, at most
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        limit: Option<u64>,
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Forget connections: their next packets are judged as first ones
    #[command(after_help = "What the rules allow goes on: a packet of TCP may be of a connection that has
begun before, and begins it anew here.

Examples:
  underpass connections flush --address 10.244.1.2
  underpass connections flush --all")]
    Flush {
        #[command(flatten)]
        filter: FilterArgs,
        /// All of them
        #[arg(
            long,
            required_unless_present_any = FILTERS,
            conflicts_with_all = FILTERS
        )]
        all: bool,
        #[command(flatten)]
        client: ClientArgs,
    },
}

/// The arguments of [`FilterArgs`].
const FILTERS: [&str; 6] = ["address", "source", "destination", "protocol", "port", "state"];

/// Which connections.
#[derive(Args, Debug)]
struct FilterArgs {
    /// Those with an end that is this address, or in this prefix
    #[arg(long, value_name = "ADDR")]
    address: Option<String>,
    /// Those that this address began, or one in this prefix
    #[arg(long, value_name = "ADDR")]
    source: Option<String>,
    /// Those to this address, or to one in this prefix
    #[arg(long, value_name = "ADDR")]
    destination: Option<String>,
    /// Those of a protocol: tcp, udp, sctp, icmp, icmpv6, or a number
    #[arg(long, value_name = "PROTO")]
    protocol: Option<String>,
    /// Those with this port at either end
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
    /// Those in a state: unanswered, answered, established, closing, time_wait, closed, denied
    #[arg(long, value_name = "STATE")]
    state: Option<String>,
}

impl FilterArgs {
    fn target(&self) -> Target {
        let port = self.port.map(|port| port.to_string());
        let given = [&self.address, &self.source, &self.destination, &self.protocol, &port, &self.state];
        let target = Target::new(api::CONNECTIONS);
        FILTERS.iter().zip(given).fold(target, |target, (name, value)| match value {
            Some(value) => target.with(name, value),
            None => target,
        })
    }
}

impl Connections {
    pub(super) fn execute(self) -> anyhow::Result<()> {
        match self.command {
            ConnectionsCommand::List { filter, limit, client } => {
                let target = filter.target();
                let target = match limit {
                    Some(limit) => target.with("limit", &limit.to_string()),
                    None => target,
                };
                list(&client, &target)
            }
            ConnectionsCommand::Flush { filter, all, client } => {
                let target = if all { filter.target().with("all", "true") } else { filter.target() };
                let done: ConnectionsFlushed = client.client().delete(&target)?;
                client
                    .print(&done, |done| format!("forgotten: {}\n", text::plural(done.flushed, "connection")))
            }
        }
    }
}

fn list(client: &ClientArgs, target: &Target) -> anyhow::Result<()> {
    if client.is_json() {
        return Ok(client.client().pieces(target, super::out::write_piece)?);
    }
    let header = ["PROTOCOL", "SOURCE", "DESTINATION", "STATE", "AGE", "EXPIRES", "WORKER"];
    let table = Columns::new(&header, 4..7);
    Ok(listing::table(&client.client(), target, table, row)?)
}

fn row(one: ConnectionEntry) -> [String; 7] {
    let protocol = match one.icmp_type {
        Some(kind) => format!("{}/{kind}", one.protocol),
        None => one.protocol,
    };
    [
        protocol,
        end(one.source, one.source_port),
        end(one.destination, one.destination_port),
        one.state,
        text::duration(one.age_seconds.into()),
        text::duration(one.expires_in_seconds.into()),
        if one.in_kernel { format!("{}, kernel", one.worker) } else { one.worker.to_string() },
    ]
}

/// An address, with its port if it has one.
pub(super) fn end(address: IpAddr, port: Option<u16>) -> String {
    port.map_or_else(|| address.to_string(), |port| SocketAddr::new(address, port).to_string())
}
