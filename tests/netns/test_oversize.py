"""P2: super-packets without DF that are larger than their route are segmented, and the segments fragmented."""

import bootstrap

import socket
from typing import Any

from fast import MIB, MODES, bulk, inner_offset
from shared import SharedLab
from underpass_lab.nodes import pod_address

A, B = pod_address("n1"), pod_address("n2")
ROUTE_MTU = 1000
_SOL_UDP, _UDP_SEGMENT, _IP_MTU_DISCOVER = 17, 103, 10


class Oversize(SharedLab):
    @classmethod
    def prepare(cls) -> None:
        # A locked MTU: the pod neither sets DF nor learns from ICMP.
        cls.lab.ip("podA", "route replace default via 10.244.1.1 mtu lock 1400")

    def narrow(self, config: Any) -> None:
        self.restart(**config)
        self.lab.daemons["n1"].command("route", "add", f"{B}/32", "--via", "n2", "--mtu", ROUTE_MTU)

    def test_p2_tcp(self) -> None:
        for mode, config in MODES.items():
            with self.subTest(mode):
                self.narrow(config)
                wire = self.tap("sw", "port-n1")
                bulk(self.lab, 2 * MIB, ways=[("podA", "podB")])
                self.judge(mode, wire)

    def test_p2_udp(self) -> None:
        for mode, config in MODES.items():
            with self.subTest(mode):
                self.narrow(config)
                wire = self.tap("sw", "port-n1")
                with self.lab.socket("podB") as server, self.lab.socket("podA") as client:
                    server.bind((B, 5300))
                    server.settimeout(5)
                    client.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, 0)
                    client.setsockopt(_SOL_UDP, _UDP_SEGMENT, 1300)
                    datagrams = [bytes([number]) * 1300 for number in range(20)] + [b"last"]
                    client.sendto(b"".join(datagrams), (B, 5300))
                    # Fragments and whole datagrams may go to different workers.
                    self.assertCountEqual([server.recv(2000) for _ in datagrams], datagrams)
                self.judge(mode, wire)

    def judge(self, mode: str, wire: Any) -> None:
        """Nothing was refused, nothing on the wire is longer than the route allows, and there are fragments."""
        self.assertEqual({reason: count for reason, count in self.lab.drops("n1").items() if count}, {})
        frames = [frame for frame in wire.incoming() if frame[12:14] == b"\x08\x00"]
        self.assertLessEqual(max(map(len, frames)), 14 + ROUTE_MTU + 50)
        packets = [frame[14 + inner_offset(mode) :] for frame in frames]
        ours = [packet for packet in packets if packet[12:20] == socket.inet_aton(A) + socket.inet_aton(B)]
        self.assertTrue(any(int.from_bytes(packet[6:8], "big") & 0x3FFF for packet in ours), "no fragments")
