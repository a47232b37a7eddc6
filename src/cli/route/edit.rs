//! `underpass route`: where packets go and why, and where they shall go.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use comfy_table::Table;

use super::list::{List, next_hops, peers};
use crate::api::{self, CandidateRoute, NewRoute, RouteChanges, RouteEntry, RoutesChanged};
use crate::cli::connection::{ClientArgs, SocketArgs};
use crate::cli::text::{self, table};
use crate::client::{Client, ClientError, Target};
use crate::net::{NodeName, Prefix};

/// Show routes, explain how a destination is reached, and change routes
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  underpass route list
  underpass route get 10.244.2.7
  underpass route add 10.9.0.0/24 --via node-b
  underpass route replace --file routes.txt")]
pub(in crate::cli) struct Route {
    #[command(subcommand)]
    command: RouteCommand,
}

#[derive(Debug, Subcommand)]
enum RouteCommand {
    /// List all routes
    #[command(after_help = "Examples:
  underpass route list
  underpass route list -o json | jq -r '.[].prefix'
  underpass route list --source control -o lines > routes.txt")]
    List {
        #[command(flatten)]
        list: List,
        #[command(flatten)]
        socket: SocketArgs,
    },
    /// Show the route that packets to an address take, and why
    #[command(after_help = "Exits with 1 when there is no route.

Examples:
  underpass route get 10.244.2.7
  underpass route get 10.244.2.7 -o json | jq -r .mode")]
    Get {
        /// An IPv4 or IPv6 address
        #[arg(value_name = "ADDR")]
        address: IpAddr,
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Add routes, or replace those of the same prefixes
    #[command(after_help = FILE_HELP)]
    Add {
        /// The addresses
        #[arg(value_name = "PREFIX", required_unless_present = "file")]
        prefix: Option<Prefix>,
        /// The node that owns them; several share them at equal cost
        #[arg(long, value_name = "PEER", required_unless_present = "file")]
        via: Vec<NodeName>,
        /// Bytes of the largest packet the route may carry
        #[arg(long, value_name = "BYTES", requires = "prefix")]
        mtu: Option<u16>,
        /// Make all changes of a file, or of standard input (-), or none
        #[arg(long, value_name = "FILE", conflicts_with_all = ["prefix", "via", "mtu"])]
        file: Option<PathBuf>,
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Delete control routes
    #[command(after_help = "A line of the file holds a prefix; what follows it means nothing here.

Examples:
  underpass route del 10.9.0.0/24
  underpass route list --source control -o lines | underpass route del --file -")]
    Del {
        /// The addresses
        #[arg(value_name = "PREFIX", required_unless_present = "file")]
        prefix: Option<Prefix>,
        /// Delete the routes of a file, or of standard input (-), or none
        #[arg(long, value_name = "FILE", conflicts_with = "prefix")]
        file: Option<PathBuf>,
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Replace all control routes
    #[command(after_help = "Lines are as for `route add --file`; `del` means nothing here.

Examples:
  underpass route replace --file routes.txt
  underpass route replace --file - < /dev/null")]
    Replace {
        /// The new routes; - is standard input
        #[arg(long, value_name = "FILE")]
        file: PathBuf,
        #[command(flatten)]
        client: ClientArgs,
    },
}

const FILE_HELP: &str = "Returns when packets see the change. A file has one change a line:

  # a comment
  10.9.0.0/24 via node-b
  10.9.1.0/24 via node-b,node-c mtu 1400
  del 10.8.0.0/24

Examples:
  underpass route add 10.9.0.0/24 --via node-b
  underpass route add 10.9.1.0/24 --via node-b --via node-c --mtu 1400
  underpass route add --file changes.txt";

impl Route {
    pub(in crate::cli) fn execute(self) -> anyhow::Result<()> {
        match self.command {
            RouteCommand::List { list, socket } => Ok(list.execute(&socket.client())?),
            RouteCommand::Get { address, client } => {
                let route: RouteEntry =
                    client.get(&Target::new(api::ROUTE_GET).with("address", &address.to_string()))?;
                client.print(&route, |route| text::lines(&details(route)))
            }
            RouteCommand::Add { file: Some(file), client, .. } => {
                send(&client, |client| client.post_lines(&edits(), &file))
            }
            RouteCommand::Add { prefix, via, mtu, client, .. } => {
                let via = via.iter().map(NodeName::to_string).collect();
                let add = prefix.map(|prefix| NewRoute { prefix: prefix.to_string(), via, mtu });
                change(&client, &RouteChanges { add: add.into_iter().collect(), del: Vec::new() })
            }
            RouteCommand::Del { file: Some(file), client, .. } => {
                send(&client, |client| client.post_lines(&edits().with("delete", "true"), &file))
            }
            RouteCommand::Del { prefix, client, .. } => {
                let del = prefix.iter().map(Prefix::to_string).collect();
                change(&client, &RouteChanges { add: Vec::new(), del })
            }
            RouteCommand::Replace { file, client } => {
                send(&client, |client| client.put_lines(&edits(), &file))
            }
        }
    }
}

/// Makes a few changes.
fn change(client: &ClientArgs, changes: &RouteChanges) -> anyhow::Result<()> {
    let changed: RoutesChanged = client.client().post(&edits(), changes)?;
    client.print(&changed, |_| String::new())
}

/// What changes of routes are for, which return when packets see them.
fn edits() -> Target {
    Target::new(api::ROUTES).with("wait", "true")
}

/// Sends a file of routes, as `send` does it.
fn send(
    client: &ClientArgs,
    send: impl FnOnce(&Client) -> Result<RoutesChanged, ClientError>,
) -> anyhow::Result<()> {
    let changed = send(&client.client())?;
    client.print(&changed, |changed| {
        let (added, deleted) = (text::plural(changed.added, "route"), changed.deleted);
        format!("{added} added, {deleted} deleted, {} in the table\n", changed.routes)
    })
}

fn details(route: &RouteEntry) -> Table {
    let mut details = table(&[]);
    details.add_row(["prefix", &route.prefix]);
    details.add_row(["peer", &peers(route)]);
    details.add_row(["mode", route.mode.name()]);
    details.add_row(["next hop", &next_hops(route)]);
    if let Some(via) = &route.via {
        let why = route.via_reason.as_ref().map_or_else(String::new, |why| format!(": {why}"));
        details.add_row(["via", &format!("{via}{why}")]);
    }
    details.add_row(["mtu", &route.mtu.to_string()]);
    details.add_row(["source", &route.source]);
    details.add_row(["age", &text::duration(route.age_seconds)]);
    details.add_row(["reason", &route.reason]);
    // The first one is the route itself.
    for other in route.candidates.iter().skip(1) {
        details.add_row(["then", &candidate(other)]);
    }
    details
}

fn candidate(route: &CandidateRoute) -> String {
    let peers = if route.peers.is_empty() { "this node".to_owned() } else { route.peers.join(",") };
    format!("{} via {peers}, for {}", route.source, text::duration(route.age_seconds))
}
