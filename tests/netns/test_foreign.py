"""W6: another implementation of the formats (scapy) on the far side, both ways, all four formats."""

import bootstrap

import hashlib
import json
import os
from typing import Any

from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Raw

from shared import SharedLab
from silent import SilentPeer
from tunnel import VNI, checksums_valid, outer, strip
from underpass_lab.command import wait_until
from underpass_lab.nodes import ADDRESSES, pod_address
from underpass_lab.vtep import vtep_mac

A, B = pod_address("n1"), pod_address("n2")
A6, B6 = "fd00:244:1::2", "fd00:244:2::2"
CONFIG: dict[str, Any] = {
    "local": ["10.244.1.0/24", "fd00:244:1::/64"],
    "peers": {"n2": (ADDRESSES["n2"], ["10.244.2.0/24", "fd00:244:2::/64"])},
    "tunnel": {"workers": 1},
}
SIZES = (0, 1, 7, 500, 1000, 1280 - 48)


class Foreign(SilentPeer):
    """The pod on n1 has an address of each family."""

    options = {"ipv6": True}
    multicast_reports = True
    format = "ipip"

    @classmethod
    def prepare(cls) -> None:
        cls.lab.sysctl("n1", {"ipv6/conf/all/forwarding": 1})
        cls.lab.ip("n1", "address add fd00:244:1::1/64 dev pod0 nodad")
        cls.lab.ip("podA", f"address add {A6}/64 dev eth0 nodad", "route add default via fd00:244:1::1")

    @classmethod
    def setUpClass(cls) -> None:
        modes = ("Always", "Never") if cls.format == "ipip" else ("Never", "Always")
        cls.config = CONFIG | {"pools": [("10.244.0.0/16", *modes), ("fd00:244::/32", *modes)]}
        super().setUpClass()

    def setUp(self) -> None:
        super().setUp()
        self.receivers = {IP: self.bound("::ffff:" + A), IPv6: self.bound(A6)}

    def bound(self, address: str) -> Any:
        family = 2 if address.startswith("::ffff:") else 10
        receiver = self.lab.socket("podA", family)
        self.addCleanup(receiver.close)
        receiver.bind((address.removeprefix("::ffff:"), 5009))
        receiver.settimeout(2)
        return receiver

    def payloads(self) -> list[Any]:
        return [os.urandom(size) for size in SIZES]

    def test_w6_the_daemon_decapsulates(self) -> None:
        for kind, source, target in ((IP, B, A), (IPv6, B6, A6)):
            payloads = self.payloads()
            packets = [
                kind(src=source, dst=target) / UDP(sport=4000 + number, dport=5009) / Raw(payload)
                for number, payload in enumerate(payloads)
            ]
            with self.subTest(kind.__name__), self.moves("n1", underlay_rx=len(SIZES), device_tx=len(SIZES)):
                self.inject([outer(self.format, packet) for packet in packets])
                received = [self.receivers[kind].recv(2000) for _ in payloads]
                self.assertEqual(sorted(map(sha1, received)), sorted(map(sha1, payloads)))

    def test_w6_scapy_decapsulates(self) -> None:
        wire = self.tap("n2", "eth0")
        for kind, target in ((IP, B), (IPv6, B6)):
            payloads = self.payloads()
            with self.subTest(kind.__name__), self.moves("n1", device_rx=len(SIZES), underlay_tx=len(SIZES)):
                wire.drain()
                for payload in payloads:
                    self.receivers[kind].sendto(payload, (target, 5009))
                frames = wait_until(lambda: self.tunnel_frames(wire, len(payloads)), 3, "the frames on the wire")
                found = [self.payload_of(kind, frame) for frame in frames]
                self.assertEqual(sorted(map(sha1, found)), sorted(map(sha1, payloads)))

    def tunnel_frames(self, wire: Any, count: int) -> Any:
        frames = [frame for frame in wire.incoming() if frame[12:14] == b"\x08\x00"]
        return len(frames) >= count and frames

    def payload_of(self, kind: Any, frame: Any) -> bytes:
        """Unwraps a frame as the other implementation would, judging everything on the way."""
        ip, inner = strip(self.format, frame)
        self.assertTrue(checksums_valid(bytes(ip)))
        self.assertEqual((ip.src, ip.dst), (ADDRESSES["n1"], ADDRESSES["n2"]))
        if self.format == "ipip":
            self.assertEqual(ip.proto, 4 if kind is IP else 41)
        else:
            ethernet = ip[VXLAN].payload
            self.assertEqual((ip[VXLAN].vni, ethernet.type), (VNI, 0x0800 if kind is IP else 0x86DD))
            self.assertEqual((ethernet.src, ethernet.dst), (vtep_mac("n1"), vtep_mac("n2")))
        self.assertTrue(checksums_valid(inner, kind))
        packet = kind(inner)
        self.assertEqual((packet.src, packet.dst), (A, B) if kind is IP else (A6, B6))
        return bytes(packet[UDP].payload)


class ForeignVxlan(Foreign):
    format = "vxlan"


def sha1(payload: bytes) -> Any:
    return hashlib.sha1(payload).hexdigest()


class OtherSideStopped(SharedLab):
    """Without the daemon on n2 nothing decapsulates: no kernel device helps behind our back."""

    def test_w6_fails_when_the_other_daemon_is_stopped(self) -> None:
        for config in ({"ipip": "Always"}, {"ipip": "Never", "vxlan": "Always"}):
            with self.subTest(config):
                self.restart(**config)
                self.assertEqual(self.lab.ping("podA", B, count=3), 3)
                self.stop("n2")
                wire = self.tap("sw", "port-n1")
                with self.moves("n1", device_rx=3, underlay_tx=3):
                    self.assertEqual(self.lab.ping("podA", B, "-W", "0.2", count=3), 0)
                self.assertEqual(len([f for f in wire.incoming() if Ether(f).haslayer(IP)]), 3)


class KernelVxlan(SharedLab):
    """W4 in small: the kernel's own VXLAN device on the far side."""

    topology = "TK"
    daemons = ("n1",)
    config = {"ipip": "Never", "vxlan": "Always"}

    def test_w4_kernel_vxlan(self) -> None:
        self.assertEqual(self.lab.ping("podA", B, "-s", 1400, count=5), 5)
        self.assertEqual(self.lab.ping("podB", A, count=5), 5)
        self.lab.tcp_transfer("podA", "podB", B, 16 << 20)
        self.lab.tcp_transfer("podB", "podA", A, 16 << 20)
        (link,) = json.loads(self.lab.tool("ip", "-n", self.lab.ns("n2"), "-s", "-j", "link", "show", "vx0").stdout)
        errors = [link["stats64"][way][kind] for way in ("rx", "tx") for kind in ("errors", "dropped")]
        self.assertEqual(errors, [0] * 4)
        self.assertEqual(sum(self.lab.drops("n1").values()), 0)
