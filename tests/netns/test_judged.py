"""What leaves and what arrives is what was judged: checksums left unfinished (S4, S7), probes (S5)."""

import bootstrap

import socket
import struct
from typing import Any

from scapy.layers.inet import IP, UDP, fragment
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from fast import MODES
from shared import SharedLab
from silent import SilentPeer
from tunnel import FORMATS, inner, outer, outer_ipip, outer_vxlan
from underpass_lab.command import wait_until
from underpass_lab.nodes import ADDRESSES, pod_address

A, B = pod_address("n1"), pod_address("n2")
PORT = 5555
_SOL_PACKET, _PACKET_VNET_HDR = 263, 15
_NEEDS_CSUM, _GSO_TCPV4, _GSO_UDP_L4 = 1, 1, 5
_ETHERNET, _IP = 14, 20


def pseudo_sum(source: str, target: str, size: int) -> int:
    """The sum of the pseudo-header of a UDP packet of `size` bytes, which an unfinished checksum field holds."""
    total: int = sum(struct.unpack("!4H", socket.inet_aton(source) + socket.inet_aton(target))) + 17 + size
    return (total & 0xFFFF) + (total >> 16)


class Unfinished(SharedLab):
    """S4: a pod with CAP_NET_RAW names the two bytes that are written after the daemon has judged the packet."""

    config = MODES["vxlan"]

    def send_unfinished(
        self, packet: Any, start: int, offset: int, gso: int = 0, size: int = 0, flags: int = _NEEDS_CSUM
    ) -> None:
        """From podA, with a vnet header that leaves the sum from `start` on, at `offset` behind it, to be made."""
        with self.lab.socket("podA", socket.AF_PACKET, socket.SOCK_RAW) as raw:
            raw.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)
            raw.bind(("eth0", 0x0800))
            header = _ETHERNET + _IP + 20
            vnet = struct.pack("<BBHHHH", flags, gso, header, size, _ETHERNET + start, offset)
            link = bytes(Ether(src=self.lab.mac("podA", "eth0"), dst=self.lab.mac("n1", "pod0"), type=0x0800))
            raw.send(vnet + link + bytes(packet))

    def test_s4_only_the_transport_checksum_is_written(self) -> None:
        # The port is the complement of the sum of all behind it once it is finished: whatever the pod wants.
        packet = IP(src=A, dst=B) / UDP(sport=1, dport=9) / Raw(bytes(60))
        wire = self.tap("sw", "port-n1")
        # That of a start inside the IP header the kernel itself refuses.
        for start, offset in ((_IP, 2), (_IP, 0), (_IP, 8), (28, 10), (24, 2)):
            with self.subTest(start=start, offset=offset), self.moves("n1", device_rx=1, malformed=1):
                self.send_unfinished(packet, start, offset)
        self.assertEqual([frame for frame in wire.incoming() if frame[23:24] == b"\x11"], [])
        sink = self.sink("podB")
        sink.settimeout(3)
        with self.moves("n1", device_rx=1, underlay_tx=1):
            # The field holds the pseudo-header sum, as a kernel leaves it.
            packet[UDP].chksum = pseudo_sum(A, B, 68)
            self.send_unfinished(packet, _IP, 6)
        self.assertEqual(sink.recv(100), bytes(60))


class Checksums(SilentPeer):
    """S7: a wrong checksum that looks unfinished stays wrong, a right one that looks so is right."""

    # What the kernel has joined or taken apart is not the business of this test.
    def setUp(self) -> None:
        super().setUp()
        self.receiver = self.lab.socket("podA")
        self.receiver.bind(("0.0.0.0", PORT))
        self.receiver.settimeout(3)
        self.addCleanup(self.receiver.close)

    def datagram(self, size: int, right: bool) -> Any:
        """A UDP packet for the receiver whose checksum field holds the pseudo-header sum."""
        packet = IP(src=B, dst=A, ttl=63) / UDP(sport=1000, dport=PORT) / Raw(bytes(size))
        pseudo = pseudo_sum(B, A, 8 + size)
        packet[UDP].chksum = pseudo
        if right:
            rest = sum(struct.unpack(f"!{4 + size // 2}H", bytes(packet)[_IP:]))
            # All words but the pseudo-header's own have to add up to 0xffff less that.
            word = (2 * 0xFFFF - pseudo - (rest - pseudo) % 0xFFFF - pseudo) % 0xFFFF
            packet[Raw].load = struct.pack("!H", word) + bytes(size - 2)
        return IP(bytes(packet))

    def send(self, form: str, packet: Any, in_fragments: bool) -> None:
        whole = outer(form, packet, flags=0) if in_fragments else outer(form, packet)
        self.inject(fragment(whole, 1400) if in_fragments else [whole])

    def test_s7_wrong_checksums_stay_wrong(self) -> None:
        for form in FORMATS:
            for size, in_fragments in ((100, False), (1300, False), (2000, True)):
                with self.subTest(form, size=size):
                    with self.moves("n1", underlay_rx=1, device_tx=1):
                        self.send(form, self.datagram(size, right=False), in_fragments)
                    # Behind it a good one, which is the first that the receiver sees.
                    self.inject([outer(form, IP(src=B, dst=A) / UDP(sport=1000, dport=PORT) / b"good")])
                    self.assertEqual(self.receiver.recv(4000), b"good")

    def test_s7_a_right_checksum_that_looks_unfinished(self) -> None:
        for form in FORMATS:
            for size, in_fragments in ((100, False), (2000, True)):
                with self.subTest(form, size=size), self.moves("n1", underlay_rx=1, device_tx=1):
                    packet = self.datagram(size, right=True)
                    self.send(form, packet, in_fragments)
                    self.assertEqual(self.receiver.recv(4000), bytes(packet[UDP].payload))


class Probes(SilentPeer):
    """S5: what looks like a self-test is counted, and only believed from those who may send."""

    def test_every_probe_is_counted(self) -> None:
        n1, n2 = ADDRESSES["n1"], ADDRESSES["n2"]
        empty = IP(src=n2, dst=n1, proto=59, ttl=1, flags="DF")
        probes = {"vxlan": outer_vxlan(b"underpass probe "), "ipip": outer_ipip(bytes(empty))}
        for form, probe in probes.items():
            with self.subTest(form):
                before = self.control()["probes"]
                self.refused(form, [probe] * 500, reach=0)
                self.assertEqual(self.control()["probes"] - before, 500)
                probe[IP].src = "192.0.2.99"
                self.refused(form, [probe] * 10, unknown_peer=10)
                self.assertEqual(self.control()["probes"] - before, 500)

    def control(self) -> Any:
        """What `status` and the metrics endpoint say of the tunnel's own packets, which must agree."""

        def both() -> Any:
            control = self.lab.status("n1")["tunnel_control"]
            samples = self.counters("n1").samples()
            metrics = {label["kind"] + "s": value for name, label, value in samples if name == "tunnel_control_packets"}
            return control if control == metrics else None

        return wait_until(both, 3, "equal counters")

    def test_a_kernels_question_is_counted(self) -> None:
        arp = bytes.fromhex("0001080006040001") + bytes([2, 0, 0, 0, 0, 9]) + socket.inet_aton("10.244.2.0")
        arp += bytes(6) + socket.inet_aton("10.244.1.0")
        frame = bytes(Ether(dst="ff:ff:ff:ff:ff:ff", src="02:00:00:00:00:09", type=0x0806)) + arp
        question = outer_vxlan(bytes([8, 0, 0, 0, 0, 0x10, 0, 0]) + frame)
        before = self.control()["questions"]
        with self.moves("n1"):
            self.inject([question] * 3)
            wait_until(lambda: self.control()["questions"] == before + 3, 3, "three questions")
        self.accepted("vxlan", [outer("vxlan", inner())])
