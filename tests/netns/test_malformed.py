"""Input that is broken or odd: M1 to M4 and congestion marks (E3), in both formats. n2 is scapy only."""

import bootstrap

import itertools
import struct
from collections.abc import Iterator
from typing import Any

from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Raw

from silent import SilentPeer
from tunnel import FORMATS, VNI, checksums_valid, inner, outer, outer_vxlan
from underpass_lab.nodes import pod_address
from underpass_lab.vtep import vtep_mac

A, B = pod_address("n1"), pod_address("n2")
NOT_ECT, ECT1, ECT0, CE = range(4)


def vxlan_header(flags: int = 8, reserved: int = 0, vni: int = VNI, reserved2: int = 0) -> Any:
    return struct.pack(">II", flags << 24 | reserved, vni << 8 | reserved2)


def frame(content: Any, ethertype: int = 0x0800, target: str | None = None) -> Any:
    return bytes(Ether(src=vtep_mac("n2"), dst=target or vtep_mac("n1"), type=ethertype)) + bytes(content)


class Truncated(SilentPeer):
    """M1: a valid packet cut at every length."""

    def cut(self, form: str, consistent: bool) -> Iterator[Any]:
        """(length, packet cut there), shortest first; `consistent`: with outer lengths that fit the cut."""
        whole = outer(form, inner(payload=b"p" * 24))
        data = bytes(whole)
        for length in range(20, len(data)):
            if not consistent:
                yield length, data[:length]
                continue
            packet = IP(data[:20]) / Raw(data[20:length])
            del packet.len, packet.chksum
            if form == "vxlan" and length >= 28:
                udp = UDP(data[20:28])
                udp.len = length - 20
                packet = packet[IP].copy()
                packet.remove_payload()
                packet = packet / Raw(bytes(udp)[:8] + data[28:length])
            yield length, bytes(packet)

    def test_m1_lengths_that_fit(self) -> None:
        # Below 28 bytes there is no whole UDP header; the kernel drops that by itself (UdpInErrors).
        for form, first in (("ipip", 20), ("vxlan", 28)):
            with self.subTest(form):
                packets = [packet for _, packet in self.cut(form, consistent=True)]
                self.assertEqual(len(packets), len(bytes(outer(form, inner(payload=b"p" * 24)))) - 20)
                reach = len(packets) - (first - 20)
                self.refused(form, packets, reach=reach, malformed=reach)

    def test_m1_lengths_that_lie(self) -> None:
        # The outer header promises more than there is: the kernel drops it by itself (InTruncatedPkts).
        for form in FORMATS:
            with self.subTest(form):
                before = self.kernel_counter("IpExt", "InTruncatedPkts")
                packets = [packet for _, packet in self.cut(form, consistent=False)]
                self.refused(form, packets, reach=0)
                self.assertEqual(self.kernel_counter("IpExt", "InTruncatedPkts") - before, len(packets))

    def kernel_counter(self, group: str, name: str) -> int:
        text = self.lab.exec("n1", "cat", "/proc/net/netstat").stdout
        names, values = (line.split() for line in text.splitlines() if line.startswith(f"{group}:"))
        return int(values[names.index(name)])


class TruncatedForManyWorkers(Truncated):
    """Several workers share the inbound packets by a filter on each socket: none may fall between them."""

    config = {"tunnel": {"workers": 4}}


class InnerIpv4(SilentPeer):
    """M2."""

    def broken(self) -> Iterator[Any]:
        """(what, bytes of an inner packet) for each way to be broken."""
        good = bytes(inner(payload=b"p" * 24))

        def changed(at: Any, value: Any) -> Any:
            packet = bytearray(good)
            packet[at : at + len(value)] = value
            return self.with_checksum(packet)

        for version in (0, 1, 3, 5, 6, 7, 15):
            yield f"version {version}", changed(0, bytes([version << 4 | 5]))
        for ihl in range(5):
            yield f"ihl {ihl}", changed(0, bytes([0x40 | ihl]))
        for total in (0, 19, len(good) + 1, 65535):
            yield f"total length {total}", changed(2, struct.pack(">H", total))
        longer = bytearray(b"\x4f" + good[1:2] + b"\0\x3b" + good[4:])
        yield "a header longer than the packet", self.with_checksum(longer)
        yield "protocol 0", changed(9, b"\0")
        yield "header checksum", good[:10] + bytes([good[10] ^ 1]) + good[11:]
        yield "header checksum 0", good[:10] + b"\0\0" + good[12:]
        yield "nothing", b""
        yield "one byte", b"\x45"
        yield "19 bytes", good[:19]

    @staticmethod
    def with_checksum(packet: Any) -> Any:
        """The right header checksum, computed over the length the header claims where that is possible."""
        header = bytes(packet[:10]) + b"\0\0" + bytes(packet[12 : max(20, (packet[0] & 15) * 4)])
        total = sum(struct.unpack(f">{len(header) // 2}H", header))
        while total >> 16:
            total = (total & 0xFFFF) + (total >> 16)
        return bytes(packet[:10]) + struct.pack(">H", ~total & 0xFFFF) + bytes(packet[12:])

    def test_m2_inner_ipv4(self) -> None:
        for form, (what, content) in itertools.product(FORMATS, self.broken()):
            with self.subTest(form=form, what=what):
                self.refused(form, [outer(form, content)], malformed=1)

    def test_m2_padding_is_trimmed(self) -> None:
        sent = [inner(sport=2000 + n, payload=b"p" * 24) for n in range(3)]
        for form in FORMATS:
            with self.subTest(form):
                pads = zip(sent, (1, 18, 700), strict=True)
                padded = [outer(form, bytes(packet) + b"\xee" * pad) for packet, pad in pads]
                for packet, arrived in zip(sent, self.accepted(form, padded), strict=True):
                    self.assertEqual(arrived, self.forwarded(packet))

    def test_m2_options_are_carried(self) -> None:
        sent = IP(src=B, dst=A, ttl=63, options=[b"\x94\x04\0\0"]) / UDP(sport=7, dport=9) / Raw(b"options")
        for form in FORMATS:
            with self.subTest(form):
                self.assertEqual(self.accepted(form, [outer(form, sent)]), [self.forwarded(sent)])

    @staticmethod
    def forwarded(packet: Any) -> bytes:
        """The bytes of a packet after n1's kernel has forwarded it."""
        packet = IP(bytes(packet))
        packet.ttl -= 1
        del packet.chksum
        return bytes(packet)


class VxlanHeader(SilentPeer):
    """M3 and M4."""

    def datagram(self, number: int, header: Any, content: Any = None, **more: Any) -> Any:
        content = inner(sport=2000 + number) if content is None else content
        return outer_vxlan(header + frame(content, **more))

    def test_m3_reserved_bits_are_ignored(self) -> None:
        # RFC 7348 §5: set to zero on transmission and ignored on receipt. GBP and GPE use some of them.
        headers = [vxlan_header(flags=8 | 1 << bit) for bit in range(8) if bit != 3]
        headers += [vxlan_header(reserved=1 << bit) for bit in range(24)]
        headers += [vxlan_header(reserved2=1 << bit) for bit in range(8)]
        self.assertEqual(len(headers), 39)
        headers.append(vxlan_header(flags=0xFF, reserved=0xFFFFFF, reserved2=0xFF))
        arrived = self.accepted("vxlan", [self.datagram(*numbered) for numbered in enumerate(headers)])
        self.assertEqual([IP(packet)[UDP].sport for packet in arrived], [2000 + n for n in range(40)])

    def test_m3_wrong_vni(self) -> None:
        vnis = [0, 1, VNI - 1, VNI + 1, VNI << 8 & 0xFFFFFF, VNI >> 8, 2**24 - 1]
        packets = [self.datagram(n, vxlan_header(vni=vni)) for n, vni in enumerate(vnis)]
        self.refused("vxlan", packets, bad_vni=len(vnis))

    def test_m3_i_flag_clear(self) -> None:
        packets = [self.datagram(n, vxlan_header(flags=flags)) for n, flags in enumerate((0, 0x04, 0x80, 0xF7))]
        self.refused("vxlan", packets, bad_vni=4)

    def test_m4_ethertypes_that_are_not_carried(self) -> None:
        good = bytes(inner())
        tag, arp = bytes(Dot1Q(vlan=5, type=0x0800)), ARP(psrc=B, pdst=A)
        two_tags = tag[:2] + b"\x81\0" + tag
        cases = [(arp, 0x0806), (tag + good, 0x8100), (two_tags + good, 0x8100), (good, 100), (good, 0)]
        packets = [outer_vxlan(vxlan_header() + frame(content, kind)) for content, kind in cases]
        self.refused("vxlan", packets, unsupported=len(cases))

    def test_m4_ethertype_and_version_contradict(self) -> None:
        packets = [outer_vxlan(vxlan_header() + frame(inner(), 0x86DD))]
        self.refused("vxlan", packets, malformed=1)

    def test_m4_the_vni_decides_not_the_inner_mac(self) -> None:
        targets = ["ff:ff:ff:ff:ff:ff", "01:00:5e:00:00:01", "02:00:00:00:00:01"]
        packets = [self.datagram(n, vxlan_header(), target=target) for n, target in enumerate(targets)]
        self.assertEqual(len(self.accepted("vxlan", packets)), 3)


class Ecn(SilentPeer):
    """E3: RFC 6040 figure 4, with a DSCP inside that must survive and one outside that must not."""

    # {inner: result for outer Not-ECT, ECT(0), ECT(1), CE}
    FIGURE_4: dict[int, list[int | None]] = {
        NOT_ECT: [NOT_ECT, NOT_ECT, NOT_ECT, None],
        ECT0: [ECT0, ECT0, ECT1, CE],
        ECT1: [ECT1, ECT1, ECT1, CE],
        CE: [CE, CE, CE, CE],
    }
    COLUMNS = (NOT_ECT, ECT0, ECT1, CE)
    DSCP = 0xB8

    def test_e3_decapsulation(self) -> None:
        for form, (inside, results) in itertools.product(FORMATS, self.FIGURE_4.items()):
            for outside, expected in zip(self.COLUMNS, results, strict=True):
                with self.subTest(form=form, inside=inside, outside=outside):
                    packet = outer(form, inner(tos=self.DSCP | inside), tos=0x48 | outside)
                    if expected is None:
                        self.refused(form, [packet], ecn=1)
                        continue
                    (arrived,) = self.accepted(form, [packet])
                    self.assertEqual(IP(arrived).tos, self.DSCP | expected)
                    self.assertTrue(checksums_valid(arrived))
