//! The table that masquerades, in nftables' words: written, read, and told from what others made of it.
//!
//! ```text
//! table inet underpass-up0 {
//!   set pods4 { type ipv4_addr; flags interval; elements = { 10.244.0.0/16 } }
//!   set cluster4 { … }
//!   set tunnel-ports { type inet_service; elements = { 4789 } }
//!   chain postrouting {
//!     type nat hook postrouting priority srcnat; policy accept;
//!     oifname "up0" return
//!     meta l4proto { 4, 41, 47 } return
//!     udp dport @tunnel-ports return
//!     ip saddr @pods4 ip daddr != @cluster4 masquerade
//!   }
//! }
//! ```

use std::borrow::Cow;
use std::collections::{BTreeSet, HashSet};
use std::net::IpAddr;

use nftables::batch::Batch;
use nftables::expr::{self, Expression, Meta, MetaKey, NamedExpression, Payload, PayloadField, SetItem};
use nftables::schema::{
    Chain, NfCmd, NfListObject, NfObject, Nftables, Rule, Set, SetFlag, SetType, SetTypeValue, Table,
};
use nftables::stmt::{Match, Operator, Statement};
use nftables::types::{NfChainPolicy, NfChainType, NfFamily, NfHook};

use super::netfilter::Seen;
use super::{Host, nft};
use crate::control::engine::port::{Blind, HostError, NatRules, NatView};
use crate::net::Prefix;

const CHAIN: &str = "postrouting";
/// NF_IP_PRI_NAT_SRC (linux/netfilter_ipv4.h), "srcnat" in nft's words.
const SOURCE_NAT: i32 = 100;
const TUNNEL_PORTS: &str = "tunnel-ports";
/// IP-in-IP, IPv6-in-IP, GRE.
const TUNNELS: [u32; 3] = [4, 41, 47];

impl Host {
    /// Replaces the table by one of these rules, or removes it, in one transaction.
    ///
    /// # Errors
    /// [`HostError::Nft`].
    pub(super) async fn set_nat(&self, table: &str, rules: Option<&NatRules>) -> Result<(), HostError> {
        let mut batch = Batch::new();
        // What is not there cannot be deleted.
        batch.add(table_object(table));
        batch.delete(table_object(table));
        rules.into_iter().flat_map(|rules| objects(table, rules)).for_each(|object| batch.add(object));
        let done = nft::run(&batch.to_nftables()).await;
        let verb = if rules.is_some() { "write" } else { "remove" };
        done.map(drop)
            .map_err(|reason| HostError::Nft { action: format!("{verb} the table {table}"), reason })
    }

    /// What there is in the place of `table`. A table is only read again when the rule set is another one, or where
    /// it could not be read and `again` is set.
    pub(super) async fn nat(&self, table: &str, again: bool) -> NatView {
        let seen = self.netfilter.lock().ok().map(|mut netfilter| netfilter.table(table, again));
        let generation = match seen {
            Some(Seen::Known(view)) => return view,
            Some(Seen::There(generation)) => generation,
            None => return NatView::Unseen(Blind::NoNftables),
        };
        let mut batch = Batch::new();
        batch.add_cmd(NfCmd::List(table_object(table)));
        let view = match nft::run(&batch.to_nftables()).await {
            Ok(text) => read(table, &text).map_or(NatView::Other, NatView::Rules),
            Err(reason) => NatView::Unseen(Blind::Nft(reason)),
        };
        if let Ok(mut netfilter) = self.netfilter.lock() {
            netfilter.remember(table, generation, &view);
        }
        view
    }
}

fn table_object(table: &str) -> NfListObject<'static> {
    NfListObject::Table(Table { family: NfFamily::INet, name: owned(table), handle: None })
}

/// The table with everything in it, each thing behind what it refers to.
fn objects(table: &str, rules: &NatRules) -> Vec<NfListObject<'static>> {
    let mut objects = vec![table_object(table)];
    let families = FAMILIES.map(|family| (family, family.sets(rules)));
    for (family, sets) in families.iter().filter(|(_, [pods, _])| !pods.is_empty()) {
        for (name, prefixes) in family.names().into_iter().zip(sets) {
            let elements = prefixes.iter().copied().map(element);
            let flags = Some(HashSet::from([SetFlag::Interval]));
            objects.push(set(table, &name, family.set_type, flags, elements.collect()));
        }
    }
    let ports = rules.tunnel_ports.iter().map(|port| Expression::Number(u32::from(*port)));
    objects.push(set(table, TUNNEL_PORTS, SetType::InetService, None, ports.collect()));
    objects.push(NfListObject::Chain(Chain {
        family: NfFamily::INet,
        table: owned(table),
        name: CHAIN.into(),
        _type: Some(NfChainType::NAT),
        hook: Some(NfHook::Postrouting),
        prio: Some(SOURCE_NAT),
        policy: Some(NfChainPolicy::Accept),
        ..Chain::default()
    }));
    let tunnels = TUNNELS.map(|number| SetItem::Element(Expression::Number(number)));
    let tunnels = Expression::Named(NamedExpression::Set(tunnels.to_vec()));
    let device = Expression::String(owned(&rules.device));
    let mut add = |statements| objects.push(rule(table, statements));
    add(vec![matches(meta(MetaKey::Oifname), Operator::EQ, device), Statement::Return(None)]);
    add(vec![matches(meta(MetaKey::L4proto), Operator::EQ, tunnels), Statement::Return(None)]);
    let port = matches(field("udp", "dport"), Operator::EQ, reference(TUNNEL_PORTS));
    add(vec![port, Statement::Return(None)]);
    for (family, _) in families.iter().filter(|(_, [pods, _])| !pods.is_empty()) {
        let [pods, cluster] = family.names();
        add(vec![
            matches(field(family.header, "saddr"), Operator::EQ, reference(&pods)),
            matches(field(family.header, "daddr"), Operator::NEQ, reference(&cluster)),
            Statement::Masquerade(None),
        ]);
    }
    objects
}

/// What differs between IPv4 and IPv6.
#[derive(Clone, Copy)]
struct Family {
    header: &'static str,
    number: u8,
    set_type: SetType,
}

const FAMILIES: [Family; 2] = [
    Family { header: "ip", number: 4, set_type: SetType::Ipv4Addr },
    Family { header: "ip6", number: 6, set_type: SetType::Ipv6Addr },
];

impl Family {
    /// The names of the sets of sources and of destinations.
    fn names(self) -> [String; 2] {
        ["pods", "cluster"].map(|name| format!("{name}{}", self.number))
    }

    /// And what is in them.
    fn sets(self, rules: &NatRules) -> [Vec<Prefix>; 2] {
        let of_family = |prefix: &Prefix| prefix.is_ipv4() == (self.number == 4);
        [&rules.pods, &rules.cluster].map(|set| set.iter().copied().filter(of_family).collect())
    }
}

fn set(
    table: &str,
    name: &str,
    set_type: SetType,
    flags: Option<HashSet<SetFlag>>,
    elements: Vec<Expression<'static>>,
) -> NfListObject<'static> {
    NfListObject::Set(Box::new(Set {
        family: NfFamily::INet,
        table: owned(table),
        name: owned(name),
        set_type: SetTypeValue::Single(set_type),
        flags,
        elem: (!elements.is_empty()).then_some(elements.into()),
        ..Set::default()
    }))
}

fn rule(table: &str, statements: Vec<Statement<'static>>) -> NfListObject<'static> {
    NfListObject::Rule(Rule {
        family: NfFamily::INet,
        table: owned(table),
        chain: CHAIN.into(),
        expr: statements.into(),
        ..Rule::default()
    })
}

fn matches(left: Expression<'static>, op: Operator, right: Expression<'static>) -> Statement<'static> {
    Statement::Match(Match { left, right, op })
}

fn meta(key: MetaKey) -> Expression<'static> {
    Expression::Named(NamedExpression::Meta(Meta { key }))
}

fn field(protocol: &'static str, field: &'static str) -> Expression<'static> {
    let field = PayloadField { protocol: protocol.into(), field: field.into() };
    Expression::Named(NamedExpression::Payload(Payload::PayloadField(field)))
}

fn reference(set: &str) -> Expression<'static> {
    Expression::String(format!("@{set}").into())
}

/// A prefix as nft lists it: one that is an address is written as that.
fn element(prefix: Prefix) -> Expression<'static> {
    let address = prefix.address();
    if prefix == Prefix::host(address) {
        return Expression::String(address.to_string().into());
    }
    let addr = Box::new(Expression::String(address.to_string().into()));
    Expression::Named(NamedExpression::Prefix(expr::Prefix { addr, len: prefix.len().into() }))
}

fn owned(text: &str) -> Cow<'static, str> {
    text.to_owned().into()
}

/// The rules that the listed `table` makes; `None` when it is not as the daemon writes it.
fn read(table: &str, listing: &str) -> Option<NatRules> {
    let listed: Nftables<'_> = serde_json::from_str(listing).ok()?;
    let listed: Vec<NfListObject<'_>> = listed.objects.iter().filter_map(without_handle).collect();
    let rules = rules_of(&listed)?;
    let written = objects(table, &rules);
    // Sets, whose order is the kernel's, may be listed in another order than they were written; of rules it matters.
    let (of_rules, others): (Vec<_>, Vec<_>) = listed.iter().partition(|object| is_rule(object));
    let (our_rules, ours): (Vec<_>, Vec<_>) = written.iter().partition(|object| is_rule(object));
    let same = others.len() == ours.len() && ours.iter().all(|object| others.contains(object));
    (same && of_rules == our_rules).then_some(rules)
}

fn is_rule(object: &NfListObject<'_>) -> bool {
    matches!(object, NfListObject::Rule(_))
}

/// The object without the number that the kernel gave it; `None` for what is about the listing.
fn without_handle<'a>(object: &NfObject<'a>) -> Option<NfListObject<'a>> {
    let NfObject::ListObject(object) = object else { return None };
    let mut object = object.clone();
    match &mut object {
        NfListObject::MetainfoObject(_) => return None,
        NfListObject::Table(table) => table.handle = None,
        NfListObject::Chain(chain) => chain.handle = None,
        NfListObject::Rule(rule) => rule.handle = None,
        NfListObject::Set(set) => set.handle = None,
        _ => {}
    }
    Some(object)
}

/// What the sets and the first rule say.
fn rules_of(objects: &[NfListObject<'_>]) -> Option<NatRules> {
    let mut rules = NatRules::default();
    for object in objects {
        match object {
            NfListObject::Set(set) => {
                let elements = set.elem.as_deref().unwrap_or_default();
                let name = set.name.trim_end_matches(['4', '6']);
                match name {
                    "pods" => rules.pods.extend(prefixes(elements)?),
                    "cluster" => rules.cluster.extend(prefixes(elements)?),
                    TUNNEL_PORTS => rules.tunnel_ports = ports(elements)?,
                    _ => return None,
                }
            }
            NfListObject::Rule(rule) if rules.device.is_empty() => {
                let Some(Statement::Match(Match { right: Expression::String(device), .. })) =
                    rule.expr.first()
                else {
                    return None;
                };
                rules.device = device.clone().into_owned();
            }
            _ => {}
        }
    }
    Some(rules)
}

fn prefixes(elements: &[Expression<'_>]) -> Option<BTreeSet<Prefix>> {
    let prefix = |element: &Expression<'_>| match element {
        Expression::String(address) => Some(Prefix::host(address.parse().ok()?)),
        Expression::Named(NamedExpression::Prefix(expr::Prefix { addr, len })) => {
            let Expression::String(address) = addr.as_ref() else { return None };
            Prefix::containing(address.parse::<IpAddr>().ok()?, u8::try_from(*len).ok()?)
        }
        _ => None,
    };
    elements.iter().map(prefix).collect()
}

fn ports(elements: &[Expression<'_>]) -> Option<BTreeSet<u16>> {
    let port = |element: &Expression<'_>| match element {
        Expression::Number(port) => u16::try_from(*port).ok(),
        _ => None,
    };
    elements.iter().map(port).collect()
}

#[cfg(test)]
mod tests;
