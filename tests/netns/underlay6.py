"""Labs whose nodes have IPv6 underlay addresses, alone or beside IPv4 ones, and pods of both families.

podA fd00:244:1::2 -- fd00:244:1::1 n1 2001:db8::1 -- sw -- 2001:db8::2 n2 fd00:244:2::1 -- fd00:244:2::2 podB
"""

import bootstrap

import socket
from typing import Any

from scapy.layers.inet import IP
from scapy.layers.inet6 import IPv6

from fast import ADDRESS
from shared import SINK_PORT, SharedLab
from silent import SilentPeer
from tunnel import VNI, VXLAN_PORT, inner, outer
from underpass_lab.command import run
from underpass_lab.nodes import ADDRESSES, PODS, NodeLab, pod_address, subnet
from underpass_lab.vtep import vtep_mac

ADDRESSES6 = {"n1": "2001:db8::1", "n2": "2001:db8::2", "n3": "2001:db8:3::3"}
ROUTER6, FAR_ROUTER6 = "2001:db8::ff", "2001:db8:3::ff"
ADDRESS6 = {"podA": "fd00:244:1::2", "podB": "fd00:244:2::2"}
FAMILIES = (ADDRESS, ADDRESS6)
A, B = pod_address("n1"), pod_address("n2")
A6, B6 = ADDRESS6["podA"], ADDRESS6["podB"]


def pools(mode: str) -> list[Any]:
    """Pools of both families that travel in one mode."""
    words = {"ipip": ("Always", "Never"), "vxlan": ("Never", "Always"), "direct": ("Never", "Never")}[mode]
    return [("10.244.0.0/16", *words), ("fd00:244::/32", *words)]


def subnets(node: str) -> list[Any]:
    """The pod subnets of a node."""
    return [subnet(node), f"fd00:244:{node[1:]}::/64"]


def over6(node: str, *others: str) -> dict[str, Any]:
    """What `NodeLab.config` takes for a node whose underlay is IPv6 alone, with IPv4 pods."""
    peers = {other: (ADDRESSES6[other], [subnet(other)]) for other in others}
    return {"own": {"address6": f"{ADDRESSES6[node]}/64"}, "peers": peers}


def add_addresses6(lab: NodeLab, *nodes: str) -> None:
    """Gives nodes their IPv6 addresses, on T3 with the router between them, and leaves the pods as they are."""
    if "n3" in nodes:
        lab.ip("R", f"address add {ROUTER6}/64 dev eth0 nodad", f"address add {FAR_ROUTER6}/64 dev eth1 nodad")
        lab.sysctl("R", {"ipv6/conf/all/forwarding": 1})
    for node in nodes:
        lab.sysctl(node, {"ipv6/conf/all/forwarding": 1})
        lab.ip(node, f"address add {ADDRESSES6[node]}/64 dev eth0 nodad")
        if "n3" in nodes:
            far, router = ("2001:db8::", FAR_ROUTER6) if node == "n3" else ("2001:db8:3::", ROUTER6)
            lab.ip(node, f"route add {far}/64 via {router}")


class SixLab(SharedLab):
    """`underlay` says which addresses the nodes have: `ipv6` or `both`."""

    options = {"ipv6": True}
    multicast_reports = True
    underlay = "ipv6"
    mode = "vxlan"

    @classmethod
    def prepare(cls) -> None:
        for node in cls.lab.nodes:
            cls.lab.sysctl(node, {"ipv6/conf/all/forwarding": 1})
            if cls.topology == "TS" and node == "n2":
                mac = cls.lab.mac(node, "eth0")
                cls.lab.ip("n1", f"neighbour replace {ADDRESSES6[node]} lladdr {mac} dev eth0 nud permanent")
                continue
            cls.lab.ip(node, f"address add {ADDRESSES6[node]}/64 dev eth0 nodad")
            if cls.underlay == "ipv6":
                cls.lab.ip(node, f"address del {ADDRESSES[node]}/24 dev eth0")
            cls.add_pod_addresses(node)

    @classmethod
    def add_pod_addresses(cls, node: str) -> None:
        pod, number = PODS[node], node[1:]
        cls.lab.ip(node, f"address add fd00:244:{number}::1/64 dev pod0 nodad")
        gateway = f"route add default via fd00:244:{number}::1"
        cls.lab.ip(pod, f"address add {ADDRESS6[pod]}/64 dev eth0 nodad", gateway)

    @classmethod
    def start(cls, node: str, **config: Any) -> Any:
        other = "n2" if node == "n1" else "n1"
        own, peer = {"address6": f"{ADDRESSES6[node]}/64"}, {}
        address = ADDRESSES6[other]
        if cls.underlay == "both":
            own["address"] = f"{ADDRESSES[node]}/24"
            address, peer = ADDRESSES[other], {"address6": ADDRESSES6[other]}
        here = {
            "own": own,
            "local": subnets(node),
            "peers": {other: (address, subnets(other), peer)},
            "pools": pools(cls.mode),
        }
        return super().start(node, **here | config)


class SilentPeer6(SixLab, SilentPeer):
    """TS over IPv6: n2 is scapy only."""

    topology = "TS"
    config = {"tunnel": {"workers": 1}}
    ethertype = 0x86DD

    @classmethod
    def prepare(cls) -> None:
        super().prepare()
        # Resolution has to wait for the link-local address behind pod0; these tests do not.
        mac = cls.lab.mac("podA", "eth0")
        cls.lab.ip("n1", f"neighbour replace {A6} lladdr {mac} dev pod0 nud permanent")

    def setUp(self) -> None:
        super().setUp()
        receiver(self, "podA", A6, SINK_PORT)

    @staticmethod
    def outer(form: str, content: Any, **ip: Any) -> Any:
        return outer6(form, content, **ip)


def outer6(
    form: str,
    content: Any,
    source: str = ADDRESSES6["n2"],
    target: str = ADDRESSES6["n1"],
    checksum: bool = True,
    **ip: Any,
) -> Any:
    """`tunnel.outer` with an outer IPv6 header, by scapy."""
    over4 = outer(form, content)
    fields = {"src": source, "dst": target, "hlim": 64} | ip
    if form == "ipip":
        return IPv6(**{"nh": over4.proto} | fields) / over4.payload
    udp = over4.payload.copy()
    if checksum:
        del udp.chksum
    return IPv6(**fields) / udp


def receiver(test: Any, pod: str, address: str, port: int = 5009) -> Any:
    """A bound UDP socket in a pod, closed with the test."""
    bound = test.lab.socket(pod, socket.AF_INET6 if ":" in address else socket.AF_INET)
    test.addCleanup(bound.close)
    bound.bind((address, port))
    bound.settimeout(2)
    return bound


def add_kernel_vxlan6(lab: NodeLab, node: str, peer: str, *options: Any) -> None:
    """The kernel's VXLAN device over IPv6, with static entries for pods of both families."""
    lab.ip(
        node,
        f"link add vx0 address {vtep_mac(node)} type vxlan id {VNI} dstport {VXLAN_PORT}"
        f" local {ADDRESSES6[node]} nolearning {' '.join(options)}",
        f"link set vx0 mtu {lab.mtu - 70} up",
    )
    number = peer[1:]
    for family, gateway, own, far in (
        ("4", f"10.244.{number}.0", f"10.244.{node[1:]}.0/32", subnet(peer)),
        ("6", f"fd00:244:{number}::", f"fd00:244:{node[1:]}::/128", f"fd00:244:{number}::/64"),
    ):
        nodad = "nodad" if family == "6" else ""
        lab.ip(
            node,
            f"address add {own} dev vx0 {nodad}",
            f"neighbour add {gateway} lladdr {vtep_mac(peer)} dev vx0 nud permanent",
            f"route add {far} via {gateway} dev vx0 onlink",
        )
    run("bridge", "-n", lab.ns(node), "fdb", "append", vtep_mac(peer), "dev", "vx0", "dst", ADDRESSES6[peer])


def inner6(sport: int = 1000, payload: bytes = b"payload", **ip: Any) -> Any:
    """`tunnel.inner` with IPv6 addresses."""
    fields = {"src": B6, "dst": A6, "hlim": 63} | ip
    return IPv6(**fields) / inner(sport=sport, payload=payload)[IP].payload.copy()
