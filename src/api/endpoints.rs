//! Pods of this node: who has which address, and what container runtimes need to know to make more of them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// An interface of a pod on this node.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(default)]
pub struct Endpoint {
    /// Which one: the container and its interface, as [`Endpoint::id_of`] joins them.
    pub id: String,
    /// The container runtime's name of the container.
    pub container_id: String,
    /// Name of the interface in the container.
    pub ifname: String,
    /// Path of the network namespace, as the runtime gave it.
    pub netns: String,
    /// Its addresses.
    #[schema(value_type = Vec<String>)]
    pub addresses: Vec<IpAddr>,
    /// Namespace of the pod, where the runtime told.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// Name of the pod.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub pod: String,
    /// The pod's UID.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// Labels of the pod.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Name of the network that it is attached to.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub network: String,
}

impl Endpoint {
    /// One in the tests.
    #[cfg(test)]
    pub(crate) fn sample(container: &str) -> Self {
        Self {
            id: Self::id_of(container, "eth0"),
            container_id: container.to_owned(),
            ifname: "eth0".to_owned(),
            addresses: vec![[10, 1, 0, 2].into()],
            ..Self::default()
        }
    }

    /// Bytes of an id, at most.
    pub const LONGEST_ID: usize = 200;
    /// Bytes of any other text but the path of the namespace, at most.
    const LONGEST_TEXT: usize = 317;
    /// Bytes of the path of the namespace, at most.
    const LONGEST_PATH: usize = 4095;
    /// Addresses, at most.
    const MOST_ADDRESSES: usize = 16;
    /// Labels, at most.
    const MOST_LABELS: usize = 64;

    /// The id of an interface of a container.
    pub fn id_of(container_id: &str, ifname: &str) -> String {
        format!("{container_id}:{ifname}")
    }

    /// Whether something can be an id: letters, digits and `_.:@-`, so that it can be a part of a path.
    pub fn is_id(text: &str) -> bool {
        let known = |byte: u8| byte.is_ascii_alphanumeric() || b"_.:@-".contains(&byte);
        (1..=Self::LONGEST_ID).contains(&text.len()) && !text.starts_with('.') && text.bytes().all(known)
    }

    /// What of it nobody would take, in words.
    ///
    /// # Errors
    /// The first thing that is too long, or not what it should be.
    pub fn check(&self) -> Result<(), String> {
        if !Self::is_id(&self.id) || self.id != Self::id_of(&self.container_id, &self.ifname) {
            let most = Self::LONGEST_ID;
            return Err(format!(
                "id: it is not `container_id:ifname` of letters, digits and _.:@-, {most} bytes at most"
            ));
        }
        if self.netns.len() > Self::LONGEST_PATH || self.netns.chars().any(char::is_control) {
            let most = Self::LONGEST_PATH;
            return Err(format!("netns: it has control characters or more than {most} bytes"));
        }
        if self.addresses.len() > Self::MOST_ADDRESSES {
            return Err(format!("addresses: there are more than {}", Self::MOST_ADDRESSES));
        }
        if self.labels.len() > Self::MOST_LABELS {
            return Err(format!("labels: there are more than {}", Self::MOST_LABELS));
        }
        let named = [
            ("namespace", &self.namespace),
            ("pod", &self.pod),
            ("uid", &self.uid),
            ("network", &self.network),
        ];
        let labels = self.labels.iter().flat_map(|(key, value)| [("labels", key), ("labels", value)]);
        let most = Self::LONGEST_TEXT;
        let wrong = |text: &str| text.len() > most || text.chars().any(char::is_control);
        if let Some((key, _)) = named.into_iter().chain(labels).find(|(_, text)| wrong(text)) {
            return Err(format!("{key}: a text has control characters or more than {most} bytes"));
        }
        Ok(())
    }
}

/// The answer to `DELETE /v1/endpoints/ID`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
pub struct EndpointDeleted {
    /// The id of what is not known any more.
    pub deleted: String,
}

/// `GET /v1/cni`: what it takes to make the interface of a pod.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(default)]
pub struct CniFacts {
    /// This node's pod subnets.
    pub subnets: Vec<String>,
    /// Bytes of the largest packet of a pod.
    pub mtu: u16,
    /// Why pods that are there may not reach all others now, in words; absent when they do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limited: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::Endpoint;

    #[test]
    fn what_is_too_large_is_named() {
        let good = Endpoint {
            id: "c1:eth0".into(),
            container_id: "c1".into(),
            ifname: "eth0".into(),
            ..Endpoint::default()
        };
        assert_eq!(good.check(), Ok(()));
        let long = "x".repeat(400);
        for (bad, part) in [
            (Endpoint { id: "c1:eth1".into(), ..good.clone() }, "id: "),
            (Endpoint { netns: "x".repeat(5000), ..good.clone() }, "netns: "),
            (Endpoint { addresses: vec![[192, 0, 2, 1].into(); 17], ..good.clone() }, "addresses: "),
            (Endpoint { pod: long.clone(), ..good.clone() }, "pod: "),
            (Endpoint { labels: [(long, String::new())].into(), ..good.clone() }, "labels: "),
            (
                Endpoint { labels: (0..65).map(|n| (n.to_string(), String::new())).collect(), ..good },
                "labels: ",
            ),
        ] {
            assert!(bad.check().unwrap_err().starts_with(part), "{part}");
        }
        for (text, right) in [("a:b", true), ("", false), ("..", false), ("a/b", false), ("ä", false)] {
            assert_eq!(Endpoint::is_id(text), right, "{text}");
        }
        assert!(!Endpoint::is_id(&"a".repeat(201)));
    }
}
