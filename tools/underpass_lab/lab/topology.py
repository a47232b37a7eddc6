"""A network to make: what a topology file says, checked and worked out to the last address.

    [lab] [pool] [vxlan] [tunnel]      once each
    [[subnet]] [[router]] [[node]]     any number; docs/lab.md has every key

Nodes are numbered through the whole file in the order of their subnets. Node N has host number N in
its subnet and owns the N-th /24 of the pool; a router has the last free host number.
"""

import collections
import dataclasses
import ipaddress
import math
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from underpass_lab.lab import tables
from underpass_lab.paths import REPO

SHIPPED = REPO / "config" / "lab"
MODES = ("Never", "CrossSubnet", "Always")
UNDERPASS, KERNEL = "underpass", "kernel-vxlan"
# Interfaces of a switch carry the name of what is plugged in.
NAME = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,14}")
RANGE = re.compile(r"(.*?)(\d+)\.\.(\d+)")
TAKEN = ("br0", "lo", "eth0", "all", "default")
RATE = re.compile(r"(\d+(?:\.\d+)?)(kbit|mbit|gbit)")
UNITS = {"kbit": 1e3, "mbit": 1e6, "gbit": 1e9}
MOST_NODES = 254
# In place of a network that is not one, until all mistakes are found.
_NOWHERE = ipaddress.IPv4Network("255.255.255.255/32")


@dataclasses.dataclass(eq=False)
class Link:
    """What a link between a machine and its switch is like, in both directions."""

    rate: str | None  # as tc writes it
    loss: float  # percent


@dataclasses.dataclass(eq=False)
class Subnet:
    name: str
    network: ipaddress.IPv4Network
    mtu: int
    link: Link

    @property
    def switch(self) -> str:
        return f"switch-{self.name}"


@dataclasses.dataclass(eq=False)
class Node:
    name: str
    number: int
    subnet: Subnet
    link: Link
    pods: int
    dataplane: str
    pod_network: ipaddress.IPv4Network

    @property
    def address(self) -> ipaddress.IPv4Address:
        return self.subnet.network[self.number]

    @property
    def mac(self) -> str:
        return f"02:55:50:00:00:{self.number:02x}"

    @property
    def gateway(self) -> ipaddress.IPv4Address:
        return self.pod_network[1]

    def pod_names(self) -> list[str]:
        base = "pod-" + self.name.removeprefix("node-")
        return [base] if self.pods == 1 else [f"{base}-{number}" for number in range(1, self.pods + 1)]

    def pod_addresses(self) -> dict[str, ipaddress.IPv4Address]:
        """{pod: address}"""
        return {name: self.pod_network[2 + index] for index, name in enumerate(self.pod_names())}


@dataclasses.dataclass(eq=False)
class Router:
    name: str
    number: int
    ports: list[tuple[Subnet, ipaddress.IPv4Address]]  # of (subnet, address); the n-th is interface ethN
    link: Link
    knows_pods: bool

    def mac(self, port: int) -> str:
        return f"02:55:50:01:{self.number:02x}:{port:02x}"


@dataclasses.dataclass(eq=False)
class Topology:
    """The whole lab."""

    subnets: list[Subnet]
    nodes: list[Node]
    routers: list[Router]
    offloads: bool
    pool: ipaddress.IPv4Network
    ipip_mode: str
    vxlan_mode: str
    vxlan: dict[str, int]  # port and vni
    tunnel: dict[str, Any]  # for the daemons as it is

    def node(self, name: str) -> Node | None:
        return next((node for node in self.nodes if node.name == name), None)

    def daemons(self) -> list[Node]:
        return [node for node in self.nodes if node.dataplane == UNDERPASS]

    def pods(self) -> dict[str, ipaddress.IPv4Address]:
        """{pod: address} of all nodes."""
        return {name: address for node in self.nodes for name, address in node.pod_addresses().items()}

    def switches(self) -> list[str]:
        return [subnet.switch for subnet in self.subnets]

    def namespaces(self) -> list[str]:
        """All names under which `lab exec` finds something."""
        return [*self.switches(), *(machine.name for machine in self.machines()), *self.pods()]

    def machines(self) -> "list[Router | Node]":
        """What has links to switches."""
        return [*self.routers, *self.nodes]

    def next_hops(self, subnet: Subnet) -> dict[Subnet, ipaddress.IPv4Address]:
        """{other subnet: address of the router in `subnet` that leads there}, by the fewest routers."""
        hops: dict[str, ipaddress.IPv4Address | None] = {subnet.name: None}
        queue = collections.deque([subnet])
        while queue:
            here = queue.popleft()
            for router in self.routers:
                own = {port.name: address for port, address in router.ports}
                if here.name not in own:
                    continue
                for port, _ in router.ports:
                    if port.name not in hops:
                        hops[port.name] = hops[here.name] or own[here.name]
                        queue.append(port)
        del hops[subnet.name]
        return {other: hop for other in self.subnets if (hop := hops.get(other.name))}


def find(name: str) -> pathlib.Path:
    """The topology file of a name: one of the shipped ones, or a path."""
    shipped = SHIPPED / f"{name}.toml"
    return shipped if re.fullmatch(r"[A-Za-z0-9-]+", name) and shipped.is_file() else pathlib.Path(name)


def load(path: pathlib.Path, text: str) -> Topology:
    """The topology in a file; Mistakes names every key that is wrong."""
    one, many, found = tables.read(path, text, ("lab", "pool", "vxlan", "tunnel"), ("subnet", "router", "node"))
    topology = _Reader(one, many, found).topology()
    if found:
        raise tables.Mistakes(path, found)
    return topology


class _Reader:
    """From tables to a Topology. After a mistake it goes on with a value that is good enough to find others."""

    def __init__(
        self, one: Mapping[str, tables.Table], many: Mapping[str, list[tables.Table]], found: list[tables.Found]
    ) -> None:
        self.one, self.many, self.found = one, many, found
        self.names: dict[str, object] = {}

    def topology(self) -> Topology:
        lab, pool, vxlan = (self.one[name] for name in ("lab", "pool", "vxlan"))
        self.mtu = lab.take("mtu", 1500, tables.integer(576, 65535))
        self.link = self._link(lab, Link(None, 0.0))
        self.pods = lab.take("pods", 1, tables.integer(0, 200))
        self.pool = pool.take("cidr", ipaddress.IPv4Network("10.244.0.0/16"), _network)
        topology = Topology(
            subnets=[],
            nodes=[],
            routers=[],
            offloads=lab.take("offloads", True, tables.boolean),
            pool=self.pool,
            ipip_mode=pool.take("ipip_mode", "Never", tables.one_of(*MODES)),
            vxlan_mode=pool.take("vxlan_mode", "Never", tables.one_of(*MODES)),
            vxlan={
                "port": vxlan.take("port", 4789, tables.integer(1, 49151)),
                "vni": vxlan.take("vni", 4096, tables.integer(0, (1 << 24) - 1)),
            },
            tunnel=self.one["tunnel"].rest(),
        )
        for table in self.many["subnet"]:
            self._subnet(table, topology)
        if not topology.nodes and not self.found:
            self.found.append(("subnet", "there are no nodes: a [[subnet]] has `cidr` and `nodes`"))
        for table in self.many["router"]:
            self._router(table, topology)
        for table in self.many["node"]:
            self._node(table, topology)
        self._check_whole(topology)
        for table in (lab, pool, vxlan, *self.many["subnet"], *self.many["router"], *self.many["node"]):
            table.close()
        return topology

    def _link(self, table: tables.Table, otherwise: Link) -> Link:
        return Link(table.take("rate", otherwise.rate, _rate), table.take("loss", otherwise.loss, _loss))

    def _subnet(self, table: tables.Table, topology: Topology) -> None:
        name = table.take("name", f"lan{len(topology.subnets) + 1}", _name)
        network = table.need("cidr", _network) or _NOWHERE
        mtu = table.take("mtu", self.mtu, tables.integer(576, 65535))
        subnet = Subnet(name, network, mtu, self._link(table, self.link))
        self._claim(table, "name", subnet.switch)
        pods = table.take("pods", self.pods, tables.integer(0, 200))
        first = len(topology.nodes) + 1
        names = table.need("nodes", lambda value: _node_names(value, first)) or []
        if len(topology.nodes) + len(names) > MOST_NODES:
            table.wrong("nodes", f"a lab has at most {MOST_NODES} nodes")
            names = []
        topology.subnets.append(subnet)
        if network is _NOWHERE:
            return
        for other in topology.subnets[:-1]:
            if network.overlaps(other.network):
                table.wrong("cidr", f"{network} overlaps with {other.network} of {other.name}")
        if network.overlaps(self.pool):
            table.wrong("cidr", f"{network} overlaps with {self.pool} of the pods (pool.cidr)")
        if names and first + len(names) + len(self.many["router"]) >= network.num_addresses:
            table.wrong("cidr", f"{network} has no address for node {first + len(names) - 1} and the routers")
            return
        for number, node in enumerate(names, first):
            self._claim(table, "nodes", node)
            pod_network = self._pod_network(table, number)
            topology.nodes.append(
                Node(node, number, subnet, dataclasses.replace(subnet.link), pods, UNDERPASS, pod_network)
            )

    def _pod_network(self, table: tables.Table, number: int) -> ipaddress.IPv4Network:
        base = self.pool.network_address + 256 * number
        if base not in self.pool:
            table.wrong("nodes", f"{self.pool} has no /24 for node {number} (pool.cidr)")
            return ipaddress.IPv4Network("10.244.0.0/24")
        return ipaddress.IPv4Network((base, 24))

    def _router(self, table: tables.Table, topology: Topology) -> None:
        number = len(topology.routers) + 1
        name = table.take("name", "router" if len(self.many["router"]) == 1 else f"router-{number}", _name)
        self._claim(table, "name", name)
        known = {subnet.name: subnet for subnet in topology.subnets}
        ports: list[tuple[Subnet, ipaddress.IPv4Address]] = []
        for word in table.take("subnets", list(known), tables.strings):
            if word not in known:
                table.wrong("subnets", f"there is no subnet {word!r}; there are: {', '.join(known)}")
            elif word in [port.name for port, _ in ports]:
                table.wrong("subnets", f"{word!r} is there twice")
            elif known[word].network is not _NOWHERE:
                others = sum(port.name == word for router in topology.routers for port, _ in router.ports)
                network = known[word].network
                if network.num_addresses < 4 + others:
                    table.wrong("subnets", f"{network} has no address for a router")
                else:
                    ports.append((known[word], network[-2 - others]))
        if len(ports) < 2 and all(subnet.network is not _NOWHERE for subnet in known.values()):
            table.wrong("subnets", "a router needs two subnets or more")
        knows = table.take("knows_pods", False, tables.boolean)
        topology.routers.append(Router(name, number, ports, self._link(table, self.link), knows))

    def _node(self, table: tables.Table, topology: Topology) -> None:
        names = table.need("name", _range) or []
        rate, loss = table.take("rate", None, _rate), table.take("loss", None, _loss)
        pods = table.take("pods", None, tables.integer(0, 200))
        dataplane = table.take("dataplane", None, tables.one_of(UNDERPASS, KERNEL))
        for name in names:
            node = topology.node(name)
            if node is None:
                if topology.nodes:
                    table.wrong("name", f"no subnet has a node {name!r}")
                continue
            node.link = Link(rate or node.link.rate, node.link.loss if loss is None else loss)
            node.pods = node.pods if pods is None else pods
            node.dataplane = dataplane or node.dataplane
            if dataplane == KERNEL and topology.ipip_mode != "Never":
                table.wrong("dataplane", f"{name} cannot be {KERNEL}: the mode of the pool is ipip")

    def _check_whole(self, topology: Topology) -> None:
        if topology.ipip_mode != "Never" and topology.vxlan_mode != "Never":
            self.one["pool"].wrong("vxlan_mode", "ipip_mode and vxlan_mode cannot both be other than Never")
        if topology.subnets and not self.found:
            joined = topology.next_hops(topology.subnets[0])
            for subnet in topology.subnets[1:]:
                if subnet.name not in [other.name for other in joined]:
                    first = topology.subnets[0].name
                    self.found.append(("router", f"no router joins subnet {subnet.name} with {first}"))
        for node in topology.nodes:
            for name in node.pod_names():
                if self.names.setdefault(name, node) is not node:
                    self.found.append(("subnet", f"the pod {name} of {node.name} has the name of something else"))

    def _claim(self, table: tables.Table, key: str, name: str) -> None:
        """Names are names of namespaces, so nothing in a lab may share one."""
        if name in self.names:
            table.wrong(key, f"{name!r} is the name of something else already")
        self.names[name] = table


# --- what a value may be --------------------------------------------------------------------------


def _name(value: Any) -> str:
    if not isinstance(value, str) or not NAME.fullmatch(value) or value in TAKEN:
        raise ValueError(f"{value!r} is no name: a letter, then up to 14 letters, digits and dashes")
    return value


def _range(value: Any) -> list[str]:
    """`node-3` is itself, `node-3..9` the seven from node-3 to node-9."""
    if not isinstance(value, str):
        raise ValueError(f"must be a name, not {value!r}")
    match = RANGE.fullmatch(value)
    if not match:
        return [_name(value)]
    stem, low, high = match[1], int(match[2]), int(match[3])
    if not low <= high <= low + MOST_NODES:
        raise ValueError(f"{value!r} is no range: the second number comes after the first, at most {MOST_NODES} later")
    return [_name(f"{stem}{number}") for number in range(low, high + 1)]


def _node_names(value: Any, first: int) -> list[str]:
    """A number of nodes, numbered on through the file, or a list of names and ranges."""
    if type(value) is int:
        tables.integer(0, MOST_NODES)(value)
        return [f"node-{number}" for number in range(first, first + value)]
    if not isinstance(value, list):
        raise ValueError(f"must be a number of nodes or a list of names, not {value!r}")
    return [name for item in value for name in _range(item)]


def _network(value: Any) -> ipaddress.IPv4Network:
    try:
        network = ipaddress.IPv4Network(value) if isinstance(value, str) and "/" in value else None
    except ValueError as error:
        raise ValueError(str(error)) from None
    if network is None:
        raise ValueError(f'must be an IPv4 network with its length, such as "192.0.2.0/24", not {value!r}')
    if network.prefixlen > 29:
        raise ValueError(f"{network} is too small: /29 or shorter")
    return network


def _rate(value: Any) -> str:
    match = RATE.fullmatch(value) if isinstance(value, str) else None
    if not match or float(match[1]) * UNITS[match[2]] < 8000:
        raise ValueError(f'must be a rate such as "10mbit" (kbit, mbit, gbit; at least 8kbit), not {value!r}')
    return str(value)


def bits_per_second(rate: str) -> float:
    """What a rate in the words of tc is in bits per second."""
    match = RATE.fullmatch(rate)
    if not match:
        raise ValueError(f"{rate!r} is no rate")
    return float(match[1]) * UNITS[match[2]]


def _loss(value: Any) -> float:
    if type(value) not in (int, float) or not math.isfinite(value) or not 0 <= value <= 100:
        raise ValueError(f"must be a percentage from 0 to 100, not {value!r}")
    if abs(value * 10 - round(value * 10)) > 1e-9:
        raise ValueError(f"must be a multiple of 0.1 percent, not {value!r}")
    return float(value)
