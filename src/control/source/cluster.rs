//! A cluster as its source tells of it, and as the daemon tells it of this node.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;
use tokio::sync::watch;

use super::discovered::Discovered;
use crate::config::{self, Style};
use crate::net::{Mac, Prefix};
use crate::route::Source;

/// What is known of a cluster, and how.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Said {
    /// What it says; `None` before anything was heard.
    pub found: Option<Arc<Discovered>>,
    /// How it is read, once that is decided.
    pub style: Option<Style>,
    /// Why it cannot be followed now; what is known stays.
    pub lost: Option<String>,
    /// Whether all that is known is from the state file.
    pub is_old: bool,
    /// Nodes that it has, this one among them.
    pub nodes: usize,
    /// What the daemon may not read or write there.
    pub problems: Vec<String>,
}

/// What the daemon is like, once it is ready.
#[derive(Clone, Debug, PartialEq)]
pub struct Announcement {
    /// Its Ethernet address inside VXLAN packets.
    pub vtep_mac: Mac,
    /// Its IPv4 underlay address.
    pub address: Option<Ipv4Addr>,
    /// Its IPv6 underlay address.
    pub address6: Option<Ipv6Addr>,
    /// Its pod subnets.
    pub subnets: Vec<Prefix>,
    /// The networks of all pods.
    pub networks: Vec<Prefix>,
    /// Bytes of the largest packet of a pod.
    pub mtu: u16,
    /// Whether what leaves the cluster gets the node's address.
    pub masquerades: bool,
}

#[cfg(test)]
impl Announcement {
    /// A node of both families.
    pub(super) fn sample() -> Self {
        Self {
            vtep_mac: "66:01:02:03:04:05".parse().unwrap(),
            address: Some("192.0.2.3".parse().unwrap()),
            address6: Some("2001:db8::3".parse().unwrap()),
            subnets: vec!["10.244.3.0/24".parse().unwrap(), "fd00:244:0:3::/64".parse().unwrap()],
            networks: vec!["10.244.0.0/16".parse().unwrap(), "fd00:244::/48".parse().unwrap()],
            mtu: 1450,
            masquerades: true,
        }
    }
}

/// A cluster that is followed until the last of these is dropped.
#[derive(Clone, Debug)]
pub struct Cluster {
    source: Source,
    /// The addresses by which it knows this node, where it has them from us.
    addresses: Vec<IpNet>,
    said: watch::Receiver<Said>,
    announcements: Arc<watch::Sender<Option<Announcement>>>,
}

/// The other end of a [`Cluster`]: where its source tells, and is told.
#[derive(Debug)]
pub struct Ends {
    /// What the cluster says. Closed when nobody wants to know any more.
    pub tell: watch::Sender<Said>,
    /// What the daemon is like. Fails when nobody wants to know any more.
    pub announced: watch::Receiver<Option<Announcement>>,
}

impl Cluster {
    /// Follows the cluster of `settings`, in which this is `node`.
    ///
    /// # Errors
    /// When there can be no thread for it.
    pub fn follow(settings: &config::Cluster, node: &config::Node) -> io::Result<Self> {
        let (tell, said) = watch::channel(Said::default());
        let (announcements, announced) = watch::channel(None);
        let ends = Ends { tell, announced };
        let addresses = match settings {
            config::Cluster::Kubernetes(settings) => {
                kubernetes(settings.clone(), ends)?;
                Vec::new()
            }
            config::Cluster::Etcd(settings) => {
                etcd(settings.clone(), node, ends)?;
                node.addresses().collect()
            }
        };
        Ok(Self { source: settings.source(), addresses, said, announcements: Arc::new(announcements) })
    }

    /// Whether it is followed as the cluster of this `node`, and not of what that was before.
    pub fn knows(&self, node: &config::Node) -> bool {
        self.addresses.is_empty() || node.addresses().eq(self.addresses.iter().copied())
    }

    /// Whose its routes are.
    pub fn source(&self) -> Source {
        self.source
    }

    /// What it says, and whenever that changes.
    pub fn said(&self) -> watch::Receiver<Said> {
        self.said.clone()
    }

    /// Has the cluster told what this node is like, where its style has words for it.
    pub fn announce(&self, announcement: Announcement) {
        self.announcements.send_if_modified(|said| {
            let news = said.as_ref() != Some(&announcement);
            *said = Some(announcement);
            news
        });
    }
}

#[cfg(feature = "kubernetes")]
fn kubernetes(settings: config::Kubernetes, ends: Ends) -> io::Result<()> {
    super::kubernetes::follow(settings, ends)
}

#[cfg(not(feature = "kubernetes"))]
fn kubernetes(_: config::Kubernetes, _: Ends) -> io::Result<()> {
    Err(io::Error::other("this program was built without the feature `kubernetes`"))
}

#[cfg(feature = "etcd")]
fn etcd(settings: config::Etcd, node: &config::Node, ends: Ends) -> io::Result<()> {
    super::etcd::follow(settings, node.clone(), ends)
}

#[cfg(not(feature = "etcd"))]
fn etcd(_: config::Etcd, _: &config::Node, _: Ends) -> io::Result<()> {
    Err(io::Error::other("this program was built without the feature `etcd`"))
}
