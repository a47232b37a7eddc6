"""Tunnels inside tunnels (S6, S8), senders that are no peers, and what a TUN reads besides pods' traffic (M6)."""

import bootstrap

import os
import pathlib
import time
from collections.abc import Iterator
from typing import Any

from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import ICMPv6MLReport2, ICMPv6ND_RS, IPv6, IPv6ExtHdrDestOpt
from scapy.packet import Raw

from shared import SharedLab
from silent import SilentPeer
from tunnel import FORMATS, inner, outer
from underpass_lab.command import wait_until
from underpass_lab.nodes import ADDRESSES, pod_address, subnet

A, B = pod_address("n1"), pod_address("n2")
FAR = "198.51.100.3"
VXLAN: dict[str, Any] = {"ipip": "Never", "vxlan": "Always"}
DIRECT: dict[str, Any] = {"ipip": "Never", "vxlan": "Never"}


def tunnel_packets(source: str, target: str) -> Iterator[Any]:
    """What a pod could make: every format of tunnel, whole and in fragments, to another pod."""
    inside = bytes(IP(src=source, dst=target) / UDP(sport=1, dport=9) / Raw(b"nested"))
    for protocol in (4, 41, 47):
        yield IP(src=source, dst=target, proto=protocol) / Raw(inside)
    yield IP(src=source, dst=target, proto=4, flags="MF", id=5) / Raw(inside[:24])
    yield IP(src=source, dst=target, proto=4, frag=3, id=5) / Raw(inside[24:])
    for more in ({}, {"flags": "MF", "id": 6}):
        yield IP(src=source, dst=target, **more) / UDP(sport=50000, dport=4789, chksum=0) / Raw(inside)


class Pods(SharedLab):
    """S6: through the tunnel. What pods send to a node's address is in test_scope."""

    def send(self) -> int:
        packets = list(tunnel_packets(A, B))
        self.send_from_pod(packets)
        return len(packets)

    def test_s6_refused_at_the_sender(self) -> None:
        wire = self.tap("sw", "port-n1")
        for config in ({}, VXLAN):
            self.restart(**config)
            self.addCleanup(self.restart)
            with self.subTest(config), self.moves("n1", device_rx=7, nested=7), self.moves("n2"):
                self.assertEqual(self.send(), 7)
        self.assertEqual([frame for frame in wire.incoming() if frame[12:14] == b"\x08\x00"], [])

    def test_s6_allowed_at_the_sender_refused_at_the_receiver(self) -> None:
        self.start("n1", **VXLAN, tunnel={"allow_nested": True})
        self.addCleanup(self.restart)
        with self.moves("n1", device_rx=7, underlay_tx=7), self.moves("n2", underlay_rx=7, nested=7):
            self.send()

    def test_s6_allowed_at_both(self) -> None:
        self.restart(**VXLAN, tunnel={"allow_nested": True})
        self.addCleanup(self.restart)
        inside = self.tap("podB", "eth0")
        self.lab.exec("podB", "sysctl", "-q", "net.ipv4.icmp_ratelimit=0")
        before = self.counters("n2").status()["device_tx"]
        sent = self.send()
        wait_until(lambda: self.counters("n2").status()["device_tx"] == before + sent, 3, "all of them")

        def all_of_them() -> list[bytes]:
            found = [f[14:] for f in inside.incoming() if f[26:30] == bytes([10, 244, 1, 2])]
            return found if len(found) >= sent else []

        arrived = wait_until(all_of_them, 3, "all at the pod")
        # Two kernels changed the IP header; between flows there is no order.
        wanted = [bytes(packet)[20:] for packet in tunnel_packets(A, B)]
        self.assertEqual(sorted(packet[20:] for packet in arrived), sorted(wanted))


class ReceivedFromPeer(SilentPeer):
    def test_s6_nested_from_a_peer(self) -> None:
        packets = list(tunnel_packets(B, A))
        for form in FORMATS:
            with self.subTest(form):
                self.refused(form, [outer(form, bytes(packet)) for packet in packets], nested=len(packets))

    def test_s6_behind_extension_headers(self) -> None:
        # n1 has no IPv6 pods, so this never gets as far as to be judged as nested.
        packet = IPv6(src="fd00::2", dst="fd00::1") / IPv6ExtHdrDestOpt(nh=4) / Raw(bytes(inner()))
        for form in FORMATS:
            with self.subTest(form):
                self.refused(form, [outer(form, packet)], spoofed_source=1)


class External(SilentPeer):
    config = {"tunnel": {"workers": 1}, "node_keys": {"external_nodes": ["198.51.100.0/24"]}}

    @classmethod
    def prepare(cls) -> None:
        # n3 of this lab is no peer: it is one of the external nodes.
        cls.config = cls.config | {"peers": {"n2": (ADDRESSES["n2"], [subnet("n2")])}}

    def test_only_for_what_nobody_owns(self) -> None:
        for form in FORMATS:
            with self.subTest(form):
                strangers = [outer(form, inner(source=s), source=FAR) for s in ("172.16.9.9", "10.244.77.7")]
                self.accepted(form, strangers)
                owned = (A, B, ADDRESSES["n1"], ADDRESSES["n2"], "127.0.0.1", "224.0.0.1")
                forged = [outer(form, inner(source=source), source=FAR) for source in owned]
                self.refused(form, forged, spoofed_source=len(forged))
                away = [outer(form, inner(source="172.16.9.9", target=t), source=FAR) for t in (B, "8.8.8.8")]
                self.refused(form, away, not_local=2)
                self.refused(form, [outer(form, inner(source="172.16.9.9"), source="203.0.113.7")], unknown_peer=1)


class Crossed(SharedLab):
    """S8: two nodes, each of which takes the other for the owner of a subnet."""

    LIMIT_BYTES = 70_000
    LIMIT_CPU = 0.10

    def crossed(self, **config: Any) -> None:
        for node, other in (("n1", "n2"), ("n2", "n1")):
            self.start(node, peers={other: (ADDRESSES[other], [subnet(other), "10.244.9.0/24"])}, **config)

    def cpu_seconds(self, node: str) -> Any:
        stat = pathlib.Path(f"/proc/{self.lab.daemons[node].pid}/stat").read_text(encoding="ascii")
        fields = stat.rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def test_s8_bounded_work(self) -> None:
        self.addCleanup(self.restart)
        for config in ({}, VXLAN, DIRECT):
            with self.subTest(config):
                self.crossed(**config)
                wire, begun = self.tap("sw", "port-n1"), time.monotonic()
                before = [self.cpu_seconds(node) for node in self.lab.nodes]
                self.assertEqual(self.lab.ping("podA", "10.244.9.9", "-W", "0.2", count=10), 0)
                frames = [f for f in wire.incoming() + wire.outgoing() if f[12:14] == b"\x08\x00"]
                self.assertGreaterEqual(len(frames), 10)
                self.assertLess(sum(map(len, frames)), self.LIMIT_BYTES)
                spent = [self.cpu_seconds(node) - b for node, b in zip(self.lab.nodes, before, strict=True)]
                self.assertLess(max(spent), max(self.LIMIT_CPU * (time.monotonic() - begun), 0.1), "CPU time")

    def test_s8_a_tunnel_inside_the_tunnel_ends_at_once(self) -> None:
        # podA plays a node of a second overlay whose underlay is this one.
        self.addCleanup(self.restart)
        self.restart(**VXLAN)
        layers = IP(src=A, dst=B) / UDP(sport=1, dport=9)
        for _ in range(5):
            layers = IP(src=A, dst=B, proto=4) / Raw(bytes(layers))
        with self.moves("n1", device_rx=10, nested=10), self.moves("n2"):
            self.send_from_pod([layers] * 10)


class FromTheTun(SharedLab):
    """M6: what a kernel or a pod hands to the TUN without being asked."""

    daemons = ("n1",)

    def test_m6_pods(self) -> None:
        self.lab.ip("n1", "route add 224.5.5.0/24 dev up0", "route add 255.255.255.255 dev up0")
        self.sink("podB")
        odd = [
            IP(src=A, dst=B, proto=253),
            IP(src=A, dst=B, options=[b"\x94\x04\0\0"]) / UDP(sport=1, dport=9) / Raw(b"router alert"),
            IP(src=A, dst=B, options=[b"\x01"] * 40) / UDP(sport=1, dport=9),
        ]
        with self.moves("n1", device_rx=3, underlay_tx=3):
            self.send_from_pod(odd)
        with self.lab.socket("n1") as host, self.moves("n1", device_rx=2, unsupported=2):
            host.setsockopt(1, 6, 1)  # SO_BROADCAST
            host.sendto(b"multicast", ("224.5.5.5", 9))
            host.sendto(b"broadcast", ("255.255.255.255", 9))

    def test_m6_a_header_alone(self) -> None:
        # The kernel lets it pass: 20 bytes, no payload, whatever the protocol.
        with self.moves("n1", device_rx=2, underlay_tx=2):
            self.send_from_pod([IP(src=A, dst=B, proto=proto) for proto in (6, 17)])


class FromTheTunIpv6(SharedLab):
    """M6: router solicitations and multicast listener reports of the kernel, and a pod's."""

    daemons = ("n1",)
    options = {"ipv6": True}
    multicast_reports = True

    def test_m6_link_local_and_multicast(self) -> None:
        before = self.counters("n1").status()
        packets = [
            IPv6(src="fe80::1", dst="ff02::2", hlim=255) / ICMPv6ND_RS(),
            IPv6(src="fe80::1", dst="ff02::16", hlim=1) / ICMPv6MLReport2(),
            IPv6(src="::", dst="ff02::16", hlim=1) / ICMPv6MLReport2(),
        ]
        for packet in packets:
            self.to_tun(bytes(packet))
        wait_until(lambda: self.counters("n1").status()["unsupported"] >= before["unsupported"] + 3, 3, "counted")
        moved = self.counters("n1").status()
        self.assertEqual(moved["device_rx"] - before["device_rx"], moved["unsupported"] - before["unsupported"])
        self.assertLess(len(self.lab.daemons["n1"].log().splitlines()), 60, "no line for each packet")

    def to_tun(self, packet: Any) -> None:
        """Hands the daemon a packet as if the kernel had routed it there."""
        with self.lab.socket("n1", 17, 2, 0) as sender:  # AF_PACKET, SOCK_DGRAM
            sender.sendto(packet, ("up0", 0x86DD))
