//! What the runtime hands over on standard input, and what of it the stock plugins get.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use rscni_plugin::error::Error;
use rscni_plugin::types::NetConf;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::conflist::ranges;
use super::records::Records;
use crate::api::{CniFacts, Endpoint};

/// The version of CNI in which the stock plugins are spoken to: today's distributions have none that know 1.1.
const SPOKEN: &str = "1.0.0";
/// Where the daemon listens, unless the configuration says something else.
const SOCKET: &str = "/run/underpass/underpass.sock";
/// The smallest MTU of a pod.
const MIN_MTU: u16 = 576;
/// Releasing addresses takes a range, whatever it is (RFC 5737).
const ANY: &str = "192.0.2.0/24";

/// The configuration of one call.
#[derive(Debug)]
pub(super) struct Conf {
    /// Name of the network.
    pub name: String,
    /// The daemon's control socket.
    pub socket: PathBuf,
    /// The records of this node.
    pub records: Records,
    /// The stock plugin that makes interfaces.
    pub plugin: String,
    /// What the daemon knew when it wrote the configuration.
    pub written: CniFacts,
    /// Labels of the pod, where the runtime tells.
    pub labels: BTreeMap<String, String>,
    /// What is passed on as it is.
    passed: Map<String, Value>,
}

impl Conf {
    /// What `given` says.
    ///
    /// # Errors
    /// [`Error::InvalidNetworkConfig`] with the key that cannot be used.
    pub(super) fn read(given: &NetConf) -> Result<Self, Error> {
        given.validate_name()?;
        let socket: PathBuf = key(given, "socket")?.unwrap_or_else(|| SOCKET.into());
        let state_dir: Option<PathBuf> = key(given, "state_dir")?;
        let records = state_dir.map_or_else(|| Records::beside(&socket), |path| Records::new(&path));
        for (key, path) in [("socket", socket.as_path()), ("state_dir", records.directory())] {
            if !path.is_absolute() {
                return Err(invalid(key, "it is no absolute path"));
            }
        }
        let plugin: String = key(given, "plugin")?.unwrap_or_else(|| "ptp".to_owned());
        if plugin.is_empty() || plugin.starts_with('.') || plugin.contains('/') {
            return Err(invalid("plugin", "it is not the name of a program"));
        }
        let written = CniFacts {
            subnets: key(given, "subnets")?.unwrap_or_default(),
            mtu: key(given, "mtu")?.unwrap_or_default(),
            limited: None,
        };
        let from_runtime = given.runtime_config.as_ref().and_then(|conf| conf.custom.get("labels"));
        let labels = from_runtime.or(given.args.as_ref().and_then(|args| args.get("labels")));
        let labels = labels.map(|labels| parsed("labels", labels)).transpose()?.unwrap_or_default();
        let mut passed = Map::new();
        for (name, value) in [
            ("runtimeConfig", serde_json::to_value(&given.runtime_config)),
            ("args", serde_json::to_value(&given.args)),
            ("dns", serde_json::to_value(&given.dns)),
            ("prevResult", serde_json::to_value(&given.prev_result)),
        ] {
            let value = value.map_err(|error| invalid(name, &error.to_string()))?;
            if !value.is_null() {
                passed.insert(name.to_owned(), value);
            }
        }
        if let Some(Value::Object(result)) = passed.get_mut("prevResult") {
            result.insert("cniVersion".to_owned(), SPOKEN.into());
        }
        let name = given.name.clone();
        Ok(Self { name, socket, records, plugin, written, labels, passed })
    }

    /// Where `host-local` keeps who has which address. It goes with the records when the node starts again, as pods do.
    pub(super) fn addresses(&self) -> PathBuf {
        self.records.directory().join("ipam")
    }

    /// The stock plugin's configuration for a pod that is to be there.
    ///
    /// # Errors
    /// [`Error::TryAgainLater`] where there is nothing to give addresses from.
    pub(super) fn delegate(&self, facts: &CniFacts) -> Result<Value, Error> {
        let subnets = subnets(facts)?;
        if subnets.is_empty() {
            return Err(Error::TryAgainLater(
                "this node has no pod subnet yet: the daemon knows none, and none is in the network configuration; \
                 see `underpass status`"
                    .to_owned(),
            ));
        }
        Ok(self.rendered(&subnets, facts.mtu, Map::clone(&self.passed)))
    }

    /// The same for a pod that is going, which takes no knowledge of subnets.
    pub(super) fn release(&self) -> Value {
        let known = subnets(&self.written).ok().filter(|subnets| !subnets.is_empty());
        let subnets = known.or_else(|| Some(vec![ANY.parse().ok()?])).unwrap_or_default();
        self.rendered(&subnets, self.written.mtu, Map::clone(&self.passed))
    }

    /// The same for a pod that the runtime does not know any more.
    pub(super) fn forgotten(&self) -> Value {
        let mut conf = self.release();
        if let Some(conf) = conf.as_object_mut() {
            self.passed.keys().for_each(|key| drop(conf.remove(key)));
        }
        conf
    }

    fn rendered(&self, subnets: &[IpNet], mtu: u16, passed: Map<String, Value>) -> Value {
        let default = |subnet: &IpNet| if subnet.addr().is_ipv4() { "0.0.0.0/0" } else { "::/0" };
        let mut routes: Vec<&str> = subnets.iter().map(default).collect();
        routes.sort_unstable();
        routes.dedup();
        let routes: Vec<Value> = routes.into_iter().map(|to| json!({"dst": to})).collect();
        let mut conf = passed;
        let own = json!({
            "cniVersion": SPOKEN,
            "name": self.name,
            "type": self.plugin,
            "ipMasq": false,
            "ipam": {
                "type": "host-local",
                "dataDir": self.addresses(),
                "ranges": ranges(subnets),
                "routes": routes,
            },
        });
        conf.extend(own.as_object().cloned().unwrap_or_default());
        if mtu >= MIN_MTU {
            conf.insert("mtu".to_owned(), mtu.into());
        }
        conf.into()
    }
}

/// The attachment that a call is about, without addresses.
pub(super) fn endpoint(
    container_id: &str,
    ifname: &str,
    netns: Option<&Path>,
    words: Option<&str>,
    conf: &Conf,
) -> Endpoint {
    let word = |wanted: &str| {
        let pairs = words.unwrap_or_default().split(';').filter_map(|pair| pair.split_once('='));
        let mut found = pairs.filter(|(key, _)| *key == wanted);
        found.next().map(|(_, value)| value.to_owned()).unwrap_or_default()
    };
    Endpoint {
        id: Endpoint::id_of(container_id, ifname),
        container_id: container_id.to_owned(),
        ifname: ifname.to_owned(),
        netns: netns.map(|path| path.display().to_string()).unwrap_or_default(),
        addresses: Vec::<IpAddr>::new(),
        namespace: word("K8S_POD_NAMESPACE"),
        pod: word("K8S_POD_NAME"),
        uid: word("K8S_POD_UID"),
        labels: conf.labels.clone(),
        network: conf.name.clone(),
    }
}

/// The subnets of `facts`, which come from the daemon or from a file.
fn subnets(facts: &CniFacts) -> Result<Vec<IpNet>, Error> {
    let parse = |text: &String| match text.parse::<IpNet>() {
        Ok(subnet) => Ok(subnet.trunc()),
        Err(_) => Err(invalid("subnets", &format!("{text:?} is no prefix"))),
    };
    facts.subnets.iter().map(parse).collect()
}

/// A key of ours.
fn key<T: DeserializeOwned>(given: &NetConf, name: &str) -> Result<Option<T>, Error> {
    match given.custom.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => parsed(name, value).map(Some),
    }
}

fn parsed<T: DeserializeOwned>(name: &str, value: &Value) -> Result<T, Error> {
    T::deserialize(value).map_err(|error| invalid(name, &error.to_string()))
}

fn invalid(name: &str, reason: &str) -> Error {
    Error::InvalidNetworkConfig(format!("{name}: {reason}; correct it in the network configuration"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use rscni_plugin::error::Error;
    use rscni_plugin::types::NetConf;
    use serde_json::{Value, json};

    use super::{Conf, endpoint};
    use crate::api::CniFacts;

    fn conf(more: Value) -> Result<Conf, Error> {
        let mut all = json!({"cniVersion": "1.0.0", "name": "underpass", "type": "underpass-cni"});
        all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        Conf::read(&serde_json::from_value::<NetConf>(all).unwrap())
    }

    #[test]
    fn what_is_not_given_has_a_default() {
        let conf = conf(json!({})).unwrap();
        assert_eq!(conf.socket, Path::new("/run/underpass/underpass.sock"));
        assert_eq!(conf.records.directory(), Path::new("/run/underpass/cni"));
        assert_eq!(conf.plugin, "ptp");
        let nothing = conf.delegate(&conf.written).unwrap_err();
        assert!(matches!(nothing, Error::TryAgainLater(_)), "{nothing}");
        assert_eq!(conf.release()["ipam"]["ranges"], json!([[{"subnet": "192.0.2.0/24"}]]));
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        for (wrong, part) in [
            (json!({"socket": "x"}), "socket: it is no absolute path"),
            (json!({"state_dir": 7}), "state_dir: invalid type"),
            (json!({"plugin": "../evil"}), "plugin: it is not the name of a program"),
            (json!({"mtu": -1}), "mtu: invalid value"),
            (json!({"subnets": "10.1.0.0/24"}), "subnets: invalid type"),
            (json!({"args": {"labels": ["a"]}}), "labels: invalid type"),
            (json!({"name": "a b"}), "network name"),
        ] {
            let error = conf(wrong).unwrap_err();
            assert!(matches!(&error, Error::InvalidNetworkConfig(said) if said.contains(part)), "{error}");
        }
        let error = conf(json!({"subnets": ["here"]}))
            .unwrap()
            .delegate(&CniFacts { subnets: vec!["here".into()], ..CniFacts::default() });
        assert!(matches!(error, Err(Error::InvalidNetworkConfig(_))));
    }

    #[test]
    fn the_stock_plugin_gets_an_address_of_each_family() {
        let previous = json!({"cniVersion": "0.4.0", "ips": [{"version": "4", "address": "10.1.0.2/24"}]});
        let conf = conf(json!({
            "dns": {"nameservers": ["10.96.0.10"]},
            "runtimeConfig": {"labels": {"app": "web"}, "ips": ["10.1.0.9"]},
            "prevResult": previous,
        }))
        .unwrap();
        let facts = CniFacts {
            subnets: ["10.1.0.0/24", "fd00::/64", "10.2.0.0/24"].map(str::to_owned).into(),
            mtu: 1430,
            limited: None,
        };
        let delegate = conf.delegate(&facts).unwrap();
        let ranges =
            json!([[{"subnet": "10.1.0.0/24"}, {"subnet": "10.2.0.0/24"}], [{"subnet": "fd00::/64"}]]);
        assert_eq!(delegate["ipam"]["ranges"], ranges);
        assert_eq!(delegate["ipam"]["routes"], json!([{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]));
        assert_eq!((&delegate["mtu"], &delegate["type"]), (&json!(1430), &json!("ptp")));
        assert_eq!(delegate["runtimeConfig"]["ips"], json!(["10.1.0.9"]));
        assert_eq!(delegate["dns"]["nameservers"], json!(["10.96.0.10"]));
        assert_eq!(delegate["prevResult"]["cniVersion"], "1.0.0");
        assert_eq!(delegate["prevResult"]["ips"][0]["address"], "10.1.0.2/24");
        assert!(conf.forgotten().get("prevResult").is_none());
        let words = "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0;K8S_POD_UID=u;X";
        let pod = endpoint("c1", "eth0", Some(Path::new("/run/netns/x")), Some(words), &conf);
        assert_eq!(
            (pod.id.as_str(), pod.namespace.as_str(), pod.pod.as_str()),
            ("c1:eth0", "default", "web-0")
        );
        assert_eq!((pod.uid.as_str(), pod.labels["app"].as_str()), ("u", "web"));
        assert_eq!(pod.check(), Ok(()));
    }
}
