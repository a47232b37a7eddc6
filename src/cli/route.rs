//! `underpass route`: the forwarding table, whole or for one destination.

use std::net::IpAddr;

use clap::{Args, Subcommand};
use comfy_table::Table;

use super::client::ClientArgs;
use super::text::{self, table};
use crate::control::api::{self, RouteEntry};

/// Show routes and explain how a destination is reached
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  underpass route list
  underpass route get 10.244.2.7")]
pub(super) struct Route {
    #[command(subcommand)]
    command: RouteCommand,
}

#[derive(Debug, Subcommand)]
enum RouteCommand {
    /// List all routes
    #[command(after_help = "Examples:
  underpass route list
  underpass route list -o json | jq -r '.[].prefix'")]
    List {
        #[command(flatten)]
        client: ClientArgs,
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
}

impl Route {
    pub(super) fn execute(self) -> anyhow::Result<()> {
        match self.command {
            RouteCommand::List { client } => {
                let routes: Vec<RouteEntry> = client.get(api::ROUTES)?;
                client.print(&routes, |routes| text::lines(&list(routes)))
            }
            RouteCommand::Get { address, client } => {
                let route: RouteEntry = client.get(&format!("{}?address={address}", api::ROUTE_GET))?;
                client.print(&route, |route| text::lines(&details(route)))
            }
        }
    }
}

fn list(routes: &[RouteEntry]) -> Table {
    let mut list = table(&["PREFIX", "PEER", "MODE", "NEXT HOP", "MTU", "SOURCE"]);
    text::align_right(&mut list, 4..5);
    for route in routes {
        let mtu = route.mtu.to_string();
        list.add_row([&route.prefix, peer(route), route.mode.name(), &next_hop(route), &mtu, &route.source]);
    }
    list
}

fn details(route: &RouteEntry) -> Table {
    let mut details = table(&[]);
    details.add_row(["prefix", &route.prefix]);
    details.add_row(["peer", peer(route)]);
    details.add_row(["mode", route.mode.name()]);
    details.add_row(["next hop", &next_hop(route)]);
    details.add_row(["mtu", &route.mtu.to_string()]);
    details.add_row(["source", &route.source]);
    details.add_row(["reason", &route.reason]);
    details
}

fn peer(route: &RouteEntry) -> &str {
    route.peer.as_deref().unwrap_or("-")
}

fn next_hop(route: &RouteEntry) -> String {
    route.next_hop.map_or_else(|| "-".to_owned(), |address| address.to_string())
}
