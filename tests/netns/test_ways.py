"""The way to each peer is the kernel's own: its interface, its MTU, the rules that choose its table."""

import bootstrap

import contextlib
import json
from collections.abc import Iterator, Sequence

from scapy.layers.l2 import Ether

from fast import MIB, MODES, OVERHEAD
from shared import SharedLab, is_resolution
from tunnel import FORMATS
from underlay6 import ADDRESSES6, ROUTER6, add_addresses6, over6
from underpass_lab.command import wait_until
from underpass_lab.nodes import ADDRESSES, pod_address

A, B, C = (pod_address(node) for node in ("n1", "n2", "n3"))
RAW = {"packet_socket": "off"}


class Ways(SharedLab):
    def route_mtu(self, target: str) -> int:
        return int(self.lab.daemons["n1"].json("route", "get", target)["mtu"])

    def tun_mtu(self) -> int:
        links = json.loads(self.lab.tool("ip", "-n", self.lab.ns("n1"), "-j", "link", "show", "up0").stdout)
        return int(links[0]["mtu"])

    def await_mtu(self, target: str, mtu: int) -> None:
        wait_until(lambda: self.route_mtu(target) == mtu, 5, f"an MTU of {mtu} towards {target}")

    @contextlib.contextmanager
    def changed(self, change: str, back: str) -> Iterator[None]:
        """`change` on n1 holds within the block."""
        self.lab.ip("n1", change)
        try:
            yield
        finally:
            self.lab.ip("n1", back)


class AddressOnLo(Ways):
    """H6: n1's address is on lo, its uplink has another one, as with BGP to the host."""

    WAY = f"route replace {ADDRESSES['n2']}/32 dev eth0 src {ADDRESSES['n1']}"

    @classmethod
    def prepare(cls) -> None:
        cls.lab.ip(
            "n1", "address flush dev eth0", "address add 10.99.0.1/24 dev eth0", "address add 192.0.2.1/32 dev lo"
        )
        cls.lab.ip("n1", cls.WAY)

    def test_h6_the_mtu_is_that_of_the_way(self) -> None:
        for mode, config in MODES.items():
            overhead = OVERHEAD[mode]
            with self.subTest(mode):
                self.restart(**config)
                self.assertEqual((self.tun_mtu(), self.route_mtu(B)), (1500 - overhead, 1500 - overhead))
                self.transfers()
                with self.changed("link set eth0 mtu 1400", "link set eth0 mtu 1500"):
                    self.await_mtu(B, 1400 - overhead)
                    wait_until(lambda: self.tun_mtu() == 1400 - overhead, 5, "the TUN's MTU")
                    self.transfers()
                with self.changed(f"{self.WAY} mtu lock 1300", self.WAY):
                    self.await_mtu(B, 1300 - overhead)
                    self.transfers()
                self.await_mtu(B, 1500 - overhead)

    def test_the_packet_socket_is_on_the_interface_that_leads_to_the_peers(self) -> None:
        self.restart(**MODES["ipip"])
        self.assertEqual(self.lab.status("n1")["offloads"]["packet_socket"], "active")

    def transfers(self) -> None:
        # The pods remember path MTUs of before.
        for pod in ("podA", "podB"):
            self.lab.ip(pod, "route flush cache")
        self.lab.tcp_transfer("podA", "podB", B, MIB)
        self.lab.tcp_transfer("podB", "podA", A, MIB)


class EachItsOwn(Ways):
    """Peers behind links of different size: the TUN has the MTU of the largest, each route its own."""

    topology = "T3"
    daemons: Sequence[str] = ("n1", "n2", "n3")
    NEAR = "route replace 192.0.2.2/32 dev eth1 src 192.0.2.1"
    FAR = "route replace 198.51.100.0/24 via 192.0.2.254"

    @classmethod
    def prepare(cls) -> None:
        cls.lab.link("n1", "eth1", "sw", "port-n1b", 1400, offloads=False)
        cls.lab.ip("sw", "link set port-n1b master br0")

    def test_two_interfaces_and_the_mtu_of_a_route(self) -> None:
        for mode in FORMATS:
            overhead = OVERHEAD[mode]
            with self.subTest(mode), self.changed(self.NEAR, "route del 192.0.2.2/32"):
                self.restart(**MODES[mode])
                self.assertEqual(self.tun_mtu(), 1500 - overhead)
                self.assertEqual((self.route_mtu(B), self.route_mtu(C)), (1400 - overhead, 1500 - overhead))
                with self.changed(f"{self.FAR} mtu 1350", self.FAR):
                    self.await_mtu(C, 1350 - overhead)
                    # Both links are smaller now.
                    wait_until(lambda: self.tun_mtu() == 1400 - overhead, 5, "the TUN's MTU")
                    for target, pod in ((B, "podB"), (C, "podC")):
                        self.lab.tcp_transfer("podA", pod, target, MIB)
                with self.changed("link set eth1 mtu 1300", "link set eth1 mtu 1400"):
                    self.await_mtu(B, 1300 - overhead)
                    self.lab.tcp_transfer("podA", "podB", B, MIB)
                self.await_mtu(B, 1400 - overhead)

    def test_several_next_hops_count_with_the_smallest(self) -> None:
        several = (
            "route replace 198.51.100.0/24 nexthop via 192.0.2.254 dev eth0 nexthop via 192.0.2.254 dev eth1 onlink"
        )
        self.restart(**MODES["vxlan"])
        with self.changed(several, self.FAR):
            self.await_mtu(C, 1350)
        self.await_mtu(C, 1450)


class SourceRules(Ways):
    """P8: the main table knows a gateway that leads nowhere, a table for packets from n1's address the right one."""

    topology = "T3"
    daemons: Sequence[str] = ("n1", "n3")
    options = {"ipv6": True}
    multicast_reports = True

    @classmethod
    def prepare(cls) -> None:
        add_addresses6(cls.lab, "n1", "n3")
        # Nothing is behind it.
        cls.lab.add_host("W", "192.0.2.253/24")
        cls.lab.ip("W", "address add 2001:db8::fd/64 dev eth0 nodad")
        for node in ("n1", "n3"):
            cls.lab.ip("R", f"route replace 10.244.{node[1:]}.0/24 via {ADDRESSES[node]}")
        cls.lab.ip(
            "n1",
            "route replace 198.51.100.0/24 via 192.0.2.253",
            "route replace 2001:db8:3::/64 via 2001:db8::fd",
            "route add 198.51.100.0/24 via 192.0.2.254 table 100",
            f"route add 2001:db8:3::/64 via {ROUTER6} table 100",
            "rule add from 192.0.2.1 lookup 100",
        )
        cls.lab.exec("n1", "ip", "-6", "rule", "add", "from", ADDRESSES6["n1"], "lookup", "100")

    def test_p8_every_mode_by_every_socket(self) -> None:
        for mode, config in MODES.items():
            for tunnel in ({}, RAW, {"uplink": "socket"}):
                with self.subTest(mode, tunnel=tunnel):
                    self.restart(**config, tunnel=tunnel)
                    self.passes_by_the_right_one()

    def test_p8_over_ipv6(self) -> None:
        for mode in FORMATS:
            for tunnel in ({}, RAW):
                with self.subTest(mode, tunnel=tunnel):
                    for node, other in (("n1", "n3"), ("n3", "n1")):
                        self.start(node, **over6(node, other), tunnel=tunnel, **MODES[mode])
                    self.passes_by_the_right_one()

    def passes_by_the_right_one(self) -> None:
        wrong = self.tap("W", "eth0")
        self.lab.ip("podA", "route flush cache")
        self.lab.tcp_transfer("podA", "podC", C, MIB)
        mac = bytes.fromhex(self.lab.mac("W", "eth0").replace(":", ""))
        addressed = [frame for frame in wrong.incoming() if frame[:6] == mac and not is_resolution(frame)]
        self.assertEqual([Ether(frame).summary() for frame in addressed], [])

    def test_the_mtu_is_that_of_the_table_and_follows_the_rules(self) -> None:
        self.restart(**MODES["ipip"])
        self.assertEqual(self.route_mtu(C), 1480)
        right = "route replace 198.51.100.0/24 via 192.0.2.254 table 100"
        with self.changed(f"{right} mtu 1400", right):
            self.await_mtu(C, 1380)
            with self.changed("rule del from 192.0.2.1 lookup 100", "rule add from 192.0.2.1 lookup 100"):
                self.await_mtu(C, 1480)
            self.await_mtu(C, 1380)
