//! What a node of a cluster says of it in its file: where the cluster is, and how this node is known there.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::net::{NodeName, Prefix, Vni};
use crate::route::Source;

/// What knows the other nodes, the pools and this node's subnets.
#[derive(Clone, Debug, PartialEq)]
pub enum Cluster {
    /// `[source.kubernetes]`
    Kubernetes(Kubernetes),
    /// `[source.etcd]`
    Etcd(Etcd),
}

impl Cluster {
    /// Whose its routes are.
    pub fn source(&self) -> Source {
        match self {
            Self::Kubernetes(_) => Source::Kubernetes,
            Self::Etcd(_) => Source::Etcd,
        }
    }

    /// What `[vxlan]` gives, which goes before what the cluster says.
    pub fn given_vxlan(&self) -> GivenVxlan {
        match self {
            Self::Kubernetes(kubernetes) => kubernetes.vxlan,
            Self::Etcd(etcd) => etcd.vxlan,
        }
    }
}

/// The keys of `[vxlan]` that are given beside a cluster.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct GivenVxlan {
    /// `port`.
    pub port: Option<u16>,
    /// `vni`.
    pub vni: Option<Vni>,
}

/// `[source.etcd]`: an etcd with flannel's layout as a source.
#[derive(Clone, Debug, PartialEq)]
pub struct Etcd {
    /// `endpoints`: URLs of its members, `http` or `https`, all of one kind.
    pub endpoints: Vec<String>,
    /// `prefix`: what its keys begin with; without a slash at the end.
    pub prefix: String,
    /// `[source.etcd.tls]`; there with endpoints of `https`.
    pub tls: Option<EtcdTls>,
    /// `[source.etcd.user]`, where etcd asks who one is.
    pub user: Option<EtcdUser>,
    /// `subnet`: this node's IPv4 subnet; `None` is "auto", one that is free.
    pub subnet: Option<Prefix>,
    /// `subnet6`: the IPv6 one, where the network has IPv6.
    pub subnet6: Option<Prefix>,
    /// `lease_ttl`: seconds from the last sign of life of this node to the end of its claim.
    pub lease_ttl: u32,
    /// `state_file`: where the last known state is kept, for a start without etcd.
    pub state_file: PathBuf,
    /// `subnet_file`: what flannel writes for others.
    pub subnet_file: PathBuf,
    /// What `[vxlan]` gives.
    pub vxlan: GivenVxlan,
}

impl Etcd {
    /// The default of `prefix`, which is flannel's.
    pub const PREFIX: &str = "/coreos.com/network";
    /// The default of `lease_ttl`, which is flannel's: a day.
    pub const LEASE_TTL: u32 = 86_400;
    /// The default of `state_file`.
    pub const STATE_FILE: &str = "/var/lib/underpass/etcd.json";
}

/// `[source.etcd.tls]`: files in PEM.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct EtcdTls {
    /// `ca`: who signs the certificates of etcd.
    pub ca: PathBuf,
    /// `cert` and `key`: this node's own, where etcd wants one.
    pub identity: Option<EtcdIdentity>,
}

/// `cert` and `key` of `[source.etcd.tls]`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct EtcdIdentity {
    /// `cert`.
    pub cert: PathBuf,
    /// `key`.
    pub key: PathBuf,
}

/// `[source.etcd.user]`
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct EtcdUser {
    /// `name`.
    pub name: String,
    /// `password_file`: its first line is the password.
    pub password_file: PathBuf,
}

/// `[source.kubernetes]`: the API server of a cluster as a source.
#[derive(Clone, Debug, PartialEq)]
pub struct Kubernetes {
    /// `kubeconfig`: the file; `None` is the service account of the pod that the daemon runs in.
    pub kubeconfig: Option<PathBuf>,
    /// `node_name`: this node there.
    pub node_name: NodeName,
    /// `style`: how the cluster says what its pod network is; `None` is "auto".
    pub style: Option<Style>,
    /// `state_file`: where the last known state is kept, for a start without the API server.
    pub state_file: PathBuf,
    /// `subnet_file`: what flannel writes for others, in its style.
    pub subnet_file: PathBuf,
    /// What `[vxlan]` gives.
    pub vxlan: GivenVxlan,
}

impl Kubernetes {
    /// The default of `state_file`.
    pub const STATE_FILE: &str = "/var/lib/underpass/kubernetes.json";
    /// The default of `subnet_file`, which is flannel's.
    pub const SUBNET_FILE: &str = "/run/flannel/subnet.env";
}

/// `[source.kubernetes] style`
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Style {
    /// flannel's annotations at nodes.
    Flannel,
    /// Calico's IP pools and block affinities.
    Calico,
    /// Addresses and pod CIDRs of nodes alone.
    Native,
}

impl Style {
    /// The word in the file.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Flannel => "flannel",
            Self::Calico => "calico",
            Self::Native => "native",
        }
    }
}
