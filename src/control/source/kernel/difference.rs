//! What the kernel's routes say, compared with what the engine follows of them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::table::RouteTable;
use crate::control::engine::Snapshot;
use crate::control::engine::edits::batch::{Batch, Places};
use crate::net::Prefix;
use crate::route::Source;

/// What is to be changed, and what cannot be used.
#[derive(Debug)]
pub struct Difference {
    /// Changes of the routes of [`Source::Kernel`].
    pub batch: Batch,
    /// Routes that cannot be used, or not as a whole, and why.
    pub refused: BTreeMap<Prefix, String>,
    /// Next hops that are no peers and may become some.
    pub strangers: BTreeSet<IpAddr>,
}

/// Compares the routes of `table` to `prefixes` with what `snapshot` says that is followed. `implicit`: which next hops
/// may become peers.
pub fn difference(
    table: &RouteTable,
    snapshot: &Snapshot,
    prefixes: impl IntoIterator<Item = Prefix>,
    implicit: &[Prefix],
) -> Difference {
    let mut found =
        Difference { batch: Batch::new(Places::Alone), refused: BTreeMap::new(), strangers: BTreeSet::new() };
    for prefix in prefixes {
        let names = table.next_hops(prefix).and_then(|hops| found.names(snapshot, prefix, hops, implicit));
        let followed = snapshot.owners(prefix, Source::Kernel);
        match (names, followed) {
            (None, Some(_)) => found.batch.del(prefix, 0),
            (Some(names), followed) if followed.as_ref() != Some(&names) => {
                let names: Vec<&str> = names.into_iter().collect();
                if let Err(full) = found.batch.add(prefix, &names.join(","), None, 0) {
                    found.refused.insert(prefix, full.to_string());
                }
            }
            _ => {}
        }
    }
    found
}

impl Difference {
    /// The peers that `hops` are, if there is one among them.
    fn names<'a>(
        &mut self,
        snapshot: &'a Snapshot,
        prefix: Prefix,
        hops: &[IpAddr],
        implicit: &[Prefix],
    ) -> Option<BTreeSet<&'a str>> {
        let mut names = BTreeSet::new();
        let mut wrong = hops.is_empty().then(|| "it has no next hop; only a node has pods".to_owned());
        for hop in hops {
            match snapshot.peer_at(*hop) {
                Some(Some(peer)) => drop(names.insert(peer)),
                Some(None) => wrong = Some(format!("its next hop {hop} is this node itself")),
                None if implicit.iter().any(|prefix| prefix.contains(*hop)) => {
                    self.strangers.insert(*hop);
                }
                None => {
                    wrong = Some(format!(
                        "its next hop {hop} is no peer; make it known, or let it be by `implicit_peers` under \
                         [source.kernel]"
                    ));
                }
            }
        }
        self.refused.extend(wrong.map(|reason| (prefix, reason)));
        (!names.is_empty()).then_some(names)
    }
}
