"""TTL across the tunnel (E1); ECN and DSCP of outer headers (E4)."""

import bootstrap

import itertools
import re
from typing import Any

from scapy.layers.inet import ICMP, IP
from scapy.layers.l2 import Ether

from fast import MODES
from shared import SharedLab
from tunnel import FORMATS, strip
from underpass_lab.nodes import pod_address

A, B = pod_address("n1"), pod_address("n2")


class Ttl(SharedLab):
    def test_e1_two_routers_and_a_fresh_ttl_outside(self) -> None:
        inside, wire = self.tap("podB", "eth0"), self.tap("sw", "port-n1")
        for mode in FORMATS:
            with self.subTest(mode):
                self.restart(**MODES[mode])
                for ttl in (64, 3):
                    inside.drain(), wire.drain()
                    self.assertEqual(self.lab.ping("podA", B, "-t", ttl, count=1), 1)
                    request = inside.wait(1, lambda p: p.haslayer(ICMP) and p[ICMP].type == 8)[0]
                    self.assertEqual(request[IP].ttl, ttl - 2)
                    frames = [Ether(frame) for frame in wire.incoming() if frame[12:14] == b"\x08\x00"]
                    self.assertEqual([frame[IP].ttl for frame in frames], [64])
                self.assertEqual(self.hops(), ["10.244.1.1", "10.244.2.0", B])

    def hops(self) -> Any:
        """Who answers a packet of podA to podB that lives for 1, 2, 3 hops."""
        answers = []
        for ttl in (1, 2, 3):
            output = self.lab.exec("podA", "ping", "-n", "-c", "1", "-W", "1", "-t", ttl, B, check=False).stdout
            answers += re.findall(r"(?i)^(?:64 bytes )?from ([\d.]+)[: ]", output, re.M)
        return answers


class Tos(SharedLab):
    """Every TOS byte from podA: what the wire shows and what podB gets."""

    def test_e4_all_values(self) -> None:
        inside, wire = self.tap("podB", "eth0"), self.tap("sw", "port-n1")
        for mode, dscp in itertools.product(FORMATS, (None, "inherit", 46)):
            with self.subTest(mode, dscp=dscp):
                self.restart(**MODES[mode], tunnel={} if dscp is None else {"dscp": dscp})
                inside.drain(), wire.drain()
                header = bytes(Ether(src=self.lab.mac("podA", "eth0"), dst=self.lab.mac("n1", "pod0"), type=0x0800))
                packets = [IP(src=A, dst=B, tos=tos, flags="DF") / ICMP(id=tos) for tos in range(256)]
                with self.moves("n1", device_rx=256, underlay_tx=256, underlay_rx=256, device_tx=256):
                    self.lab.send("podA", "eth0", [header + bytes(packet) for packet in packets])
                frames = [frame for frame in wire.incoming() if frame[12:14] == b"\x08\x00"]
                seen = {
                    IP(packet)[ICMP].id: (ip.tos, IP(packet).tos) for ip, packet in (strip(mode, f) for f in frames)
                }
                fixed: dict[object, int] = {None: 0, 46: 46 << 2}
                outer = {tos: tos if dscp == "inherit" else fixed[dscp] | tos & 3 for tos in range(256)}
                self.assertEqual(seen, {tos: (outer[tos], tos) for tos in range(256)})
                requests = inside.wait(256, lambda p: p.haslayer(ICMP) and p[ICMP].type == 8)
                self.assertEqual({p[ICMP].id: p[IP].tos for p in requests}, {tos: tos for tos in range(256)})

    def test_e4_a_mark_on_the_wire_reaches_the_pod(self) -> None:
        self.restart(**MODES["vxlan"])
        inside = self.tap("podB", "eth0")
        rule = "add table bridge t; add chain bridge t c { type filter hook forward priority 0; }; "
        rule += "add rule bridge t c ip daddr 192.0.2.2 ip ecn set ce"
        self.lab.exec("sw", "nft", rule)
        self.addCleanup(self.lab.exec, "sw", "nft", "delete table bridge t")
        for tos, expected in ((1, 3), (2, 3), (3, 3)):
            inside.drain()
            self.assertEqual(self.lab.ping("podA", B, "-Q", tos, count=1), 1)
            request = inside.wait(1, lambda p: p.haslayer(ICMP) and p[ICMP].type == 8)[0]
            self.assertEqual(request[IP].tos, expected)
        with self.lab.expect_drops("n2", ecn=1):
            self.lab.ping("podA", B, "-W", "0.2", count=1)
