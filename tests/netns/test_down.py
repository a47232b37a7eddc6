"""A peer that is down: pods hear of it, whatever the encapsulation, as they do without one (P4)."""

import bootstrap

import errno
import socket
import time
from collections.abc import Sequence
from typing import Any

from scapy.layers.inet import ICMP, IP, UDP
from scapy.packet import Raw

from fast import MODES
from shared import SharedLab
from tunnel import FORMATS, outer
from underlay6 import add_addresses6, over6
from underpass_lab.command import wait_until
from underpass_lab.nodes import ADDRESSES, pod_address, subnet

A, B, C = (pod_address(node) for node in ("n1", "n2", "n3"))
PORT = 7020
# The kernel asks for a neighbour three times, a second apart; what it asks about was sent before, or is sent again.
LIMIT_S = 10


class Down(SharedLab):
    topology = "T3"
    daemons: Sequence[str] = ("n1",)

    def connect(self, address: str) -> int:
        """What becomes of a TCP connection from podA: an errno, 0 for success."""
        with self.lab.socket("podA", socket.AF_INET, socket.SOCK_STREAM) as client:
            client.settimeout(LIMIT_S)
            try:
                client.connect((address, PORT))
            except TimeoutError:
                return errno.ETIMEDOUT
            except OSError as error:
                return error.errno or -1
        return 0

    def unreachable(self, address: str) -> None:
        begun = time.monotonic()
        self.assertEqual(errno.errorcode.get(self.connect(address)), "EHOSTUNREACH")
        print(f"{self.id()}: no route to host after {time.monotonic() - begun:.1f} s")

    def away(self, node: str) -> None:
        """Takes a node off its link until the end of the test."""
        self.lab.ip(node, "link set eth0 down")
        self.addCleanup(self.back, node)
        self.lab.ip("n1", "neighbour flush dev eth0")
        self.lab.ip("R", "neighbour flush dev eth1")

    def back(self, node: str) -> None:
        self.lab.ip(node, "link set eth0 up")
        if node == "n3":
            self.lab.ip(node, "route replace 192.0.2.0/24 via 198.51.100.254")


class OnOurLink(Down):
    def test_p4_the_kernel_does_not_find_it(self) -> None:
        self.away("n2")
        for mode in MODES:
            with self.subTest(mode):
                self.restart(**MODES[mode])
                self.unreachable(B)

    def test_it_comes_back(self) -> None:
        self.start("n2", ipip="Always")
        self.addCleanup(self.stop, "n2")
        self.restart(ipip="Always")
        self.assertEqual(self.lab.ping("podA", B), 3)
        self.away("n2")
        self.unreachable(B)
        self.lab.ip("n2", "link set eth0 up")
        wait_until(lambda: self.connect(B) == errno.ECONNREFUSED, LIMIT_S, "an answer of podB")


class BehindARouter(Down):
    def test_p4_the_router_does_not_find_it(self) -> None:
        self.away("n3")
        for mode in FORMATS:
            with self.subTest(mode):
                self.restart(**MODES[mode])
                self.unreachable(C)

    def test_a_node_without_its_daemon(self) -> None:
        """Nobody is at the port, or knows the protocol."""
        for mode in FORMATS:
            with self.subTest(mode):
                self.restart(**MODES[mode])
                self.unreachable(C)

    def test_a_network_that_is_not_reached(self) -> None:
        self.lab.ip("R", "route add prohibit 203.0.113.0/24")
        self.addCleanup(self.lab.ip, "R", "route del prohibit 203.0.113.0/24")
        self.lab.ip("n1", "route add 203.0.113.0/24 via 192.0.2.254")
        self.addCleanup(self.lab.ip, "n1", "route del 203.0.113.0/24")
        for mode in FORMATS:
            with self.subTest(mode):
                peers = {"n3": ("203.0.113.3", [subnet("n3")])}
                self.restart(**MODES[mode], peers=peers)
                self.unreachable(C)


class OverIpv6(Down):
    """IPv4 pods, IPv6 underlay."""

    options = {"ipv6": True}
    multicast_reports = True
    daemons = ()

    @classmethod
    def prepare(cls) -> None:
        add_addresses6(cls.lab, "n1")

    def test_p4_nobody_answers(self) -> None:
        for mode in FORMATS:
            with self.subTest(mode):
                self.start("n1", **over6("n1", "n2"), **MODES[mode])
                self.unreachable(B)


class Forged(Down):
    """Errors that quote what no pod of n1 has sent reach nobody."""

    def test_only_what_a_pod_may_have_sent_is_passed_on(self) -> None:
        self.restart(**MODES["ipip"])
        inside = self.tap("podA", "eth0")
        inner = IP(src=A, dst=C, flags="DF") / UDP(sport=1000, dport=9) / Raw(b"x" * 100)
        cases: dict[str, Any] = {
            "of another pod": self.quoted(IP(src="10.244.2.2", dst=C) / UDP() / Raw(b"x" * 100)),
            "for an address of no peer": self.quoted(IP(src=A, dst="192.0.2.77") / UDP() / Raw(b"x" * 100)),
            "for another peer": self.quoted(IP(src=A, dst=B) / UDP() / Raw(b"x" * 100)),
            "an error": self.quoted(IP(src=A, dst=C) / ICMP(type=3) / Raw(b"x" * 100)),
            "to a stranger": self.quoted(inner, target="198.51.100.77"),
            "by another mode": bytes(outer("vxlan", inner, source=ADDRESSES["n1"], target=ADDRESSES["n3"])),
            "too short": self.quoted(inner)[:36],
        }
        for packet in cases.values():
            self.forge(packet)
        # Behind all these one that is passed on.
        self.forge(self.quoted(inner))
        errors = inside.wait(1, lambda frame: frame.haslayer(ICMP))
        self.assertEqual((errors[0][IP].src, errors[0][IP].dst), ("10.244.1.0", A))
        error = errors[0][ICMP]
        self.assertEqual((error.type, error.code, bytes(error.payload)[12:20]), (3, 1, bytes(inner)[12:20]))

    def quoted(self, inner: Any, target: str = ADDRESSES["n3"]) -> bytes:
        return bytes(outer("ipip", inner, source=ADDRESSES["n1"], target=target))

    def forge(self, quoted: bytes) -> None:
        packet = IP(src="192.0.2.254", dst=ADDRESSES["n1"]) / ICMP(type=3, code=1) / Raw(quoted)
        self.lab.send("R", "eth0", self.lab.frame("R", "n1", packet))
