//! `[[endpoint]]`: something that policies select, where there is no Kubernetes to say so.

use std::collections::BTreeMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::Arc;

use toml::de::DeValue;

use super::diagnostic::Log;
use super::manifests::{Place, Places};
use super::reader::{At, Table, integer_in, text, word};
use crate::net::words::{clip, unknown_key};
use crate::policy::{Labels, Name, NamedPort, Object, World, syntax};
use crate::wire::protocol;

const PORT_KEYS: [&str; 3] = ["name", "port", "protocol"];

/// One section, as far as it was right.
pub(super) struct Endpoint {
    name: At<Name>,
    addresses: Vec<At<IpAddr>>,
    labels: Labels,
    ports: Vec<NamedPort>,
}

impl Endpoint {
    /// The section; `None` when anything was wrong with it, which is in the log.
    pub(super) fn read(table: &Table<'_>, log: &mut Log<'_>) -> Option<Self> {
        let name = table.value(log, "name", |v| syntax::object_name(text(v)?));
        let namespace =
            table.value_or(log, "namespace", "default".to_owned(), |v| syntax::object_name(text(v)?));
        let addresses = table.list(log, "addresses", |v| syntax::address(text(v)?));
        if addresses.whole && addresses.items.is_empty() && table.has("addresses") {
            log.push(table.at, "addresses: an endpoint needs an address; give at least one");
            return None;
        }
        let labels = table.value_or(log, "labels", Labels::new(), labels);
        let ports = table.list_or_empty(log, "ports", port);
        let (name, namespace, labels) = (name?, namespace?.value, labels?.value);
        Some(Self {
            labels: syntax::labels_in(&namespace, labels),
            name: At { value: Name::inside(namespace, name.value), at: name.at },
            addresses: addresses.whole.then_some(addresses.items)?,
            ports: ports.build()?,
        })
    }

    /// Puts it into the world, unless something is there already.
    pub(super) fn add(&self, world: &mut World, places: &mut Places, log: &mut Log<'_>) {
        let own = |at: usize, log: &Log<'_>| Place::Line(log.line(at));
        let At { value: name, at } = &self.name;
        let mut ports = self.ports.clone();
        ports.sort();
        ports.dedup();
        let object = Object::Endpoint(Arc::new(crate::policy::Endpoint {
            name: name.clone(),
            labels: self.labels.clone(),
            addresses: self.addresses.iter().map(|address| address.value).collect(),
            ports,
            service_account: None,
            node: None,
        }));
        match places.objects.entry(object.id()) {
            Entry::Occupied(before) => {
                log.push(
                    *at,
                    format!(
                        "name: endpoint {name} exists already {}; names are unique in a namespace",
                        before.get()
                    ),
                );
                return;
            }
            Entry::Vacant(free) => drop(free.insert(own(*at, log))),
        }
        for address in &self.addresses {
            match places.addresses.entry(address.value) {
                Entry::Occupied(before) => log.push(
                    address.at,
                    format!(
                        "addresses: {} is also an address of the endpoint {}; each has its own",
                        address.value,
                        before.get()
                    ),
                ),
                Entry::Vacant(free) => drop(free.insert(own(address.at, log))),
            }
        }
        world.set(object);
    }
}

/// `labels = { KEY = "VALUE", … }`
fn labels(value: &DeValue<'_>) -> Result<Labels, String> {
    let Some(table) = value.as_table() else {
        return Err("expected a table like { app = \"web\" }".to_owned());
    };
    let mut labels = BTreeMap::new();
    for (key, value) in table {
        let value = text(value.get_ref()).map_err(|reason| format!("{}: {reason}", clip(key.get_ref())))?;
        labels.insert(syntax::label_key(key.get_ref())?, syntax::label_value(value)?);
    }
    Ok(labels)
}

/// `{ name = "http", port = 80, protocol = "TCP" }`
fn port(value: &DeValue<'_>) -> Result<NamedPort, String> {
    let Some(table) = value.as_table() else {
        return Err("expected a table like { name = \"http\", port = 80 }".to_owned());
    };
    if let Some(key) = table.keys().find(|key| !PORT_KEYS.contains(&key.get_ref().as_ref())) {
        return Err(unknown_key(key.get_ref(), &PORT_KEYS));
    }
    let get = |key: &str| table.get(key).map(|value| value.get_ref());
    let need = |key: &str| get(key).ok_or_else(|| format!("missing key \"{key}\""));
    Ok(NamedPort {
        name: syntax::port_name(text(need("name")?)?)?,
        protocol: get("protocol").map_or(Ok(protocol::TCP), |value| word(value, &syntax::PORT_PROTOCOLS))?,
        port: integer_in(need("port")?, 1, u16::MAX)?,
    })
}
