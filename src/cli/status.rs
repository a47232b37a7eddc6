//! `underpass status`: the whole daemon at a glance.

use clap::Args;
use comfy_table::Table;

use super::connection::ClientArgs;
use super::text::{self, table};
use crate::api::{self, PeerWay, Traffic};
use crate::client::Target;
use crate::net::Mode;

/// Show what the daemon runs with and what it has carried
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  underpass status
  underpass status -o json | jq .counters.underlay")]
pub(super) struct Status {
    #[command(flatten)]
    client: ClientArgs,
}

impl Status {
    pub(super) fn execute(self) -> anyhow::Result<()> {
        let status: api::Status = self.client.get(&Target::new(api::STATUS))?;
        self.client.print(&status, render)
    }
}

fn render(status: &api::Status) -> String {
    let mut out = text::lines(&overview(status));
    out.push('\n');
    out.push_str(&text::lines(&traffic(status)));
    if !status.peers.is_empty() {
        out.push('\n');
        out.push_str(&text::lines(&peers(status)));
    }
    let paths = direct_paths(status);
    if !paths.is_empty() {
        out.push('\n');
        out.push_str(&text::lines(&paths));
    }
    let ways = ways(status);
    if !ways.is_empty() {
        out.push('\n');
        out.push_str(&text::lines(&ways));
    }
    out
}

fn overview(status: &api::Status) -> Table {
    let mut overview = table(&[]);
    let version = format!("{} {}", status.name, status.version);
    let tunnel = &status.tunnel;
    let address = tunnel.address.map_or_else(String::new, |address| format!(", address {address}"));
    let workers = text::plural(status.workers, "worker");
    overview.add_row(["node", &status.node]);
    overview.add_row(["daemon", &format!("{version}, up {}", text::duration(status.uptime_seconds))]);
    overview.add_row(["tunnel", &format!("{}, mtu {}{address}", tunnel.device, tunnel.mtu)]);
    overview.add_row(["vtep mac", &tunnel.vtep_mac]);
    overview.add_row(["backend", &format!("{}, {workers}", status.backend)]);
    for (index, (name, state)) in status.offloads.iter().enumerate() {
        overview.add_row([if index == 0 { "offloads" } else { "" }, &format!("{name} {state}")]);
    }
    let carried = &status.kernel_path;
    if carried.handed_over > 0 {
        let line = format!(
            "{} carried now, {}",
            text::plural(carried.flows, "flow"),
            text::plural(carried.packets, "packet")
        );
        overview.add_row(["kernel path", &line]);
    }
    for source in &status.sources {
        for (index, line) in source_lines(source).iter().enumerate() {
            overview.add_row([if index == 0 { "source" } else { "" }, line]);
        }
    }
    overview.add_row(["routes", &status.routes.to_string()]);
    let direct = &status.direct;
    if direct.via == "kernel" {
        let line = match direct.pump_routes {
            0 => text::plural(direct.kernel_routes, "route"),
            more => format!("{}, {more} by the pump", text::plural(direct.kernel_routes, "route")),
        };
        overview.add_row(["direct", &format!("via kernel, {line}")]);
    }
    for (index, line) in status.policy.iter().flat_map(policy_lines).enumerate() {
        overview.add_row([if index == 0 { "policy" } else { "" }, &line]);
    }
    overview.add_row(["dropped", &dropped(&status.drops)]);
    if status.hairpinned_packets > 0 {
        let hairpinned =
            format!("{} of local pods judged here", text::plural(status.hairpinned_packets, "packet"));
        overview.add_row(["local", &hairpinned]);
    }
    if status.recut_super_packets > 0 {
        let recut = format!("{} super-packets of unknown segment size", status.recut_super_packets);
        overview.add_row(["cut anew", &recut]);
    }
    for (index, missing) in status.missing.iter().enumerate() {
        let line = format!("{}; run `{}`", missing.what, missing.command);
        overview.add_row([if index == 0 { "missing" } else { "" }, &line]);
    }
    if status.socket_drops > 0 {
        let now = if status.strangers_refused { "; it refuses strangers now" } else { "" };
        overview.add_row([
            "sockets",
            &format!("{} not taken by the kernel{now}", text::plural(status.socket_drops, "packet")),
        ]);
    }
    if !status.stuck_workers.is_empty() {
        let numbers: Vec<_> = status.stuck_workers.iter().map(ToString::to_string).collect();
        overview.add_row(["stuck", &format!("worker {}: no progress", numbers.join(", "))]);
    }
    if status.device_read_errors > 0 {
        let reads = format!("{} reads of the TUN were refused", status.device_read_errors);
        overview.add_row(["errors", &reads]);
    }
    if status.log_lines_lost > 0 {
        let lines = text::plural(status.log_lines_lost, "line");
        overview.add_row(["log", &format!("{lines} lost: stderr was full or not read in time")]);
    }
    overview
}

/// How a source does, and what is wrong with what it says.
fn source_lines(source: &api::SourceStatus) -> Vec<String> {
    let style = if source.style.is_empty() { String::new() } else { format!(" ({})", source.style) };
    let reason = if source.reason.is_empty() { String::new() } else { format!(": {}", source.reason) };
    let holds = match (source.detail.as_str(), source.nodes) {
        ("", 0) => format!(", {}", text::plural(source.routes, "route")),
        ("", nodes) => format!(", {}", text::plural(nodes, "node")),
        // What is said at length is a line of its own.
        _ => String::new(),
    };
    let mut lines = vec![format!("{}{style}{holds}, {}{reason}", source.name, source.state)];
    lines.extend(Some(source.detail.clone()).filter(|detail| !detail.is_empty()));
    lines.extend(source.problems.iter().cloned());
    lines.extend(
        source.refusals.iter().map(|refused| format!("{} is left out: {}", refused.object, refused.reason)),
    );
    let more = source.refused.saturating_sub(source.refusals.len());
    if more > 0 {
        lines.push(format!("and {more} more that are left out"));
    }
    lines
}

/// How network policy does, and what has no part in it.
fn policy_lines(policy: &api::PolicyStatus) -> Vec<String> {
    let policies = match policy.policies {
        1 => "1 policy".to_owned(),
        count => format!("{count} policies"),
    };
    let endpoints = text::plural(policy.endpoints, "endpoint");
    let namespaces = text::plural(policy.namespaces, "namespace");
    let mut lines = vec![
        format!("scope {}, {policies}, {endpoints} in {namespaces}", policy.scope),
        format!("{} of {} connections", policy.connections, policy.connections_capacity),
    ];
    if policy.untracked > 0 {
        let connections = text::plural(policy.untracked, "connection");
        lines.push(format!("{connections} found no room and passed unfollowed"));
    }
    if policy.log_lost > 0 {
        lines.push(format!("{} too many to be logged", text::plural(policy.log_lost, "packet")));
    }
    lines.extend(policy.left_out.iter().map(|sentence| format!("left out: {sentence}")));
    lines
}

/// The total, and the reasons that occurred.
fn dropped(drops: &api::Drops) -> String {
    let occurred: Vec<_> = drops
        .0
        .iter()
        .filter(|(_, count)| **count > 0)
        .map(|(name, count)| format!("{name} {count}"))
        .collect();
    if occurred.is_empty() { "0".to_owned() } else { format!("{} ({})", drops.total(), occurred.join(", ")) }
}

fn traffic(status: &api::Status) -> Table {
    let mut traffic = table(&["EDGE", "RX PACKETS", "RX BYTES", "TX PACKETS", "TX BYTES"]);
    text::align_right(&mut traffic, 1..5);
    traffic.add_row(edge("device", &status.counters.device));
    traffic.add_row(edge("underlay", &status.counters.underlay));
    traffic
}

fn edge(name: &str, edge: &Traffic) -> [String; 5] {
    let rx_bytes = text::bytes(edge.rx_bytes);
    let tx_bytes = text::bytes(edge.tx_bytes);
    [name.to_owned(), edge.rx_packets.to_string(), rx_bytes, edge.tx_packets.to_string(), tx_bytes]
}

fn peers(status: &api::Status) -> Table {
    let mut peers = table(&["PEER", "ADDRESS", "VTEP MAC", "SUBNETS"]);
    for peer in &status.peers {
        let second = peer.address6.map(|address| format!(", {address}")).unwrap_or_default();
        let addresses = format!("{}{second}", peer.address);
        peers.add_row([&peer.name, &addresses, &peer.vtep_mac, &peer.subnets.join(", ")]);
    }
    peers
}

/// The direct paths that are to be verified, and how they do.
fn direct_paths(status: &api::Status) -> Table {
    let mut paths = table(&["PEER", "NEXT HOP", "PACKETS", "DIRECT PATH", "FAILURES", "REASON"]);
    for peer in &status.peers {
        for path in &peer.direct_paths {
            let state = if path.verified { "verified" } else { "unverified" };
            let (next_hop, failures) = (path.next_hop.to_string(), path.failures.to_string());
            paths.add_row([&*peer.name, &next_hop, &path.family, state, &failures, &path.reason]);
        }
    }
    paths
}

/// How super-packets leave towards each peer, and why.
fn ways(status: &api::Status) -> Table {
    let mut ways = table(&["PEER", "INTERFACE", "MODE", "WAY", "REASON"]);
    for peer in &status.peers {
        let Some(uplink) = &peer.uplink else { continue };
        for (mode, way) in [(Mode::Vxlan, &uplink.vxlan), (Mode::Ipip, &uplink.ipip)] {
            if let Some(PeerWay { way, reason }) = way {
                ways.add_row([&peer.name, &uplink.interface, mode.name(), way, reason]);
            }
        }
    }
    ways
}
