"""Direct or encapsulated: D1 to D4, and the longest prefix (W11), on three nodes in two subnets."""

import bootstrap

from typing import Any

from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.l2 import Ether
from scapy.layers.vxlan import VXLAN

from shared import SharedLab
from underpass_lab.nodes import ADDRESSES, pod_address

A, B, C = (pod_address(node) for node in ("n1", "n2", "n3"))


class ThreeNodes(SharedLab):
    topology = "T3"
    daemons = ("n1", "n2", "n3")

    def setUp(self) -> None:
        self.wires = {"n1": self.tap("sw", "port-n1"), "n3": self.tap("n3", "eth0")}

    @classmethod
    def router_knows_pods(cls) -> None:
        cls.lab.ip(
            "R",
            f"route replace 10.244.1.0/24 via {ADDRESSES['n1']}",
            f"route replace 10.244.2.0/24 via {ADDRESSES['n2']}",
            f"route replace 10.244.3.0/24 via {ADDRESSES['n3']}",
        )

    def requests(self, source: str, target: str) -> Any:
        """How echo requests between two pods left n1: a set of (mode, MAC they were sent to, outer destination)."""
        seen = set()
        for packet in map(Ether, self.wires["n1"].incoming()):
            inner = self.innermost(packet)
            if inner is not None and inner.haslayer(ICMP) and (inner.src, inner.dst) == (source, target):
                outer = packet[IP]
                mode = "vxlan" if packet.haslayer(VXLAN) else "ipip" if outer.proto == 4 else "direct"
                seen.add((mode, packet.dst, outer.dst))
        return seen

    @staticmethod
    def innermost(packet: Any) -> Any:
        layers = [layer for layer in packet.iterpayloads() if isinstance(layer, IP) and type(layer) is IP]
        return layers[-1] if layers else None

    def travels(self, target: str, mode: str, gateway: str) -> None:
        """Pings from podA: all answered, and all left n1 in `mode`, by way of that machine."""
        self.wires["n1"].drain()
        self.assertEqual(self.lab.ping("podA", target, count=3), 3)
        node = {B: "n2", C: "n3"}[target]
        mac = self.lab.mac(gateway, "eth0")
        outer = target if mode == "direct" else ADDRESSES[node]
        self.assertEqual(self.requests(A, target), {(mode, mac, outer)})
        route = self.lab.daemons["n1"].json("route", "get", target)
        self.assertEqual((route["mode"], route["peer"], route["next_hop"]), (mode, node, ADDRESSES[node]))


class Modes(ThreeNodes):
    def test_d1_always(self) -> None:
        for mode in ("ipip", "vxlan"):
            with self.subTest(mode):
                self.restart(**{"ipip": "Never", "vxlan": "Never"} | {mode: "Always"})
                self.travels(B, mode, "n2")
                self.travels(C, mode, "R")

    def test_d2_cross_subnet(self) -> None:
        for mode in ("ipip", "vxlan"):
            with self.subTest(mode):
                self.restart(**{"ipip": "Never", "vxlan": "Never"} | {mode: "CrossSubnet"})
                self.travels(B, "direct", "n2")
                self.travels(C, mode, "R")

    def test_d3_never(self) -> None:
        self.router_knows_pods()
        self.addCleanup(self.lab.ip, "R", *(f"route del 10.244.{n}.0/24" for n in (1, 2, 3)))
        self.restart(ipip="Never", vxlan="Never")
        self.travels(B, "direct", "n2")
        self.travels(C, "direct", "R")

    def test_d3_a_router_that_does_not_know_the_pods_gets_the_bare_packet(self) -> None:
        self.restart(ipip="Never", vxlan="Never")
        with self.moves("n1", device_rx=1, underlay_tx=1):
            self.assertEqual(self.lab.ping("podA", C, "-W", "0.2", count=1), 0)
        self.assertEqual(self.requests(A, C), {("direct", self.lab.mac("R", "eth0"), C)})

    def test_d4_each_destination_follows_its_own_pool(self) -> None:
        pools = [
            ("10.244.0.0/16", "Never", "Never"),
            ("10.244.2.0/24", "Never", "Always"),
            ("10.244.3.0/24", "Always", "Never"),
        ]
        self.restart(pools=pools)
        self.travels(B, "vxlan", "n2")
        self.travels_one_way_back_direct()

    def travels_one_way_back_direct(self) -> None:
        """A→C as its pool says; C→A is in the pool without encapsulation, which the router must know."""
        self.router_knows_pods()
        self.addCleanup(self.lab.ip, "R", *(f"route del 10.244.{n}.0/24" for n in (1, 2, 3)))
        self.wires["n3"].drain()
        self.travels(C, "ipip", "R")
        sent = [packet for packet in map(Ether, self.wires["n3"].outgoing()) if packet.haslayer(ICMP)]
        self.assertEqual([packet[IP].dst for packet in sent if packet[IP].src == C], [A] * 3)

    def test_a_node_with_a_host_prefix_always_encapsulates(self) -> None:
        self.start("n1", ipip="CrossSubnet", address="192.0.2.1/32")
        for node in ("n2", "n3"):
            self.start(node, ipip="CrossSubnet")
        self.travels(B, "ipip", "n2")

    def test_nodes_of_different_modes_understand_each_other(self) -> None:
        # Every format is decapsulated at all times: modes can be changed node by node.
        self.start("n1", ipip="Always")
        self.start("n2", ipip="Never", vxlan="Always")
        self.start("n3", ipip="CrossSubnet")
        self.travels(B, "ipip", "n2")
        self.travels(C, "ipip", "R")
        self.assertEqual(self.lab.ping("podC", B, count=3), 3)


class LongestPrefix(ThreeNodes):
    """W11: n3 has a /26 out of the middle of n2's /24."""

    INSIDE = ("10.244.2.64", "10.244.2.127")
    OUTSIDE = ("10.244.2.63", "10.244.2.128")

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.lab.ip("podB", *(f"address add {address}/24 dev eth0" for address in cls.OUTSIDE))
        cls.lab.ip("podC", *(f"address add {address}/32 dev eth0" for address in cls.INSIDE))
        cls.lab.ip("n3", "route add 10.244.2.64/26 dev pod0")
        n1, n2, n3 = (
            (ADDRESSES["n1"], ["10.244.1.0/24"]),
            (ADDRESSES["n2"], ["10.244.2.0/24"]),
            (ADDRESSES["n3"], ["10.244.3.0/24", "10.244.2.64/26"]),
        )
        cls.start("n1", peers={"n2": n2, "n3": n3})
        cls.start("n2", peers={"n1": n1, "n3": n3})
        cls.start("n3", peers={"n1": n1, "n2": n2}, local=["10.244.3.0/24", "10.244.2.64/26"])

    def test_w11_longest_prefix_wins(self) -> None:
        cases = [(address, "n3", "10.244.2.64/26") for address in self.INSIDE]
        cases += [(address, "n2", "10.244.2.0/24") for address in self.OUTSIDE]
        for address, node, prefix in cases:
            with self.subTest(address), self.moves("n1", device_rx=3, underlay_tx=3, underlay_rx=3, device_tx=3):
                self.wires["n1"].drain()
                self.assertEqual(self.lab.ping("podA", address, count=3), 3)
                self.assertEqual({outer for _, _, outer in self.requests(A, address)}, {ADDRESSES[node]})
                route = self.lab.daemons["n1"].json("route", "get", address)
                self.assertEqual((route["prefix"], route["peer"], route["next_hop"]), (prefix, node, ADDRESSES[node]))

    def test_w11_the_source_follows_the_longest_prefix_too(self) -> None:
        # n2 may not speak for addresses out of the middle of its own /24 that are n3's.
        packet = IP(src=self.INSIDE[0], dst=A) / UDP(sport=1, dport=9)
        with self.moves("n2", device_rx=1, spoofed_source=1):
            self.send_from_pod([packet], node="n2")
