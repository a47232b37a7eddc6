"""What flanneld does on a node with the backend `vxlan`, over the kernel's own device.

Its annotations, its device and what it adds for each other node are those of flannel (pkg/subnet/kube,
pkg/backend/vxlan): an address, the Ethernet address behind it, where that is, and a route.
"""

import bootstrap

import ipaddress
import json
import threading
from types import TracebackType
from typing import Any, Self

from underpass_lab.kubernetes.client import NODES, Client
from underpass_lab.kubernetes.cluster import Cluster
from underpass_lab.kubernetes.plan import ADDRESSES, ADDRESSES6

PREFIX = "flannel.alpha.coreos.com/"
VNI, PORT = 1, 8472
LOOK_S = 0.1


class Family:
    """One address family of a node: a device with what is added to it."""

    def __init__(self, cluster: Cluster, node: str, subnet: str) -> None:
        self._lab, self._node, self.subnet = cluster.underlay, node, ipaddress.ip_network(subnet)
        six = self.subnet.version == 6
        self.device = f"flannel-v6.{VNI}" if six else f"flannel.{VNI}"
        self.keys = ("public-ipv6", "backend-v6-data") if six else ("public-ip", "backend-data")
        self.address = (ADDRESSES6 if six else ADDRESSES)[node]
        self._lab.ip(
            node,
            f"link add {self.device} type vxlan id {VNI} local {self.address} dev eth0 dstport {PORT} nolearning",
            f"address add {self.subnet.network_address}/{self.subnet.max_prefixlen} dev {self.device}",
            f"link set {self.device} up",
        )
        self.mac = self._lab.mac(node, self.device)
        # Other nodes: (subnet, Ethernet address, underlay address).
        self.there: set[tuple[str, str, str]] = set()

    def annotations(self) -> dict[str, str]:
        """Of the own node."""
        data = json.dumps({"VNI": VNI, "VtepMAC": self.mac}, separators=(",", ":"))
        address, backend = self.keys
        return {PREFIX + address: self.address, PREFIX + backend: data}

    def wanted(self, node: dict[str, Any]) -> set[tuple[str, str, str]]:
        """What another node needs here."""
        annotations = node["metadata"].get("annotations", {})
        address, data = (annotations.get(PREFIX + key) for key in self.keys)
        subnets = [cidr for cidr in node["spec"].get("podCIDRs", []) if (":" in cidr) == (self.subnet.version == 6)]
        if not address or not data or not subnets:
            return set()
        mac = str(json.loads(data)["VtepMAC"])
        # What the kernel would refuse, and flannel then logs.
        if int(mac[:2], 16) & 1 or ipaddress.ip_address(address).version != self.subnet.version:
            return set()
        return {(subnets[0], mac, address)}

    def follow(self, wanted: set[tuple[str, str, str]]) -> None:
        for subnet, mac, address in self.there - wanted:
            self._do("del", subnet, mac, address)
        for subnet, mac, address in wanted - self.there:
            self._do("replace", subnet, mac, address)
        self.there = wanted

    def _do(self, verb: str, subnet: str, mac: str, address: str) -> None:
        base = subnet.partition("/")[0]
        route = f"route {verb} {subnet} via {base} dev {self.device} onlink"
        fdb = ("bridge", "-n", self._lab.ns(self._node), "fdb", verb, mac, "dev", self.device, "dst", address, "self")
        if verb == "replace":
            self._lab.ip(self._node, f"neigh replace {base} lladdr {mac} dev {self.device} nud permanent")
            self._lab.tool(*fdb, "permanent")
            self._lab.ip(self._node, route)
        else:
            self._lab.ip(self._node, route, f"neigh del {base} lladdr {mac} dev {self.device}")
            # Of two nodes with the same Ethernet address the later one has replaced the entry.
            self._lab.tool(*fdb, check=False)


class Flanneld:
    """flanneld on one node, while in the `with` block."""

    def __init__(self, cluster: Cluster, node: str) -> None:
        self.node = node
        self._client = Client(cluster)
        self.families = [Family(cluster, node, subnet) for subnet in cluster.pod_subnets(node)]
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        # What went wrong in the thread.
        self.trouble: Exception | None = None

    def __enter__(self) -> Self:
        annotations = {PREFIX + "kube-subnet-manager": "true", PREFIX + "backend-type": "vxlan"}
        for family in self.families:
            annotations |= family.annotations()
        self._client.annotate(self.node, annotations)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        self._client.close()

    def _run(self) -> None:
        try:
            while not self._ended.wait(LOOK_S):
                self._look()
        except Exception as trouble:
            self.trouble = trouble

    def _look(self) -> None:
        nodes = [node for node in self._client.get(NODES)["items"] if node["metadata"]["name"] != self.node]
        kind, managed = PREFIX + "backend-type", PREFIX + "kube-subnet-manager"
        of_ours = [
            node
            for node in nodes
            if node["metadata"].get("annotations", {}).get(kind) == "vxlan"
            and node["metadata"]["annotations"].get(managed) == "true"
        ]
        for family in self.families:
            wanted: set[tuple[str, str, str]] = set()
            for node in of_ours:
                try:
                    wanted |= family.wanted(node)
                except (ValueError, KeyError, TypeError):
                    continue  # flannel logs it, too
            family.follow(wanted)
