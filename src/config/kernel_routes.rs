//! `[source.kernel]`: which routes of the kernel are followed.

use std::fmt::Display;

use toml::de::{DeTable, DeValue};

use super::diagnostic::Log;
use super::reader::{List, Table, integer_in, word};
use super::{schema, value};
use crate::net::Prefix;

/// The main table, which most programs write to (`RT_TABLE_MAIN`).
const MAIN: u32 = 254;
/// Who writes routes that are followed unless others are named.
const USUAL: [u8; 3] = [12, 11, 186];
/// Names of protocols, as in iproute2's `rt_protos`.
const PROTOCOLS: [(&str, u8); 9] = [
    ("bird", 12),
    ("zebra", 11),
    ("bgp", 186),
    ("isis", 187),
    ("ospf", 188),
    ("rip", 189),
    ("babel", 42),
    ("static", 4),
    ("boot", 3),
];

/// The section. What was wrong with it is in the log.
pub(super) struct KernelRoutes {
    tables: List<u32>,
    protocols: List<u8>,
    prefixes: List<Prefix>,
    implicit_peers: List<Prefix>,
}

impl KernelRoutes {
    /// The section of the document, if there is one.
    pub(super) fn read(root: &DeTable<'_>, log: &mut Log<'_>) -> Option<Self> {
        let section = Table::single(root, &schema::KERNEL_ROUTES, log);
        section.is_there().then(|| Self {
            tables: section.list_or_empty(log, "tables", table),
            protocols: section.list_or_empty(log, "protocols", protocol),
            prefixes: section.list_or_empty(log, "prefixes", value::pod_prefix),
            implicit_peers: section.list_or_empty(log, "implicit_peers", value::external_nodes),
        })
    }

    /// The checked section; `None` when anything was wrong.
    pub(super) fn build(self) -> Option<super::KernelRoutes> {
        Some(super::KernelRoutes {
            tables: or_usual(self.tables.build()?, &[MAIN]),
            protocols: or_usual(self.protocols.build()?, &USUAL),
            prefixes: self.prefixes.build()?,
            implicit_peers: self.implicit_peers.build()?,
        })
    }
}

impl super::KernelRoutes {
    /// Whether routes of the main table are followed, where the longest one takes packets whatever this daemon does.
    pub fn has_main(&self) -> bool {
        self.tables.contains(&MAIN)
    }
}

fn or_usual<T: Copy>(given: Vec<T>, usual: &[T]) -> Vec<T> {
    if given.is_empty() { usual.to_vec() } else { given }
}

/// A routing table: its number, or "main".
fn table(value: &DeValue<'_>) -> Result<u32, String> {
    word_or_number(value, &[("main", MAIN)], 1, u32::MAX)
}

/// A routing protocol: its number, or its name.
fn protocol(value: &DeValue<'_>) -> Result<u8, String> {
    match word_or_number(value, &PROTOCOLS, 1, u8::MAX)? {
        number @ (super::KernelRoutes::OWN_PROTOCOL | super::KernelRoutes::DIRECT_PROTOCOL) => {
            Err(format!("{number} is that of this daemon's own routes"))
        }
        number => Ok(number),
    }
}

/// One of `words`, or a number from `low` to `high`.
fn word_or_number<N>(value: &DeValue<'_>, words: &[(&str, N)], low: N, high: N) -> Result<N, String>
where
    N: Copy + TryFrom<i64> + PartialOrd + Display,
{
    match value.as_str() {
        Some(_) => word(value, words).map_err(|reason| format!("{reason}; or write a number")),
        None => integer_in(value, low, high),
    }
}
