"""The kernel path over an IPv6 underlay: IP-in-IPv6, bare packets, and VXLAN where the peers agree to do without a UDP
checksum (RFC 6935)."""

import bootstrap

import itertools
import socket
import unittest
from typing import Any

from scapy.layers.inet import UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

# As modules: the test cases in them are not for this file.
import test_kernel_path
from fast import MIB, OVERHEAD, bulk
from test_kernel_path import A_TO_B, FLOWS, NODES, ON, Calls, Connection
from tunnel import FORMATS
from underlay6 import FAMILIES, SixLab, add_kernel_vxlan6, outer6, pools

# By all nodes without a checksum.
WITHOUT_CHECKSUM = {"udp6_zero_checksum": True, "udp6_zero_checksum_tx": True}
# What an outer header of IPv6 has more.
MORE = 20
# What matches IP-in-IPv6 on the wire, for each family inside.
IPIP6 = ("ip6 nexthdr 4", "ip6 nexthdr 41")


class OverIpv6(SixLab, test_kernel_path.Path):
    """Nodes that have IPv6 addresses only."""

    underlay = "ipv6"
    config: dict[str, Any] = {"tunnel": ON, "vxlan_keys": WITHOUT_CHECKSUM}

    @classmethod
    def pools_of(cls, mode: str) -> dict[str, Any]:
        return {"pools": pools(mode), "vxlan_keys": WITHOUT_CHECKSUM}


class Carried(OverIpv6, test_kernel_path.Carried):
    """A TCP connection of each family in each mode, and the books; as on a real wire."""

    @classmethod
    def overhead(cls, mode: str) -> int:
        return OVERHEAD[mode] + MORE if OVERHEAD[mode] else 0

    @classmethod
    def on_wire(cls, mode: str, place: int) -> str:
        return IPIP6[place] if mode == "ipip" else super().on_wire(mode, place)


class CarriedWhole(OverIpv6, test_kernel_path.CarriedWhole):
    """The same on links that carry super-packets uncut."""


class Frames(OverIpv6):
    """What a program sends looks as what the pump sends, on the wire."""

    TOS = 46 << 2 | 2
    ROUNDS = test_kernel_path.AFTER // 2

    def test_frames_are_those_of_the_pump(self) -> None:
        wire = self.tap("sw", "port-n1")
        for mode, dscp in itertools.product(FORMATS, (0, "inherit")):
            with self.subTest(mode, dscp=dscp):
                self.in_mode(mode, dscp=dscp)
                with Calls(self.lab) as calls:
                    for end in (calls.client, calls.server):
                        end.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, self.TOS)
                    by_pump = self.seen(mode, calls, wire)
                    self.hand_over(calls, FLOWS[mode])
                    with self.carries(dict.fromkeys(NODES, self.ROUNDS * FLOWS[mode])):
                        by_program = self.seen(mode, calls, wire)
                self.assertEqual(by_program, by_pump)

    def seen(self, mode: str, calls: Calls, wire: Any) -> list[str]:
        """The headers of requests as they leave n1, each form of them once, without what each packet has of its own."""
        wire.drain()
        calls.talk(self.ROUNDS)
        requests = [Ether(frame) for frame in wire.incoming() if A_TO_B in frame]
        self.assertEqual(len(requests), self.ROUNDS)
        forms = set()
        for request in requests:
            outer = request[IPv6]
            self.assertEqual(outer.plen, len(outer.payload))
            if mode == "vxlan":
                self.assertEqual(outer[UDP].len, outer.plen)
                # The label is the kernel's choice where a socket sends, and the checksum may be left out.
                outer.fl, outer[UDP].chksum = 0, 0
            inner = bytes(request).index(A_TO_B) - 12
            # Of the inner header not identification and checksum.
            frame = bytes(request)
            forms.add((frame[: inner + 4] + frame[inner + 6 : inner + 10] + frame[inner + 12 : inner + 24]).hex())
        return sorted(forms)


class WithoutAgreement(OverIpv6):
    """VXLAN where it is not known that the peers do without a checksum: what leaves is the pump's."""

    @classmethod
    def pools_of(cls, mode: str) -> dict[str, Any]:
        return {"pools": pools(mode)}

    def test_what_leaves_has_a_checksum(self) -> None:
        wire = self.tap("sw", "port-n1")
        for addresses in FAMILIES:
            self.in_mode("vxlan")
            with Connection(self.lab, addresses) as connection:
                # What comes in has one, so programs may take it.
                self.hand_over(connection, 1)
                wire.drain()
                connection.talk(20)
                connection.bulk(MIB)
                datagrams = [Ether(frame) for frame in wire.incoming()]
                checksums = [frame[UDP].chksum for frame in datagrams if UDP in frame and frame[UDP].dport == 4789]
                self.assertGreater(len(checksums), 20)
                self.assertNotIn(0, checksums)
                self.await_flows(1)


class Kernel(OverIpv6):
    """The kernel's VXLAN device on n2, which receives datagrams without a checksum."""

    options = {"ipv6": True, "virtual": True}
    daemons = ("n1",)

    def test_the_kernel_and_programs_understand_each_other(self) -> None:
        add_kernel_vxlan6(self.lab, "n2", "n1", "udp6zerocsumtx", "udp6zerocsumrx")
        for addresses in FAMILIES:
            self.in_mode("vxlan")
            with self.subTest(to=addresses["podB"]), Connection(self.lab, addresses) as connection:
                before = self.path("n1")["packets"]
                self.await_flows(FLOWS["vxlan"], ("n1",), connection)
                connection.bulk(4 * MIB)
                bulk(self.lab, 16 * MIB, addresses=addresses)
                self.assertGreater(self.path("n1")["packets"] - before, 100)
                self.assertEqual(self.drops("n1"), {})


class Forged(OverIpv6):
    """A stranger on the wire, who knows addresses and ports."""

    @classmethod
    def prepare(cls) -> None:
        super().prepare()
        cls.lab.add_host("x", "192.0.2.66/24")

    def test_forged_packets_of_a_flow_that_is_carried(self) -> None:
        for mode in FORMATS:
            with self.subTest(mode), Calls(self.lab) as calls:
                self.in_mode(mode)
                self.hand_over(calls, FLOWS[mode])
                answer = test_kernel_path.Forged.answer(calls)
                # The last one is of congestion, to a packet whose sender cannot be told of it.
                cases = {
                    "unknown_peer": outer6(mode, answer, source="2001:db8::66"),
                    "ecn": outer6(mode, answer, tc=3),
                }
                for reason, packet in cases.items():
                    frame = bytes(self.lab.frame("x", "n1", packet))
                    with self.subTest(mode, reason=reason), self.carries({"n1": 0}):
                        with self.lab.expect_drops("n1", **{reason: 10}):
                            self.lab.send("x", "eth0", [frame] * 10)
                        self.assertEqual(calls.forget(), 0)
                calls.talk(20)
                self.await_flows(FLOWS[mode])
                self.assertEqual(calls.faults(), [])


if __name__ == "__main__":
    unittest.main()
