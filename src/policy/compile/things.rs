//! What selectors select: endpoints, those that no selector can tell apart as one, and network sets.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::ranges::Ranges;
use super::universe::{Universe, Values};
use crate::policy::model::{
    Endpoint, Labels, Name, NamedPort, NetworkSet, Peer, Policy, PolicyKind, ServiceAccounts,
};
use crate::policy::object::NAMESPACE_NAME_LABELS;
use crate::policy::selector::Selector;
use crate::policy::world::World;

/// Labels of namespaces and service accounts among those of endpoints, as Calico has them.
const NAMESPACE_PREFIX: &str = "pcns.";
const ACCOUNT_PREFIX: &str = "pcsa.";

/// A thing: all endpoints with these labels and ports, or a network set.
pub(super) struct Thing<'w> {
    /// The endpoints; none of a network set.
    pub(super) endpoints: Vec<&'w Endpoint>,
    /// The network set.
    pub(super) set: Option<&'w NetworkSet>,
}

/// All things, those that are endpoints first.
pub(super) struct Things<'w> {
    pub(super) all: Vec<Thing<'w>>,
    /// How many of them are endpoints.
    pub(super) kinds: u32,
    /// How many endpoints there are in the kinds before each, and in all.
    endpoints_before: Vec<usize>,
    labels: Universe,
    spaces: Groups<&'w str>,
    accounts: Groups<Name>,
    /// Places of the accounts with a name, in any namespace.
    accounts_called: HashMap<&'w str, Vec<u32>>,
    /// Things that have a port of this name and protocol, by the port.
    pub(super) ports: HashMap<(&'w str, u8), BTreeMap<u16, Vec<u32>>>,
}

/// Namespaces or service accounts, with what belongs to them.
struct Groups<N> {
    names: BTreeMap<N, u32>,
    labels: Universe,
    /// The things of each, and behind all those of none.
    things: Vec<Ranges>,
}

/// What is asked of a thing.
#[derive(Clone, Copy, Eq, Hash, PartialEq)]
pub(super) struct Asked<'a> {
    selector: Option<&'a Selector>,
    namespaces: Option<&'a Selector>,
    namespace: Option<&'a str>,
    account_names: &'a [String],
    accounts: Option<&'a Selector>,
    only_endpoints: bool,
}

impl<'a> Asked<'a> {
    /// What a peer asks of things; `None` where it asks nothing of them.
    pub(super) fn of_peer(peer: &'a Peer) -> Option<Self> {
        let Peer { selector, namespaces, namespace, service_accounts, only_endpoints, .. } = peer;
        let (account_names, accounts) = match service_accounts {
            Some(ServiceAccounts { names, selector }) => (names.as_slice(), selector.as_ref()),
            None => (&[][..], None),
        };
        let asks = selector.is_some()
            || namespaces.is_some()
            || namespace.is_some()
            || accounts.is_some()
            || !account_names.is_empty();
        asks.then_some(Self {
            selector: selector.as_ref(),
            namespaces: namespaces.as_ref(),
            namespace: namespace.as_deref(),
            account_names,
            accounts,
            only_endpoints: *only_endpoints,
        })
    }

    /// What a selector alone asks of things.
    pub(super) fn of_selector(selector: &'a Selector) -> Self {
        Self {
            selector: Some(selector),
            namespaces: None,
            namespace: None,
            account_names: &[],
            accounts: None,
            only_endpoints: false,
        }
    }

    /// What a policy asks of the endpoints that it is about.
    pub(super) fn of_policy(policy: &'a Policy) -> Self {
        let subject = &policy.subject;
        let is_global = policy.kind == PolicyKind::GlobalNetworkPolicy;
        Self {
            namespaces: subject.namespaces.as_ref(),
            namespace: (!is_global).then(|| policy.name.namespace.as_deref().unwrap_or_default()),
            accounts: subject.service_accounts.as_ref(),
            only_endpoints: true,
            ..Self::of_selector(&subject.selector)
        }
    }
}

impl<'w> Things<'w> {
    /// The things of a world.
    pub(super) fn of(world: &'w World) -> Self {
        // Sorted, so that those of a namespace are one range.
        type Kind<'w> = (Option<&'w str>, Option<&'w str>, &'w Labels, &'w [NamedPort]);
        let mut kinds: BTreeMap<Kind<'w>, Vec<&'w Endpoint>> = BTreeMap::new();
        for endpoint in world.endpoints().values() {
            let Endpoint { name, labels, ports, service_account, .. } = &**endpoint;
            let kind = (name.namespace.as_deref(), service_account.as_deref(), labels, ports.as_slice());
            kinds.entry(kind).or_default().push(endpoint);
        }
        let mut ports: HashMap<(&'w str, u8), BTreeMap<u16, Vec<u32>>> = HashMap::new();
        for (number, (.., named)) in (0..).zip(kinds.keys()) {
            for port in *named {
                ports
                    .entry((&port.name, port.protocol))
                    .or_default()
                    .entry(port.port)
                    .or_default()
                    .push(number);
            }
        }
        let sets = world.network_sets().values();
        let count = small(kinds.len()).unwrap_or(u32::MAX);
        let namespaces = kinds.keys().map(|(namespace, ..)| *namespace);
        let namespaces: Vec<Option<&str>> =
            namespaces.chain(sets.clone().map(|set| set.name.namespace.as_deref())).collect();
        let accounts = kinds.keys().map(|(namespace, account, ..)| {
            account.map(|account| Name { namespace: namespace.map(str::to_owned), name: account.to_owned() })
        });
        let accounts: Vec<Option<Name>> = accounts.chain(sets.clone().map(|_| None)).collect();
        let mut accounts_called: HashMap<&'w str, Vec<u32>> = HashMap::new();
        let accounts = Groups::of(&accounts, |name| {
            world.service_accounts().get(name).map(|account| account.labels.clone()).unwrap_or_default()
        });
        for (namespace, account, ..) in kinds.keys() {
            let Some(account) = account else { continue };
            let name = Name { namespace: namespace.map(str::to_owned), name: (*account).to_owned() };
            accounts_called.entry(account).or_default().extend(accounts.names.get(&name));
        }
        let spaces = Groups::of(&namespaces, |name| {
            let named = NAMESPACE_NAME_LABELS.map(|label| (label.to_owned(), (*name).to_owned()));
            world.namespaces().get(*name).map_or_else(|| named.into(), |namespace| namespace.labels.clone())
        });
        let labels = Universe::of(
            kinds.keys().map(|(_, _, labels, _)| *labels).chain(sets.clone().map(|set| &set.labels)),
        );
        let kinds = kinds.into_values().map(|endpoints| Thing { endpoints, set: None });
        let sets = sets.map(|set| Thing { endpoints: Vec::new(), set: Some(&**set) });
        let all: Vec<Thing<'w>> = kinds.chain(sets).collect();
        let mut endpoints_before = vec![0];
        for thing in &all {
            endpoints_before
                .push(endpoints_before.last().copied().unwrap_or_default() + thing.endpoints.len());
        }
        Self { all, kinds: count, endpoints_before, labels, spaces, accounts, accounts_called, ports }
    }

    /// The things that fulfil what is asked.
    pub(super) fn select(&self, asked: &Asked<'_>) -> Ranges {
        let mut found = match asked.only_endpoints {
            true => Ranges::below(self.kinds),
            false => Ranges::below(small(self.all.len()).unwrap_or(u32::MAX)),
        };
        if let Some(name) = asked.namespace {
            found = found.and(&self.spaces.called(&name));
        }
        if let Some(selector) = asked.namespaces {
            found = found.and(&self.spaces.select(selector));
        }
        if !asked.account_names.is_empty() {
            let accounts =
                asked.account_names.iter().filter_map(|name| self.accounts_called.get(name.as_str()));
            let accounts = Ranges::of_numbers(accounts.flatten().copied());
            found = found.and(&self.accounts.lift(&accounts));
        }
        if let Some(selector) = asked.accounts {
            found = found.and(&self.accounts.select(selector));
        }
        if let Some(selector) = asked.selector {
            found = found.and(&self.labels.select(selector.expression(), &|key| self.values(key)));
        }
        found
    }

    /// Who has a label, its own or that of its namespace or service account.
    fn values(&self, key: &str) -> Option<Cow<'_, Values>> {
        if let Some(key) = key.strip_prefix(NAMESPACE_PREFIX) {
            return self.spaces.values(key).map(Cow::Owned);
        }
        if let Some(key) = key.strip_prefix(ACCOUNT_PREFIX) {
            return self.accounts.values(key).map(Cow::Owned);
        }
        self.labels.values(key)
    }

    /// How many endpoints these things are.
    pub(super) fn endpoints(&self, things: &Ranges) -> usize {
        let before = |number: u32| self.endpoints_before.get(number as usize).copied().unwrap_or_default();
        things.iter().map(|range| before(range.end).saturating_sub(before(range.start))).sum()
    }
}

impl<N: Clone + Ord> Groups<N> {
    /// The groups that things belong to, each with its labels.
    fn of(of_things: &[Option<N>], labels: impl Fn(&N) -> Labels) -> Self {
        let names: BTreeSet<&N> = of_things.iter().flatten().collect();
        let all: Vec<Labels> = names.iter().map(|name| labels(name)).collect();
        let names: BTreeMap<N, u32> = names.into_iter().cloned().zip(0..).collect();
        let mut things = vec![Vec::new(); names.len() + 1];
        for (thing, name) in (0_u32..).zip(of_things) {
            let group = name.as_ref().and_then(|name| names.get(name)).map(|group| *group as usize);
            if let Some(things) = things.get_mut(group.unwrap_or(names.len())) {
                things.push(thing);
            }
        }
        let count = small(names.len()).unwrap_or(u32::MAX - 1);
        let labels = Universe::of(all.iter()).and_nothing(count);
        Self { names, labels, things: things.into_iter().map(Ranges::of_numbers).collect() }
    }

    /// The things in these groups.
    fn lift(&self, groups: &Ranges) -> Ranges {
        let things = groups.numbers().filter_map(|group| self.things.get(group as usize));
        Ranges::of(things.flat_map(Ranges::iter))
    }

    /// The things in the group of this name.
    fn called(&self, name: &N) -> Ranges {
        let things = self.names.get(name).and_then(|group| self.things.get(*group as usize));
        things.cloned().unwrap_or_default()
    }

    /// The things in groups that a selector selects.
    fn select(&self, selector: &Selector) -> Ranges {
        self.lift(&self.labels.select(selector.expression(), &|key| self.labels.values(key)))
    }

    /// The things in groups that have a label.
    fn values(&self, key: &str) -> Option<Values> {
        self.labels.values(key).map(|values| values.lifted(&|groups| self.lift(groups)))
    }
}

/// A number of something, of which there are never more.
pub(super) fn small(number: usize) -> Option<u32> {
    u32::try_from(number).ok()
}
