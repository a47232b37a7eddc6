//! `[policy]`, `[policy.timeouts]` and `[[endpoint]]` in the file.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use toml::de::DeTable;

use super::diagnostic::{ConfigError, Log};
use super::endpoint::Endpoint;
use super::manifests::Manifests;
use super::policy::{Fragments, PolicyScope, PolicyTimeouts};
use super::reader::{At, Table, boolean, integer_in, word};
use super::schema;
use super::value::absolute;
use crate::policy::{World, compile};

/// Connections that can be remembered, at least and at most.
const CONNECTIONS: (usize, usize) = (1024, 1 << 26);
/// Seconds of a timeout, at most: a year.
const LONGEST: u64 = 31_536_000;
const SCOPES: [(&str, PolicyScope); 2] =
    [(PolicyScope::Overlay.name(), PolicyScope::Overlay), (PolicyScope::All.name(), PolicyScope::All)];
const FRAGMENTS: [(&str, Fragments); 2] = [("judge", Fragments::Judge), ("pass", Fragments::Pass)];

/// The sections. Wherever a value is `None`, what was wrong with it is in the log.
pub(super) struct Policy {
    /// Offset of the section.
    at: usize,
    directory: Option<At<Option<PathBuf>>>,
    scope: Option<At<PolicyScope>>,
    connections: Option<At<usize>>,
    fail_open: Option<At<bool>>,
    default_deny_unknown: Option<At<bool>>,
    fragments: Option<At<Fragments>>,
    timeouts: Option<PolicyTimeouts>,
    endpoints: Vec<Option<Endpoint>>,
    world: World,
}

impl Policy {
    /// The sections of the document, if there is the first.
    pub(super) fn read(root: &DeTable<'_>, log: &mut Log<'_>) -> Option<Self> {
        let table = Table::single(root, &schema::POLICY, log);
        let endpoints = Table::repeated(root, &schema::ENDPOINT, log);
        if !table.is_there() {
            for endpoint in &endpoints {
                let message =
                    "[[endpoint]] without [policy], so no policy would be about it; write [policy] as well";
                log.push(endpoint.at, message);
            }
            return None;
        }
        let (least, most) = CONNECTIONS;
        Some(Self {
            at: table.at,
            directory: table.value_or(log, "directory", None, |v| absolute(v).map(Some)),
            scope: table.value_or(log, "scope", PolicyScope::Overlay, |v| word(v, &SCOPES)),
            connections: table.value_or(log, "connections", super::policy::Policy::CONNECTIONS, |v| {
                integer_in(v, least, most)
            }),
            fail_open: table.value_or(log, "fail_open", false, boolean),
            default_deny_unknown: table.value_or(log, "default_deny_unknown", false, boolean),
            fragments: table.value_or(log, "fragments", Fragments::Judge, |v| word(v, &FRAGMENTS)),
            timeouts: timeouts(&Table::single(root, &schema::POLICY_TIMEOUTS, log), log),
            endpoints: endpoints.iter().map(|table| Endpoint::read(table, log)).collect(),
            world: World::default(),
        })
    }

    /// The directory of manifests, if there is one.
    pub(super) fn directory(&self) -> Option<&Path> {
        self.directory.as_ref()?.value.as_deref()
    }

    /// Takes over what the manifests say, and puts the endpoints of the file beside it. Returns what is wrong with
    /// the manifests.
    pub(super) fn take_manifests(&mut self, manifests: Manifests, log: &mut Log<'_>) -> Vec<ConfigError> {
        let Manifests { world, unreadable, errors, mut places } = manifests;
        if let (Some(reason), Some(directory)) = (unreadable, &self.directory) {
            log.push(directory.at, format!("directory: {reason}"));
        }
        let before = errors.len();
        self.world = world;
        for endpoint in self.endpoints.iter().flatten() {
            endpoint.add(&mut self.world, &mut places, log);
        }
        if before == 0
            && log.is_empty()
            && let Err(reason) = compile(&self.world, 0, None)
        {
            log.push(self.at, reason.to_string());
        }
        errors
    }

    /// The checked section; `None` when anything was wrong.
    pub(super) fn build(self) -> Option<super::policy::Policy> {
        self.endpoints.iter().all(Option::is_some).then_some(())?;
        Some(super::policy::Policy {
            directory: self.directory?.value,
            scope: self.scope?.value,
            connections: self.connections?.value,
            fail_open: self.fail_open?.value,
            default_deny_unknown: self.default_deny_unknown?.value,
            fragments: self.fragments?.value,
            timeouts: self.timeouts?,
            world: Arc::new(self.world),
        })
    }
}

/// `[policy.timeouts]`
fn timeouts(table: &Table<'_>, log: &mut Log<'_>) -> Option<PolicyTimeouts> {
    let default = PolicyTimeouts::default();
    let mut read = |key: &str, default: Duration, least: u64| {
        let seconds = table.value_or(log, key, default.as_secs(), |v| integer_in(v, least, LONGEST));
        seconds.map(|seconds| Duration::from_secs(seconds.value))
    };
    let tcp_established = read("tcp_established", default.tcp_established, 1);
    let tcp_syn = read("tcp_syn", default.tcp_syn, 1);
    let tcp_fin = read("tcp_fin", default.tcp_fin, 1);
    let tcp_time_wait = read("tcp_time_wait", default.tcp_time_wait, 1);
    let tcp_close = read("tcp_close", default.tcp_close, 1);
    let udp = read("udp", default.udp, 1);
    let udp_stream = read("udp_stream", default.udp_stream, 1);
    let icmp = read("icmp", default.icmp, 1);
    let other = read("other", default.other, 1);
    let pick_up = read("pick_up", default.pick_up, 0);
    Some(PolicyTimeouts {
        tcp_established: tcp_established?,
        tcp_syn: tcp_syn?,
        tcp_fin: tcp_fin?,
        tcp_time_wait: tcp_time_wait?,
        tcp_close: tcp_close?,
        udp: udp?,
        udp_stream: udp_stream?,
        icmp: icmp?,
        other: other?,
        pick_up: pick_up?,
    })
}
