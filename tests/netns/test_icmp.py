"""What pods are told about packets that are too large or go nowhere (P2, P3, W12, S9), and by whom."""

import bootstrap

import time
from typing import Any

from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Raw
from scapy.utils import checksum

from fast import metric_samples
from shared import SharedLab
from silent import SilentPeer
from tunnel import inner, outer
from underpass_lab.command import wait_until
from underpass_lab.nodes import ADDRESSES, pod_address, subnet

A, B, C = (pod_address(node) for node in ("n1", "n2", "n3"))
N1, N2 = "10.244.1.0", "10.244.2.0"  # the addresses on the TUNs
MODES: dict[str, tuple[dict[str, Any], int]] = {
    "ipip": ({"ipip": "Always", "vxlan": "Never"}, 1480),
    "vxlan": ({"ipip": "Never", "vxlan": "Always"}, 1450),
}
# What docs/mtu.md promises.
PER_SENDER, PER_WORKER, BURST = 20, 500, 32


def udp(target: str, size: int, source: str = A, flags: str | int = "DF", sport: int = 1000, **ip: Any) -> Any:
    """A UDP packet of `size` bytes in all."""
    return IP(src=source, dst=target, flags=flags, **ip) / UDP(sport=sport, dport=9) / Raw(b"d" * (size - 28))


class Told(SharedLab):
    def setUp(self) -> None:
        self.inside = self.tap("podA", "eth0")

    def errors(self, count: int, timeout: float = 3.0) -> Any:
        """The ICMP errors that podA gets: as many as expected, each whole."""
        packets = self.inside.wait(count, lambda p: p.haslayer(ICMP) and p[ICMP].type == 3, timeout)
        for packet in packets:
            whole = bytes(packet[IP])[: packet[IP].len]
            self.assertEqual((checksum(whole[:20]), checksum(whole[20:])), (0, 0), packet.summary())
            self.assertEqual(packet[IP].dst, A)
            self.assertLessEqual(packet[IP].len, 576)
        return packets

    def quotes(self, error: Any, packet: Any) -> Any:
        """Whether an error begins its quote with this packet as it was behind n1's TTL decrement."""
        del packet.chksum
        packet.ttl -= 1
        quote = bytes(error[ICMP].payload)
        return len(quote) >= 28 and bytes(packet).startswith(quote)

    def path_mtu(self, target: str) -> Any:
        """The MTU that podA's kernel believes a path to have, None for that of the link."""
        words = self.lab.exec("podA", "ip", "route", "get", target).stdout.split()
        return int(words[words.index("mtu") + 1]) if "mtu" in words else None

    def forget(self) -> None:
        self.lab.ip("podA", "route flush cache")


class TooBig(Told):
    """P2 and P3, by the kernel at the TUN's MTU, and by the daemon where the TUN's is larger than the path's."""

    def test_p2_by_the_kernel(self) -> None:
        for mode, (config, mtu) in MODES.items():
            with self.subTest(mode):
                self.restart(**config)
                self.forget()
                self.inside.drain()
                self.assertEqual(self.lab.ping("podA", B, "-M", "do", "-s", "1472", count=1), 0)
                error = self.errors(1)[0]
                self.assertEqual((error[ICMP].code, error[ICMP].nexthopmtu, error[IP].src), (4, mtu, "10.244.1.1"))
                self.assertEqual(self.path_mtu(B), mtu)

    def test_p2_by_the_daemon(self) -> None:
        for mode, (config, mtu) in MODES.items():
            with self.subTest(mode):
                self.restart(**config, tunnel={"mtu": 1500})
                self.forget()
                self.inside.drain()
                with self.moves("n1", device_rx=1, too_big=1):
                    self.assertEqual(self.lab.ping("podA", B, "-M", "do", "-s", "1472", count=1), 0)
                error = self.errors(1)[0]
                self.assertEqual((error[ICMP].code, error[ICMP].nexthopmtu, error[IP].src), (4, mtu, N1))
                self.assertEqual(error[IP].len, 576)
                self.assertEqual(self.path_mtu(B), mtu)
                self.assertEqual(self.lab.status("n1")["icmp_errors"], {"sent": 1, "suppressed": 0})
                # The pod's kernel has learned: it fragments, or sends no more than fits.
                self.assertEqual(self.lab.ping("podA", B, "-s", "1472", count=2), 2)
                self.lab.tcp_transfer("podA", "podB", B, 1 << 20)

    def test_the_host_itself_is_told(self) -> None:
        config, mtu = MODES["vxlan"]
        self.restart(**config, tunnel={"mtu": 1500})
        self.lab.ip("n1", "route flush cache")
        output = self.lab.exec(
            "n1", "ping", "-n", "-c", "1", "-W", "1", "-M", "do", "-s", "1472", B, check=False
        ).stdout
        self.assertIn(f"mtu = {mtu}", output)

    def test_p3_df_clear(self) -> None:
        for tunnel in ({}, {"mtu": 1500}):
            for mode, (config, _) in MODES.items():
                with self.subTest(mode, **tunnel):
                    self.restart(**config, tunnel=tunnel)
                    wire = self.tap("sw", "port-n1")
                    self.assertEqual(self.lab.ping("podA", B, "-M", "dont", "-s", "3000", count=3), 3)
                    frames = [Ether(frame)[IP] for frame in wire.incoming() if frame[12:14] == b"\x08\x00"]
                    self.assertGreaterEqual(len(frames), 9)
                    # No outer fragments, DF on all.
                    self.assertEqual({(int(ip.flags), ip.frag) for ip in frames}, {(2, 0)})
                    self.assertTrue(all(ip.len <= 1500 for ip in frames))

    def test_a_packet_may_be_cut_in_user_space_at_any_size(self) -> None:
        self.restart(**MODES["vxlan"][0], tunnel={"mtu": 1500})
        sink = self.sink("podB")
        sink.settimeout(3)
        for number, size in enumerate((1450, 1451, 1479, 1500)):
            packet = udp(B, size, flags=0, sport=2000 + number, id=77 + number)
            pieces = 1 if size == 1450 else 2
            with self.moves("n1", device_rx=pieces, underlay_tx=pieces):
                self.send_from_pod([packet])
            self.assertEqual(sink.recvfrom(4000), (bytes(packet[UDP].payload), (A, 2000 + number)))


class Nowhere(Told):
    """W12: addresses without a route, and without a pod in this node's own block."""

    daemons = ()

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        local = [subnet("n1"), "10.244.101.0/24"]
        cls.start("n1", local=local)
        cls.start("n2", peers={"n1": (ADDRESSES["n1"], local)})

    def test_w12_nobody_has_it(self) -> None:
        for target, code in (("10.244.9.9", 0), ("10.244.101.7", 1)):
            with self.subTest(target):
                self.inside.drain()
                wire = self.tap("sw", "port-n1")
                packet = udp(target, 700)
                with self.moves("n1", device_rx=1, no_route=1):
                    self.send_from_pod([packet])
                error = self.errors(1)[0]
                self.assertEqual((error[ICMP].code, error[IP].src), (code, N1))
                self.assertTrue(self.quotes(error, packet))
                self.assertEqual([frame for frame in wire.incoming() if frame[12:14] == b"\x08\x00"], [])
        output = self.lab.exec("podA", "ping", "-n", "-c", "1", "-W", "1", "10.244.9.9", check=False).stdout
        self.assertIn("Destination Net Unreachable", output)

    def test_w12_through_the_tunnel(self) -> None:
        # The kernel of n1 has no such pod either and follows the pool's route back into the TUN.
        with self.moves("n1", underlay_rx=1, device_tx=1, device_rx=2, no_route=1, underlay_tx=1):
            output = self.lab.exec("podB", "ping", "-n", "-c", "1", "-W", "1", "10.244.101.7", check=False).stdout
        self.assertIn(f"From {N1} icmp_seq=1 Destination Host Unreachable", output)


class Silence(Told):
    """Packets that nobody may be told about."""

    def test_no_error(self) -> None:
        self.start("n1", ipip="Always", tunnel={"mtu": 1500})
        big = udp(B, 1500, frag=100)
        error = IP(src=A, dst="10.244.9.9", flags="DF") / ICMP(type=11) / Raw(bytes(udp(A, 60)))
        with self.moves("n1", device_rx=3, too_big=1, no_route=1, spoofed_source=1):
            self.send_from_pod([big, error, udp("10.244.9.9", 100, source=B)])
        # Behind them one that is answered.
        self.send_from_pod([udp("10.244.9.9", 100)])
        wait_until(lambda: self.lab.status("n1")["icmp_errors"]["sent"], 3, "the answer")
        self.assertEqual(self.lab.status("n1")["icmp_errors"], {"sent": 1, "suppressed": 0})
        self.errors(1)


class Flood(Told):
    """S9 from inside: a pod that asks for errors all the time."""

    SECONDS = 2

    def test_s9_errors_are_few_and_small(self) -> None:
        self.start("n1", ipip="Always", tunnel={"mtu": 1500, "workers": 2})
        packets = [bytes(udp("10.244.9.9", 100)), bytes(udp(B, 1500)), bytes(udp("10.244.9.9", 56))]
        begin, sent = time.monotonic(), 0
        while time.monotonic() - begin < self.SECONDS:
            self.send_from_pod(packets * 50)
            sent += 150
        wait_until(lambda: self.counters("n1").status()["device_rx"] == sent, 10, f"{sent} packets")
        lasted = time.monotonic() - begin
        self.assertGreater(sent, 1000)
        told = self.lab.status("n1")["icmp_errors"]
        # Two kinds, two workers that a flow may come to.
        limit = 2 * 2 * (BURST + PER_SENDER * (lasted + 1))
        self.assertLessEqual(told["sent"], limit)
        self.assertGreaterEqual(told["sent"], 2 * BURST)
        self.assertEqual(told["sent"] + told["suppressed"], sent)
        errors = [frame for frame in self.inside.incoming() if frame[23:24] == b"\x01"]
        self.assertEqual(len(errors), told["sent"])
        for frame in errors:
            packet = Ether(frame)[IP]
            self.assertLessEqual(packet.len, packet[ICMP].payload.len)
        self.assertEqual(metric_samples(self.lab, "n1", "icmp_errors_total"), told)


class FloodFromOutside(SilentPeer):
    """S9 from the wire: what is refused there is answered to nobody."""

    def test_s9_spoofed_packets_are_not_answered(self) -> None:
        cases = [
            outer("ipip", inner(source="203.0.113.9", payload=b"x" * 1400)),
            outer("ipip", inner(target="10.244.9.9")),
            outer("ipip", inner(source=C, target="203.0.113.9", payload=b"x" * 1400)),
        ]
        packets = [packet for _ in range(300) for packet in cases]
        self.refused("ipip", packets, spoofed_source=600, not_local=300)
        self.assertEqual(self.lab.status("n1")["icmp_errors"], {"sent": 0, "suppressed": 0})


class Ipv6Told(SharedLab):
    """ICMPv6 errors reach an IPv6 pod, from the TUN's address of that family."""

    options = {"ipv6": True}
    multicast_reports = True
    daemons = ()
    POD, SOURCE = "fd00:244:1::2", "fd00:244:1::"

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.lab.sysctl("n1", {"ipv6/conf/all/forwarding": 1})
        cls.lab.ip("n1", "address add fd00:244:1::1/64 dev pod0 nodad")
        cls.lab.ip("podA", f"address add {cls.POD}/64 dev eth0 nodad", "route add default via fd00:244:1::1")
        cls.start(
            "n1",
            pools=[("10.244.0.0/16", "Never", "Always"), ("fd00:244::/32", "Never", "Always")],
            local=[subnet("n1"), "fd00:244:1::/64", "fd00:244:101::/64"],
            peers={"n2": (ADDRESSES["n2"], [subnet("n2"), "fd00:244:2::/64"])},
            tunnel={"mtu": 1500},
        )

    def ping(self, target: str, size: int) -> Any:
        command = ("ping", "-n", "-c", "1", "-W", "1", "-M", "do", "-s", size, target)
        return self.lab.exec("podA", *command, check=False).stdout

    def test_p2_and_w12(self) -> None:
        cases = (
            ("fd00:244:2::2", 1452, "too_big", "Packet too big: mtu=1450"),
            ("fd00:244:9::2", 56, "no_route", "Destination unreachable: No route"),
            ("fd00:244:101::2", 56, "no_route", "Destination unreachable: Address unreachable"),
        )
        for target, size, reason, answer in cases:
            with self.subTest(target), self.moves("n1", device_rx=1, **{reason: 1}):
                output = self.ping(target, size)
                self.assertIn(answer, output)
                self.assertIn(f"From {self.SOURCE} icmp_seq=1", output)
