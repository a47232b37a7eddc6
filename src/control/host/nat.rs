//! The table that masquerades, in nftables' words: written, read, and told from what others made of it.
//!
//! ```text
//! table inet underpass-up0 {
//!   chain postrouting {
//!     type nat hook postrouting priority srcnat; policy accept;
//!     oifname "up0" return
//!     meta l4proto { 4, 41, 47 } return
//!     udp dport 4789 return
//!     ip saddr 10.244.0.0/16 ip daddr != { 10.244.0.0/16, 172.16.1.0/24 } masquerade
//!   }
//!   chain prerouting {                         where pods' packets come by the TUN before they leave
//!     type filter hook prerouting priority raw; policy accept;
//!     iifname "up0" ip saddr 10.244.0.0/16 ip daddr != { 10.244.0.0/16, 172.16.1.0/24 } ct original zone set 117
//!   }
//! }
//! ```
//!
//! All sets are anonymous: nft 1.0.6 crashes on named ones that a newer nft has made, in whatever table, and the nft of
//! the daemon's image is another one than the host's.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::{IpSubnets, Ipv4Subnets, Ipv6Subnets};
use nftables::batch::Batch;
use nftables::expr::{
    self, CT, CTDir, Expression, Meta, MetaKey, NamedExpression, Payload, PayloadField, SetItem,
};
use nftables::schema::{Chain, NfCmd, NfListObject, NfObject, Nftables, Rule, Table};
use nftables::stmt::{Mangle, Match, Operator, Statement};
use nftables::types::{NfChainPolicy, NfChainType, NfFamily, NfHook};

use super::netfilter::Seen;
use super::{Host, nft};
use crate::control::engine::port::{Blind, HostError, NatRules, NatView};
use crate::net::Prefix;

const POSTROUTING: &str = "postrouting";
const PREROUTING: &str = "prerouting";
/// NF_IP_PRI_NAT_SRC (linux/netfilter_ipv4.h), "srcnat" in nft's words.
const SOURCE_NAT: i32 = 100;
/// NF_IP_PRI_RAW, before connections are looked up.
const RAW: i32 = -300;

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
    NfListObject::Table(Table { family: NfFamily::INet, name: table.to_owned().into(), handle: None })
}

/// The table and its chains.
fn head(table: &str, rules: &NatRules) -> Vec<NfListObject<'static>> {
    let chain = |name: &'static str, kind, hook, prio| {
        NfListObject::Chain(Chain {
            family: NfFamily::INet,
            table: table.to_owned().into(),
            name: name.into(),
            _type: Some(kind),
            hook: Some(hook),
            prio: Some(prio),
            policy: Some(NfChainPolicy::Accept),
            ..Chain::default()
        })
    };
    let nat = chain(POSTROUTING, NfChainType::NAT, NfHook::Postrouting, SOURCE_NAT);
    let zone = || chain(PREROUTING, NfChainType::Filter, NfHook::Prerouting, RAW);
    [table_object(table), nat].into_iter().chain(rules.by_tun.then(zone)).collect()
}

/// The table with everything in it, in the order in which it is made.
fn objects(table: &str, rules: &NatRules) -> Vec<NfListObject<'static>> {
    let rule = |line: Line| {
        NfListObject::Rule(Rule {
            family: NfFamily::INet,
            table: table.to_owned().into(),
            chain: line.chain().into(),
            expr: line.statements().into(),
            ..Rule::default()
        })
    };
    head(table, rules).into_iter().chain(lines(rules).into_iter().map(rule)).collect()
}

/// One rule.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Line {
    /// What the kernel leads into this device is left alone,
    Device(String),
    /// and so are these protocols,
    Protocols(BTreeSet<u32>),
    /// and these UDP ports.
    Ports(BTreeSet<u32>),
    /// The rest is masqueraded from the first to where the second are not.
    Masquerade(Family, BTreeSet<Prefix>, BTreeSet<Prefix>),
    /// What comes out of this device likewise is a connection of its own.
    Zone(String, Family, BTreeSet<Prefix>, BTreeSet<Prefix>),
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Family {
    V4,
    V6,
}

impl Family {
    const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// The name of the header.
    fn header(self) -> &'static str {
        match self {
            Self::V4 => "ip",
            Self::V6 => "ip6",
        }
    }

    fn of(self, prefixes: &BTreeSet<Prefix>) -> BTreeSet<Prefix> {
        prefixes.iter().copied().filter(|prefix| prefix.is_ipv4() == (self == Self::V4)).collect()
    }
}

/// All that `rules` say.
fn lines(rules: &NatRules) -> Vec<Line> {
    let mut lines = vec![
        Line::Device(rules.device.clone()),
        Line::Protocols(NatRules::TUNNELS.into()),
        Line::Ports(rules.tunnel_ports.iter().copied().map(u32::from).collect()),
    ];
    let both = Family::BOTH.map(|family| (family, family.of(&rules.pods), family.of(&rules.cluster)));
    let both = both.into_iter().filter(|(_, pods, _)| !pods.is_empty());
    let masquerade = |(family, pods, cluster)| Line::Masquerade(family, pods, cluster);
    lines.extend(both.clone().map(masquerade));
    let zone = |(family, pods, cluster)| Line::Zone(rules.device.clone(), family, pods, cluster);
    lines.extend(both.filter(|_| rules.by_tun).map(zone));
    lines
}

// --- writing --------------------------------------------------------------------------------------------------

impl Line {
    fn chain(&self) -> &'static str {
        if matches!(self, Self::Zone(..)) { PREROUTING } else { POSTROUTING }
    }

    fn statements(self) -> Vec<Statement<'static>> {
        let numbers = |numbers: BTreeSet<u32>| any_of(numbers.into_iter().map(Expression::Number));
        let prefixes = |prefixes: BTreeSet<Prefix>| any_of(prefixes.into_iter().map(element));
        match self {
            Self::Device(name) => vec![
                matches(meta(MetaKey::Oifname), Operator::EQ, Expression::String(name.into())),
                Statement::Return(None),
            ],
            Self::Protocols(protocols) => vec![
                matches(meta(MetaKey::L4proto), Operator::EQ, numbers(protocols)),
                Statement::Return(None),
            ],
            Self::Ports(ports) => {
                vec![matches(field("udp", "dport"), Operator::EQ, numbers(ports)), Statement::Return(None)]
            }
            Self::Masquerade(family, pods, cluster) => vec![
                matches(field(family.header(), "saddr"), Operator::EQ, prefixes(pods)),
                matches(field(family.header(), "daddr"), Operator::NEQ, prefixes(cluster)),
                Statement::Masquerade(None),
            ],
            Self::Zone(name, family, pods, cluster) => vec![
                matches(meta(MetaKey::Iifname), Operator::EQ, Expression::String(name.into())),
                matches(field(family.header(), "saddr"), Operator::EQ, prefixes(pods)),
                matches(field(family.header(), "daddr"), Operator::NEQ, prefixes(cluster)),
                Statement::Mangle(Mangle { key: zone(), value: Expression::Number(NatRules::ZONE.into()) }),
            ],
        }
    }
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

fn zone() -> Expression<'static> {
    Expression::Named(NamedExpression::CT(CT {
        key: "zone".into(),
        family: None,
        dir: Some(CTDir::Original),
    }))
}

fn any_of(elements: impl Iterator<Item = Expression<'static>>) -> Expression<'static> {
    Expression::Named(NamedExpression::Set(elements.map(SetItem::Element).collect()))
}

fn element(prefix: Prefix) -> Expression<'static> {
    let addr = Box::new(Expression::String(prefix.address().to_string().into()));
    Expression::Named(NamedExpression::Prefix(expr::Prefix { addr, len: prefix.len().into() }))
}

// --- reading --------------------------------------------------------------------------------------------------

/// The rules that the listed `table` makes; `None` when it is not as the daemon writes it.
fn read(table: &str, listing: &str) -> Option<NatRules> {
    let listed: Nftables<'_> = serde_json::from_str(listing).ok()?;
    let mut heads = Vec::new();
    let mut found = Vec::new();
    let mut rules = NatRules::default();
    for object in listed.objects.iter() {
        let NfObject::ListObject(object) = object else { return None };
        match object {
            NfListObject::MetainfoObject(_) => {}
            NfListObject::Table(one) => {
                heads.push(NfListObject::Table(Table { handle: None, ..one.clone() }));
            }
            NfListObject::Chain(one) => {
                heads.push(NfListObject::Chain(Chain { handle: None, ..one.clone() }));
            }
            NfListObject::Rule(rule) if rule.comment.is_none() => {
                let line = line(&rule.expr).filter(|line| line.chain() == rule.chain)?;
                take(&line, &mut rules)?;
                found.push(line);
            }
            _ => return None,
        }
    }
    let as_written = heads == head(table, &rules) && found == lines(&rules);
    as_written.then_some(rules)
}

/// Adds what `line` says.
fn take(line: &Line, rules: &mut NatRules) -> Option<()> {
    match line {
        Line::Device(name) => rules.device.clone_from(name),
        Line::Protocols(_) => {}
        Line::Ports(ports) => {
            rules.tunnel_ports = ports.iter().map(|port| u16::try_from(*port).ok()).collect::<Option<_>>()?;
        }
        Line::Masquerade(_, pods, cluster) => {
            rules.pods.extend(pods);
            rules.cluster.extend(cluster);
        }
        Line::Zone(..) => rules.by_tun = true,
    }
    Some(())
}

/// What a rule says, if it is one that the daemon writes.
fn line(statements: &[Statement<'_>]) -> Option<Line> {
    match statements {
        [Statement::Match(Match { left, right, op: Operator::EQ }), Statement::Return(None)] => {
            if *left == meta(MetaKey::Oifname) {
                let Expression::String(name) = right else { return None };
                Some(Line::Device(name.clone().into_owned()))
            } else if *left == meta(MetaKey::L4proto) {
                Some(Line::Protocols(numbers(right)?))
            } else if *left == field("udp", "dport") {
                Some(Line::Ports(numbers(right)?))
            } else {
                None
            }
        }
        [
            Statement::Match(Match { left: source, right: pods, op: Operator::EQ }),
            Statement::Match(Match { left: destination, right: cluster, op: Operator::NEQ }),
            Statement::Masquerade(None),
        ] => {
            let family =
                Family::BOTH.into_iter().find(|family| *source == field(family.header(), "saddr"))?;
            let same = *destination == field(family.header(), "daddr");
            same.then(|| Some(Line::Masquerade(family, prefixes(pods)?, prefixes(cluster)?))).flatten()
        }
        [
            Statement::Match(Match { left, right: Expression::String(name), op: Operator::EQ }),
            from @ Statement::Match(_),
            to @ Statement::Match(_),
            Statement::Mangle(Mangle { key, value: Expression::Number(number) }),
        ] if *left == meta(MetaKey::Iifname) && *key == zone() && *number == u32::from(NatRules::ZONE) => {
            match line(&[from.clone(), to.clone(), Statement::Masquerade(None)])? {
                Line::Masquerade(family, pods, cluster) => {
                    Some(Line::Zone(name.clone().into_owned(), family, pods, cluster))
                }
                _ => None,
            }
        }
        _ => None,
    }
}

/// The elements of a set; nft lists the only one of a set as itself.
fn elements<'a, 'b>(set: &'a Expression<'b>) -> Option<Vec<&'a Expression<'b>>> {
    let Expression::Named(NamedExpression::Set(items)) = set else { return Some(vec![set]) };
    let element = |item: &'a SetItem<'b>| match item {
        SetItem::Element(element) => Some(element),
        _ => None,
    };
    items.iter().map(element).collect()
}

fn numbers(set: &Expression<'_>) -> Option<BTreeSet<u32>> {
    let number = |element: &Expression<'_>| match element {
        Expression::Number(number) => Some(*number),
        _ => None,
    };
    elements(set)?.into_iter().map(number).collect()
}

/// Neighbours are listed as one range, so the fewest prefixes are what can be compared.
fn prefixes(set: &Expression<'_>) -> Option<BTreeSet<Prefix>> {
    let mut found = Vec::new();
    for element in elements(set)? {
        match element {
            Expression::Named(NamedExpression::Prefix(expr::Prefix { addr, len })) => {
                found.push(Prefix::containing(address(addr)?, u8::try_from(*len).ok()?)?);
            }
            Expression::Range(range) => {
                let [first, last] = [address(&range.range[0])?, address(&range.range[1])?];
                let inside = match (first, last) {
                    (IpAddr::V4(first), IpAddr::V4(last)) => {
                        IpSubnets::from(Ipv4Subnets::new(first, last, 0))
                    }
                    (IpAddr::V6(first), IpAddr::V6(last)) => {
                        IpSubnets::from(Ipv6Subnets::new(first, last, 0))
                    }
                    _ => return None,
                };
                found.extend(inside.filter_map(|net| Prefix::containing(net.addr(), net.prefix_len())));
            }
            other => found.push(Prefix::host(address(other)?)),
        }
    }
    Some(Prefix::aggregate(found))
}

fn address(expression: &Expression<'_>) -> Option<IpAddr> {
    match expression {
        Expression::String(text) => text.parse().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
