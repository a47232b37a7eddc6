"""Wire correctness: the bytes of every format, source ports, order, and what happens to the TTL."""

import bootstrap

import collections
import struct
from collections.abc import Callable
from typing import Any

from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from shared import SharedLab
from tunnel import VNI, checksums_valid, strip
from underpass_lab.command import wait_until
from underpass_lab.nodes import ADDRESSES, pod_address
from underpass_lab.vtep import vtep_mac

A, B = pod_address("n1"), pod_address("n2")


class Wire(SharedLab):
    """T2 with a tap on the wire and one inside each pod's link."""

    def setUp(self) -> None:
        self.wire = self.tap("sw", "port-n1")
        self.inside = self.tap("podB", "eth0")
        self.sink("podB")

    def from_pod(self, **ip: Any) -> bytes:
        """The bytes of a finished packet of podA for podB."""
        return bytes(IP(src=A, dst=B, id=77, **ip) / UDP(sport=1234, dport=9) / Raw(bytes(range(251)) * 3))

    def one_packet(self, form: str, accept: Callable[[Any], Any], **ip: Any) -> tuple[Any, Any, bytes]:
        """Sends one packet from pod to pod; returns what was sent, the frame on the wire, what podB got."""
        sent = self.from_pod(**ip)
        with (
            self.moves("n1", device_rx=1, underlay_tx=1),
            self.moves("n2", underlay_rx=1, device_tx=1),
        ):
            self.send_from_pod([sent])
        (frame,) = self.wire.wait(1, accept)
        (arrived,) = self.inside.wait(1, lambda packet: packet.haslayer(UDP))
        return sent, frame, bytes(arrived[IP])

    def assertInnerIsSentBut(self, sent: Any, inner: Any, decrements: int) -> None:
        """`inner` is byte for byte what was sent, with that many TTL decrements."""
        expected = IP(sent)
        expected.ttl -= decrements
        del expected.chksum
        self.assertEqual(inner, bytes(expected))


class Ipip(Wire):
    def test_w1_ipip_bytes(self) -> None:
        cases: list[dict[str, Any]] = [{"tos": 0}, {"tos": 0xB9, "flags": "DF"}, {"ttl": 2 + 1, "flags": 0}]
        for ip in cases:
            with self.subTest(ip):
                self.wire.drain(), self.inside.drain()
                sent, frame, arrived = self.one_packet("ipip", lambda p: p.haslayer(IP) and p[IP].proto == 4, **ip)
                outer, inner = strip("ipip", frame)
                self.assertEqual((frame.src, frame.dst), (self.lab.mac("n1", "eth0"), self.lab.mac("n2", "eth0")))
                self.assertEqual((outer.version, outer.ihl, outer.proto, outer.frag), (4, 5, 4, 0))
                self.assertEqual((outer.src, outer.dst), (ADDRESSES["n1"], ADDRESSES["n2"]))
                self.assertEqual(outer.len, len(sent) + 20)
                # RFC 2003: a fresh TTL; the inner ECN and no DSCP; never fragmented on the way.
                self.assertEqual((outer.ttl, outer.tos, str(outer.flags)), (64, ip.get("tos", 0) & 3, "DF"))
                self.assertTrue(checksums_valid(bytes(outer)[:20] + inner))
                self.assertInnerIsSentBut(sent, inner, 1)
                self.assertInnerIsSentBut(sent, arrived, 2)

    def test_w1_a_real_socket_has_valid_checksums_inside(self) -> None:
        with self.lab.socket("podA") as client:
            client.sendto(b"x" * 700, (B, 9))
        (frame,) = self.wire.wait(1, lambda p: p.haslayer(IP) and p[IP].proto == 4)
        self.assertTrue(checksums_valid(bytes(frame[IP])))


class Vxlan(Wire):
    config = {"ipip": "Never", "vxlan": "Always"}
    port = 4789

    def test_w2_vxlan_bytes(self) -> None:
        cases: list[dict[str, Any]] = [{"tos": 0}, {"tos": 0xB9, "flags": "DF"}]
        for ip in cases:
            with self.subTest(ip):
                self.wire.drain(), self.inside.drain()
                sent, frame, arrived = self.one_packet("vxlan", lambda p: p.haslayer(UDP), **ip)
                outer, udp = frame[IP], frame[UDP]
                self.assertEqual((outer.src, outer.dst), (ADDRESSES["n1"], ADDRESSES["n2"]))
                self.assertEqual((outer.ihl, outer.ttl, str(outer.flags)), (5, 64, "DF"))
                self.assertEqual(outer.tos, ip.get("tos", 0) & 3)
                self.assertEqual(outer.len, len(sent) + 50)
                self.assertEqual((udp.dport, udp.len), (self.port, len(sent) + 30))
                self.assertTrue(49152 <= udp.sport <= 65535, udp.sport)
                self.assertTrue(udp.chksum == 0 or checksums_valid(bytes(outer)), "UDP checksum")
                content = bytes(udp)[8:]
                self.assertEqual(content[:8], struct.pack(">BBHI", 8, 0, 0, VNI << 8))
                ethernet = Ether(content[8:])
                self.assertEqual((ethernet.dst, ethernet.src, ethernet.type), (vtep_mac("n2"), vtep_mac("n1"), 0x0800))
                self.assertInnerIsSentBut(sent, content[22:], 1)
                self.assertInnerIsSentBut(sent, arrived, 2)


class VxlanPort(Vxlan):
    """The same on flannel's port, and with a VNI that needs all three bytes."""

    config = {"ipip": "Never", "vxlan": "Always", "port": 8472}
    port = 8472


class Flows(Wire):
    """W3: source ports and order with the default number of workers, one-way and with answers."""

    config = {"ipip": "Never", "vxlan": "Always", "tunnel": {"workers": 4}}
    flows, rounds = 256, 4

    def clients(self) -> Any:
        sockets = [self.lab.socket("podA") for _ in range(self.flows)]
        for number, client in enumerate(sockets):
            self.addCleanup(client.close)
            client.bind((A, 20000 + number))
        return sockets

    def outer_ports(self, count: int) -> Any:
        """{inner source port: [(outer source port, sequence number)…]} of what podA sent."""
        seen: collections.defaultdict[int, list[tuple[int, int]]] = collections.defaultdict(list)

        def of_pod_a() -> bool:
            seen.clear()
            for frame in self.wire.incoming():
                # Ethernet 14, IPv4 20, UDP 8, VXLAN 8, Ethernet 14, IPv4 20, UDP 8, sequence number 4
                if len(frame) >= 96 and frame[23] == 17 and frame[76:80] == bytes(map(int, A.split("."))):
                    sport, sequence = struct.unpack(">H6xI", frame[84:96])
                    seen[sport].append((struct.unpack(">H", frame[34:36])[0], sequence))
            return sum(map(len, seen.values())) >= count

        wait_until(of_pod_a, 5, f"{count} frames on the wire")
        return seen

    def check(self, seen: Any) -> None:
        self.assertEqual(len(seen), self.flows)
        for sport, frames in seen.items():
            self.assertEqual([sequence for _, sequence in frames], list(range(self.rounds)), f"order of flow {sport}")
        ports = [{port for port, _ in frames} for frames in seen.values()]
        self.assertEqual(max(map(len, ports)), 1, "a flow changed its source port")
        distinct = set.union(*ports)
        self.assertGreaterEqual(len(distinct), 100)
        self.assertTrue(all(49152 <= port <= 65535 for port in distinct))

    def test_w3_one_way(self) -> None:
        clients = self.clients()
        total = self.flows * self.rounds
        with self.moves("n1", device_rx=total, underlay_tx=total), self.moves("n2", underlay_rx=total, device_tx=total):
            for sequence in range(self.rounds):
                for client in clients:
                    client.sendto(struct.pack(">I", sequence), (B, 9))
        self.check(self.outer_ports(total))

    def test_w3_a_flow_keeps_its_port_when_it_is_answered(self) -> None:
        clients = self.clients()
        server = self.lab.socket("podB")
        self.addCleanup(server.close)
        server.bind((B, 7))
        server.settimeout(2)
        for sequence in range(self.rounds):
            for client in clients:
                client.settimeout(2)
                client.sendto(struct.pack(">I", sequence), (B, 7))
                data, sender = server.recvfrom(100)
                server.sendto(data, sender)
                self.assertEqual(client.recv(100), data)
        self.check(self.outer_ports(self.flows * self.rounds))


class Ttl(Wire):
    """E1: the kernels of the two nodes decrement, the tunnel does not."""

    MODES = {
        "ipip": {"ipip": "Always", "vxlan": "Never"},
        "vxlan": {"ipip": "Never", "vxlan": "Always"},
        "direct": {"ipip": "Never", "vxlan": "Never"},
    }

    def test_e1_ttl_path(self) -> None:
        for mode, config in self.MODES.items():
            with self.subTest(mode):
                self.restart(**config)
                self.wire.drain(), self.inside.drain()
                self.assertEqual(self.lab.ping("podA", B, "-t", 64, count=1), 1)
                (request,) = self.inside.wait(1, lambda p: p.haslayer(ICMP) and p[ICMP].type == 8)
                self.assertEqual(request[IP].ttl, 62)
                outer = [p[IP] for p in map(Ether, self.wire.incoming()) if p.haslayer(IP)]
                self.assertEqual([ip.ttl for ip in outer], [63 if mode == "direct" else 64])
                self.assertEqual(self.hops(), [pod_address("n1")[:-1] + "1", pod_address("n2")[:-1] + "0", B])

    def hops(self) -> Any:
        """Who answers podA's packets for podB with a TTL of 1, 2 and 3: what traceroute shows."""
        inside = self.tap("podA", "eth0")
        for ttl in (1, 2, 3):
            packet = IP(src=A, dst=B, ttl=ttl) / UDP(sport=33000 + ttl, dport=33434) / Raw(b"x" * 32)
            self.send_from_pod([packet])
            wait_until(lambda: len(self.answers(inside)) >= ttl, 3, f"an answer to TTL {ttl}")
        return self.answers(inside)

    @staticmethod
    def answers(inside: Any) -> list[Any]:
        return [p[IP].src for p in map(Ether, inside.incoming()) if p.haslayer(ICMP) and p[ICMP].type in (3, 11)]
