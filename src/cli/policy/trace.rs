//! `underpass policy trace`: why a packet passes or does not.

use std::path::PathBuf;

use clap::Args;
use comfy_table::Table;

use super::check::compiled;
use super::packet::Words;
use crate::api::{self, PolicyTrace, TraceSide, TraceTier};
use crate::cli::connection::ClientArgs;
use crate::cli::connections::end;
use crate::cli::out;
use crate::cli::text::{self, table};
use crate::client::Target;
use crate::policy::{End, Known, Question, RuleNumber, protocol_number};

/// Show what policies say of the first packet of a connection, and why
#[derive(Args, Debug)]
#[command(after_help = "SRC and DST are addresses or endpoints, as NAMESPACE/NAME. A packet has to
pass the egress rules of its source, which the node of the source enforces,
and the ingress rules of its destination, which the node of that does.

Examples:
  underpass policy trace shop/web-0 shop/db-0 tcp/5432
  underpass policy trace 10.244.1.2 192.0.2.53 udp/53 -o json | jq .allowed
  underpass policy trace shop/web-0 10.244.2.7 icmp/8.0
  underpass policy trace --offline manifests/ shop/web-0 shop/db-0 tcp/5432")]
pub(super) struct Trace {
    /// Who sends it
    #[arg(value_name = "SRC")]
    source: End,
    /// Whom it is for
    #[arg(value_name = "DST")]
    destination: End,
    /// tcp/PORT, udp/PORT, sctp/PORT, icmp/TYPE, icmp/TYPE.CODE, icmpv6/…, or a protocol's number
    #[arg(value_name = "PACKET")]
    packet: Words,
    /// Answer from a file or directory of manifests, may be repeated, without a daemon
    #[arg(long, value_name = "PATH")]
    offline: Vec<PathBuf>,
    /// The source port
    #[arg(long, value_name = "PORT")]
    source_port: Option<u16>,
    #[command(flatten)]
    client: ClientArgs,
}

impl Trace {
    pub(super) fn execute(self) -> anyhow::Result<()> {
        let trace: PolicyTrace = match &self.offline[..] {
            [] => self.client.get(&self.target())?,
            paths => self.answer(paths)?,
        };
        self.client.print(&trace, render)
    }

    /// The answer of manifests, as if they were all that there is.
    fn answer(&self, paths: &[PathBuf]) -> anyhow::Result<PolicyTrace> {
        let compiled = compiled(paths, Known::Cluster)?;
        let Words { protocol, port, icmp_type, icmp_code } = &self.packet;
        let question = Question {
            source: self.source.clone(),
            destination: self.destination.clone(),
            protocol: protocol_number(protocol).map_err(anyhow::Error::msg)?,
            port: *port,
            source_port: self.source_port,
            icmp_type: *icmp_type,
            icmp_code: *icmp_code,
        };
        for sentence in &compiled.left_out {
            out::complain(&format!("left out: {sentence}"));
        }
        let mut trace = compiled.explain(&question.tuple(&compiled.world)?);
        for side in [&mut trace.egress, &mut trace.ingress] {
            "offline: which node has an address is not known".clone_into(&mut side.enforcement);
        }
        Ok(trace)
    }

    fn target(&self) -> Target {
        let Words { protocol, port, icmp_type, icmp_code } = &self.packet;
        let target = Target::new(api::POLICY_TRACE)
            .with("source", &self.source.to_string())
            .with("destination", &self.destination.to_string())
            .with("protocol", protocol);
        let numbers = [
            ("port", *port),
            ("source_port", self.source_port),
            ("icmp_type", icmp_type.map(u16::from)),
            ("icmp_code", icmp_code.map(u16::from)),
        ];
        numbers.into_iter().fold(target, |target, (name, number)| match number {
            Some(number) => target.with(name, &number.to_string()),
            None => target,
        })
    }
}

fn render(trace: &PolicyTrace) -> String {
    let mut out = format!("{}: {}\n", packet(trace), verdict(trace.allowed));
    for (name, side) in [("egress", &trace.egress), ("ingress", &trace.ingress)] {
        out.push('\n');
        out.push_str(&text::lines(&one_end(name, side)));
    }
    out
}

/// The packet in a line.
fn packet(trace: &PolicyTrace) -> String {
    let protocol = match (trace.icmp_type, trace.icmp_code) {
        (Some(kind), Some(code)) => format!("{}/{kind}.{code}", trace.protocol),
        _ => trace.protocol.clone(),
    };
    let (source, destination) =
        (end(trace.source, trace.source_port), end(trace.destination, trace.destination_port));
    format!("{protocol} {source} > {destination}")
}

fn verdict(allowed: bool) -> &'static str {
    if allowed { "allowed" } else { "denied" }
}

fn one_end(name: &str, side: &TraceSide) -> Table {
    let mut lines = table(&[]);
    lines.add_row([name, verdict(side.allowed)]);
    let on = side.node.as_ref().map(|node| format!(" on {node}")).unwrap_or_default();
    match &side.endpoint {
        Some(endpoint) => lines.add_row(["endpoint", &format!("{endpoint}, {}{on}", side.address)]),
        None => lines.add_row(["address", &side.address.to_string()]),
    };
    if !side.labels.is_empty() {
        let labels: Vec<String> = side.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        lines.add_row(["labels", &labels.join(", ")]);
    }
    if !side.network_sets.is_empty() {
        lines.add_row(["network sets", &side.network_sets.join(", ")]);
    }
    for tier in &side.tiers {
        let decides = side.decided.by == "rule" && side.decided.tier.as_deref() == Some(&tier.tier);
        add_tier(&mut lines, name == "egress", tier, decides);
    }
    lines.add_row(["decided by", &side.reason]);
    if !side.enforcement.is_empty() {
        lines.add_row(["enforcement", &side.enforcement]);
    }
    lines
}

/// The tier and what its policies say; `decides` where one of its rules ends the search.
fn add_tier(lines: &mut Table, egress: bool, tier: &TraceTier, decides: bool) {
    lines.add_row(["tier", &tier.tier]);
    let mut passed = decides;
    for policy in &tier.policies {
        let matched: Vec<String> = policy
            .matched
            .iter()
            .map(|rule| format!("{} {}", RuleNumber { egress, rule: Some(rule.rule) }, rule.action))
            .collect();
        passed |= policy.matched.iter().any(|rule| rule.action == "Pass");
        let said = if matched.is_empty() { "no rule matches".to_owned() } else { matched.join(", ") };
        lines.add_row(["", &format!("{}: {said}", policy.policy)]);
    }
    if !passed {
        lines.add_row(["", &format!("end of the tier: {}", tier.default_action)]);
    }
}
