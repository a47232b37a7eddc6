//! A cluster as its source tells of it, and as the daemon tells it of this node.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;
use tokio::sync::watch;

use super::discovered::Discovered;
use crate::config::{self, Style};
use crate::net::{Mac, Prefix};
use crate::policy::World;
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

#[cfg(all(test, any(feature = "etcd", feature = "kubernetes")))]
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
    /// What it has of network policy, and whether that is wanted.
    policies: Option<(watch::Receiver<Policies>, Arc<watch::Sender<bool>>)>,
}

/// All objects of network policy that a cluster has, and those that it speaks of; `None` where nothing is known of them,
/// or nobody wanted to know.
pub type Policies = Option<Arc<World>>;

/// The other end of a [`Cluster`]: where its source tells, and is told.
#[derive(Debug)]
pub struct Ends {
    /// What the cluster says. Closed when nobody wants to know any more.
    pub tell: watch::Sender<Said>,
    /// What the daemon is like. Fails when nobody wants to know any more.
    pub announced: watch::Receiver<Option<Announcement>>,
}

/// The other end of a [`Cluster`] that has network policy.
#[derive(Debug)]
pub struct PolicyEnds {
    /// Where the source tells all objects of them.
    pub tell: watch::Sender<Policies>,
    /// Whether anybody wants to know them.
    pub wanted: watch::Receiver<bool>,
}

impl Cluster {
    /// Follows the cluster of `settings`, in which this is `node`; its policies, too, where they are wanted.
    ///
    /// # Errors
    /// When there can be no thread for it.
    pub fn follow(settings: &config::Cluster, node: &config::Node, wants_policies: bool) -> io::Result<Self> {
        let (tell, said) = watch::channel(Said::default());
        let (announcements, announced) = watch::channel(None);
        let ends = Ends { tell, announced };
        let (addresses, policies) = match settings {
            config::Cluster::Kubernetes(settings) => {
                let (tell, policies) = watch::channel(None);
                let (want, wanted) = watch::channel(wants_policies);
                kubernetes(settings.clone(), ends, PolicyEnds { tell, wanted })?;
                (Vec::new(), Some((policies, Arc::new(want))))
            }
            config::Cluster::Etcd(settings) => {
                etcd(settings.clone(), node, ends)?;
                (node.addresses().collect(), None)
            }
        };
        let announcements = Arc::new(announcements);
        Ok(Self { source: settings.source(), addresses, said, announcements, policies })
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

    /// What it has of network policy, and whenever that changes: apart from what it says of nodes, as pods come and go
    /// more often. `None` of a cluster that has no policies, as an etcd with flannel's layout.
    pub fn policies(&self) -> Option<watch::Receiver<Policies>> {
        self.policies.as_ref().map(|(policies, _)| policies.clone())
    }

    /// Says whether its policies are wanted from now on. Where they are not, nothing is known of them.
    pub fn want_policies(&self, wanted: bool) {
        if let Some((_, want)) = &self.policies {
            want.send_if_modified(|before| std::mem::replace(before, wanted) != wanted);
        }
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
fn kubernetes(settings: config::Kubernetes, ends: Ends, policies: PolicyEnds) -> io::Result<()> {
    super::kubernetes::follow(settings, ends, policies)
}

#[cfg(not(feature = "kubernetes"))]
fn kubernetes(_: config::Kubernetes, _: Ends, _: PolicyEnds) -> io::Result<()> {
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
