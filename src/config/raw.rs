//! The file section by section: every value checked by itself and still tied to its position.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use ipnet::{Ipv4Net, Ipv6Net};
use toml::de::{DeTable, DeValue};

use super::diagnostic::{ConfigError, Log};
use super::etcd::Etcd;
use super::kernel_routes::KernelRoutes;
use super::kubernetes::Kubernetes;
use super::manifests::Manifests;
use super::own_address::{OwnAddress, node_address, node_address6};
use super::policy_section::Policy;
use super::reader::{At, List, Table, boolean, check_sections, integer_in, parsed, word};
use super::tunnel::Tunnel;
use super::value::{self, CNI_PLUGINS, DIRECT_VIAS, ENCAP_MODES, PeerAddress};
use super::{CniPlugins, Config, Control, DirectVia, NamedPeer, schema};
use crate::net::{EncapMode, Mac, NodeName, Prefix, Vni};
use crate::policy::Known;
use crate::route::Source;

/// A whole file. Wherever a value is `None`, what was wrong with it is in the log.
pub(super) struct Raw {
    pub(super) node: Node,
    pub(super) tunnel: Tunnel,
    vxlan_port: Option<At<u16>>,
    vni: Option<At<Vni>>,
    udp6_zero_checksum: Option<At<bool>>,
    udp6_zero_checksum_tx: Option<At<bool>>,
    pub(super) pools: Vec<Pool>,
    direct_via: Option<At<DirectVia>>,
    /// Offset of `[local]`, 0 when it is absent.
    pub(super) local_at: usize,
    pub(super) local: List<Prefix>,
    pub(super) local_sends_for: List<Prefix>,
    pub(super) peers: Vec<Peer>,
    socket: Option<At<PathBuf>>,
    max_routes: Option<At<usize>>,
    pub(super) cluster: Option<Cluster>,
    kernel_routes: Option<KernelRoutes>,
    policy: Option<Policy>,
    listen: Option<At<Option<SocketAddr>>>,
    cni: Cni,
}

/// `[source.kubernetes]` or `[source.etcd]`
pub(super) enum Cluster {
    Kubernetes(Kubernetes),
    Etcd(Box<Etcd>),
}

/// `[node]`
pub(super) struct Node {
    pub(super) name: Option<At<NodeName>>,
    pub(super) address: Option<At<OwnAddress<Ipv4Net>>>,
    pub(super) address6: Option<At<OwnAddress<Ipv6Net>>>,
    external_nodes: List<Prefix>,
}

/// `[cni]`
struct Cni {
    /// Whether the section is there at all.
    given: bool,
    conflist: Option<At<PathBuf>>,
    plugins: Option<At<CniPlugins>>,
}

/// `[[pool]]`
pub(super) struct Pool {
    pub(super) cidr: Option<At<Prefix>>,
    pub(super) ipip_mode: Option<At<EncapMode>>,
    pub(super) vxlan_mode: Option<At<EncapMode>>,
    nat_outgoing: Option<At<bool>>,
    pub(super) verify: Option<At<bool>>,
}

/// `[[peer]]`
pub(super) struct Peer {
    /// Offset of the section.
    pub(super) at: usize,
    pub(super) name: Option<At<NodeName>>,
    pub(super) address: Option<At<PeerAddress>>,
    pub(super) address6: Option<At<Option<Ipv6Addr>>>,
    port: Option<At<Option<u16>>>,
    pub(super) subnets: List<Prefix>,
    pub(super) sends_for: List<Prefix>,
    also_from: List<IpAddr>,
    pub(super) vtep_mac: Option<At<Option<Mac>>>,
}

impl Raw {
    /// Reads every section of the document.
    pub(super) fn read(root: &DeTable<'_>, log: &mut Log<'_>) -> Self {
        check_sections(root, log);
        let vxlan = Table::single(root, &schema::VXLAN, log);
        let direct = Table::single(root, &schema::DIRECT, log);
        let local = Table::single(root, &schema::LOCAL, log);
        let control = Table::single(root, &schema::CONTROL, log);
        let metrics = Table::single(root, &schema::METRICS, log);
        let cluster = Cluster::read(root, &vxlan, log);
        let node = match &cluster {
            Some(Cluster::Kubernetes(kubernetes)) => {
                Node::read_beside(&Table::single(root, &schema::NODE, log), kubernetes, log)
            }
            // In etcd nodes have no names, and are where they say that they are.
            Some(Cluster::Etcd(_)) | None => Node::read(&Table::required(root, &schema::NODE, log), log),
        };
        Self {
            node,
            tunnel: Tunnel::read(&Table::single(root, &schema::TUNNEL, log), log),
            vxlan_port: vxlan.value_or(log, "port", 4789, value::vxlan_port),
            vni: vxlan.value_or(log, "vni", Vni::CALICO, value::vni),
            udp6_zero_checksum: vxlan.value_or(log, "udp6_zero_checksum", false, boolean),
            udp6_zero_checksum_tx: vxlan.value_or(log, "udp6_zero_checksum_tx", false, boolean),
            pools: Table::repeated(root, &schema::POOL, log).iter().map(|t| Pool::read(t, log)).collect(),
            direct_via: direct.value_or(log, "via", DirectVia::Pump, |v| word(v, &DIRECT_VIAS)),
            local_at: local.at,
            local: local.list_or_empty(log, "subnets", value::pod_prefix),
            local_sends_for: local.list_or_empty(log, "sends_for", value::sender_prefix),
            peers: Table::repeated(root, &schema::PEER, log).iter().map(|t| Peer::read(t, log)).collect(),
            socket: control.value_or(log, "socket", PathBuf::from(Control::SOCKET), value::socket_path),
            max_routes: control.value_or(log, "max_routes", Control::MAX_ROUTES, value::max_routes),
            cluster,
            kernel_routes: KernelRoutes::read(root, log),
            policy: Policy::read(root, log),
            listen: metrics.value_or(log, "listen", None, value::listen),
            cni: Cni::read(root, log),
        }
    }

    /// The directory of manifests, if there is one, and what is known beside it.
    pub(super) fn manifests(&self) -> Option<(&Path, Known)> {
        let known = match &self.cluster {
            Some(Cluster::Kubernetes(_)) => Known::Cluster,
            Some(Cluster::Etcd(_)) | None => Known::Directory,
        };
        Some((self.policy.as_ref()?.directory()?, known))
    }

    /// Takes over what the manifests say. Returns what is wrong with them.
    pub(super) fn take_manifests(&mut self, manifests: Manifests, log: &mut Log<'_>) -> Vec<ConfigError> {
        self.policy.as_mut().map(|policy| policy.take_manifests(manifests, log)).unwrap_or_default()
    }

    /// The checked configuration; `None` when anything was wrong.
    pub(super) fn build(self) -> Option<Config> {
        let vxlan = (self.vxlan_port?, self.vni?);
        let cluster = match self.cluster {
            Some(Cluster::Kubernetes(kubernetes)) => Some(super::Cluster::Kubernetes(kubernetes.build()?)),
            Some(Cluster::Etcd(etcd)) => Some(super::Cluster::Etcd(etcd.build()?)),
            None => None,
        };
        let kernel_routes = match self.kernel_routes {
            Some(section) => Some(section.build()?),
            None => None,
        };
        let policy = match self.policy {
            Some(section) => Some(section.build()?),
            None => None,
        };
        let (mut peers, mut named_peers) = (Vec::new(), Vec::new());
        for peer in self.peers {
            peer.build(&mut peers, &mut named_peers)?;
        }
        Some(Config {
            node: self.node.build()?,
            cluster,
            kernel_routes,
            policy,
            tunnel: self.tunnel.build()?,
            vxlan: super::Vxlan {
                port: vxlan.0.value,
                vni: vxlan.1.value,
                udp6_zero_checksum: self.udp6_zero_checksum?.value,
                udp6_zero_checksum_tx: self.udp6_zero_checksum_tx?.value,
            },
            pools: self.pools.into_iter().map(Pool::build).collect::<Option<_>>()?,
            direct_via: self.direct_via?.value,
            local_subnets: self.local.build()?,
            local_sends_for: self.local_sends_for.build()?,
            peers,
            named_peers,
            control: Control { socket: self.socket?.value, max_routes: self.max_routes?.value },
            metrics: self.listen?.value,
            cni: self.cni.build()?,
        })
    }
}

impl Cluster {
    /// The section of the document, if there is one. What `vxlan` says goes before what the cluster says.
    fn read(root: &DeTable<'_>, vxlan: &Table<'_>, log: &mut Log<'_>) -> Option<Self> {
        // What is wrong with them is reported by who reads them for good.
        let given = super::GivenVxlan {
            port: vxlan.quietly("port", value::vxlan_port),
            vni: vxlan.quietly("vni", value::vni),
        };
        let kubernetes = Kubernetes::read(root, given, log);
        let etcd = Etcd::read(root, given, log);
        if let (Some(_), Some(etcd)) = (&kubernetes, &etcd) {
            log.push(
                etcd.at,
                "[source.etcd] beside [source.kubernetes]: two would say what this node is; remove one of them",
            );
        }
        kubernetes.map(Self::Kubernetes).or(etcd.map(|etcd| Self::Etcd(Box::new(etcd))))
    }
}

impl Node {
    fn read(table: &Table<'_>, log: &mut Log<'_>) -> Self {
        let name = table.value(log, "name", parsed);
        let external_nodes = table.list_or_empty(log, "external_nodes", value::external_nodes);
        let address6 = table.value_or(log, "address6", OwnAddress::Absent, |v| node_address6(v, false));
        let read = |v: &DeValue<'_>| node_address(v, false);
        let address = match table.has("address6") {
            true => table.value_or(log, "address", OwnAddress::Absent, read),
            false => table.value(log, "address", read),
        };
        Self { name, address, address6, external_nodes }
    }

    /// The same of a node that a cluster knows: what is left out is taken from there.
    fn read_beside(table: &Table<'_>, kubernetes: &Kubernetes, log: &mut Log<'_>) -> Self {
        let name = match table.has("name") {
            true => table.value(log, "name", parsed),
            false => kubernetes.node_name.clone(),
        };
        let external_nodes = table.list_or_empty(log, "external_nodes", value::external_nodes);
        let address6 = table.value_or(log, "address6", OwnAddress::Absent, |v| node_address6(v, true));
        let address = table.value_or(log, "address", OwnAddress::Absent, |v| node_address(v, true));
        Self { name, address, address6, external_nodes }
    }

    fn build(self) -> Option<super::Node> {
        let (address, address_rule) = self.address?.value.split();
        let (address6, address6_rule) = self.address6?.value.split();
        Some(super::Node {
            name: self.name?.value,
            address,
            address6,
            address_rule,
            address6_rule,
            external_nodes: self.external_nodes.build()?,
        })
    }
}

impl Cni {
    fn read(root: &DeTable<'_>, log: &mut Log<'_>) -> Self {
        let table = Table::single(root, &schema::CNI, log);
        Self {
            given: root.get(schema::CNI.name).is_some(),
            conflist: table.value_or(
                log,
                "conflist",
                PathBuf::from(super::Cni::CONFLIST),
                value::conflist_path,
            ),
            plugins: table.value_or(log, "plugins", CniPlugins::Ptp, |v| word(v, &CNI_PLUGINS)),
        }
    }

    /// What the section says; `Some(None)` where there is none.
    fn build(self) -> Option<Option<super::Cni>> {
        let cni = super::Cni { conflist: self.conflist?.value, plugins: self.plugins?.value };
        Some(self.given.then_some(cni))
    }
}

impl Pool {
    fn read(table: &Table<'_>, log: &mut Log<'_>) -> Self {
        let mut mode = |key| table.value_or(log, key, EncapMode::Never, |v| word(v, &ENCAP_MODES));
        let [ipip_mode, vxlan_mode] = ["ipip_mode", "vxlan_mode"].map(&mut mode);
        let [nat_outgoing, verify] =
            ["nat_outgoing", "verify"].map(|key| table.value_or(log, key, false, boolean));
        Self {
            cidr: table.value(log, "cidr", value::pod_prefix),
            ipip_mode,
            vxlan_mode,
            nat_outgoing,
            verify,
        }
    }

    fn build(self) -> Option<super::Pool> {
        Some(super::Pool {
            cidr: self.cidr?.value,
            ipip_mode: self.ipip_mode?.value,
            vxlan_mode: self.vxlan_mode?.value,
            nat_outgoing: self.nat_outgoing?.value,
            verify: self.verify?.value,
        })
    }
}

impl Node {
    /// The address of one family, where it was given and right.
    pub(super) fn address_in(&self, is_ipv4: bool) -> Option<At<IpAddr>> {
        fn own<N: Copy>(own: &Option<At<OwnAddress<N>>>, host: fn(N) -> IpAddr) -> Option<At<IpAddr>> {
            let own = own.as_ref()?;
            Some(At { value: host(own.value.given()?), at: own.at })
        }
        match is_ipv4 {
            true => own(&self.address, |net| net.addr().into()),
            false => own(&self.address6, |net| net.addr().into()),
        }
    }
}

impl Peer {
    /// Its underlay addresses that are given, each with the key that gives it.
    pub(super) fn addresses(&self) -> impl Iterator<Item = (&'static str, At<IpAddr>)> {
        let second = self.address6.and_then(|a| a.value.map(|value| At { value: value.into(), at: a.at }));
        let first = self.address.as_ref().and_then(|address| match address.value {
            PeerAddress::Ip(value) => Some(("address", At { value, at: address.at })),
            PeerAddress::Name(_) => None,
        });
        let further = self.also_from.items.iter().map(|At { value, at }| At { value: *value, at: *at });
        let further = further.map(|address| ("also_from", address));
        first.into_iter().chain(second.map(|address| ("address6", address))).chain(further)
    }

    fn read(table: &Table<'_>, log: &mut Log<'_>) -> Self {
        Self {
            at: table.at,
            name: table.value(log, "name", parsed),
            address: table.value(log, "address", value::peer_address),
            address6: table.value_or(log, "address6", None, value::peer_address6),
            port: table.value_or(log, "port", None, |v| integer_in(v, 1, u16::MAX).map(Some)),
            subnets: table.list(log, "subnets", value::pod_prefix),
            sends_for: table.list_or_empty(log, "sends_for", value::sender_prefix),
            also_from: table.list_or_empty(log, "also_from", value::further_address),
            vtep_mac: table.value_or(log, "vtep_mac", None, |v| parsed(v).map(Some)),
        }
    }

    /// The VTEP address in effect and where it comes from: its own key, else the name.
    pub(super) fn effective_mac(&self) -> Option<At<Mac>> {
        match *self.vtep_mac.as_ref()? {
            At { value: Some(mac), at } => Some(At { value: mac, at }),
            At { value: None, .. } => {
                let name = self.name.as_ref()?;
                Some(At { value: Mac::of_vtep(name.value.as_str()), at: name.at })
            }
        }
    }

    /// Sorts the peer among those at an address or those at a name; `None` when anything was wrong.
    fn build(self, peers: &mut Vec<super::Peer>, named: &mut Vec<NamedPeer>) -> Option<()> {
        let peer = super::Peer {
            vtep_mac: self.effective_mac()?.value,
            name: self.name?.value,
            address: (),
            address6: self.address6?.value,
            port: self.port?.value,
            subnets: self.subnets.build()?,
            sends_for: self.sends_for.build()?,
            also_from: self.also_from.build()?,
            source: Source::Static,
        };
        match self.address?.value {
            PeerAddress::Ip(address) => peers.push(peer.with(address)),
            PeerAddress::Name(host) => named.push(peer.with(host)),
        }
        Some(())
    }
}

impl<T> List<T> {
    /// The elements; `None` when anything was wrong.
    pub(super) fn build(self) -> Option<Vec<T>> {
        self.whole.then(|| self.items.into_iter().map(|item| item.value).collect())
    }
}
