//! All objects that are known, by what they are.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::model::{Endpoint, Name, Namespace, NetworkSet, Policy, ServiceAccount, Tier};

/// What an object is, among all: two with the same are one.
#[derive(Clone, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub enum Id {
    /// A namespace.
    Namespace(String),
    /// A service account.
    ServiceAccount(Name),
    /// An endpoint of any kind.
    Endpoint(Name),
    /// A network set; without a namespace a global one.
    NetworkSet(Name),
    /// A tier.
    Tier(String),
    /// A policy of any kind.
    Policy(Name),
}

/// In words: `policy shop/allow-web`.
impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Namespace(name) => write!(f, "namespace {name}"),
            Self::ServiceAccount(name) => write!(f, "service account {name}"),
            Self::Endpoint(name) => write!(f, "endpoint {name}"),
            Self::NetworkSet(name) => write!(f, "network set {name}"),
            Self::Tier(name) => write!(f, "tier {name}"),
            Self::Policy(name) => write!(f, "policy {name}"),
        }
    }
}

/// One object, or that there is none.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub enum Object {
    /// A namespace.
    Namespace(#[serde(with = "shared")] Arc<Namespace>),
    /// A service account.
    ServiceAccount(#[serde(with = "shared")] Arc<ServiceAccount>),
    /// An endpoint.
    Endpoint(#[serde(with = "shared")] Arc<Endpoint>),
    /// A network set.
    NetworkSet(#[serde(with = "shared")] Arc<NetworkSet>),
    /// A tier.
    Tier(#[serde(with = "shared")] Arc<Tier>),
    /// A policy.
    Policy(#[serde(with = "shared")] Arc<Policy>),
    /// Nothing that counts, such as a pod that is done: what was known under this goes.
    Absent(Id),
}

impl Object {
    /// What it is.
    pub fn id(&self) -> Id {
        match self {
            Self::Namespace(namespace) => Id::Namespace(namespace.name.clone()),
            Self::ServiceAccount(account) => Id::ServiceAccount(account.name.clone()),
            Self::Endpoint(endpoint) => Id::Endpoint(endpoint.name.clone()),
            Self::NetworkSet(set) => Id::NetworkSet(set.name.clone()),
            Self::Tier(tier) => Id::Tier(tier.name.clone()),
            Self::Policy(policy) => Id::Policy(policy.name.clone()),
            Self::Absent(id) => id.clone(),
        }
    }
}

/// All objects. Its clones share them.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(from = "Vec<Object>", into = "Vec<Object>")]
pub struct World {
    namespaces: BTreeMap<String, Arc<Namespace>>,
    service_accounts: BTreeMap<Name, Arc<ServiceAccount>>,
    endpoints: BTreeMap<Name, Arc<Endpoint>>,
    network_sets: BTreeMap<Name, Arc<NetworkSet>>,
    tiers: BTreeMap<String, Arc<Tier>>,
    policies: BTreeMap<Name, Arc<Policy>>,
}

impl World {
    /// Sets one object, or removes it where it is [`Object::Absent`]. Whether anything is another way now.
    pub fn set(&mut self, object: Object) -> bool {
        match object {
            Object::Namespace(one) => put(&mut self.namespaces, one.name.clone(), one),
            Object::ServiceAccount(one) => put(&mut self.service_accounts, one.name.clone(), one),
            Object::Endpoint(one) => put(&mut self.endpoints, one.name.clone(), one),
            Object::NetworkSet(one) => put(&mut self.network_sets, one.name.clone(), one),
            Object::Tier(one) => put(&mut self.tiers, one.name.clone(), one),
            Object::Policy(one) => put(&mut self.policies, one.name.clone(), one),
            Object::Absent(id) => self.remove(&id),
        }
    }

    /// Removes one object. Whether it was there.
    pub fn remove(&mut self, id: &Id) -> bool {
        match id {
            Id::Namespace(name) => self.namespaces.remove(name).is_some(),
            Id::ServiceAccount(name) => self.service_accounts.remove(name).is_some(),
            Id::Endpoint(name) => self.endpoints.remove(name).is_some(),
            Id::NetworkSet(name) => self.network_sets.remove(name).is_some(),
            Id::Tier(name) => self.tiers.remove(name).is_some(),
            Id::Policy(name) => self.policies.remove(name).is_some(),
        }
    }

    /// Whether there is this object.
    pub fn contains(&self, id: &Id) -> bool {
        match id {
            Id::Namespace(name) => self.namespaces.contains_key(name),
            Id::ServiceAccount(name) => self.service_accounts.contains_key(name),
            Id::Endpoint(name) => self.endpoints.contains_key(name),
            Id::NetworkSet(name) => self.network_sets.contains_key(name),
            Id::Tier(name) => self.tiers.contains_key(name),
            Id::Policy(name) => self.policies.contains_key(name),
        }
    }

    /// Puts all objects of another one over these. Returns which of ours were others and are gone with that.
    pub fn merge(&mut self, over: &Self) -> Vec<Id> {
        let mut replaced = Vec::new();
        for object in over.objects() {
            let id = object.id();
            let was_there = self.contains(&id);
            if self.set(object) && was_there {
                replaced.push(id);
            }
        }
        replaced
    }

    /// Whether there is nothing at all.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The objects, those that others speak of first.
    pub fn objects(&self) -> impl Iterator<Item = Object> + '_ {
        let namespaces = self.namespaces.values().cloned().map(Object::Namespace);
        let accounts = self.service_accounts.values().cloned().map(Object::ServiceAccount);
        let endpoints = self.endpoints.values().cloned().map(Object::Endpoint);
        let sets = self.network_sets.values().cloned().map(Object::NetworkSet);
        let tiers = self.tiers.values().cloned().map(Object::Tier);
        let policies = self.policies.values().cloned().map(Object::Policy);
        namespaces.chain(accounts).chain(endpoints).chain(sets).chain(tiers).chain(policies)
    }

    /// The namespaces, by name.
    pub fn namespaces(&self) -> &BTreeMap<String, Arc<Namespace>> {
        &self.namespaces
    }

    /// The service accounts, by name.
    pub fn service_accounts(&self) -> &BTreeMap<Name, Arc<ServiceAccount>> {
        &self.service_accounts
    }

    /// The endpoints, by name.
    pub fn endpoints(&self) -> &BTreeMap<Name, Arc<Endpoint>> {
        &self.endpoints
    }

    /// The network sets, by name.
    pub fn network_sets(&self) -> &BTreeMap<Name, Arc<NetworkSet>> {
        &self.network_sets
    }

    /// The tiers that somebody gave, by name: `default` is there even when it is not among them.
    pub fn tiers(&self) -> &BTreeMap<String, Arc<Tier>> {
        &self.tiers
    }

    /// The policies, by name.
    pub fn policies(&self) -> &BTreeMap<Name, Arc<Policy>> {
        &self.policies
    }
}

impl From<Vec<Object>> for World {
    fn from(objects: Vec<Object>) -> Self {
        let mut world = Self::default();
        for object in objects {
            world.set(object);
        }
        world
    }
}

impl From<World> for Vec<Object> {
    fn from(world: World) -> Self {
        world.objects().collect()
    }
}

/// Whether the map is another one with this.
fn put<K: Ord, V: PartialEq>(map: &mut BTreeMap<K, Arc<V>>, key: K, value: Arc<V>) -> bool {
    match map.entry(key) {
        Entry::Occupied(mut there) if *there.get() != value => {
            there.insert(value);
            true
        }
        Entry::Occupied(_) => false,
        Entry::Vacant(free) => {
            free.insert(value);
            true
        }
    }
}

/// Shared values in files that are kept: as what they are.
mod shared {
    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    /// Writes one.
    pub(super) fn serialize<T: Serialize, S: Serializer>(value: &Arc<T>, to: S) -> Result<S::Ok, S::Error> {
        (**value).serialize(to)
    }

    /// Reads one.
    pub(super) fn deserialize<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Arc<T>, D::Error> {
        T::deserialize(from).map(Arc::new)
    }
}
