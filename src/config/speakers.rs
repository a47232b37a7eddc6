//! Who may send for whom: `sends_for` grants nothing where somebody owns the addresses.

use super::diagnostic::Log;
use super::owners::{Owner, Owners};
use super::raw::Raw;
use super::reader::At;
use crate::net::Prefix;

/// Reports every prefix of `sends_for` that lies inside a subnet: the owner alone sends from there, so the
/// key would have no effect.
pub(super) fn judge(raw: &Raw, owners: &Owners, log: &mut Log<'_>) {
    for prefix in &raw.local_sends_for.items {
        judge_one(prefix, Owner::Local, owners, raw, log);
    }
    for (index, peer) in raw.peers.iter().enumerate() {
        for prefix in &peer.sends_for.items {
            judge_one(prefix, Owner::Peer(index), owners, raw, log);
        }
    }
}

fn judge_one(prefix: &At<Prefix>, who: Owner, owners: &Owners, raw: &Raw, log: &mut Log<'_>) {
    let Some(claim) = owners.around(prefix.value) else { return };
    let around = claim.describe(raw, log);
    let advice = if claim.owner == who {
        "which it may send from anyway; remove it"
    } else {
        "whose owner alone may send from there; remove it"
    };
    log.push(prefix.at, format!("sends_for: {} lies inside {around}, {advice}", prefix.value));
}
