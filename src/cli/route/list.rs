//! `underpass route list`, for however many routes.

use clap::{Args, ValueEnum};

use crate::api::{self, RouteEntry};
use crate::cli::text::{self, Columns};
use crate::cli::{listing, out};
use crate::client::{Client, ClientError, Target};

/// What `route list` takes beside the socket.
#[derive(Args, Debug)]
#[group(skip)]
pub(in crate::cli) struct List {
    /// All routes of one source, in use or not: local, static, control, kernel, kubernetes, etcd
    #[arg(long, value_name = "SOURCE")]
    source: Option<String>,
    #[arg(
        short,
        long,
        value_name = "FORMAT",
        value_enum,
        default_value_t = Output::Text,
        hide_default_value = true,
        hide_possible_values = true,
        help = text::choice(
            "A table for people, JSON for programs, or lines that `route add --file` reads",
            Some(&Output::Text),
        )
    )]
    output: Output,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Output {
    Text,
    Json,
    Lines,
}

impl List {
    /// Prints the list while it arrives.
    pub(in crate::cli) fn execute(&self, client: &Client) -> Result<(), ClientError> {
        let format = if self.output == Output::Lines { "text" } else { "json" };
        let mut target = Target::new(api::ROUTES).with("format", format);
        if let Some(source) = &self.source {
            target = target.with("source", source);
        }
        if self.output != Output::Text {
            return client.pieces(&target, out::write_piece);
        }
        let table = Columns::new(&["PREFIX", "PEER", "MODE", "NEXT HOP", "MTU", "SOURCE"], 4..5);
        listing::table(client, &target, table, row)
    }
}

fn row(route: RouteEntry) -> [String; 6] {
    let (peer, next_hop) = (peers(&route), next_hops(&route));
    [route.prefix, peer, route.mode.name().to_owned(), next_hop, route.mtu.to_string(), route.source]
}

/// The nodes of a route.
pub(in crate::cli) fn peers(route: &RouteEntry) -> String {
    match &route.next_hops[..] {
        [] => route.peer.clone().unwrap_or_else(|| "-".to_owned()),
        hops => hops.iter().map(|hop| hop.peer.as_str()).collect::<Vec<_>>().join(","),
    }
}

/// Their addresses.
pub(in crate::cli) fn next_hops(route: &RouteEntry) -> String {
    match &route.next_hops[..] {
        [] => route.next_hop.map_or_else(|| "-".to_owned(), |address| address.to_string()),
        hops => hops.iter().map(|hop| hop.address.to_string()).collect::<Vec<_>>().join(","),
    }
}
