"""Nodes that have IPv6 underlay addresses only, with pods of both families, in every mode."""

import bootstrap

import hashlib
import os
import socket
import struct
from collections.abc import Callable
from typing import Any

from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from fast import BOTH_WAYS, MIB, bulk
from shared import is_resolution
from tunnel import FORMATS, VNI, checksums_valid, inner
from underlay6 import A6, ADDRESSES6, B6, FAMILIES, A, B, SilentPeer6, SixLab, inner6, outer6, pools, receiver
from underpass_lab.command import wait_until
from underpass_lab.vtep import vtep_mac

SIZES = (0, 1, 7, 500, 1000, 1280 - 48)
OVERHEAD = {"ipip": 40, "vxlan": 70, "direct": 0}


def kind(address: str) -> Any:
    """scapy's layer for the family of an address."""
    return IPv6 if ":" in address else IP


def unwrap(form: str, frame: Any) -> tuple[Any, Any]:
    """(outer IPv6 packet, bytes of the inner packet) of a frame with an outer IPv6 header."""
    ip = Ether(frame)[IPv6]
    content = bytes(ip.payload)[: ip.plen]
    if form == "vxlan":
        content = content[8 + 8 + 14 :]
    return ip, content


class EveryMode(SixLab):
    """Two daemons."""

    TUNNELS: tuple[dict[str, Any], ...] = (
        {},
        {"workers": 2},
        {"backend": "plain"},
        {"packet_socket": "off", "udp_gso": "off", "udp_gro": "off"},
    )

    def wire_kinds(self, wire: Any) -> Any:
        """What is on the wire: {(IP version, next header or protocol, destination port of UDP)}. The nodes'
        own ICMPv6 is not the daemons' doing.
        """
        nodes = [socket.inet_pton(socket.AF_INET6, address) for address in ADDRESSES6.values()]
        kinds = set()
        for frame in wire.incoming() + wire.outgoing():
            if is_resolution(frame) or (frame[20] == 58 and frame[22:38] in nodes):
                continue
            if frame[12:14] == b"\x86\xdd":
                header = frame[20]
                port = struct.unpack(">H", frame[56:58])[0] if header == 17 else 0
                kinds.add((6, header, port))
            else:
                kinds.add((4, frame[23], 0))
        return kinds

    def check(self, mode: str, tunnel: Any, wire: Any) -> None:
        for addresses in FAMILIES:
            for source, target in BOTH_WAYS:
                self.assertEqual(self.lab.ping(source, addresses[target], count=3), 3)
            bulk(self.lab, 4 * MIB, addresses=addresses)
            for source, target in BOTH_WAYS:
                server = receiver(self, target, addresses[target])
                with receiver(self, source, addresses[source], port=5010) as client:
                    for size in SIZES:
                        payload = os.urandom(size)
                        client.sendto(payload, (addresses[target], 5009))
                        self.assertEqual(server.recv(2000), payload)
                server.close()
        self.assertEqual(self.wire_kinds(wire), self.expected(mode), tunnel)
        for node in self.lab.nodes:
            now = self.lab.drops(node)
            # With IPv6 the kernel announces multicast groups through the TUN.
            drops = {reason: now[reason] - self.before[node][reason] for reason in now if reason != "unsupported"}
            self.assertEqual({reason: n for reason, n in drops.items() if n}, {})

    @staticmethod
    def expected(mode: str) -> set[Any]:
        if mode == "ipip":
            return {(6, 4, 0), (6, 41, 0)}
        if mode == "vxlan":
            return {(6, 17, 4789)}
        # Bare: ICMP, TCP and UDP of the pods themselves.
        return {(4, 1, 0), (4, 6, 0), (4, 17, 0), (6, 58, 0), (6, 6, 0), (6, 17, 5009)}

    def test_ping_tcp_and_udp(self) -> None:
        for mode in ("ipip", "vxlan", "direct"):
            for tunnel in self.TUNNELS:
                if mode == "direct" and "packet_socket" in tunnel:
                    continue
                with self.subTest(mode, **tunnel):
                    self.restart(pools=pools(mode), tunnel=tunnel)
                    self.await_way(mode)
                    wire = self.tap("sw", "port-n1")
                    self.check(mode, tunnel, wire)
                    wire.close()
                    self.assertEqual(self.lab.status("n1")["tunnel"]["mtu"], 1500 - OVERHEAD[mode])
                    (route,) = (
                        r for r in self.lab.daemons["n1"].json("route", "list") if r["prefix"] == "fd00:244:2::/64"
                    )
                    self.assertEqual((route["mode"], route["next_hop"]), (mode, ADDRESSES6["n2"]))

    def await_way(self, mode: str) -> None:
        """Bare packets wait for nobody, so the neighbours must be resolved first; what is dropped until then
        is not the test's.
        """

        def answered() -> bool:
            return all(self.lab.ping("podA", addresses["podB"], count=1) for addresses in FAMILIES)

        if mode == "direct":
            wait_until(answered, 10, "resolved neighbours")
        self.before = {node: self.lab.drops(node) for node in self.lab.nodes}

    def test_bare_ipv6_needs_the_packet_socket(self) -> None:
        self.restart(pools=pools("direct"), tunnel={"packet_socket": "off", "workers": 1})
        for address in (B, B6):
            with self.subTest(address):
                before = self.lab.drops("n1")["unsupported"]
                self.assertEqual(self.lab.ping("podA", address, "-W", "0.2", count=3), 0)
                self.assertGreaterEqual(self.lab.drops("n1")["unsupported"] - before, 3)


class Bytes(SilentPeer6):
    """W1, W2 and W6: scapy is the other end."""

    def setUp(self) -> None:
        super().setUp()
        self.receivers = {A: receiver(self, "podA", A), A6: receiver(self, "podA", A6)}

    def test_w6_the_daemon_decapsulates(self) -> None:
        for form in FORMATS:
            for source, target in ((B, A), (B6, A6)):
                payloads = [os.urandom(size) for size in SIZES]
                packets = [
                    kind(source)(src=source, dst=target) / UDP(sport=4000 + number, dport=5009) / Raw(payload)
                    for number, payload in enumerate(payloads)
                ]
                count = len(SIZES)
                with self.subTest(form, to=target), self.moves("n1", underlay_rx=count, device_tx=count):
                    self.inject([outer6(form, packet) for packet in packets])
                    received = [self.receivers[target].recv(2000) for _ in payloads]
                    self.assertEqual(sorted(map(sha1, received)), sorted(map(sha1, payloads)))

    def test_w1_w2_w6_scapy_decapsulates(self) -> None:
        for form in FORMATS:
            for tunnel in ({"workers": 1}, {"workers": 1, "packet_socket": "off", "udp_gso": "off"}):
                self.start("n1", pools=pools(form), tunnel=tunnel)
                wire = self.tap("n2", "eth0")
                for source, target in ((A, B), (A6, B6)):
                    for tos in (0, 0xB9):
                        with self.subTest(form, target=target, tos=tos, **tunnel):
                            self.exchange(form, wire, (source, target), tos)

    def exchange(self, form: str, wire: Any, ends: Any, tos: int) -> None:
        source, target = ends
        payloads = [os.urandom(size) for size in SIZES]
        client = self.receivers[source]
        level, option = (0, 1) if source == A else (41, 67)
        client.setsockopt(level, option, tos)
        wire.drain()
        with self.moves("n1", device_rx=len(SIZES), underlay_tx=len(SIZES)):
            for payload in payloads:
                client.sendto(payload, (target, 5009))
        frames = wait_until(lambda: self.tunnel_frames(wire, len(SIZES)), 3, "the frames on the wire")
        labels = set()
        for frame, payload in zip(frames, payloads, strict=True):
            self.judge(form, frame, ends, tos, payload)
            labels.add(Ether(frame)[IPv6].fl)
        if form == "ipip":
            self.assertEqual(len(labels), 1, "a flow has one flow label")

    def judge(self, form: str, frame: Any, ends: Any, tos: int, payload: bytes) -> None:
        """Unwraps a frame as the other implementation would, judging everything on the way."""
        source, target = ends
        ethernet, (ip, content) = Ether(frame), unwrap(form, frame)
        self.assertEqual((ethernet.src, ethernet.dst), (self.lab.mac("n1", "eth0"), self.lab.mac("n2", "eth0")))
        self.assertEqual((ip.version, ip.hlim, ip.tc), (6, 64, tos & 3))
        self.assertEqual((ip.src, ip.dst), (ADDRESSES6["n1"], ADDRESSES6["n2"]))
        self.assertEqual(ip.plen + 40, len(content) + OVERHEAD[form])
        self.assertTrue(checksums_valid(bytes(ip), IPv6))
        if form == "ipip":
            self.assertEqual(ip.nh, 4 if source == A else 41)
        else:
            udp = ip[UDP]
            self.assertEqual((ip.nh, udp.dport, udp.len), (17, 4789, len(content) + 30))
            self.assertTrue(49152 <= udp.sport <= 65535)
            self.assertNotEqual(udp.chksum, 0)
            header = bytes(udp)[8:]
            self.assertEqual(header[:8], struct.pack(">BBHI", 8, 0, 0, VNI << 8))
            inside = Ether(header[8:])
            ethertype = 0x0800 if source == A else 0x86DD
            self.assertEqual((inside.dst, inside.src, inside.type), (vtep_mac("n2"), vtep_mac("n1"), ethertype))
        packet = kind(source)(content)
        self.assertTrue(checksums_valid(content, kind(source)))
        self.assertEqual((packet.src, packet.dst), ends)
        ttl, inner_tos = (packet.ttl, packet.tos) if source == A else (packet.hlim, packet.tc)
        self.assertEqual((ttl, inner_tos), (63, tos))
        self.assertEqual(bytes(packet[UDP].payload), payload)

    def tunnel_frames(self, wire: Any, count: int) -> Any:
        frames = [frame for frame in wire.incoming() if not is_resolution(frame)]
        return len(frames) >= count and frames


class Refused(SilentPeer6):
    """S1 to S5 and M1 to M3 with outer IPv6 headers."""

    def test_s1_unknown_senders(self) -> None:
        strangers = ("2001:db8::66", "2001:db8:1::2", "fd00:244:2::2", "fe80::2")
        for form in FORMATS:
            packets = [outer6(form, inner(), source=stranger) for stranger in strangers]
            self.refused(form, packets, unknown_peer=len(packets))

    def test_s2_s4_inner_addresses(self) -> None:
        for form in FORMATS:
            spoofed = [inner(source=source) for source in ("10.244.1.2", "10.244.3.2", "8.8.8.8", "192.0.2.2")]
            spoofed += [inner6(src=source) for source in (A6, "fd00:244:3::2", ADDRESSES6["n1"], "2001:db8::7")]
            self.refused(form, [outer6(form, packet) for packet in spoofed], spoofed_source=len(spoofed))
            # A node speaks for itself.
            with self.moves("n1", underlay_rx=1, device_tx=1):
                self.inject([outer6(form, inner6(src=ADDRESSES6["n2"]))])
            foreign = [inner(target=target) for target in ("10.244.3.2", "8.8.8.8", "127.0.0.1", "224.0.0.1")]
            foreign += [inner6(dst=target) for target in (B6, "2001:db8::1", "ff02::1", "::1", "2001:4860::8")]
            self.refused(form, [outer6(form, packet) for packet in foreign], not_local=len(foreign))

    def test_s5_outer_destinations_that_are_not_ours(self) -> None:
        for form in FORMATS:
            packets = [outer6(form, inner(), target=target) for target in ("ff02::1", "2001:db8::99")]
            self.refused(form, packets, reach=0, silent=False)

    def test_m1_truncated(self) -> None:
        for form in FORMATS:
            with self.subTest(form):
                whole = outer6(form, inner(payload=b"p" * 24))
                header, content = bytes(whole)[:40], bytes(whole)[40:]
                # Below 8 bytes there is no whole UDP header; the kernel drops that by itself.
                cuts = range(8 if form == "vxlan" else 0, len(content))
                packets = [self.cut(form, header, content[:length]) for length in cuts]
                self.refused(form, packets, malformed=len(packets))

    @staticmethod
    def cut(form: str, header: Any, content: Any) -> bytes:
        packet = IPv6(header) / Raw(content)
        del packet.plen
        if form == "vxlan":
            udp = UDP(content[:8]) / Raw(content[8:])
            del udp.len, udp.chksum
            packet = IPv6(header) / udp
            del packet.plen
        return bytes(packet)

    def test_m1_lengths_that_lie(self) -> None:
        # The outer header promises more than there is: the kernel drops it by itself.
        for form in FORMATS:
            whole = bytes(outer6(form, inner(payload=b"p" * 24)))
            self.refused(form, [whole[:length] for length in range(40, len(whole))], reach=0)

    def test_m2_inner_ipv6(self) -> None:
        good = bytes(inner6(payload=b"p" * 24))
        for form in FORMATS:
            broken = [good[:length] for length in range(1, len(good))]
            broken += [good[:4] + struct.pack(">H", size) + good[6:] for size in (33, 1000, 65535)]
            # Contradicts the next header, or the ethertype, that IPv6 follows.
            packets = [self.claiming_ipv6(form, packet) for packet in broken + [b"\x45" + good[1:]]]
            self.refused(form, packets, malformed=len(packets))

    @staticmethod
    def claiming_ipv6(form: str, content: Any) -> Any:
        if form == "ipip":
            return IPv6(src=ADDRESSES6["n2"], dst=ADDRESSES6["n1"], nh=41) / Raw(content)
        valid = outer6(form, inner6())
        udp = valid[UDP]
        datagram = bytes(udp.payload)[:22] + content
        return IPv6(src=ADDRESSES6["n2"], dst=ADDRESSES6["n1"]) / UDP(sport=50000, dport=4789) / Raw(datagram)

    def test_m3_wrong_vni(self) -> None:
        packet = outer6("vxlan", inner())
        datagram = bytearray(bytes(packet[UDP].payload))
        datagram[6] ^= 1
        bad = IPv6(src=ADDRESSES6["n2"], dst=ADDRESSES6["n1"]) / UDP(sport=50000, dport=4789) / Raw(bytes(datagram))
        self.refused("vxlan", [bad], bad_vni=1)


class RefusedByManyWorkers(Refused):
    """Several workers share the inbound packets by a filter on each socket: none may fall between them."""

    config = {"tunnel": {"workers": 3}}


class Accepted(SilentPeer6):
    """E3, and checksums."""

    def test_e3_decapsulation(self) -> None:
        # {inner: result for outer Not-ECT, ECT(0), ECT(1), CE}: RFC 6040 figure 4.
        figure_4: dict[int, list[int | None]] = {0: [0, 0, 0, None], 2: [2, 2, 1, 3], 1: [1, 1, 1, 3], 3: [3, 3, 3, 3]}
        dscp = 0xB8
        for form in FORMATS:
            for inside, results in figure_4.items():
                for outside, expected in zip((0, 2, 1, 3), results, strict=True):
                    # Each family inside has a raw socket of its own, so the fence must be of the same.
                    kinds: tuple[tuple[Callable[..., Any], Any, str], ...] = ((inner, IP, "tos"), (inner6, IPv6, "tc"))
                    for make, kind, key in kinds:
                        self.fence = make
                        with self.subTest(form, inside=inside, outside=outside):
                            packet = outer6(form, make(**{key: dscp | inside}), tc=0x48 | outside)
                            if expected is None:
                                self.refused(form, [packet], ecn=1)
                                continue
                            (arrived,) = self.accepted(form, [packet])
                            self.assertEqual(getattr(kind(arrived), key), dscp | expected)

    def test_zero_udp_checksums_only_where_configured(self) -> None:
        packet = outer6("vxlan", inner(), checksum=False)
        self.assertEqual(packet[UDP].chksum, 0)
        before = self.kernel_counter("Udp6InCsumErrors")
        self.refused("vxlan", [packet], reach=0)
        self.assertEqual(self.kernel_counter("Udp6InCsumErrors") - before, 1)
        self.start("n1", **self.config, vxlan_keys={"udp6_zero_checksum": True})
        self.addCleanup(self.start, "n1", **self.config)
        self.assertEqual(len(self.accepted("vxlan", [packet])), 1)

    def kernel_counter(self, name: str) -> Any:
        lines = self.lab.exec("n1", "cat", "/proc/net/snmp6").stdout.splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(name))


def sha1(payload: bytes) -> Any:
    return hashlib.sha1(payload).hexdigest()
