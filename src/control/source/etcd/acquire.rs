//! Which subnet this node is to have, by what etcd says: flannel's order.
//!
//! 1. That of a record with this node's address: it was here before.
//! 2. One that it had, as flannel's file or the daemon's own says, where that is free.
//! 3. One that is free, drawn at random among the first ones, so that nodes that begin together seldom meet.
//!
//! A node whose pods have addresses already keeps its subnet, whoever else has it by then: that is said, and nobody's
//! pods change their addresses.

use std::net::Ipv4Addr;

use super::facts::{Facts, Record};
use super::layout::{Layout, Taken};
use super::record::{self, Said};
use crate::control::source::discovered::shown;
use crate::net::Prefix;

/// What is to be done.
#[derive(Debug, PartialEq)]
pub(super) enum Plan {
    /// Take over this node's record, or write it anew.
    Take {
        /// Below `subnets/`.
        key: String,
        /// What it held.
        record: Record,
    },
    /// Make the record of these subnets, unless somebody has done so.
    Claim(Vec<Prefix>),
}

/// What this node wants.
#[derive(Debug)]
pub(super) struct Wish<'a> {
    /// Its IPv4 underlay address.
    pub(super) own: Ipv4Addr,
    /// The subnets that the file gives: IPv4 and IPv6.
    pub(super) given: (Option<Prefix>, Option<Prefix>),
    /// What it had, the most recent first.
    pub(super) previous: &'a [Vec<Prefix>],
    /// Something that nobody can know beforehand.
    pub(super) random: u64,
}

/// The subnet that a node without one is to have.
///
/// # Errors
/// Why there is none for it.
pub(super) fn acquire(facts: &Facts, layout: &Layout, wish: &Wish<'_>) -> Result<Plan, String> {
    let is_wanted = |subnets: &[Prefix]| {
        let [given, given6] = [wish.given.0, wish.given.1];
        let is = |given: Option<Prefix>, at: usize| given.is_none_or(|given| subnets.get(at) == Some(&given));
        let fits = layout.fits(subnets) || (given.is_some() && within(layout, subnets));
        fits && is(given, 0) && (layout.six.is_none() || is(given6, 1))
    };
    for (key, record) in facts.by_age() {
        if is_of(record, wish.own) && record::subnets(key).is_ok_and(|subnets| is_wanted(&subnets)) {
            return Ok(Plan::Take { key: key.to_owned(), record: record.clone() });
        }
    }
    let taken: Taken = others(facts, wish.own).flat_map(|(_, subnets)| subnets).collect();
    if let Some(given) =
        [wish.given.0, wish.given.1].into_iter().flatten().find(|given| !taken.is_free(*given))
    {
        return Err(format!(
            "the subnet {given} of this node's file is that of {}; give another one there, or delete that key",
            owner(facts, given, wish.own)
        ));
    }
    let is_free =
        |subnets: &&Vec<Prefix>| is_wanted(subnets) && subnets.iter().all(|subnet| taken.is_free(*subnet));
    if let Some(previous) = wish.previous.iter().find(is_free) {
        return Ok(Plan::Claim(previous.clone()));
    }
    let draw = |given: Option<Prefix>, range: &super::layout::Range| match given {
        Some(given) if range.network().covers(given) => Ok(given),
        Some(given) => {
            Err(format!("the subnet {given} of this node's file is outside of {}", range.network()))
        }
        None => range.draw(&taken, wish.random).ok_or_else(|| {
            format!("no subnet of {} is free; enlarge the network, or delete records", range.network())
        }),
    };
    let mut subnets = vec![draw(wish.given.0, &layout.four)?];
    if let Some(range) = &layout.six {
        subnets.push(draw(wish.given.1, range)?);
    }
    Ok(Plan::Claim(subnets))
}

/// What a node that has `key` already is to do to keep it.
///
/// # Errors
/// Who has it by now.
pub(super) fn keep(facts: &Facts, key: &str, own: Ipv4Addr) -> Result<Plan, String> {
    let subnets = record::subnets(key)?;
    if let Some(record) = facts.records.get(key) {
        // What nobody can read is nobody's.
        if is_of(record, own) || Said::read(&record.value).is_err() {
            return Ok(Plan::Take { key: key.to_owned(), record: record.clone() });
        }
    }
    let taken: Taken = others(facts, own).flat_map(|(_, subnets)| subnets).collect();
    match subnets.iter().find(|subnet| !taken.is_free(**subnet)) {
        None => Ok(Plan::Claim(subnets)),
        Some(subnet) => Err(format!(
            "the subnet {subnet} of this node is that of {} by now, so others do not reach the pods here; delete that key, \
             or start this daemon and its pods anew",
            owner(facts, *subnet, own)
        )),
    }
}

/// An older record than that of `key` which has a part of the same subnets: then this node came second.
pub(super) fn elder<'a>(facts: &'a Facts, key: &str, own: Ipv4Addr) -> Option<&'a str> {
    let made = facts.records.get(key)?.created;
    let subnets = record::subnets(key).ok()?;
    let touches = |theirs: &[Prefix]| meet(&subnets, theirs);
    let older = |theirs: &str| facts.records.get(theirs).is_some_and(|record| record.created < made);
    others(facts, own).find(|(theirs, subnets)| older(theirs) && touches(subnets)).map(|(theirs, _)| theirs)
}

/// This node's records, but for `key`, that end by themselves: it has left those subnets.
pub(super) fn left_behind<'a>(facts: &'a Facts, key: &str, own: Ipv4Addr) -> Vec<(&'a str, i64)> {
    let all = facts.records.iter().filter(|(other, record)| *other != key && record.lease != 0);
    all.filter(|(_, record)| is_of(record, own))
        .map(|(key, record)| (key.as_str(), record.modified))
        .collect()
}

/// Of these the records that have a part of the subnets of `key`, and are in the way of that.
pub(super) fn in_the_way<'a>(facts: &'a Facts, key: &str, own: Ipv4Addr) -> Vec<(&'a str, i64)> {
    let wanted = record::subnets(key).unwrap_or_default();
    let meets = |theirs: &str| record::subnets(theirs).is_ok_and(|theirs| meet(&wanted, &theirs));
    left_behind(facts, key, own).into_iter().filter(|(theirs, _)| meets(theirs)).collect()
}

/// Whether some address is in both.
fn meet(some: &[Prefix], others: &[Prefix]) -> bool {
    some.iter().any(|one| others.iter().any(|other| one.covers(*other) || other.covers(*one)))
}

/// Whether a record is of the node at `own`.
fn is_of(record: &Record, own: Ipv4Addr) -> bool {
    Said::read(&record.value).is_ok_and(|said| said.is_of(own))
}

/// Records that are not of the node at `own`, with their subnets. What they hold does not matter: a key is a claim.
fn others(facts: &Facts, own: Ipv4Addr) -> impl Iterator<Item = (&str, Vec<Prefix>)> {
    let foreign = facts.records.iter().filter(move |(_, record)| !is_of(record, own));
    foreign.filter_map(|(key, _)| Some((key.as_str(), record::subnets(key).ok()?)))
}

/// Whether `subnets` are those of the network, whatever their lengths.
fn within(layout: &Layout, subnets: &[Prefix]) -> bool {
    let networks = [Some(&layout.four), layout.six.as_ref()].into_iter().flatten();
    let count = networks.clone().count();
    subnets.len() == count && networks.zip(subnets).all(|(range, subnet)| range.network().covers(*subnet))
}

/// Whose record has a part of `subnet`.
fn owner(facts: &Facts, subnet: Prefix, own: Ipv4Addr) -> String {
    let touches = |theirs: &[Prefix]| meet(&[subnet], theirs);
    let Some((key, _)) = others(facts, own).find(|(_, subnets)| touches(subnets)) else {
        return "nobody any more".to_owned();
    };
    let said = facts.records.get(key).and_then(|record| Said::read(&record.value).ok()?.address);
    format!(
        "{} (key subnets/{})",
        said.map_or_else(|| "somebody".to_owned(), |said| shown(&said)),
        shown(key)
    )
}
