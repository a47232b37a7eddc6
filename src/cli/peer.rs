//! `underpass peer`: who is known, and making nodes known at run time.

use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU16;

use clap::{Args, Subcommand};
use comfy_table::Table;

use super::connection::ClientArgs;
use super::text::{self, table};
use crate::api::{self, ErrorCode, NewPeer, PeerDeleted, PeerStatus};
use crate::client::{ClientError, Target};
use crate::net::NodeName;

/// Show the other nodes, make one known or forget it
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  underpass peer list
  underpass peer add node-d 192.0.2.4 --subnet 10.244.4.0/24
  underpass peer del node-d")]
pub(super) struct Peer {
    #[command(subcommand)]
    command: PeerCommand,
}

#[derive(Debug, Subcommand)]
enum PeerCommand {
    /// List all peers
    #[command(after_help = "Examples:
  underpass peer list
  underpass peer list -o json | jq -r '.[].name'")]
    List {
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Make a node known until the daemon ends
    #[command(after_help = "The subnets become control routes. Returns when packets see the change.
With --replace a node that is known already is changed to what is given, all of
it: an option that is left out is as if it had never been given. It keeps its
counters, and what stays the same loses no packet.

Examples:
  underpass peer add node-d 192.0.2.4
  underpass peer add node-d 192.0.2.4 --subnet 10.244.4.0/24 \\
      --subnet fd00:10:244:4::/64
  underpass peer add node-d 192.0.2.4 --address6 2001:db8::4
  underpass peer add --replace node-d 192.0.2.5 --subnet 10.244.4.0/24
  underpass peer add node-d 192.0.2.4 --also-from 192.0.2.14 \\
      --sends-for 10.8.0.0/24")]
    Add {
        /// The node's name
        name: NodeName,
        /// Its underlay address
        address: IpAddr,
        /// Its IPv6 underlay address, where the other one is IPv4
        #[arg(long, value_name = "ADDRESS")]
        address6: Option<Ipv6Addr>,
        /// A further underlay address that it sends from; may be given several times
        #[arg(long, value_name = "ADDRESS")]
        also_from: Vec<IpAddr>,
        /// A subnet of its pods; may be given several times
        #[arg(long = "subnet", value_name = "PREFIX")]
        subnets: Vec<String>,
        /// A prefix that it may send from beside its subnets; may be given several times
        #[arg(long, value_name = "PREFIX")]
        sends_for: Vec<String>,
        /// UDP port of VXLAN there; by default this node's
        #[arg(long)]
        port: Option<NonZeroU16>,
        /// Ethernet address inside VXLAN packets to it; by default made of its name
        #[arg(long, value_name = "MAC")]
        vtep_mac: Option<String>,
        /// Change a node of that name that is known already
        #[arg(long)]
        replace: bool,
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Forget a node and its routes
    #[command(after_help = "A peer of the configuration is back after the next start.

Examples:
  underpass peer del node-d
  underpass peer del --ignore-missing node-d")]
    Del {
        /// The node's name
        name: NodeName,
        /// Succeed where there is no such node
        #[arg(long)]
        ignore_missing: bool,
        #[command(flatten)]
        client: ClientArgs,
    },
}

impl Peer {
    pub(super) fn execute(self) -> anyhow::Result<()> {
        match self.command {
            PeerCommand::List { client } => {
                let peers: Vec<PeerStatus> = client.get(&Target::new(api::PEERS))?;
                client.print(&peers, |peers| text::lines(&list(peers)))
            }
            PeerCommand::Add {
                name,
                address,
                address6,
                also_from,
                subnets,
                sends_for,
                port,
                vtep_mac,
                replace,
                client,
            } => {
                let name = name.to_string();
                let peer = NewPeer { name, address, address6, also_from, subnets, sends_for, port, vtep_mac };
                let target = Target::new(api::PEERS).with("wait", "true");
                let target = if replace { target.with("replace", "true") } else { target };
                let added: PeerStatus = client.client().post(&target, &peer)?;
                client.print(&added, |_| String::new())
            }
            PeerCommand::Del { name, ignore_missing, client } => {
                // A node's name has only characters that a path may have.
                let path = api::PEER.replace("{name}", name.as_str());
                let deleted = client.client().delete(&Target::new(path).with("wait", "true"));
                let deleted: Option<PeerDeleted> = match deleted {
                    Err(error) if ignore_missing && is_missing(&error) => None,
                    done => Some(done?),
                };
                client.print(&deleted, |_| String::new())
            }
        }
    }
}

/// Whether the daemon says that there is no such node.
fn is_missing(error: &ClientError) -> bool {
    matches!(error, ClientError::Refused { code, .. } if code == ErrorCode::NotFound.name())
}

fn list(peers: &[PeerStatus]) -> Table {
    let mut list = table(&["PEER", "ADDRESS", "VTEP MAC", "RX", "TX", "DROPPED", "SUBNETS"]);
    for peer in peers {
        let second = peer.address6.map(|address| format!(", {address}")).unwrap_or_default();
        let also: String = peer.also_from.iter().map(|address| format!(", from {address}")).collect();
        let sends_for: String = peer.sends_for.iter().map(|prefix| format!(", from {prefix}")).collect();
        let (traffic, subnets) = (peer.counters, peer.subnets.join(", ") + &sends_for);
        list.add_row([
            &peer.name,
            &format!("{}{second}{also}", peer.address),
            &peer.vtep_mac,
            &text::bytes(traffic.rx_bytes),
            &text::bytes(traffic.tx_bytes),
            &(traffic.rx_dropped + traffic.tx_dropped).to_string(),
            &subnets,
        ]);
    }
    list
}
